"""Batched augmentation on the training device; the only part of `data` that imports torch.

`Augmenter` turns indices into batches, `normalize` is the evaluation path, `sample` the source
of every random decision.
"""

from quicknet.data.augment.augmenter import Augmenter, Batch, normalize
from quicknet.data.augment.draws import sample
from quicknet.data.augment.settings import AugmentSettings

__all__ = ["AugmentSettings", "Augmenter", "Batch", "normalize", "sample"]
