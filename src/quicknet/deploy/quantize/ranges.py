"""The scale of each channel of a map, and the zero point that its channels share.

A channel's scale costs nothing: the next layer's weights absorb it. So what is chosen is how far
each channel's range reaches, by one of three rules a layer, and where zero lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Rule = Literal["min-max", "percentile", "mse"]
RULES: tuple[Rule, ...] = ("min-max", "percentile", "mse")

_BINS = 256
_ZEROS = 32  # steps between the zero points that are tried
_TAIL = 1e-4  # what a percentile leaves out at each end
_SHARES = torch.linspace(1, 0.3, 29, dtype=torch.float64)  # of the full range, for the least squared error


class Histogram:
    """Counts of values per channel, in equal bins from `low` to `high` (C,) each."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = low.double(), high.double()
        extent = torch.maximum(self.high.abs(), self.low.abs()).clamp(min=1e-30)
        self.width = torch.maximum(self.high - self.low, 1e-6 * extent) / _BINS
        self.counts = torch.zeros(len(low), _BINS, dtype=torch.float64)

    def add(self, maps: Tensor) -> None:
        """Count the values of maps (N, C, H, W)."""
        channels = maps.shape[1]
        rows = maps.movedim(1, -1).reshape(-1, channels)
        index = rows.sub(self.low.to(rows.dtype)).div_(self.width.to(rows.dtype)).to(torch.int32)
        index = index.clamp_(0, _BINS - 1).add_(torch.arange(0, channels * _BINS, _BINS, dtype=torch.int32))
        self.counts += torch.bincount(index.flatten(), minlength=channels * _BINS).view(channels, _BINS)

    def quantiles(self, tail: float) -> tuple[Tensor, Tensor]:
        """Return the values (C,) below and above which a share of `tail` lies."""
        share = self.counts.cumsum(1) / self.counts.sum(1, keepdim=True).clamp(min=1)
        first, last = (share < tail).sum(1), (share < 1 - tail).sum(1)
        return self.low + first * self.width, self.low + (last + 1) * self.width


class ClippingError:
    """Mean squared error of storing a histogram's values in steps of a scale."""

    def __init__(self, values: Histogram) -> None:
        self._values = values
        share = values.counts / values.counts.sum(1, keepdim=True).clamp(min=1)
        centres = values.low[:, None] + (torch.arange(_BINS) + 0.5) * values.width[:, None]
        powers = torch.stack([share, share * centres, share * centres**2])  # (3, C, bins)
        # of the values in bins before each: (3, C, bins + 1)
        self._before = torch.nn.functional.pad(powers.cumsum(2), (1, 0))

    def of(self, scale: Tensor, zero: int, top: int) -> Tensor:
        """Return the error (C, S) of scales (C, S): a twelfth of the squared step inside, the distance outside."""
        low, high = -zero * scale, (top - zero) * scale
        below, above = self._moments(low), self._before[:, :, -1:] - self._moments(high)
        outside = (
            below[2] - 2 * low * below[1] + low**2 * below[0] + above[2] - 2 * high * above[1] + high**2 * above[0]
        )
        inside = (1 - below[0] - above[0]).clamp(min=0)
        return outside.clamp(min=0) + scale**2 / 12 * inside

    def _moments(self, end: Tensor) -> Tensor:
        """Return share, sum and sum of squares (3, C, S) of the values in bins centred below `end` (C, S)."""
        index = (end - self._values.low[:, None]) / self._values.width[:, None] - 0.5
        index = index.ceil().clamp(0, _BINS).long()
        return self._before.gather(2, index.expand(3, -1, -1))


@dataclass(frozen=True, slots=True)
class Range:
    """A value v of channel c is stored as v / scale[c] + zero in 0..top."""

    scale: Tensor  # (C,) float64, positive
    zero: int
    rule: Rule


def choose_range(values: Histogram, top: int, importance: Tensor, rules: tuple[Rule, ...] = RULES) -> Range:
    """Return the range with the least squared error, its channels weighted by `importance` (C,)."""
    error = ClippingError(values)
    candidates = [_by_rule(values, error, top, importance, rule) for rule in rules]
    return min(candidates, key=lambda pair: pair[0])[1]


def _by_rule(values: Histogram, error: ClippingError, top: int, importance: Tensor, rule: Rule) -> tuple[float, Range]:
    low, high = values.quantiles(_TAIL) if rule == "percentile" else (values.low, values.high)
    shares = _SHARES if rule == "mse" else _SHARES[:1]
    best: tuple[float, Range] | None = None
    for zero in _zeros(low, high, top):
        scales = _fitting(low, high, zero, top)[:, None] * shares
        errors, chosen = error.of(scales, zero, top).min(1)
        total = float((errors * importance).sum())
        if best is None or total < best[0]:
            best = total, Range(scales.gather(1, chosen[:, None])[:, 0], zero, rule)
    assert best is not None
    return best


def _zeros(low: Tensor, high: Tensor, top: int) -> list[int]:
    """Return the zero points to try: an end where all values lie on one side."""
    if bool((low >= 0).all()):
        return [0]
    if bool((high <= 0).all()):
        return [top]
    return sorted({round(top * step / _ZEROS) for step in range(_ZEROS + 1)})


def _fitting(low: Tensor, high: Tensor, zero: int, top: int) -> Tensor:
    """Return the finest scale (C,) at which low..high lies within 0..top; a side without room is left out."""
    above = high.clamp(min=0) / (top - zero) if zero < top else torch.zeros_like(high)
    below = (-low).clamp(min=0) / zero if zero else torch.zeros_like(low)
    scale = torch.maximum(above, below)
    return torch.where(scale > 0, scale, torch.ones_like(scale))
