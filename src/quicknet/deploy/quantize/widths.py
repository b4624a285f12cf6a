"""Which weights share a 16-bit lane (FORMAT.md, "Bounds")."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quicknet.qnz.format import BLOCK, IMAGE_TOP, INT16_MAX, LANES


@dataclass(frozen=True, slots=True)
class Lanes:
    """Groups of a filter's K weights whose positive and whose negative ones each sum to at most `bound`.

    `groups` (G, n) int64: columns 0..K-1, K where no weight stands; `owner` (K,): each column's group.
    """

    groups: NDArray[np.int64]
    owner: NDArray[np.int64]
    bound: int

    def tighter(self, times: int) -> Lanes:
        """Return the same groups, of so many times smaller sums: coarser weights."""
        return replace(self, bound=max(1, self.bound // times))


def pointwise_lanes(channels: int, sums: int, top: int) -> Lanes:
    """Return the lanes of a pointwise filter over `channels` inputs of `top`."""
    return _lanes(np.arange(channels), channels, sums, top)


def stem_lanes(kernel: int, channels: int, sums: int) -> Lanes:
    """Return the lanes of a stem's filter, flat in the order row, column, channel."""
    width = kernel * channels
    padded = -(-width // BLOCK) * BLOCK
    rows = np.full((kernel, padded), kernel * width)
    rows[:, :width] = np.arange(kernel * width).reshape(kernel, width)
    return _lanes(rows.ravel(), kernel * width, sums, IMAGE_TOP)


def depthwise_lanes(taps: int, top: int) -> Lanes:
    """Return the one lane of a depthwise filter."""
    return Lanes(np.arange(taps)[None], np.zeros(taps, np.int64), INT16_MAX // top)


def _lanes(sequence: NDArray[np.int64], columns: int, sums: int, top: int) -> Lanes:
    """Return the groups of a `sequence` of column numbers, in which `columns` stands for none."""
    padded = np.full(-(-len(sequence) // BLOCK) * BLOCK, columns)
    padded[: len(sequence)] = sequence
    groups = padded.reshape(-1, BLOCK)[:, np.array(LANES[sums])].reshape(-1, 2 * sums)
    owner = np.zeros(columns + 1, np.int64)
    owner[groups.ravel()] = np.repeat(np.arange(len(groups)), 2 * sums)
    return Lanes(groups, owner[:columns], INT16_MAX // top)
