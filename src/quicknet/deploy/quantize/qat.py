"""Fine-tuning through the integer arithmetic itself, towards what a teacher answers: the float parent, if no other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import ConfigError, TrainingError
from quicknet.core.files import sha256_bytes
from quicknet.core.settings import Settings
from quicknet.data import Dataset
from quicknet.data.augment import Augmenter, AugmentSettings
from quicknet.deploy.quantize.build import Quantized
from quicknet.deploy.quantize.resume import Progress, Saver, Tuning
from quicknet.deploy.quantize.student import Student
from quicknet.qnz.encoding import encode_network
from quicknet.training.optim import factor
from quicknet.training.settings import ScheduleSettings

Show = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]  # (what, how many, unit) → advance

_SCHEDULE = ScheduleSettings(name="cosine", warmup=0.05)
_RATE_EVERY = 25  # steps between two counts of the values
_CHUNK = 32  # images that are differentiated together: their maps stay nearer to the cache


class QatSettings(Settings, frozen=True, kw_only=True):
    """How to fine-tune an integer network.

    `epochs` may be a part of one; `lr` is the peak step of Adam, in units of a filter's own size;
    `temperature` softens both answers (Hinton et al. 2015, §2); validation comes `checks` times,
    at equal distances. `rate` is what a bit of a pointwise weight costs, in squared steps of its
    grid (`rate.py`); with it the last check's network is kept, since those before are larger.
    Raises ConfigError.
    """

    epochs: float = 1.0
    lr: float = 5e-4
    batch_size: int = 128
    temperature: float = 2.0
    checks: int = 2
    seed: int = 0
    rate: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot descend."""
        if not 0 < self.epochs <= 1000 or self.lr <= 0 or self.temperature <= 0:
            raise ConfigError("qat: epochs in 0..1000, lr and temperature must be positive")
        if not 0 <= self.rate <= 100:
            raise ConfigError(f"qat: rate {self.rate} must lie in 0..100")
        if not 1 <= self.batch_size <= 1 << 16 or not 1 <= self.checks <= 10_000 or not 0 <= self.seed < 1 << 63:
            raise ConfigError("qat: batch_size, checks and seed must lie in 1..65536, 1..10000 and 0..2^63-1")


class Tuned(Settings, frozen=True, kw_only=True):
    """What fine-tuning came to: steps done, and `val` top-1 before, at each check, and of what was kept."""

    steps: int
    before: float
    checks: tuple[float, ...]
    kept: float


class Lesson(NamedTuple):
    """What there is to learn from: a teacher's logits of normalized images, its data, and how views of that are drawn.

    `answers` gives an integer network's logits (N, classes) of images (N, side, side, C) uint8, by
    the fastest implementation here; None: by the simulation.
    """

    teacher: Callable[[Tensor], Tensor]
    data: Dataset
    augment: AugmentSettings
    answers: Callable[[Quantized, NDArray[np.uint8]], NDArray[np.int32]] | None = None

    def accuracy(self, network: Quantized) -> float:
        """Return top-1 on `val`."""
        val = self.data.split("val")
        answers = self.answers or (lambda quantized, images: Student(quantized).logits(images))
        return float((answers(network, val.images).argmax(1) == np.asarray(val.labels)).mean())


def fine_tune(
    start: Quantized, lesson: Lesson, settings: QatSettings, show: Show, folder: Path | None = None
) -> tuple[Quantized, Tuned]:
    """Return the network of the best check on `val`, `start` among them, and how it went.

    Both see the same augmented view of `train`. The same inputs give the same network on
    one machine with as many threads. With a `folder` its state is saved there, and a call with the same
    arguments goes on from it. Raises TrainingError where the loss is NaN or infinite.
    """
    student, data = Student(start), lesson.data
    steps = max(1, round(settings.epochs * len(data.split("train")) / settings.batch_size))
    optimizer = torch.optim.AdamW(student.parameters(), lr=settings.lr, weight_decay=0.0, eps=1e-12)
    saver = Saver(folder)
    tuning = Tuning(student, optimizer, Progress(start_sha256=_start_sha256(start, settings), before=-1.0, kept=-1.0))
    saver.restore(tuning)
    if tuning.progress.before < 0:
        before = lesson.accuracy(start)
        tuning.progress = tuning.progress.replace(before=before, kept=before)
    left = steps - tuning.progress.step
    with show("fine-tune", left * settings.batch_size, "images") as advance:
        for images in _batches(lesson, settings, range(tuning.progress.step, steps)):
            _step(tuning, lesson, images, settings, steps)
            advance(len(images))
            saver.save(tuning)
    saver.save(tuning, now=True)
    progress = tuning.progress
    if tuning.best is not None:
        student.load_state_dict(tuning.best)
    best = start if tuning.best is None else student.quantized()
    return best, Tuned(steps=steps, before=progress.before, checks=progress.checks, kept=progress.kept)


def _start_sha256(start: Quantized, settings: QatSettings) -> str:
    """Return a digest over the network and the settings: what was saved of others must not go on as these."""
    netw, tens = encode_network(start.network)
    return sha256_bytes(netw + tens + json.dumps((start.logit_scale, settings.to_dict())).encode())


def _step(tuning: Tuning, lesson: Lesson, images: Tensor, settings: QatSettings, steps: int) -> None:
    """Learn from one batch; measure where a check is due."""
    student, number = tuning.student, tuning.progress.step + 1
    if settings.rate and number % _RATE_EVERY == 1:
        student.weigh_bits(settings.rate)
    for group in tuning.optimizer.param_groups:
        group["lr"] = settings.lr * factor(_SCHEDULE, number / steps)
    _learn(student, lesson, images, settings)
    tuning.optimizer.step()
    tuning.progress = tuning.progress.replace(step=number)
    if number in {round(steps * (check + 1) / settings.checks) for check in range(settings.checks)}:
        accuracy = lesson.accuracy(student.quantized())
        better = accuracy > tuning.progress.kept or settings.rate > 0
        if better:
            tuning.take_best()
        checks = (*tuning.progress.checks, accuracy)
        kept, best = (accuracy, number) if better else (tuning.progress.kept, tuning.progress.best_step)
        tuning.progress = tuning.progress.replace(checks=checks, kept=kept, best_step=best)


def _batches(lesson: Lesson, settings: QatSettings, steps: range) -> Iterator[Tensor]:
    """Yield the normalized, augmented images (B, C, side, side) of each step, in an order by (seed, epoch)."""
    data = lesson.data
    train = data.split("train")
    augmenter = Augmenter(
        torch.from_numpy(np.array(train.images)),
        torch.from_numpy(np.array(train.labels)),
        data.spec,
        lesson.augment,
        settings.seed,
        len(data.classes),
    )
    each = max(1, round(len(train) / settings.batch_size))
    for epoch in range(steps.start // each, -(-steps.stop // each)):
        key = np.random.SeedSequence((settings.seed, epoch))
        order = np.random.Generator(np.random.Philox(key)).permutation(len(train))
        for number, rows in enumerate(np.array_split(order, each), epoch * each):
            if number in steps:
                yield augmenter.batch(torch.from_numpy(rows), epoch).images


def _learn(student: Student, lesson: Lesson, images: Tensor, settings: QatSettings) -> None:
    """Put the gradient of the mean divergence from the teacher's answers into the student."""
    student.zero_grad(set_to_none=True)
    with torch.no_grad():
        targets = F.log_softmax(lesson.teacher(images) / settings.temperature, 1)
    total, numbers = 0.0, student.numbers()
    held = [tuple(number.detach().requires_grad_() for number in layer) for layer in numbers]
    for chunk, target in zip(torch.split(images, _CHUNK), torch.split(targets, _CHUNK), strict=True):
        logits = student(pixels_of(chunk, lesson.data.spec), held) * student.logit_scale
        log_probabilities = F.log_softmax(logits / settings.temperature, 1)
        loss = F.kl_div(log_probabilities, target.double(), reduction="sum", log_target=True) / len(images)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    flat = [pair for pairs in zip(numbers, held, strict=True) for pair in zip(*pairs, strict=True)]
    torch.autograd.backward([number for number, _ in flat], [leaf.grad for _, leaf in flat])
    if not np.isfinite(total):
        raise TrainingError(f"the loss of fine-tuning is {total}; choose a lower rate or export without --qat")


def pixels_of(images: Tensor, spec: PreprocessSpec) -> Tensor:
    """Return the pixels 0..255, whole numbers, of normalized images (N, C, H, W)."""
    mean, std = (torch.tensor(v, dtype=images.dtype).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
    return ((images * std + mean) * 255).round().clamp(0, 255)
