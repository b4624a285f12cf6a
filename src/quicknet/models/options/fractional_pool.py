"""Fractional max pooling in place of a 2x2 pool.

Source: Graham 2014 (arXiv:1412.6071) §2, pseudo-random overlapping regions; see `models/pooling.py`.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from quicknet.models.pooling import Bounds, bounds, fractional_max_pool


class FractionalPool(nn.Module):
    """Maps smaller by `ratio`, under 2; the regions are drawn anew in training, and always the same in eval mode.

    `side` is that of the maps at the network's own image size; it takes others too.
    """

    def __init__(self, ratio: float, side: int) -> None:
        super().__init__()
        self.ratio, self.side = ratio, side

    def regions(self, side: int, seed: int = 0) -> tuple[Bounds, Bounds]:
        """Return the bounds of rows and columns for maps of `side` pixels."""
        rng, out = random.Random(seed), int(side / self.ratio)
        return bounds(side, out, "pseudorandom", rng), bounds(side, out, "pseudorandom", rng)

    def forward(self, x: Tensor) -> Tensor:
        """Return the largest of each region: (N, C, side, side) → (N, C, side / ratio, side / ratio)."""
        seed = int(torch.randint(1 << 31, (), device="cpu")) if self.training else 0
        return fractional_max_pool(x, *self.regions(x.shape[-1], seed))
