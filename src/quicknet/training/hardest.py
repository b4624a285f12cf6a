"""Learning from the hardest images of each batch alone, as a small network that has learned already finds them.

Easy images cost a large network as much as hard ones; `quicknet_xs` answers the same augmented view for a
fortieth of the multiply-adds of `speedy`. Source: airbench96_faster of K. Jordan 2024
(github.com/KellerJordan/cifar10-airbench), where a proxy chooses 512 of 1,024 images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quicknet.data.augment import Batch
from quicknet.training.loss import label_losses
from quicknet.training.run import Run
from quicknet.training.settings import HardestSettings


def hardest_count(settings: HardestSettings, images: int) -> int:
    """Return how many of so many images are learned from.

    >>> hardest_count(HardestSettings(by="quicknet_xs.cifar10", share=0.5), 7)
    4
    """
    return min(images, max(1, round(settings.share * images)))


def hardest(run: Run, batch: Batch) -> Batch:
    """Return the images of a batch to learn from: all, or the recipe's share with the largest loss, in their order."""
    if run.judge is None:
        return batch
    with torch.no_grad(), run.autocast():
        losses = label_losses(run, run.judge(batch.images).float(), batch)
    count = hardest_count(run.recipe.hardest, len(losses))
    chosen = losses.argsort(descending=True, stable=True)[:count].sort().values
    return _rows(batch, chosen)


def _rows(batch: Batch, chosen: Tensor) -> Batch:
    """Return these images (K,) int64 of a batch."""
    mixed = (None if t is None else t[chosen] for t in (batch.mix_labels, batch.mix_weight))
    images = batch.images[chosen].contiguous(memory_format=torch.channels_last)
    return Batch(images, batch.labels[chosen], batch.indices[chosen.cpu()], *mixed)
