"""Costs from the config alone equal what torch counts on the network itself."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from quicknet.core.errors import ConfigError
from quicknet.measure.costs import Costs, costs
from quicknet.models.config import QuickNetConfig, plan
from quicknet.models.darknet import Darknet
from quicknet.models.quicknet import QuickNet
from quicknet.models.registry import base_config, create_model, list_models
from quicknet.models.wide_resnet import Block, WideResNet


def config_of(name: str) -> Any:
    return base_config(name)  # which says only that it is some network's


SIZES = (32, 64, 96, 128, 160, 224)


def counted(make: Callable[[], nn.Module]) -> Costs:
    """Run the network on shapes alone; count its operations, maps and parameters."""
    with torch.device("meta"):
        model: Any = make()
    config = model.config
    maps = [config.in_channels * config.image_size**2]
    if isinstance(model, QuickNet):
        layers = [model.stem, *model.blocks]
    elif isinstance(model, WideResNet):
        inner = [layer for block in model.blocks for layer in (block.conv1, block)]
        layers = [model.stem, *inner, model.bn]
    else:
        layers = [m for m in model.modules() if isinstance(m, nn.LeakyReLU)]

    def add(layer: nn.Module, _input: object, output: Tensor) -> None:
        beside = isinstance(layer, Block) and layer.shortcut is not None  # a second map at its end
        maps.append(output.numel() * (2 if beside else 1))

    for layer in layers:
        layer.register_forward_hook(add)
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, config.in_channels, config.image_size, config.image_size))
    return Costs(
        parameters=sum(p.numel() for p in model.parameters()),
        macs=counter.get_total_flops() // 2,
        activation_bytes=4 * sum(maps[1:]),
        peak_activation_bytes=4 * max(a + b for a, b in pairwise(maps)),
    )


@pytest.mark.parametrize(
    ("name", "size"),
    # six poolings leave nothing of 32 pixels
    [(name, size) for name in list_models() for size in SIZES if (name, size) != ("darknet", 32)],
)
def test_costs_are_what_torch_counts(name: str, size: int) -> None:
    assert costs(config_of(name), size) == counted(lambda: create_model(name, image_size=size))


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
    assert costs(config) == counted(lambda: QuickNet(config))


def test_the_paper_and_darknet_as_published() -> None:
    # 3.56 million parameters (Ghosh 2017 §4); Darknet reference: 28 MB at 4 bytes (its page).
    assert round(costs(config_of("quicknet")).parameters / 1e6, 2) == 3.56
    darknet = costs(config_of("darknet"))
    assert round(4 * darknet.parameters / 2**20) == 28
    assert isinstance(create_model("darknet"), Darknet)


def test_last_map_of_every_documented_size() -> None:
    for size in SIZES:
        assert 2 <= plan(QuickNetConfig(image_size=size))[-1].side <= 7


@pytest.mark.parametrize(("name", "size"), [("quicknet", 15), ("darknet", 32)])
def test_a_size_that_leaves_nothing_is_refused(name: str, size: int) -> None:
    with pytest.raises(ConfigError, match=f"image size {size}"):
        costs(config_of(name), size)
