"""What happens to each image of a batch: settings and random numbers in, parameters out, on CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quicknet.data.augment import trivial
from quicknet.data.augment.draws import Draws, Stream, beta_quantile, sample
from quicknet.data.augment.ops import box_edges
from quicknet.data.augment.settings import REFERENCE_SIDE, AugmentSettings

Edges = tuple[Tensor, Tensor]


def scaled(length: int, side: int) -> int:
    """Return a length given for 32 pixels in pixels of an image of `side`."""
    return round(length * side / REFERENCE_SIDE)


def shifts(settings: AugmentSettings, draws: Draws, side: int) -> tuple[Tensor, Tensor]:
    """Return (dy, dx), (B,) int64 each, uniform over the whole pixels within `crop`."""
    pad = scaled(settings.crop, side)
    return draws.below(Stream.CROP_Y, 2 * pad + 1) - pad, draws.below(Stream.CROP_X, 2 * pad + 1) - pad


def flips(settings: AugmentSettings, seed: int, epoch: int, indices: Tensor, draws: Draws) -> Tensor:
    """Return (B,) bool: which images are flipped in this epoch."""
    match settings.flip:
        case "none":
            return torch.zeros(len(indices), dtype=torch.bool)
        case "random":
            return draws.coin(Stream.FLIP)
        case "alternating":
            return (sample(seed, 0, indices, Stream.FLIP) < 0.5) ^ bool(epoch % 2)


def matrices(settings: AugmentSettings, draws: Draws, side: int) -> Tensor | None:
    """Return the (B, 2, 3) float64 output-to-source matrices for `ops.warp`, or None.

    The window of `scale` and `rotate`, and TrivialAugment's geometry within that window.
    """
    matrix = None
    if settings.scale != (1.0, 1.0) or settings.rotate:
        share = draws.uniform(Stream.SCALE, *settings.scale).sqrt()  # of the side
        room = (1 - share).abs() * side / 2
        degrees = draws.uniform(Stream.ROTATE, -settings.rotate, settings.rotate)
        shift = torch.stack([draws.uniform(s, -1, 1) * room for s in (Stream.SHIFT_X, Stream.SHIFT_Y)], 1)
        turned = share[:, None, None] * trivial.rotation(degrees)
        matrix = torch.cat([turned, shift[:, :, None]], 2)
    if not settings.trivial:
        return matrix
    operation, _, signed = trivial.choose(draws)
    inner = trivial.matrices(operation, signed)
    if matrix is None:
        return inner
    composed = matrix[:, :, :2] @ inner
    composed[:, :, 2] += matrix[:, :, 2]
    return composed


def moved(matrix: Tensor) -> Tensor:
    """Return the positions (int64) of the matrices that are not the identity."""
    identity = torch.eye(2, 3, dtype=matrix.dtype)
    return (matrix != identity).flatten(1).any(1).nonzero()[:, 0]


def jitter(strength: float, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factors of `ops.blend` for brightness, then contrast, then saturation."""
    brightness, contrast, saturation = (
        draws.uniform(s, 1 - strength, 1 + strength) for s in (Stream.BRIGHTNESS, Stream.CONTRAST, Stream.SATURATION)
    )
    colour = brightness * contrast
    return colour * saturation, colour * (1 - saturation), brightness * (1 - contrast)


def cutout(settings: AugmentSettings, draws: Draws, side: int) -> tuple[Edges, Edges]:
    """Return the rows and the columns that are erased."""
    length = scaled(settings.cutout, side)
    centres = (draws.below(stream, side) for stream in (Stream.CUTOUT_Y, Stream.CUTOUT_X))
    rows, columns = (box_edges(centre, length, side) for centre in centres)
    return rows, columns


@dataclass(frozen=True, slots=True)
class Mix:
    """What each image is mixed with: (B,) each, on CPU.

    `blended` and `boxed` are the positions that mixup and cutmix take; `weight` float32 is that of
    the image's own label, 1 where nothing is mixed in. `rows` and `columns` bound the box.
    """

    partner: Tensor
    blended: Tensor
    boxed: Tensor
    rows: Edges
    columns: Edges
    weight: Tensor


def mix(settings: AugmentSettings, draws: Draws, count: int, side: int) -> Mix:
    """Return how the images are mixed with others of all `count` images.

    Mixup: Zhang et al. 2018, §2. Cutmix: Yun et al. 2019, §3.1; the weight is the area left after
    the box is clipped at the edge.
    """
    mixed = draws.coin(Stream.MIX_COIN, settings.mix_prob)
    if settings.mixup and settings.cutmix:
        boxed = draws.coin(Stream.MIX_KIND)
    else:
        boxed = torch.full_like(mixed, settings.cutmix > 0)
    u = draws.uniform(Stream.MIX_WEIGHT)
    share = torch.ones_like(u)
    for alpha, chosen in ((settings.mixup, mixed & ~boxed), (settings.cutmix, mixed & boxed)):
        if alpha:
            share = torch.where(chosen, beta_quantile(u, alpha), share)
    length = ((1 - share).sqrt() * side).long()
    rows, columns = (box_edges(draws.below(stream, side), length, side) for stream in (Stream.BOX_Y, Stream.BOX_X))
    left = 1 - (rows[1] - rows[0]) * (columns[1] - columns[0]) / side**2
    return Mix(
        partner=draws.below(Stream.MIX_PARTNER, count),
        blended=(mixed & ~boxed).nonzero()[:, 0],
        boxed=(mixed & boxed).nonzero()[:, 0],
        rows=rows,
        columns=columns,
        weight=torch.where(mixed & boxed, left, share).to(torch.float32),
    )
