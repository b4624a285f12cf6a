"""What a network costs before it runs: parameters, multiply-adds, activation memory.

A multiply-add (MAC) counts as one. Batch norm, activations, pooling and the average are not
counted, as in the field's tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, cast

from quicknet.core.settings import Settings
from quicknet.models.config import QuickNetConfig, plan

if TYPE_CHECKING:  # that module imports torch, which counting does without
    from quicknet.models.darknet import DarknetConfig
    from quicknet.models.wide_resnet import WideResNetConfig

_FLOAT_BYTES = 4


class Costs(Settings, frozen=True, kw_only=True):
    """Costs of one image at batch size 1, in float32.

    `activation_bytes`: the feature maps that leave the layers, all together: what the fused
    kernels keep of an image while training. `peak_activation_bytes`: the largest input and
    output of one layer together: what inference needs at least.
    """

    parameters: int
    macs: int
    activation_bytes: int
    peak_activation_bytes: int


class _LayerCosts(NamedTuple):
    """One layer with its batch norm and activation; `values` are of its output."""

    parameters: int
    macs: int
    values: int


def costs(config: QuickNetConfig | DarknetConfig | WideResNetConfig, image_size: int | None = None) -> Costs:
    """Return what a network of `config` costs at `image_size`, by default the config's own.

    A stem stride that the config leaves open is chosen for `image_size`. Raises ConfigError
    for a size that the network cannot take.

    >>> costs(QuickNetConfig()).macs
    127863040
    """
    if image_size is not None and image_size != config.image_size:
        config = config.replace(image_size=image_size)
    layers = list(_layers(config))
    features = config.widths[-1]
    classifier = features * config.num_classes
    maps = [config.in_channels * config.image_size**2, *(layer.values for layer in layers)]
    return Costs(
        parameters=sum(layer.parameters for layer in layers) + classifier + config.num_classes,
        macs=sum(layer.macs for layer in layers) + classifier,
        activation_bytes=_FLOAT_BYTES * sum(maps[1:]),
        peak_activation_bytes=_FLOAT_BYTES * max(a + b for a, b in pairwise(maps)),
    )


def _layers(config: QuickNetConfig | DarknetConfig | WideResNetConfig) -> Iterator[_LayerCosts]:
    if isinstance(config, QuickNetConfig):
        return _quicknet(config)
    # recognized by an attribute: importing the class would import torch
    if hasattr(config, "pools"):
        return _darknet(cast("DarknetConfig", config))
    return _wide_resnet(config)


def _quicknet(config: QuickNetConfig) -> Iterator[_LayerCosts]:
    slopes = {"prelu": None, "prelu_shared": 1, "leaky_relu": 0, "relu": 0}[config.activation]
    for layer in plan(config):
        beside = 2 * layer.out_channels + (layer.out_channels if slopes is None else slopes)
        pixels = layer.side**2
        yield _LayerCosts(layer.weights + beside, layer.weights * pixels, layer.out_channels * pixels)


def _darknet(config: DarknetConfig) -> Iterator[_LayerCosts]:
    width, side = config.in_channels, config.image_size
    for index, out in enumerate(config.widths):
        weights = 9 * width * out
        yield _LayerCosts(weights + 2 * out, weights * side**2, out * side**2)
        width = out
        side = side // 2 if index < config.pools else side


def _wide_resnet(config: WideResNetConfig) -> Iterator[_LayerCosts]:
    """Each convolution with the batch norm before it; the last norm with the last convolution.

    A shortcut's convolution counts with the one that it runs beside, and so do its values.
    """
    side, stem = config.image_size, 9 * config.in_channels * 16
    yield _LayerCosts(stem, stem * side**2, 16 * side**2)
    for ins, outs, stride in config.groups:
        side = -(-side // stride)
        for block in range(config.blocks):
            width = outs if block else ins
            shortcut = 0 if width == outs and (block or stride == 1) else width * outs
            first, second = 9 * width * outs, 9 * outs * outs
            values = outs * side**2
            yield _LayerCosts(first + 2 * width, first * side**2, values)
            yield _LayerCosts(
                second + 2 * outs + shortcut, (second + shortcut) * side**2, values * (2 if shortcut else 1)
            )
    yield _LayerCosts(2 * config.widths[-1], 0, config.widths[-1] * side**2)
