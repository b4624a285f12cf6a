"""What a density comes to in bytes, before anything is trained; and the density for a size or a speed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from quicknet.core.errors import ConfigError
from quicknet.models.config import Layer

LEAST_DENSITY = 0.03  # below, layers fall apart: a quarter of the output channels lose all their inputs

# A kept weight's bits, coded, after fine-tuning that weighs bits: 2.4 (quicknet_xs at 35%) and 2.0 (quicknet_s at
# 20%; results 0028, 0039). The file on disk is what counts in the end.
_VALUE_BITS = 2.3
_CARD_BYTES = 3_000  # the card of 10 classes, compressed, with the header, the table and the network's shape


class Shape(NamedTuple):
    """What size and speed of a pruned network depend on: its layers, the share of the weights that each pointwise
    layer keeps, and how many neighbouring ones are kept or absent together.
    """

    layers: tuple[Layer, ...]
    densities: tuple[float, ...]
    unit: int


def size_at(shape: Shape, classes: int) -> int:
    """Return about how many bytes the coded file takes."""
    layers = shape.layers
    weights = [layer.in_channels * layer.out_channels for layer in layers[1:]]
    density = sum(share * count for share, count in zip(shape.densities, weights, strict=True)) / sum(weights)
    outputs = sum(layer.out_channels for layer in layers)
    inputs = sum(layer.in_channels for layer in layers[1:])
    dense = sum(layer.kernel**2 * layer.in_channels for layer in layers[1:]) * 6.5 / 8
    dense += layers[0].weights * 6.5 / 8 + layers[-1].out_channels * classes * 1.6 + classes * 4
    bits = density * sum(weights) * _VALUE_BITS + sum(weights) / shape.unit * _binary_entropy(density)
    return round(dense + 8 * outputs + 2 * inputs + bits / 8 + _CARD_BYTES)


def _binary_entropy(share: float) -> float:
    return 0.0 if share in (0.0, 1.0) else -share * math.log2(share) - (1 - share) * math.log2(1 - share)


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
