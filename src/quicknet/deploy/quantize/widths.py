"""Width classes, and which weights share a 16-bit lane (FORMAT.md, "Bounds" and "Width classes")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Bits = Literal["w7a8", "w7a7", "w6a7", "w5a8"]

IMAGE_TOP = 255
_LANE_SUM = 32767
_BLOCK = 16
# of a block of 16 weights in sequence, the indices that are added up in one lane, by sums N
_GROUPS = {
    1: ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 13), (14, 15)),
    2: ((0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)),
    4: ((0, 1, 4, 5, 8, 9, 12, 13), (2, 3, 6, 7, 10, 11, 14, 15)),
}


@dataclass(frozen=True, slots=True)
class WidthClass:
    """What `--bits` chooses: the top of every map, and N of pointwise layers and of the stem."""

    top: int
    sums: int
    stem_sums: int


WIDTHS: dict[Bits, WidthClass] = {
    "w7a8": WidthClass(top=255, sums=1, stem_sums=1),
    "w7a7": WidthClass(top=127, sums=2, stem_sums=1),
    "w6a7": WidthClass(top=127, sums=4, stem_sums=2),
    "w5a8": WidthClass(top=255, sums=4, stem_sums=2),
}


@dataclass(frozen=True, slots=True)
class Lanes:
    """Groups of a filter's K weights whose positive and whose negative ones each sum to at most `bound`.

    `groups` (G, n) int64: columns 0..K-1, K where no weight stands; `owner` (K,): each column's group.
    """

    groups: NDArray[np.int64]
    owner: NDArray[np.int64]
    bound: int


def pointwise_lanes(channels: int, sums: int, top: int) -> Lanes:
    """Return the lanes of a pointwise filter over `channels` inputs of `top`."""
    return _lanes(np.arange(channels), channels, sums, top)


def stem_lanes(kernel: int, channels: int, sums: int) -> Lanes:
    """Return the lanes of a stem's filter, flat in the order row, column, channel."""
    width = kernel * channels
    padded = -(-width // _BLOCK) * _BLOCK
    rows = np.full((kernel, padded), kernel * width)
    rows[:, :width] = np.arange(kernel * width).reshape(kernel, width)
    return _lanes(rows.ravel(), kernel * width, sums, IMAGE_TOP)


def depthwise_lanes(taps: int, top: int) -> Lanes:
    """Return the one lane of a depthwise filter."""
    return Lanes(np.arange(taps)[None], np.zeros(taps, np.int64), _LANE_SUM // top)


def _lanes(sequence: NDArray[np.int64], columns: int, sums: int, top: int) -> Lanes:
    """Return the groups of a `sequence` of column numbers, in which `columns` stands for none."""
    padded = np.full(-(-len(sequence) // _BLOCK) * _BLOCK, columns)
    padded[: len(sequence)] = sequence
    groups = padded.reshape(-1, _BLOCK)[:, np.array(_GROUPS[sums])].reshape(-1, 2 * sums)
    owner = np.zeros(columns + 1, np.int64)
    owner[groups.ravel()] = np.repeat(np.arange(len(groups)), 2 * sums)
    return Lanes(groups, owner[:columns], _LANE_SUM // top)
