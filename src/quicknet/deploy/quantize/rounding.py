"""Real filters to integer ones within their lanes, with the least error at the filter's output.

The error of a filter is dᵀ H d, d being what rounding changed and H the second moments of the
filter's inputs: what it does to the output, not to the weight. It is made small weight by weight
(coordinate descent; the objective is that of AdaRound, Nagel et al. 2020, §3, and of GPTQ,
Frantar et al. 2022, §3), which keeps the lane sums exact at every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from quicknet.deploy.quantize.widths import Lanes
from quicknet.qnz.format import MAX_WEIGHT

# The largest weight as a share of what meets every lane unclipped: below 1 some are clipped, and
# all others are finer.
_SHARES = (1.0, 0.92, 0.85, 0.77, 0.7, 0.64, 0.58, 0.52, 0.47, 0.42, 0.37)
_SWEEPS = 4
_BLOCK = 64  # columns


@dataclass(frozen=True, slots=True)
class Rounded:
    """Integer filters `weight` (R, K) float64, the `scale` (R,) of each, and their output error (R,)."""

    weight: Tensor
    scale: Tensor
    error: Tensor


class Mask(NamedTuple):
    """Of filters (R, K): which weights are there, and the finest scale (R,) that each filter may have."""

    kept: Tensor
    least: Tensor


def project(weight: Tensor, lanes: Lanes) -> Tensor:
    """Return the integers nearest to `weight` (R, K) that keep to their lanes, near enough.

    A lane over its bound loses the same from each of its weights of that sign, down to zero.
    """
    positive, negative = weight.clamp(0, MAX_WEIGHT), (-weight).clamp(0, MAX_WEIGHT)
    return _kept(positive, lanes) - _kept(negative, lanes)


def _kept(weight: Tensor, lanes: Lanes) -> Tensor:
    """Return (R, K) whole numbers from weights >= 0."""
    columns, bound = weight.shape[1], float(lanes.bound)
    padded = torch.nn.functional.pad(weight.round(), (0, 1))
    over = padded[:, torch.from_numpy(lanes.groups)].sum(2) > bound  # (R, G)
    rows, lane = over.nonzero(as_tuple=True)
    if not len(rows):
        return padded[:, :columns]
    members = torch.from_numpy(lanes.groups)[lane]  # (V, n)
    values = torch.nn.functional.pad(weight, (0, 1))[rows[:, None], members]
    ordered = values.sort(1, descending=True).values
    count = torch.arange(1, values.shape[1] + 1, dtype=weight.dtype)
    threshold = (ordered.cumsum(1) - bound) / count
    last = (ordered > threshold).sum(1, keepdim=True) - 1
    cut = threshold.gather(1, last).clamp(min=0)
    padded[rows[:, None], members] = (values - cut).clamp(min=0).floor()
    return padded[:, :columns]


def fit_filters(target: Tensor, moments: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return the filters f (R, K) with f H = `target` (R, K), H being `moments` (K, K).

    With `kept` (R, K) the filters that come nearest with zeros elsewhere: an equation for each filter.
    """
    if kept is None or bool(kept.all()):
        dense: Tensor = torch.linalg.solve(moments, target.T)
        return dense.T.contiguous()
    fitted = torch.zeros_like(target)
    for row, mask in enumerate(kept):
        columns = mask.nonzero()[:, 0]
        if len(columns):
            inner = moments[columns][:, columns]
            fitted[row, columns] = torch.linalg.solve(inner, target[row, columns])
    return fitted


def round_filters(weight: Tensor, moments: Tensor, lanes: Lanes, mask: Mask | None = None) -> Rounded:
    """Return filters `weight` (R, K) as integers with a scale each; zero where the mask says so.

    `moments` (K, K), or (R, K, K) where every filter has inputs of its own; float64 like the weights.
    """
    scale, kept = _scale(weight, moments, lanes), None
    if mask is not None:
        scale, kept = torch.maximum(scale, mask.least), mask.kept
    whole = project(weight / scale[:, None], lanes)
    for _ in range(_SWEEPS):
        scale = _fitted(weight, whole, moments, scale)
        whole = _sweep(_Sweep(weight, scale, moments, lanes, kept), whole)
    scale = _fitted(weight, whole, moments, scale)
    return Rounded(whole, scale, _error(whole * scale[:, None] - weight, moments))


def _scale(weight: Tensor, moments: Tensor, lanes: Lanes) -> Tensor:
    """Return of a row of scales (R,) the one with the least error for each filter.

    The last is that of weights which meet every lane whatever their neighbours, so that the
    result is never worse than theirs.
    """
    unclipped = _unclipped(weight, lanes)
    safe = max(1, min(MAX_WEIGHT, lanes.bound // lanes.groups.shape[1]))
    plain = weight.abs().amax(1).clamp(min=1e-30) / safe
    best, least = unclipped, torch.full_like(unclipped, torch.inf)
    for scale in (*(unclipped * share for share in _SHARES), plain):
        error = _error(project(weight / scale[:, None], lanes) * scale[:, None] - weight, moments)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best


def _unclipped(weight: Tensor, lanes: Lanes) -> Tensor:
    """Return the scale (R,) at which the largest weight and every lane just fit."""
    padded = torch.nn.functional.pad(weight, (0, 1))[:, torch.from_numpy(lanes.groups)]
    fullest = torch.maximum(padded.clamp(min=0).sum(2).amax(1), (-padded).clamp(min=0).sum(2).amax(1))
    scale = torch.maximum(fullest / lanes.bound, weight.abs().amax(1) / MAX_WEIGHT)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _times(difference: Tensor, moments: Tensor) -> Tensor:
    """Return d H (R, K)."""
    if moments.ndim == 2:
        return difference @ moments
    return torch.einsum("rk,rkj->rj", difference, moments)


def _error(difference: Tensor, moments: Tensor) -> Tensor:
    return (_times(difference, moments) * difference).sum(1)


def _fitted(weight: Tensor, whole: Tensor, moments: Tensor, scale: Tensor) -> Tensor:
    """Return the scale (R,) with the least error for these integers."""
    product = _times(whole, moments)
    below = (product * whole).sum(1)
    fitted = (product * weight).sum(1) / below
    return torch.where((below > 0) & (fitted > 0), fitted, scale)


class _Sweep(NamedTuple):
    """What a sweep over the columns works on, as in `round_filters`."""

    weight: Tensor
    scale: Tensor
    moments: Tensor
    lanes: Lanes
    kept: Tensor | None


def _sweep(over: _Sweep, whole: Tensor) -> Tensor:
    """Set each column in turn to the integer with the least error, all others as they are.

    The gradient d H is kept up to date within a block of columns, and for all others once a block.
    """
    weight, scale, moments, lanes, kept = over
    whole = whole.T.contiguous()  # (K, R), as everything here
    sums = _Sums(whole, lanes)
    difference = whole * scale - weight.T
    for first in range(0, len(whole), _BLOCK):
        block = slice(first, min(first + _BLOCK, len(whole)))
        block_moments = moments[block] if moments.ndim == 2 else moments[:, block].movedim(0, 2)  # (b, K) or (b, K, R)
        gradient = block_moments @ difference if moments.ndim == 2 else (block_moments * difference).sum(1)  # (b, R)
        block_moments = block_moments[:, block]
        for row, column in enumerate(range(block.start, block.stop)):
            target = (whole[column] - gradient[row] / (scale * block_moments[row, row])).round()
            target = target if kept is None else target * kept[:, column]
            moved = sums.set(whole, column, target) * scale
            if moments.ndim == 2:
                gradient.addr_(block_moments[row], moved)
            else:
                gradient.addcmul_(block_moments[row], moved[None])
        difference[block] = whole[block] * scale - weight.T[block]
    return whole.T.contiguous()


class _Sums:
    """What the positive and the negative weights of each lane add up to, (G, R)."""

    def __init__(self, whole: Tensor, lanes: Lanes) -> None:
        padded = torch.nn.functional.pad(whole, (0, 0, 0, 1))[torch.from_numpy(lanes.groups)]  # (G, n, R)
        self.positive, self.negative = padded.clamp(min=0).sum(1), (-padded).clamp(min=0).sum(1)
        self._owner, self._bound = lanes.owner.tolist(), lanes.bound

    def set(self, whole: Tensor, column: int, target: Tensor) -> Tensor:
        """Bring a column of `whole` (K, R) as near to `target` as its lane lets it; return by how much it moved."""
        now, group = whole[column].clone(), self._owner[column]
        positive, negative = self.positive[group], self.negative[group]
        positive -= now.clamp(min=0)
        negative -= (-now).clamp(min=0)
        high, low = (self._bound - positive).clamp(max=MAX_WEIGHT), -(self._bound - negative).clamp(max=MAX_WEIGHT)
        new = torch.minimum(torch.maximum(target, low), high)
        positive += new.clamp(min=0)
        negative += (-new).clamp(min=0)
        whole[column] = new
        return new - now
