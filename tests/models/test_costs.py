"""Costs counted on shapes are the published ones, and what a chain's plan says."""

import functools
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from parts import Parts
from quicknet.core.card import Card, Costs, ModelRecord, PreprocessSpec
from quicknet.core.errors import ConfigError
from quicknet.measure.layers import layer_facts
from quicknet.models.config import NetworkConfig, QuickNetConfig, plan
from quicknet.models.costs import count_costs
from quicknet.models.network import Network
from quicknet.models.registry import create_model

SIZES = (32, 64, 96, 128, 160, 224)

# at 64 pixels: parameters, multiply-adds, bytes of all maps, bytes of the largest that are needed at one time
COUNTS = {
    "quicknet": (3_557_322, 138_423_680, 2_715_648, 921_600),
    "quicknet_s": (908_266, 36_853_440, 1_357_824, 460_800),
    "quicknet_xs": (236_538, 10_337_120, 678_912, 230_400),
    "darknet": (7_319_416, 31_105_024, 520_192, 393_216),
    "darknet_32": (6_304_666, 412_297_216, 950_272, 393_216),
    "wide_resnet_16_8": (10_961_370, 6_192_567_296, 18_612_224, 6_291_456),
    "wide_resnet_28_10": (36_479_194, 20_973_295_872, 41_549_824, 7_864_320),
    "speedy": (9_965_450, 2_230_744_832, 6_861_056, 3_048_192),
    "speedy_s": (3_190_490, 724_504_864, 3_664_736, 1_508_096),
}


def test_every_network_costs_what_it_did() -> None:
    for name, counts in COUNTS.items():
        costs = count_costs(functools.partial(create_model, name, image_size=64))
        assert tuple(costs.replace(layers=()).to_dict().values())[:4] == counts, name
        assert sum(layer.parameters for layer in costs.layers) == costs.parameters
        assert sum(layer.macs for layer in costs.layers) == costs.macs
        assert sum(layer.activation_bytes for layer in costs.layers) == costs.activation_bytes
        assert len({layer.name for layer in costs.layers}) == len(costs.layers) >= 8


def planned(config: QuickNetConfig) -> Costs:
    """A chain's costs by hand: every layer's output is a map, and no map is needed after the next layer."""
    layers = plan(config)
    slopes = {"prelu_shared": lambda _: 1, "prelu": lambda c: c}.get(config.activation, lambda _: 0)
    maps = [config.in_channels * config.image_size**2, *(layer.out_channels * layer.side**2 for layer in layers)]
    classifier = layers[-1].out_channels * config.num_classes
    beside = sum(2 * layer.out_channels + slopes(layer.out_channels) for layer in layers)
    return Costs(
        parameters=sum(layer.weights for layer in layers) + beside + classifier + config.num_classes,
        macs=sum(layer.weights * layer.side**2 for layer in layers) + classifier,
        activation_bytes=4 * sum(maps[1:]),
        peak_activation_bytes=4 * max(a + b for a, b in pairwise(maps)),
    )


@settings(deadline=None, max_examples=15)
@given(
    config=st.builds(
        QuickNetConfig,
        stem_width=st.integers(1, 9),
        stem_kernel=st.integers(1, 7),
        stem_stride=st.sampled_from([None, 1, 2, 3]),
        widths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        depths=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        kernel_sizes=st.tuples(st.sampled_from([3, 5, 7]), st.sampled_from([3, 5, 7])),
        activation=st.sampled_from(["prelu", "prelu_shared", "leaky_relu", "relu"]),
        in_channels=st.integers(1, 4),
        num_classes=st.integers(1, 12),
        image_size=st.integers(16, 70),
    )
)
def test_costs_of_any_config(config: QuickNetConfig) -> None:
    costs = count_costs(lambda: create_model("quicknet", **config.to_dict()))
    assert costs.replace(layers=()) == planned(config)
    record = ModelRecord(family="quicknet", name="quicknet", config=config.to_dict())
    spec = PreprocessSpec(size=config.image_size)
    card = Card(model=record, classes=("a", "b"), preprocess=spec)  # an older one, without costs
    assert costs.layers == layer_facts(card)
    assert layer_facts(card.replace(costs=costs)) == costs.layers


class Branched(Network):
    """A convolution, a sum around one, and two side by side: maps that are needed for longer than the next layer."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.first, self.inner = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 6, 1)
        self.last = nn.Conv2d(8, 1, 1)
        self.add_head(1)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = x + self.inner(x).relu()
        return self.last(torch.cat([self.left(x), self.right(x)], 1))


def test_maps_that_are_needed_later_count_until_then() -> None:
    costs = count_costs(lambda: Branched(NetworkConfig(image_size=16)))
    assert costs.activation_bytes == 4 * 256 * (4 + 4 + 2 + 6 + 1)
    assert costs.peak_activation_bytes == 4 * 256 * (4 + 2 + 6)  # the sum, and both that take it
    assert costs.macs == 256 * (12 + 144 + 8 + 24 + 8) + 10
    assert [
        (layer.name, layer.kind, layer.kernel, layer.in_channels, layer.out_channels) for layer in costs.layers
    ] == [
        ("first", "stem", 1, 3, 4),
        ("inner", "conv", 3, 4, 4),
        ("left", "conv", 1, 4, 2),
        ("right", "conv", 1, 4, 6),
        ("last", "conv", 1, 8, 1),
        ("classifier", "linear", 1, 1, 10),
    ]
    assert [layer.macs for layer in costs.layers] == [256 * 12, 256 * 144, 256 * 8, 256 * 24, 256 * 8, 10]
    assert [layer.activation_bytes for layer in costs.layers] == [4 * 256 * n for n in (4, 4, 2, 6, 1, 0)]


def test_a_norm_counts_with_what_it_works_on() -> None:
    layers = count_costs(lambda: Parts(NetworkConfig())).layers
    counts = {layer.name: layer.parameters for layer in layers}
    assert counts["conv"] == 3 * 6 * 9 + 6 + 6  # with the image's norm
    assert counts["block.conv1"] == 8 * 8 * 9 + 16  # with its own
    assert counts["hidden"] == 24 * 16 + 16 + 16  # with its slopes
    assert sum(counts.values()) == sum(p.numel() for p in Parts(NetworkConfig()).parameters())


def test_the_paper_and_darknet_as_published() -> None:
    # 3.56 million parameters (Ghosh 2017 §4); Darknet reference: 28 MB at 4 bytes (its page).
    assert round(count_costs(lambda: create_model("quicknet")).parameters / 1e6, 2) == 3.56
    assert round(4 * count_costs(lambda: create_model("darknet")).parameters / 2**20) == 28


def test_last_map_of_every_documented_size() -> None:
    for size in SIZES:
        assert 2 <= plan(QuickNetConfig(image_size=size))[-1].side <= 7


@pytest.mark.parametrize(("name", "size"), [("quicknet", 15), ("darknet", 32)])
def test_a_size_that_leaves_nothing_is_refused(name: str, size: int) -> None:
    with pytest.raises(ConfigError, match=f"image size {size}"):
        count_costs(lambda: create_model(name, image_size=size))
