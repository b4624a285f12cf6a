"""Spatial pyramid pooling: the classifier sees where in the map something is.

Source: He et al. 2014 (arXiv:1406.4729) §2.2 and §2.3: the map is cut into n x n bins at each of some levels, the
largest value of each bin is kept, and all of them side by side are the features. Windows have the published stride,
floor(side / n); they are as wide as it takes to reach the last pixel, where the published ones may miss it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Level(nn.Module):
    """The largest value of each of `bins` x `bins` windows.

    `side` is that of the map at the network's own image size; it takes others too.
    """

    def __init__(self, bins: int, side: int) -> None:
        super().__init__()
        self.bins, self.side = bins, side

    def window(self, side: int) -> tuple[int, int]:
        """Return kernel and stride for a map of `side` pixels.

        >>> Level(2, 3).window(3), Level(3, 7).window(7), Level(1, 3).window(3)
        ((2, 1), (3, 2), (3, 3))
        """
        stride = side // self.bins
        return side - (self.bins - 1) * stride, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, bins, bins)."""
        return F.max_pool2d(x, *self.window(x.shape[-1]))


class Pyramid(nn.Module):
    """The bins of all levels: (N, C, side, side) → (N, C * (sum of bins²))."""

    def __init__(self, levels: Iterable[int], side: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Level(bins, side) for bins in levels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        return torch.cat([cast(Level, level)(x).flatten(1) for level in self.levels], 1)
