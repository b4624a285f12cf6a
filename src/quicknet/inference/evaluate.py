"""What a classifier achieves on a split: accuracy with its interval, per class, calibration."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import Card, Metric, UnknownRecord, read_card
from quicknet.core.errors import CheckpointError, ConfigError, DataError
from quicknet.core.files import folder_lock, write_atomically
from quicknet.core.settings import Settings
from quicknet.data.dataset import Dataset, Split
from quicknet.image.batches import in_batches
from quicknet.image.preprocess import check_images
from quicknet.inference import metrics
from quicknet.inference.classifier import Classifier, require_loaded
from quicknet.inference.unknown import choose_unknown

_BATCH = 250


class Subject(Settings, frozen=True, kw_only=True):
    """What was measured on what: a figure never appears without it."""

    model: str
    file_sha256: str
    data: str
    split: str
    protocol: str


class ClassRow(Settings, frozen=True, kw_only=True):
    """One class: its images, how many were classified right, precision and recall (None: undefined)."""

    name: str
    n: int
    correct: int
    precision: float | None
    recall: float | None


class Bin(Settings, frozen=True, kw_only=True):
    """Images whose confidence lies in one of 15 equal steps: how sure, and how often right."""

    n: int
    confidence: float
    accuracy: float


class Evaluation(Subject, frozen=True, kw_only=True):
    """Everything measured on one split. Shares are 0..1; the JSON of `evaluate --json` is this.

    `top1_low`, `top1_high`: 95% Wilson interval. `top5` None with fewer than 6 classes.
    `balanced_accuracy`: mean recall of the classes that have images; `majority_share`: top-1 of
    always answering the largest class. `nll` in nats and `ece` (15 bins) at temperature 1;
    `nll_calibrated` and `ece_calibrated` at `temperature`, None where the card has none.
    `reliability` is at that temperature, else at 1. `unknown` is the card's threshold. `confusion` rows
    are true classes, columns predicted ones.
    """

    n: int
    top1: float
    top1_low: float
    top1_high: float
    top5: float | None
    balanced_accuracy: float
    majority_share: float
    classes: tuple[ClassRow, ...]
    confusion: tuple[tuple[int, ...], ...]
    temperature: float | None
    nll: float
    ece: float
    nll_calibrated: float | None
    ece_calibrated: float | None
    unknown: UnknownRecord | None
    reliability: tuple[Bin, ...]
    seconds: float
    images_per_second: float

    def imbalance(self) -> str | None:
        """Return what top-1 must be compared with where classes differ by 5 to 1 or more; else None."""
        if not metrics.unbalanced([row.n for row in self.classes]):
            return None
        largest = max(self.classes, key=lambda row: row.n)
        return (
            f"balanced accuracy {100 * self.balanced_accuracy:.2f}%; the classes differ much in size: always "
            f"answering {largest.name!r} would score {100 * self.majority_share:.2f}%"
        )

    def metrics(self) -> tuple[Metric, ...]:
        """Return the figures as a card keeps them."""
        top1 = top1_metric(self.top1, self.n, self.split, self.protocol, self.file_sha256)
        others = {"top5": self.top5, "nll": self.nll, "ece": self.ece}
        others |= {"nll_calibrated": self.nll_calibrated, "ece_calibrated": self.ece_calibrated}
        measured = {name: value for name, value in others.items() if value is not None}
        return (top1, *(top1.replace(name=name, value=value, low=None, high=None) for name, value in measured.items()))


def evaluate(
    classifier: Classifier,
    data: Dataset,
    split: str = "test",
    advance: Callable[[int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Evaluation:
    """Measure `classifier` on a split of `data`, which was read by the card's spec and classes.

    `advance(n)` is called after every n images; `clock` gives seconds. Raises DataError where
    the split is missing or empty, or its images or classes are not the model's.
    """
    return evaluate_logits(classifier, data, split, advance, clock)[0]


def evaluate_logits(
    classifier: Classifier,
    data: Dataset,
    split: str,
    advance: Callable[[int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Evaluation, NDArray[np.float32]]:
    """Do as `evaluate` and return the logits (N, classes) too, with which single images can be shown."""
    part = _checked_split(classifier, data, split)
    started = clock()
    logits = classify(classifier, part.images, advance)
    seconds = clock() - started
    subject = Subject(
        model=str(classifier.source),
        file_sha256=classifier.file_sha256,
        data=data.name,
        split=split,
        protocol=data.protocol,
    )
    return summarize(logits, np.asarray(part.labels), classifier.card, subject, seconds), logits


def _checked_split(classifier: Classifier, data: Dataset, split: str) -> Split:
    """Return a split whose labels mean the model's classes. Raises DataError, ConfigError for what is not loaded."""
    require_loaded(classifier)
    if isinstance(data, (str, os.PathLike)):
        raise ConfigError(f"{data!r} is not loaded data; load it first: quicknet.load_data(PATH, request)")
    if data.classes != classifier.card.classes:
        raise DataError(
            f"{data.name} has other classes, or in another order, than the model ({classifier.source}); "
            "load it with the model's: DataRequest(classes=card.classes, spec=card.preprocess)"
        )
    part = data.split(split)
    if len(part.labels) == 0:
        raise DataError(f"the split {split!r} of {data.name} holds no images; name another with --split")
    return part


def classify(
    classifier: Classifier,
    images: NDArray[np.uint8],
    advance: Callable[[int], None] | None = None,
    batch: int = _BATCH,
) -> NDArray[np.float32]:
    """Return the logits (N, classes) of images (N, size, size, channels), `batch` at a time.

    Raises DataError where images have another shape or type than the model's, or logits are
    not finite.
    """
    check_images(images, classifier.card.preprocess)
    logits = np.empty((len(images), len(classifier.card.classes)), np.float32)
    in_batches(classifier.logits, images, batch, logits, advance)
    metrics.check_logits(logits)
    return logits


def summarize(
    logits: NDArray[np.float32], labels: NDArray[Any], card: Card, subject: Subject, seconds: float
) -> Evaluation:
    """Return what logits (N, classes) and labels (N,) say; calibrated by the card's temperature.

    Raises DataError where they do not fit each other or the card's classes.
    """
    metrics.check_logits(logits, labels)
    n, classes, temperature = len(labels), card.classes, card.temperature
    if logits.shape[1] != len(classes):
        raise DataError(f"the card names {len(classes)} classes, the model answers with {logits.shape[1]}")
    confusion = metrics.confusion_matrix(logits.argmax(1), labels, len(classes))
    correct = int(np.trace(confusion))
    low, high = metrics.wilson_interval(correct, n)
    plain = metrics.softmax(logits)
    calibrated = plain if temperature is None else metrics.softmax(logits, temperature)

    def after(function: Callable[..., float], *arguments: Any) -> float | None:
        return None if temperature is None else function(*arguments)

    return Evaluation(
        **subject.to_dict(),
        n=n,
        top1=correct / n,
        top1_low=low,
        top1_high=high,
        top5=float(metrics.top_k_correct(logits, labels, 5).mean()) if len(classes) > 5 else None,
        balanced_accuracy=metrics.balanced_accuracy(np.diagonal(confusion), confusion.sum(1)),
        majority_share=int(confusion.sum(1).max()) / n,
        classes=_class_rows(classes, confusion),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        temperature=temperature,
        nll=metrics.negative_log_likelihood(logits, labels),
        ece=metrics.expected_calibration_error(plain, labels),
        nll_calibrated=after(metrics.negative_log_likelihood, logits, labels, temperature),
        ece_calibrated=after(metrics.expected_calibration_error, calibrated, labels),
        unknown=card.unknown,
        reliability=tuple(
            Bin(n=count, confidence=confidence, accuracy=accuracy)
            for count, confidence, accuracy in metrics.reliability(calibrated, labels)
        ),
        seconds=seconds,
        images_per_second=n / max(seconds, 1e-9),
    )


def _class_rows(classes: tuple[str, ...], confusion: NDArray[np.int64]) -> tuple[ClassRow, ...]:
    precision, recall = metrics.precision_recall(confusion)
    return tuple(
        ClassRow(
            name=name,
            n=int(confusion[index].sum()),
            correct=int(confusion[index, index]),
            precision=None if math.isnan(precision[index]) else float(precision[index]),
            recall=None if math.isnan(recall[index]) else float(recall[index]),
        )
        for index, name in enumerate(classes)
    )


def top1_metric(share: float, n: int, split: str, protocol: str, file_sha256: str) -> Metric:
    """Return an accuracy on n images as a card keeps it, with its 95% Wilson interval."""
    low, high = metrics.wilson_interval(round(share * n), n)
    return Metric(
        name="top1",
        value=share,
        low=low,
        high=high,
        n=n,
        split=split,
        protocol=protocol,
        file_sha256=file_sha256,
    )


def calibrate(classifier: Classifier, data: Dataset, split: str = "val") -> Card:
    """Fit temperature and threshold on a held-out split and keep them in the run folder's card, which is returned.

    Only the card's `temperature` and `unknown` change, in one atomic step. Raises CheckpointError
    where the classifier is not a run folder, or a run is going on there.
    """
    folder = classifier.source
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a finished file; calibrate the run folder it came from")
    part = _checked_split(classifier, data, split)
    logits = classify(classifier, part.images)
    temperature = metrics.fit_temperature(logits, np.asarray(part.labels))
    before = classifier.card.unknown
    unknown = choose_unknown(logits, temperature, split, before is not None and before.none_class)
    with folder_lock(folder):
        card = read_card(folder / "card.json").replace(temperature=temperature, unknown=unknown)
        write_atomically(folder / "card.json", card.to_json())
    return card
