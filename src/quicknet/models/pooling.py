"""Fractional max pooling: regions of two and three pixels, so that a map becomes smaller by less than half.

Source: Graham 2014 (arXiv:1412.6071) §2: along each side, region i is a(i - 1)..a(i), both ends counted (overlapping);
the steps of a are 1 and 2, in random order or pseudo-random, a(i) = ceiling(alpha (i + u)) with one random u.
"""

from __future__ import annotations

import random
from typing import Literal

import torch
from torch import Tensor, fx

from quicknet.core.errors import ConfigError

Bounds = tuple[int, ...]  # a(0), ..., a(N), of N regions
Order = Literal["random", "pseudorandom"]  # of the steps


def bounds(side: int, out: int, order: Order, rng: random.Random) -> Bounds:
    """Return the bounds of `out` regions that cover `side` pixels. Raises ConfigError where there are none.

    >>> bounds(8, 5, "pseudorandom", random.Random(0))
    (0, 1, 3, 4, 6, 7)
    """
    if not out < side <= 2 * out + 1:
        raise ConfigError(
            f"{side} pixels cannot become {out} by steps of 1 and 2; use an image size nearer to the model's"
        )
    if order == "random":
        steps = [2] * (side - 1 - out) + [1] * (2 * out - side + 1)
        rng.shuffle(steps)
        return tuple(sum(steps[:index]) for index in range(out + 1))
    start = rng.randrange(out)
    return tuple(-(-(index * (side - 1) + start) // out) - -(-start // out) for index in range(out + 1))


@fx.wrap
def fractional_max_pool(x: Tensor, rows: Bounds, columns: Bounds) -> Tensor:
    """Return the largest of each region: (N, C, H, W) → (N, C, len(rows) - 1, len(columns) - 1)."""
    for dim, ends in ((2, rows), (3, columns)):
        parts = [x.index_select(dim, torch.tensor(index, device=x.device)) for index in region_pixels(ends)]
        x = torch.maximum(torch.maximum(parts[0], parts[1]), parts[2])
    return x


def region_pixels(ends: Bounds) -> tuple[Bounds, Bounds, Bounds]:
    """Return first, second and last pixel of each region, which has two or three.

    >>> region_pixels((0, 1, 3))
    ((0, 1), (1, 2), (1, 3))
    """
    return ends[:-1], tuple(first + 1 for first in ends[:-1]), ends[1:]
