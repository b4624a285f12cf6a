"""What a density comes to, before anything is trained: bytes and speed; and the density for a size or a speed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from quicknet.core.errors import ConfigError
from quicknet.models.config import Layer

LEAST_DENSITY = 0.03  # below, layers fall apart: a quarter of the output channels lose all their inputs

# A kept weight's bits, coded, at the default step (quicknet_xs at 30%); the file on disk is what counts in the end.
_VALUE_BITS = 3.0
# Of a dense file at 8 bits a value: numbers other than pointwise weights, times this, and the card
_CARD_BYTES = 4_000

# Of a pointwise layer's time: at 20% kept a sparse kernel takes 0.3 of the dense one's, at 10% 0.19
# (DESIGN.md section 9, the first probe); where that is no gain the layer runs dense.
_SPARSE_FIXED, _SPARSE_SLOPE = 0.08, 1.1
# What a multiply-add of a depthwise layer and of the stem takes beside a pointwise one (DESIGN.md section 5:
# 18-26% and 60-72% of peak, against 74-84%).
_DEPTHWISE_COST, _STEM_COST = 3.6, 1.2


def size_at(layers: Sequence[Layer], classes: int, density: float, block: int) -> int:
    """Return about how many bytes the coded file takes at a density."""
    pointwise = sum(layer.in_channels * layer.out_channels for layer in layers[1:])
    outputs = sum(layer.out_channels for layer in layers)
    inputs = sum(layer.in_channels for layer in layers[1:])
    dense = sum(layer.kernel**2 * layer.in_channels for layer in layers[1:]) * 6.5 / 8
    dense += layers[0].weights * 6.5 / 8 + layers[-1].out_channels * classes * 1.6 + classes * 4
    places = pointwise / block
    bits = density * pointwise * _VALUE_BITS + places * _binary_entropy(density)
    return round(dense + 8 * outputs + 2 * inputs + bits / 8 + _CARD_BYTES)


def _binary_entropy(share: float) -> float:
    return 0.0 if share in (0.0, 1.0) else -share * math.log2(share) - (1 - share) * math.log2(1 - share)


def speed_at(layers: Sequence[Layer], densities: Sequence[float]) -> float:
    """Return about how many times as fast as the dense network one with these densities is, layer by layer."""
    before = after = layers[0].weights * layers[0].side ** 2 * _STEM_COST
    for layer, density in zip(layers[1:], densities, strict=True):
        pixels = layer.side**2
        pointwise = layer.in_channels * layer.out_channels * pixels
        depthwise = layer.kernel**2 * layer.in_channels * pixels * _DEPTHWISE_COST
        before += pointwise + depthwise
        after += pointwise * min(1.0, _SPARSE_FIXED + _SPARSE_SLOPE * density) + depthwise
    return before / after


def density_for(holds: Callable[[float], bool], what: str, nearest: Callable[[float], str]) -> float:
    """Return the largest density at which `holds` does, to 0.2%.

    Raises ConfigError, naming what the least density comes to, where none does.
    """
    if not holds(LEAST_DENSITY):
        raise ConfigError(
            f"{what} is out of reach: at {LEAST_DENSITY:.0%} of the weights kept it is about "
            f"{nearest(LEAST_DENSITY)}; ask for less, or compress a smaller network"
        )
    low, high = LEAST_DENSITY, 1.0
    while high - low > 0.002:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return round(low, 3)
