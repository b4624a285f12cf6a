from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parts import answered, drawn, parts
from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import ConfigError
from quicknet.deploy.fold import fold
from quicknet.deploy.graph import Conv
from quicknet.models.config import NetworkConfig
from quicknet.models.network import Network
from quicknet.models.registry import create_model

SPEC = PreprocessSpec(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("quicknet_xs", {}),
        ("quicknet_xs", {"activation": "prelu_shared", "stem_kernel": 3}),
        ("quicknet_xs", {"activation": "leaky_relu", "image_size": 64}),  # a stem of stride 2
        ("quicknet_xs", {"activation": "relu", "kernel_sizes": [5, 3, 7, 3]}),
        ("darknet_32", {"widths": [8, 16, 32, 8]}),
        ("wide_resnet_16_8", {"depth": 10, "widen": 1}),
        ("speedy", {"stem_width": 5, "widths": [8, 12]}),
        ("parts", {}),
    ],
)
def test_folding_changes_no_answer(name: str, config: dict[str, Any]) -> None:
    model = parts(**config) if name == "parts" else drawn(name, **config)
    size = int(config.get("image_size", 32))
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    normalized = (images / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
    with torch.no_grad():
        wanted = model(torch.from_numpy(normalized.transpose(0, 3, 1, 2).copy())).numpy()
    found = answered(fold(model, SPEC.replace(size=size)), images)
    assert np.abs(found - wanted).max() <= 1e-11 * np.abs(wanted).max()


def test_normalization_goes_into_a_first_layer_without_padding_only() -> None:
    inside = fold(drawn("quicknet_xs"), SPEC)
    assert inside.scale is None
    assert inside.shift is None
    apart = fold(drawn("darknet_32", widths=[8, 16, 32, 8]), SPEC)
    assert apart.scale is not None
    assert isinstance(apart.nodes[0], Conv)
    assert apart.nodes[0].padding == 1


def test_what_no_rule_folds_is_refused_by_name() -> None:
    model: Any = create_model("quicknet_xs")
    model.blocks[1].act = nn.GELU("tanh")
    with pytest.raises(ConfigError, match=r"GELU \(blocks\.1\.act\): approximate=tanh"):
        fold(model, SPEC)
    model = create_model("quicknet_xs")
    model.blocks[0].squeeze = nn.Identity()
    with pytest.raises(ConfigError, match="Separable with squeeze"):
        fold(model, SPEC)
    with pytest.raises(ConfigError, match="Linear"):
        linear: Any = nn.Linear(2, 2)
        linear.config = create_model("quicknet_xs").config
        fold(linear, SPEC)
    with pytest.raises(ConfigError, match="takes 3 channels"):
        fold(create_model("quicknet_xs"), PreprocessSpec(mode="L", mean=(0.5,), std=(0.5,)))
    model = create_model("quicknet_xs")
    model.stem.bn = nn.BatchNorm2d(16, track_running_stats=False)
    with pytest.raises(ConfigError, match="keeps no statistics"):
        fold(model, SPEC)


class Small(Network):
    """A convolution with what a test puts behind it."""

    def __init__(self, tail: Callable[[Tensor], Tensor]) -> None:
        super().__init__(NetworkConfig())
        self.conv, self.relu, self.tail = nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), tail
        self.add_head(8)

    def forward_features(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y + self.relu(y) if self.tail is None else self.tail(self.relu(y))


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (None, "relu.* changes in place what another step takes"),
        (lambda x: x.sigmoid(), r"no rule folds sigmoid where it stands"),
        (lambda x: x + 1, "no rule folds add where"),
        (lambda x: torch.add(x, x, alpha=2), "no rule folds add: got an unexpected"),
        (lambda x: torch.cat([x, x], 2), "no rule folds cat: along dimension 2"),
        (lambda x: F.max_pool2d(x, (2, 3)), "no rule folds max_pool2d: a size of"),
        (lambda x: F.max_pool2d(x, 2, padding=1, ceil_mode=True), "no rule folds max_pool2d: dilation, ceil_mode"),
        (lambda x: x[:, 2:], "no rule folds getitem: .*first:end. folds"),
        (lambda x: x[:, 0:4, 1:], "no rule folds getitem: .*first:end. folds"),
        (lambda x: x[0:1], "no rule folds getitem: .*first:end. folds"),
        (lambda x: x * "2", "no rule folds mul: times 2; a number"),
        (lambda x: F.avg_pool2d(x, 2, divisor_override=3), "no rule folds avg_pool2d: ceil_mode or"),
        (lambda x: F.adaptive_avg_pool2d(x, 3), "no rule folds adaptive_avg_pool2d: an output of 3"),
        (lambda x: F.dropout(x, 0.5), "no rule folds dropout: it drops in eval mode"),
        (lambda x: F.gelu(x, approximate="tanh"), "no rule folds gelu: approximate=tanh"),
        (lambda x: x.mean(1), "no rule folds mean: a mean over 1"),
        (lambda x: x.flatten(2), "no rule folds flatten: from dimension 2"),
        (lambda x: x.flatten(1), "average cannot be exported: no rule folds it for inputs of \\[2\\] dimensions"),
    ],
)
def test_a_step_that_is_another_than_its_rule_is_refused_by_name(tail: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        fold(Small(tail), SPEC)
    assert "cannot be exported" in str(refused.value)


def test_a_network_is_folded_as_in_eval_mode_and_left_in_its_own() -> None:
    model = parts()
    expected = [node.name for node in fold(model, SPEC).nodes]
    model.train()
    model.block.eval()
    assert [node.name for node in fold(model, SPEC).nodes] == expected
    assert model.training
    assert model.mix.training
    assert not model.block.training
