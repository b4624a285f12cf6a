"""The integer network: what a `.qnz` holds and every implementation runs. FORMAT.md defines it.

Arrays are numpy's. This module does not compute a network (`reference.py` does) and does not know
bytes (`container.py` does).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int8 = NDArray[np.int8]
Int16 = NDArray[np.int16]
Int32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Requantization:
    """From 32-bit accumulators (.., O) to u8: t = sat16(acc >> shift), times a multiplier / 2**15 by t's sign."""

    shift: int
    positive: Int16  # (O,)
    negative: Int16  # (O,)
    zero: int
    top: int  # 127 or 255


@dataclass(frozen=True, slots=True)
class IntegerStem:
    """A convolution without padding over the uint8 image."""

    stride: int
    sums: int  # N: groups of 2 N products fit 16 bits
    weight: Int8  # (O, k, k, C)
    bias: Int32  # (O,)
    output: Requantization


@dataclass(frozen=True, slots=True)
class IntegerSeparable:
    """Max pool where `pool`, depthwise with a requantization of its own, pointwise."""

    pool: bool
    depthwise: Int8  # (k, k, C)
    multiplier: Int16  # (C,)
    middle_zero: int
    middle_top: int
    sums: int
    weight: Int8  # (O, C)
    bias: Int32  # (O,)
    output: Requantization


@dataclass(frozen=True, slots=True)
class IntegerNetwork:
    """A classifier of uint8 images (side, side, channels); `weight` (classes, F), `bias` (classes,)."""

    side: int
    channels: int
    stem: IntegerStem
    blocks: tuple[IntegerSeparable, ...]
    weight: Int16
    bias: Int32


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What NETW says of one layer; in a stem `pool`, `middle_zero` and `middle_top` are 0."""

    kernel: int
    stride: int
    pool: bool
    channels: int  # of the output
    sums: int
    shift: int
    zero: int
    top: int
    middle_zero: int
    middle_top: int


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """What NETW says of a network: everything except its weights, biases and multipliers. `layers[0]` is the stem."""

    side: int
    channels: int
    classes: int
    layers: tuple[LayerShape, ...]

    def sides(self) -> tuple[int, ...]:
        """Return the side of every layer's output, pixels; 0 where pools leave nothing."""
        stem = self.layers[0]
        sides = [(self.side - stem.kernel) // stem.stride + 1]
        for layer in self.layers[1:]:
            sides.append(sides[-1] // 2 if layer.pool else sides[-1])
        return tuple(sides)

    def widths(self) -> tuple[int, ...]:
        """Return the number of channels that every layer takes, and at the end what the classifier takes."""
        return (self.channels, *(layer.channels for layer in self.layers))
