"""What calibration images tell: extremes, histograms and moments of maps, a chunk of images at a time.

Sums of whole numbers are taken in float64, where they are exact in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from quicknet.deploy.quantize.ranges import Histogram

Chunks = Callable[[], Iterator[Tensor]]  # maps (n, C, H, W) of the images in turn, computed again for every pass

_DAMPING = 1e-3  # share of the mean variance that every input gets on top: keeps the moments invertible


@dataclass(frozen=True, slots=True)
class Feed:
    """A feature map of all calibration images, as the float and as the integer network have it.

    `floats` float32 and `stored` uint8: (n, C, H, W) each, in chunks; a stored v means
    (v - zero) * scale, `scale` (C,) float64.
    """

    floats: list[Tensor]
    stored: list[Tensor]
    scale: Tensor
    zero: int
    top: int

    def centred(self) -> Iterator[Tensor]:
        """Yield the stored maps less their zero point, float32."""
        return (chunk.to(torch.float32) - self.zero for chunk in self.stored)

    def pooled(self) -> Feed:
        """Return the map after a 2x2 max pool."""
        floats = [F.max_pool2d(chunk, 2) for chunk in self.floats]
        stored = [F.max_pool2d(chunk.float(), 2).to(torch.uint8) for chunk in self.stored]
        return Feed(floats, stored, self.scale, self.zero, self.top)


@dataclass(frozen=True, slots=True)
class Moments:
    """Of a layer's integer inputs b and the float network's f: means (K,), cov(b, b) and cov(f, b) (K, K)."""

    mean: Tensor
    float_mean: Tensor
    covariance: Tensor
    cross: Tensor


def extremes(chunks: Chunks) -> tuple[Tensor, Tensor]:
    """Return the least and the largest value of each channel (C,)."""
    ends = [(chunk.amin((0, 2, 3)), chunk.amax((0, 2, 3))) for chunk in chunks()]
    low, high = zip(*ends, strict=True)
    return torch.stack(low).amin(0).double(), torch.stack(high).amax(0).double()


def histogram(chunks: Chunks) -> Histogram:
    """Return how the values of each channel are distributed; takes two passes."""
    histogram = Histogram(*extremes(chunks))
    for chunk in chunks():
        histogram.add(chunk)
    return histogram


def rows(maps: Tensor) -> Tensor:
    """Return (N, C, H, W) as (N H W, C) float64."""
    return maps.movedim(1, -1).reshape(-1, maps.shape[1]).double()


def moments(inputs: Iterator[Tensor], floats: Iterator[Tensor]) -> Moments:
    """Return the moments of inputs (P, K) and of what the float network has in their place, chunk by chunk."""
    count = 0
    sums: tuple[Tensor, ...] | None = None
    for b, f in zip(inputs, floats, strict=True):
        parts = (b.sum(0), f.sum(0), b.T @ b, f.T @ b)
        sums = parts if sums is None else tuple(x + y for x, y in zip(sums, parts, strict=True))
        count += len(b)
    assert sums is not None
    mean, float_mean, square, cross = (part / count for part in sums)
    covariance = damped(square - torch.outer(mean, mean))
    return Moments(mean, float_mean, covariance, cross - torch.outer(float_mean, mean))


def patch_moments(maps: Iterator[Tensor], kernel: int) -> Tensor:
    """Return the second moments (C, k k, k k) of the k x k neighbourhoods in zero-padded maps."""
    total = None
    for chunk in maps:
        count, channels = chunk.shape[:2]
        patches = F.unfold(chunk, kernel, padding=kernel // 2).view(count, channels, kernel**2, -1)
        flat = patches.permute(1, 2, 0, 3).reshape(channels, kernel**2, -1).double()
        part = flat @ flat.transpose(1, 2) / flat.shape[2]
        total = part if total is None else total + part
    assert total is not None
    return damped(total)


def damped(moment: Tensor) -> Tensor:
    """Return (.., K, K) with something added to its diagonal, so that it can be divided by."""
    diagonal = moment.diagonal(dim1=-2, dim2=-1)
    more = _DAMPING * diagonal.mean(-1, keepdim=True) + 1e-9
    return moment + torch.diag_embed(more.expand_as(diagonal))
