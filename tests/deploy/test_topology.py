"""A network whose layers are not one chain of known parts is right, or refused by name, at every step."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from parts import answered, by_modules
from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import ConfigError
from quicknet.deploy.fold import fold
from quicknet.deploy.graph import IMAGE, Flatten, Folded, Node, Pool
from quicknet.deploy.pipeline import reference_logits
from quicknet.deploy.quantize import require_expressible
from quicknet.models.layers import Separable
from quicknet.models.quicknet import QuickNet
from quicknet.models.registry import create_model

SPEC = PreprocessSpec()


class SummedBlock(Separable):
    """A residual sum: no parameters, no module, the same state dict."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class SummedNetwork(QuickNet):
    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            x = x + block(x) if index == 1 else block(x)
        return x


class Doubled(nn.Module):
    """An unknown module."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def with_summed_block(net: QuickNet) -> QuickNet:
    net.blocks[1].__class__ = SummedBlock
    return net


def with_summed_network(net: QuickNet) -> QuickNet:
    net.__class__ = SummedNetwork
    return net


def with_a_block_called_otherwise(net: QuickNet) -> QuickNet:
    block = net.blocks[1]
    plain = block.forward
    block.forward = lambda x: x + plain(x)
    return net


def with_unknown_activation(net: QuickNet) -> QuickNet:
    net.blocks[1].act = Doubled()
    return net


def with_unknown_block(net: QuickNet) -> QuickNet:
    net.blocks.insert(1, Doubled())
    return net


def with_holes_in_a_filter(net: Any) -> Any:
    old = net.blocks[1].depthwise
    net.blocks[1].depthwise = nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=32, bias=False)
    net.blocks[1].depthwise.weight = old.weight
    return net


def with_unknown_head(net: Any) -> Any:
    net.drop = Doubled()
    return net


# a sum is exported; what no rule folds is refused by its name
SUMS = (with_summed_block, with_summed_network, with_a_block_called_otherwise)
UNKNOWN: dict[Callable[[QuickNet], QuickNet], str] = {
    with_unknown_activation: r"Doubled \(blocks\.1\.act\)",
    with_unknown_block: r"Doubled \(blocks\.1\)",
    with_holes_in_a_filter: r"Conv2d \(blocks\.1\.depthwise\): .*dilation=\(2, 2\)",
    with_unknown_head: r"Doubled \(drop\)",
}
PLANTED = (*SUMS, *UNKNOWN)


@pytest.fixture(params=PLANTED, ids=lambda plant: plant.__name__)
def plant(request: pytest.FixtureRequest) -> Callable[[QuickNet], QuickNet]:
    return request.param


def planted(plant: Callable[[Any], Any]) -> Any:
    torch.manual_seed(4)
    return plant(create_model("quicknet_xs")).eval()


def test_it_answers_as_its_modules_do(plant: Callable[[QuickNet], QuickNet]) -> None:
    net, x = planted(plant), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(net(x), by_modules(net, x), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(by_modules(net, x), by_modules(planted(lambda n: n), x), rtol=1e-2, atol=1e-4)


def test_the_reference_of_an_export_is_that_of_its_modules(plant: Callable[[QuickNet], QuickNet]) -> None:
    net, images = planted(plant), np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    x = torch.from_numpy((images.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    expected = by_modules(net.double(), x).numpy()
    np.testing.assert_allclose(reference_logits(net, images, SPEC), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("plant", UNKNOWN, ids=lambda plant: plant.__name__)
def test_folding_refuses_what_is_unknown_by_name(plant: Callable[[QuickNet], QuickNet]) -> None:
    with pytest.raises(ConfigError, match=UNKNOWN[plant]) as refused:
        fold(planted(plant), SPEC)
    assert "cannot be exported: no rule folds" in str(refused.value)


@pytest.mark.parametrize("plant", SUMS, ids=lambda plant: plant.__name__)
def test_a_sum_folds_and_is_refused_as_integers_by_name(plant: Callable[[QuickNet], QuickNet]) -> None:
    net, images = planted(plant).double(), np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    folded = fold(net, SPEC)
    expected = reference_logits(net, images, SPEC)
    assert np.abs(answered(folded, images) - expected).max() <= 1e-11 * np.abs(expected).max()
    with pytest.raises(ConfigError, match=r"add takes 2 inputs, and a \.qnz holds a chain of layers only"):
        require_expressible(folded, 32)


class Dead(QuickNet):
    """Returns what comes before its last layer."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.forward_head(self.forward_features(x), pre_logits=True)
        self.classifier(self.drop(pooled))
        return pooled


class Deciding(QuickNet):
    """What it does depends on the image."""

    def forward_features(self, x: Tensor) -> Tensor:
        return super().forward_features(-x if x.sum() > 0 else x)


@pytest.mark.parametrize(("kind", "words"), [(Dead, "another output"), (Deciding, "cannot be followed")])
def test_a_forward_of_another_shape_is_refused_by_name(kind: type[QuickNet], words: str) -> None:
    net = create_model("quicknet_xs")
    net.__class__ = kind
    with pytest.raises(ConfigError, match=f"{kind.__name__} cannot be exported: .*{words}"):
        fold(net, SPEC)


def test_a_network_of_another_class_folds_by_what_it_does() -> None:
    class Renamed(QuickNet):
        """The same forward under another name."""

    net = create_model("quicknet_xs").eval()
    expected = fold(net, SPEC)
    net.__class__ = Renamed
    assert [node.name for node in fold(net, SPEC).nodes] == [node.name for node in expected.nodes]


# --- the integer form ---------------------------------------------------------------------


def changed(index: int, **changes: Any) -> Folded:
    """A folded QuickNet with another layer `index`."""
    net = fold(create_model("quicknet_xs").eval(), SPEC)
    nodes = list(net.nodes)
    nodes[index] = dataclasses.replace(nodes[index], **changes)
    return dataclasses.replace(net, nodes=tuple(nodes))


def lined_up(net: Folded, nodes: Iterable[Node]) -> Folded:
    """The same network of other nodes, one after the other."""
    before, chained = IMAGE, []
    for node in nodes:
        chained.append(dataclasses.replace(node, inputs=(before,)))
        before = node.name
    return dataclasses.replace(net, nodes=tuple(chained))


@pytest.mark.parametrize(
    "net",
    [
        lambda: changed(1, groups=1, weight=np.ones((16, 16, 3, 3))),  # a dense convolution without norm
        lambda: changed(1, padding=0),
        lambda: changed(1, stride=2),
        lambda: changed(1, slope=np.zeros(1)),
        lambda: changed(1, bias=np.zeros(16)),
        lambda: changed(2, slope=None),
        lambda: changed(2, groups=2),
        lambda: changed(2, weight=np.ones((32, 16, 3, 3))),
        lambda: changed(2, bias=None),
    ],
)
def test_integers_refuse_a_layer_of_another_form_by_name(net: Callable[[], Folded]) -> None:
    with pytest.raises(ConfigError, match=r"block0\.depthwise .*a \.qnz holds"):
        require_expressible(net(), 32)


def test_integers_refuse_poolings_and_layers_without_a_partner() -> None:
    net = fold(create_model("quicknet_xs").eval(), SPEC)
    layers, head = net.nodes[:-2], net.nodes[-2:]
    for nodes, words in [
        ((*layers[:-1], *head), "block11.depthwise"),
        ((*layers, Pool("last", ()), *head), "last"),
        ((layers[0], Pool("first", ()), Pool("second", ()), *layers[1:], *head), "second"),
        ((*layers, Pool("wide", (), kernel=3), *head), "wide is neither"),
        ((*layers, Pool("mean", (), kind="average"), *head), "mean is neither"),
        ((*layers, Flatten("flat", ()), head[1]), "no global average"),
        (layers, "no global average"),
        ((), "no global average"),
    ]:
        with pytest.raises(ConfigError, match=words):
            require_expressible(lined_up(net, nodes), 32)
    assert len(require_expressible(net, 32)[1]) == 12


def test_integers_refuse_a_layer_that_takes_an_earlier_ones_output() -> None:
    with pytest.raises(ConfigError, match=r"block1\.depthwise takes an earlier layer's output"):
        require_expressible(changed(3, inputs=("stem",)), 32)
