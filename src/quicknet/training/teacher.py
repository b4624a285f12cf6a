"""A teacher: it answers for the same augmented view as the student, in its own scale and size.

Source: Hinton et al. 2015 (arXiv:1503.02531) §2; the same view for both: Beyer et al. 2022
(arXiv:2106.05237) §3.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from quicknet.core.card import Card, PreprocessSpec
from quicknet.core.errors import ConfigError
from quicknet.core.files import sha256_bytes
from quicknet.data.dataset import Dataset
from quicknet.inference.artifact import open_artifact
from quicknet.inference.classifier import Classifier
from quicknet.training.checkpoint import TorchClassifier


class Teacher(Protocol):
    """The student's normalized images (B, C, S, S) → the teacher's logits (B, classes).

    `card` says which network it is, `sha256` is over all that its answers depend on but the type
    that torch's autocast computes in, where `autocasts`.
    """

    card: Card
    sha256: str
    autocasts: bool

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits on the images' device."""
        ...


class RunTeacher:
    """The frozen network of a run folder."""

    autocasts = True

    def __init__(self, classifier: TorchClassifier, student: PreprocessSpec, device: torch.device) -> None:
        self.model = classifier.model.to(device).eval().requires_grad_(False)
        self.card, self.sha256 = classifier.card, _sha256(classifier)
        spec = self.card.preprocess
        self.size = spec.size
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        student_mean, student_std = torch.tensor(student.mean), torch.tensor(student.std)
        self.scale = (student_std / std).view(1, -1, 1, 1).to(device)
        self.shift = ((student_mean - mean) / std).view(1, -1, 1, 1).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the network's logits."""
        logits: Tensor = self.model(_resized(images, self.size) * self.scale + self.shift)
        return logits


class FileTeacher:
    """An exported file, run by its runtime on the CPU: several times as fast as the run folder.

    It takes uint8 pixels, which the student's view was before it was normalized; only what
    resizing or blending put between two of 256 levels is rounded.
    """

    autocasts = False

    def __init__(self, classifier: Classifier, student: PreprocessSpec, device: torch.device) -> None:
        self.classifier, self.card, self.sha256 = classifier, classifier.card, _sha256(classifier)
        self.size = classifier.card.preprocess.size
        self.scale = (255 * torch.tensor(student.std)).view(1, -1, 1, 1).to(device)
        self.shift = (255 * torch.tensor(student.mean)).view(1, -1, 1, 1).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the file's logits."""
        pixels = (_resized(images, self.size) * self.scale + self.shift).round().clamp(0, 255)
        array = pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()  # (B, S, S, C)
        return torch.from_numpy(np.asarray(self.classifier.logits(array))).to(images.device)


class MirroredTeacher:
    """Another teacher's mean over a view and its mirror image, for twice its time.

    On CIFAR-10's val `quicknet_s` answers 93.8% of single views rightly, 94.5% of pairs.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.card, self.sha256 = teacher, teacher.card, teacher.sha256
        self.autocasts = teacher.autocasts

    def __call__(self, images: Tensor) -> Tensor:
        """Return the mean logits."""
        return (self.teacher(images) + self.teacher(images.flip(3))) / 2


class Role(NamedTuple):
    """What a network is asked for, and the option that names another, for error messages."""

    what: str
    option: str


PARENT = Role("the parent", "--from")
TEACHER = Role("the teacher", "--teacher")
JUDGE = Role("the network that finds images hard,", "--set hardest.by")


def open_teacher(
    path: Path, data: Dataset, device: torch.device, same_classes: bool = True, role: Role = TEACHER
) -> Teacher:
    """Return the teacher in a run folder or an exported file; what its outputs mean matters for `same_classes`.

    Raises ConfigError where it does not fit the data, CheckpointError or FormatError for what
    is not a model.
    """
    classifier = open_artifact(path).classifier()
    _require_same_task(classifier.card, data, path, same_classes, role)
    if isinstance(classifier, TorchClassifier):
        return RunTeacher(classifier, data.spec, device)
    return FileTeacher(classifier, data.spec, device)


def _sha256(classifier: Classifier) -> str:
    """Return a digest over weights, network and preprocessing: each alone changes the answers."""
    card = classifier.card
    parts = (classifier.file_sha256, card.model.to_dict(), card.preprocess.to_dict(), card.classes)
    return sha256_bytes(json.dumps(parts, sort_keys=True).encode())


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)


def _require_same_task(card: Card, data: Dataset, path: Path, same_classes: bool, role: Role) -> None:
    if card.preprocess.mode != data.spec.mode:
        raise ConfigError(
            f"{role.what} {path} takes {card.preprocess.mode} images, not {data.spec.mode}; "
            f"name another with {role.option}"
        )
    if same_classes and card.classes != data.classes:
        mend = "distillation needs the same classes in the same order, or a file of features (distill.on=features)"
        if role is JUDGE:
            mend = f"name one of the same classes in the same order with {role.option}"
        raise ConfigError(f"{role.what} {path} has other classes than {data.name}; {mend}")
