"""What a density comes to in bytes, before anything is trained; and the density for a size or a speed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from quicknet.core.errors import ConfigError
from quicknet.models.config import Layer

LEAST_DENSITY = 0.03  # below, layers fall apart: a quarter of the output channels lose all their inputs

# A kept weight's bits, coded, after fine-tuning that weighs bits: 2.6 (quicknet at 16%), 2.9 (quicknet_s at 20%)
# and 3.1 (quicknet_xs at 35%) of results 0042, 0039 and 0028, whose other numbers take what `size_at` says, to 1%.
# The most of them is taken: a file that comes out too large loses accuracy on the way to its size (`fitting`).
_BITS, _AT_STEP = 3.1, 0.6
_FINEST = 0.07  # 6.2 bits: `w5a8` without a least step (quicknet_xs, whole channels, results 0041)
_NEAR = 1.02  # of two steps that are as good as one
_COARSE_TAP = 4.4  # bits of a depthwise weight, where pointwise ones are coarse (results 0044); else 6.5
# the card, compressed, with the header, the table and the network's shape: 2.6 KB, 4.6, 9.1 and 68 of the card alone
# with 10, 37, 100 and 1,000 classes, whose test vectors have a logit each
_CARD_BYTES, _CLASS_BYTES = 2_300, 68


class Shape(NamedTuple):
    """What size and speed of a pruned network depend on: its layers, the share of the weights that each pointwise
    layer keeps, and how many neighbouring ones are kept or absent together.
    """

    layers: tuple[Layer, ...]
    densities: tuple[float, ...]
    unit: int


def density_of(shape: Shape) -> float:
    """Return the share of all pointwise weights that is kept."""
    counts = [layer.in_channels * layer.out_channels for layer in shape.layers[1:]]
    return sum(share * count for share, count in zip(shape.densities, counts, strict=True)) / sum(counts)


def size_at(shape: Shape, classes: int, step: float) -> int:
    """Return about how many bytes the coded file takes whose integers have this step (`CompressSettings.step`)."""
    first, *others = shape.layers
    pairs = list(zip(shape.densities, (layer.in_channels * layer.out_channels for layer in others), strict=True))
    bits = sum(count * (share * value_bits(step) + _entropy(share) / shape.unit) for share, count in pairs)
    taps = sum(layer.kernel**2 * layer.in_channels for layer in others)
    dense = 6.5 * first.weights + (_COARSE_TAP if step else 6.5) * taps
    dense += 8 * shape.layers[-1].out_channels * classes + 32 * classes
    dense += 30 * sum(layer.out_channels for layer in shape.layers) + 8 * sum(layer.in_channels for layer in others)
    return round((bits + dense) / 8 + _CARD_BYTES + _CLASS_BYTES * classes)


def step_for(shape: Shape, classes: int, step: float, limit: int) -> float:
    """Return the finest step of the integers, `step` at most, whose file takes `limit` bytes or less."""
    low, high = _FINEST, step
    while high / low > _NEAR:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if size_at(shape, classes, middle) <= limit else (middle, high)
    return round(high, 3)


def value_bits(step: float) -> float:
    """Return about how many bits a kept weight takes.

    >>> [round(value_bits(step), 1) for step in (0, 0.6, 1.2)]
    [6.2, 3.1, 2.1]
    """
    signal = (2 ** (2 * _BITS) - 1) * (_AT_STEP / max(step, _FINEST)) ** 2
    return 0.5 * math.log2(1 + signal)


def _entropy(share: float) -> float:
    return 0.0 if share in (0.0, 1.0) else -share * math.log2(share) - (1 - share) * math.log2(1 - share)


def density_for(holds: Callable[[float], bool], what: str, nearest: Callable[[float], str]) -> float:
    """Return the largest density at which `holds` does, to 0.2%.

    Raises ConfigError, naming what the least density comes to, where none does.
    """
    if not holds(LEAST_DENSITY):
        raise ConfigError(
            f"{what} is out of reach: at {LEAST_DENSITY:.0%} of the weights kept it is about "
            f"{nearest(LEAST_DENSITY)}; ask for about that, or compress a smaller network"
        )
    low, high = LEAST_DENSITY, 1.0
    while high - low > 0.002:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return round(low, 3)
