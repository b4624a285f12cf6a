"""From indices to batches: what is drawn at random for each image, and the order of the operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import ConfigError, DataError
from quicknet.core.limits import MAX_IMAGE_SIZE
from quicknet.data.augment import decide, ops, trivial
from quicknet.data.augment.draws import Draws
from quicknet.data.augment.settings import AugmentSettings


@dataclass(frozen=True, slots=True)
class Batch:
    """What one training step takes.

    `images` (B, C, S, S) float32, channels_last, normalized; `labels` (B,) int64; `indices` (B,)
    int64, on the CPU: which images of the data set they are. Where the settings mix images, the
    loss is mix_weight * loss(labels) + (1 - mix_weight) * loss(mix_labels), with `mix_labels` (B,)
    int64 and `mix_weight` (B,) float32 in 0..1.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    mix_labels: Tensor | None = None
    mix_weight: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`; itself where it is there already."""
        if self.images.device == device:
            return self
        mixed = (None if t is None else t.to(device) for t in (self.mix_labels, self.mix_weight))
        return Batch(self.images.to(device), self.labels.to(device), self.indices, *mixed)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float], size: int | None = None) -> Tensor:
    """Return (images / 255 - mean) / std, resized to `size` where that differs.

    `images` (B, S, S, C) uint8 → (B, C, size, size) float32, channels_last. Resizing is bilinear
    with antialiasing. Raises DataError for another shape or type, ConfigError for a size outside
    1..1024.
    """
    _check_images(images)
    return _to_network(images.contiguous().to(torch.float32), mean, std, size)


def _to_network(values: Tensor, mean: Sequence[float], std: Sequence[float], size: int | None) -> Tensor:
    """Return 0..255 float32 (B, S, S, C), which is overwritten, as the network's input."""
    batch, side, _, channels = values.shape
    if len(mean) != channels or len(std) != channels:
        raise DataError(f"images of {channels} channels need that many means and stds, not {len(mean)}")
    if size is not None and not 1 <= size <= MAX_IMAGE_SIZE:
        raise ConfigError(f"image size {size} must lie in 1..{MAX_IMAGE_SIZE}")
    scale = torch.tensor([1 / (255 * s) for s in std], device=values.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=values.device)
    # Over rows of S*C numbers, 20x faster than over C; and as two operations, since a fused one
    # rounds once in the vector part and twice in the rest: the result would depend on position.
    values.view(batch * side, side * channels).mul_(scale.repeat(side)).add_(shift.repeat(side))
    images = values.permute(0, 3, 1, 2)
    if size is not None and size != side:
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return images.contiguous(memory_format=torch.channels_last)


class Augmenter:
    """Augmented batches of a data set that lies on the training device.

    `images` (N, S, S, C) uint8 and `labels` (N,) int64 stay where they are and are not copied;
    `spec` gives mean and std. Every image is a function of (seed, epoch, index) and the settings,
    bit for bit: batch, order, process and thread count do not matter, nor does the device until
    the image is resized. What is drawn is drawn on the CPU; the pixels never leave the device.

    Raises DataError for images or labels that do not fit together.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        spec: PreprocessSpec,
        settings: AugmentSettings,
        seed: int,
        num_classes: int,
    ) -> None:
        _check_images(images)
        if labels.shape != images.shape[:1] or labels.dtype != torch.int64 or not len(labels):
            raise DataError(f"{len(images)} images need as many int64 labels and at least one, not {len(labels)}")
        if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
            raise DataError(f"labels must lie in 0..{num_classes - 1}, one per class")
        if images.shape[3] != spec.channels:
            raise DataError(f"images of {images.shape[3]} channels do not fit mode {spec.mode}")
        self.images = images.contiguous()
        self.labels = labels.to(images.device)
        self.spec = spec
        self.settings = settings
        self.seed = seed
        mean = [min(max(round(255 * m), 0), 255) for m in spec.mean]
        self._mean_u8 = torch.tensor(mean, dtype=torch.uint8, device=images.device)

    def batch(self, indices: Tensor, epoch: int, size: int | None = None) -> Batch:
        """Return the augmented images `indices` (B,) int64 of an epoch, resized to `size`.

        Raises DataError for an index that the data set does not have.
        """
        chosen = indices.cpu()
        if chosen.dim() != 1 or chosen.dtype != torch.int64 or not len(chosen):
            raise DataError("a batch needs a list of int64 indices, at least one")
        if int(chosen.min()) < 0 or int(chosen.max()) >= len(self.labels):
            raise DataError(f"indices must lie in 0..{len(self.labels) - 1}, one per image")
        labels = self.labels[chosen.to(self.labels.device)]
        mean, std = self.spec.mean, self.spec.std
        if not self.settings.mixes:
            images = self._augmented(chosen, epoch).to(torch.float32)
            return Batch(_to_network(images, mean, std, size), labels, chosen)
        draws = Draws(self.seed, epoch, chosen)
        mix = decide.mix(self.settings, draws, len(self.labels), self.images.shape[1])
        images = _to_network(self._mixed(chosen, epoch, mix), mean, std, size)
        mix_labels = self.labels[mix.partner.to(labels.device)]
        return Batch(images, labels, chosen, mix_labels, mix.weight.to(labels.device))

    def _augmented(self, indices: Tensor, epoch: int) -> Tensor:
        """Return (B, S, S, C) uint8: everything but mixing."""
        settings, device, side = self.settings, self.images.device, self.images.shape[1]
        draws = Draws(self.seed, epoch, indices)
        flip = decide.flips(settings, self.seed, epoch, indices, draws)
        where = (indices, *decide.shifts(settings, draws, side), flip)
        images = ops.crop_and_flip(self.images, *(t.to(device) for t in where))
        matrix = decide.matrices(settings, draws, side)
        if matrix is not None:
            moved = decide.moved(matrix)
            there = moved.to(device)
            images = images.index_copy_(0, there, ops.warp(images.index_select(0, there), matrix[moved]))
        if settings.jitter:
            images = ops.jitter(images, decide.jitter(settings.jitter, draws))
        if settings.trivial:
            images = trivial.recolour(images, *trivial.choose(draws))
        if settings.cutout:
            rows, columns = decide.cutout(settings, draws, side)
            images = ops.paste(images, self._mean_u8, rows, columns)
        return images

    def _mixed(self, indices: Tensor, epoch: int, mix: decide.Mix) -> Tensor:
        """Return float32 (B, S, S, C) in 0..255, mixed with partners that are augmented alike."""
        device, blended, boxed = self.images.device, mix.blended, mix.boxed
        needed = torch.cat([indices, mix.partner[blended], mix.partner[boxed]])
        base, faded, pasted = self._augmented(needed, epoch).tensor_split([len(indices), len(indices) + len(blended)])
        if len(boxed):
            rows, columns = ((first[boxed], end[boxed]) for first, end in (mix.rows, mix.columns))
            where = boxed.to(device)
            base.index_copy_(0, where, ops.paste(base.index_select(0, where), pasted, rows, columns))
        images = base.to(torch.float32)
        if len(blended):
            where, share = blended.to(device), mix.weight[blended].to(device)[:, None, None, None]
            # Not `lerp`: how often it rounds is not the same on every device.
            kept = images.index_select(0, where).mul_(share)
            images.index_copy_(0, where, kept.add_(faded.to(torch.float32).mul_(1 - share)))
        return images


def _check_images(images: Tensor) -> None:
    shape = tuple(images.shape)
    if images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] not in (1, 3, 4):
        raise DataError(f"images must be (N, S, S, 1, 3 or 4) uint8, not {shape} {images.dtype}")
    if not 4 <= shape[1] <= MAX_IMAGE_SIZE:
        raise DataError(f"images of {shape[1]} pixels cannot be augmented; use 4 to {MAX_IMAGE_SIZE}")
