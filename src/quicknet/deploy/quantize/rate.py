"""Integers that are near and cheap to code: the squared distance plus what a value costs in bits.

The assignment of entropy-constrained trained quantization (Wiedemann et al. 2020, arXiv:1812.07520, and
DeepCABAC, arXiv:1907.11900, §3): each weight goes to the nearest value, or to one nearer to zero where
that saves more bits than it costs in distance. How often each value occurs is what the network has now.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quicknet.qnz.format import MAX_WEIGHT


def bits_of_values(whole: Tensor, kept: Tensor) -> Tensor:
    """Return the bits (255,) that each value -127..127 costs at the frequencies in `whole`, where `kept`.

    A value that does not occur counts as having occurred half a time.
    """
    values = whole[kept.bool()].round().long() + MAX_WEIGHT
    counts = torch.bincount(values, minlength=2 * MAX_WEIGHT + 1).double() + 0.5
    return (counts.sum() / counts).log2()


def cheaper(real: Tensor, nearest: Tensor, costs: Tensor) -> Tensor:
    """Return integers (R, K): `nearest`, the one beside it towards zero, or zero: where squared distance and
    `costs` (255,), of the values -127..127, are least together.
    """

    def cost(whole: Tensor) -> Tensor:
        return (real - whole).square() + costs[whole.long() + MAX_WEIGHT]

    best, least = nearest, cost(nearest)
    for candidate in (nearest - nearest.sign(), torch.zeros_like(nearest)):
        now = cost(candidate)
        best, least = torch.where(now < least, candidate, best), torch.minimum(now, least)
    return best
