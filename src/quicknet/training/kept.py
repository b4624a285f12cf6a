"""Kept answers in a run: which views it shows again, and what its teacher says of them.

What happens to image i in epoch e follows from (seed, e, i), so a teacher that has answered the first
`distill.kept` epochs' views has answered every later one, for this run and for each that shows the same.
Source: the same view for teacher and student, Beyer et al. 2022 (arXiv:2106.05237) §3.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quicknet.core.files import sha256_bytes
from quicknet.core.places import user_cache
from quicknet.data import augment
from quicknet.data.dataset import Dataset
from quicknet.models import fused
from quicknet.training.answers import ASKED_IMAGES, AnswerFile
from quicknet.training.recipe import Recipe
from quicknet.training.settings import TrainSettings
from quicknet.training.teacher import Teacher

_CHUNK_IMAGES = 4096
_LARGE_BATCH = 128


class KeptAnswers:
    """The answers to the views of `epochs` epochs, which the later ones show again; a file for each teacher."""

    def __init__(self, files: Sequence[AnswerFile], epochs: int, device: torch.device) -> None:
        self.files, self.epochs, self.device = tuple(files), epochs, device
        self._loaded: tuple[int, Tensor] | None = None

    def view(self, epoch: int) -> int:
        """Return the epoch (from 0) whose views `epoch` shows."""
        return epoch % self.epochs

    def views(self, epoch: int, epochs: int) -> set[int]:
        """Return the epochs whose views are shown from `epoch` on to the end of `epochs`."""
        return {self.view(number) for number in range(epoch, min(epochs, epoch + self.epochs))}

    def logits(self, epoch: int, indices: Tensor) -> Tensor:
        """Return the mean of the teachers' logits, or one's features, (B, classes) float32 for images of an epoch."""
        view = self.view(epoch)
        if self._loaded is None or self._loaded[0] != view:
            self._loaded = None  # its memory first: features of a large set are a gigabyte
            answers = [torch.from_numpy(file.epoch(view)).to(self.device) for file in self.files]
            mean = answers[0] if len(answers) == 1 else torch.stack([answer.float() for answer in answers]).mean(0)
            self._loaded = (view, mean)
        return self._loaded[1][indices].float()


def uses_bf16(settings: TrainSettings, device: torch.device) -> bool:
    """Return whether networks, the teacher among them, compute in bfloat16 where torch's autocast does.

    By default where that is faster: on CUDA devices, and in batches of 128 and more on CPUs whose kernels gain by it.
    There it cost `quicknet_xs` no accuracy (0.05 ± 0.25 points for it, 3 seeds: results/0013-levers).
    In batches of 64 it was no faster (820 images/s for 927), and the demo answered 98.6% for 99.3 (one seed each).
    """
    if settings.precision == "auto":
        large = settings.batch_size >= _LARGE_BATCH * settings.accumulate
        return device.type == "cuda" or (device.type == "cpu" and large and fused.prefers_bf16())
    return settings.precision == "bf16"


def answers_in_bf16(settings: TrainSettings, device: torch.device) -> bool:
    """Return whether a teacher whose answers are kept computes in bfloat16: its batches are its own, whoever learns."""
    return uses_bf16(settings.replace(batch_size=ASKED_IMAGES, accumulate=1), device)


def keep_answers(
    recipe: Recipe, data: Dataset, teachers: Sequence[Teacher], device: torch.device
) -> KeptAnswers | None:
    """Return where the teachers' answers are kept, in the user's cache; None where they are asked in every step.

    Every run one of whose teachers would give the same answers to the same views has the same file for it.
    `train.sizes` does not count: a teacher answers for the view at the data's size, of which the student may
    see a smaller copy.
    """
    if not teachers or not recipe.distill.kept:
        return None
    train, spec = data.split("train"), data.spec
    views = {
        "pixels": _pixels_sha256(train.images),
        "mean": spec.mean,
        "std": spec.std,
        "seed": recipe.view_seed,
        "augment": recipe.augment.to_dict(),
        "augmentation_code": _code_sha256(),
    }
    bf16 = answers_in_bf16(recipe.train, device)

    def file(teacher: Teacher) -> AnswerFile:
        key = {
            "teacher": teacher.sha256,
            "mirror": recipe.distill.mirror,
            "precision": "bf16" if teacher.autocasts and bf16 else "fp32",
            **views,
        }
        return AnswerFile(user_cache() / "answers", key, len(train), len(teacher.card.classes))

    return KeptAnswers([file(teacher) for teacher in teachers], recipe.distill.kept, device)


def _pixels_sha256(images: NDArray[np.uint8]) -> str:
    """Return a digest over the images in their order: `Dataset.sha256` does not say how they were split."""
    digest = hashlib.sha256(json.dumps(images.shape).encode())
    for start in range(0, len(images), _CHUNK_IMAGES):
        digest.update(np.ascontiguousarray(images[start : start + _CHUNK_IMAGES]).data)
    return digest.hexdigest()


def _code_sha256() -> str:
    """Return a digest over the code that draws views: another version's may differ."""
    folder = Path(augment.__file__).parent
    return sha256_bytes(b"".join(path.read_bytes() for path in sorted((*folder.glob("*.py"), *folder.glob("csrc/*")))))
