"""What comes after a layer's sums: shift, multipliers and range; and the classifier at the end."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quicknet.deploy.graph import Array
from quicknet.deploy.quantize.calibrate import Feed
from quicknet.deploy.quantize.ranges import Range
from quicknet.qnz.format import FRACTION_BITS, INT16_MAX, INT16_MIN, INT32_MAX, SHIFTS, UNIT
from quicknet.qnz.network import Requantization

_MARGIN = 1.25  # by which sums of other images may pass those seen, before 16 bits saturate


class Output(NamedTuple):
    """A layer's requantization, and what a step of its output means (O,)."""

    requantization: Requantization
    scale: Tensor


def requantization(chosen: Range, step: Tensor, slope: Tensor, sums: tuple[Tensor, Tensor], top: int) -> Output:
    """Return shift and multipliers for a range of the output.

    `step` (O,) is what an accumulator of 1 means, `slope` (O,) the activation's, `sums` the least
    and the largest accumulators (O,) that were seen. Of all shifts it takes the one with the
    least error: of t's rounding (which a large shift makes coarse), of the multipliers' (which a
    small one makes coarse), of scales coarser than necessary; none at which a t that was seen
    saturates before the output does. A positive multiplier's rounding costs nothing: it only
    makes the output's scale another.
    """
    best: tuple[float, int, Tensor, Tensor] | None = None
    for shift in range(SHIFTS[0], SHIFTS[1] + 1):
        exact = step * 2.0 ** (FRACTION_BITS + shift) / chosen.scale
        limit = INT16_MAX / slope.abs().clamp(min=1)
        positive = torch.minimum(exact, limit).round().clamp(min=1)
        negative = (positive * slope).round().clamp(-INT16_MAX, INT16_MAX)
        least, largest = (-sums[0] / 2.0**shift).clamp(min=0), (sums[1] / 2.0**shift).clamp(min=0)
        lost = (largest * _MARGIN > INT16_MAX) & (positive < top - chosen.zero)
        lost |= (least * _MARGIN > -INT16_MIN) & (negative.abs() < torch.where(slope > 0, chosen.zero, top))
        ratio = exact / positive  # of the scale that results to the exact one
        granular = (torch.maximum(ratio, 1 / ratio) ** 2 + (positive / UNIT) ** 2) / 12
        slip = (positive * slope - negative) / UNIT * least.clamp(max=-INT16_MIN) / 2
        error = float((granular + slip**2 + lost * 1e3).sum())
        if best is None or error < best[0]:
            best = error, shift, positive, negative
    assert best is not None
    _, shift, positive, negative = best
    requantization = Requantization(
        shift=shift,
        positive=positive.numpy().astype(np.int16),
        negative=negative.numpy().astype(np.int16),
        zero=chosen.zero,
        top=top,
    )
    return Output(requantization, step * 2.0 ** (FRACTION_BITS + shift) / positive)


def classifier(weight: Array, bias: Array, feed: Feed) -> tuple[NDArray[np.int16], NDArray[np.int32], float]:
    """Return the integer classifier's weights (classes, F) and biases, and the real value of a logit of 1.

    The finest scale at which no image can overflow 32 bits. The biases restore the mean of each
    logit over the calibration images.
    """
    float_weight, pixels = torch.from_numpy(weight), feed.stored[0].shape[2] * feed.stored[0].shape[3]
    real = float_weight * feed.scale / pixels  # of a sum over all pixels
    sums = torch.cat([chunk.double().sum((2, 3)) for chunk in feed.centred()])
    features = torch.cat([chunk.double().mean((2, 3)) for chunk in feed.floats])
    real_bias = float_weight @ features.mean(0) + torch.from_numpy(bias) - real @ sums.mean(0)
    scale = max(float(real.abs().max()) / INT16_MAX, 1e-30)
    while True:
        whole = (real / scale).round()
        whole_bias = (real_bias / scale).round() - pixels * feed.zero * whole.sum(1)
        reach = _reach(whole, whole_bias, pixels * feed.top)
        if reach <= INT32_MAX:
            break
        scale *= max(1.0001, reach / INT32_MAX)
    return whole.numpy().astype(np.int16), whole_bias.numpy().astype(np.int32), scale


def _reach(weight: Tensor, bias: Tensor, top: int) -> float:
    """Return the largest magnitude that bias + Σ weight·x can have for any x in 0..top."""
    high, low = bias + top * weight.clamp(min=0).sum(1), bias + top * weight.clamp(max=0).sum(1)
    return float(torch.maximum(high.abs(), low.abs()).max())
