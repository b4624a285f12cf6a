from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import ConfigError
from quicknet.deploy.fold import Conv, Folded, Pool, fold
from quicknet.models.registry import create_model

SPEC = PreprocessSpec(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))


def answered(net: Folded, images: np.ndarray) -> np.ndarray:
    """Run the folded layers as they are described, in float64, on pixels 0..255."""
    x = torch.from_numpy(images.astype(np.float64).transpose(0, 3, 1, 2))
    if net.scale is not None:
        x = x * torch.from_numpy(net.scale)[:, None, None] + torch.from_numpy(net.shift)[:, None, None]
    for layer in net.layers:
        if isinstance(layer, Pool):
            x = nn.functional.max_pool2d(x, 2)
            continue
        bias = None if layer.bias is None else torch.from_numpy(layer.bias)
        x = nn.functional.conv2d(
            x, torch.from_numpy(layer.weight), bias, layer.stride, layer.padding, groups=layer.groups
        )
        if layer.slope is not None:
            slope = torch.from_numpy(layer.slope)[:, None, None]
            x = x.clamp(min=0) + slope * x.clamp(max=0)
    return (x.mean((2, 3)) @ torch.from_numpy(net.weight).T + torch.from_numpy(net.bias)).numpy()


def drawn(name: str, **config: Any) -> Any:
    """A network whose every parameter and statistic is drawn."""
    torch.manual_seed(3)
    model: Any = create_model(name, **config).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None and module.running_mean is not None
            nn.init.uniform_(module.running_var, 0.3, 3.0)
            for values in (module.running_mean, module.weight, module.bias):
                nn.init.normal_(values)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 2)
    return model


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("quicknet_xs", {}),
        ("quicknet_xs", {"activation": "prelu_shared", "stem_kernel": 3}),
        ("quicknet_xs", {"activation": "leaky_relu", "image_size": 64}),  # a stem of stride 2
        ("quicknet_xs", {"activation": "relu", "kernel_sizes": [5, 3, 7, 3]}),
        ("darknet_32", {"widths": [8, 16, 32, 8]}),
    ],
)
def test_folding_changes_no_answer(name: str, config: dict[str, Any]) -> None:
    model = drawn(name, **config)
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
    assert isinstance(apart.layers[0], Conv)
    assert apart.layers[0].padding == 1


def test_what_no_rule_folds_is_refused_by_name() -> None:
    model: Any = create_model("quicknet_xs")
    model.blocks[1].act = nn.GELU()
    with pytest.raises(ConfigError, match=r"GELU after block1\.pointwise"):
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
