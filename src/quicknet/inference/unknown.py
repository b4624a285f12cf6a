"""When an answer is not to be believed: a probability below which a picture is of none of the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from quicknet.core.card import UnknownRecord, read_card
from quicknet.core.errors import ConfigError, DataError
from quicknet.core.files import folder_lock, write_atomically
from quicknet.inference import metrics
from quicknet.inference.classifier import Classifier
from quicknet.inference.metrics import Logits
from quicknet.inference.predict import Prediction, PredictSettings, Unreadable, find_images, predict

KEPT = 0.95  # share of pictures of the classes that are still answered


def choose_unknown(logits: Logits, temperature: float, split: str) -> UnknownRecord:
    """Return the largest threshold at which 95% of these images are answered.

    The score is the largest probability (Hendrycks & Gimpel 2017, §2). `logits` (N, classes) are of
    images of the classes, which no weight was fitted to. Raises DataError for logits that are not finite.

    >>> choose_unknown(np.array([[0.0, 1.0]] * 19 + [[0.0, 0.1]]), 1.0, "val").min_confidence
    0.731
    """
    metrics.check_logits(logits)
    confidences = np.sort(metrics.softmax(logits, temperature).max(1))
    refused = math.floor((1 - KEPT) * len(confidences) + 1e-9)
    threshold = math.floor(1000 * confidences[refused]) / 1000  # three digits, none of the answered lost
    kept = float((confidences >= threshold).mean())
    return UnknownRecord(min_confidence=threshold, split=split, n=len(confidences), kept=kept)


def measure_refused(record: UnknownRecord, confidences: Sequence[float], others: str) -> UnknownRecord:
    """Return the record with the share of these largest probabilities, of pictures of none of the classes, below it."""
    refused = sum(confidence < record.min_confidence for confidence in confidences) / len(confidences)
    return record.replace(others=others, others_n=len(confidences), refused=refused)


def refused_in(classifier: Classifier, folder: str, keep: bool = False) -> UnknownRecord:
    """Return the card's record with what becomes of the pictures in `folder`, which show none of the classes.

    With `keep` it is put into the card of the run folder, in one atomic step. Raises ConfigError for a
    card without threshold, DataError where no picture can be read.
    """
    record = classifier.card.unknown
    if record is None:
        raise ConfigError(
            f"{classifier.source} holds no threshold for unknown pictures; choose one on val: "
            "quicknet evaluate RUN --calibrate"
        )
    answers = list(predict(classifier, find_images(folder), PredictSettings(top=1)))
    confidences = [answer.probability for answer in answers if isinstance(answer, Prediction)]
    if not confidences:
        errors = [answer.error for answer in answers if isinstance(answer, Unreadable)]
        raise DataError(errors[0] if errors else f"no picture in {folder} can be read; name a folder of pictures")
    measured = measure_refused(record, confidences, Path(folder).name)
    if keep:
        with folder_lock(classifier.source):
            card = read_card(classifier.source / "card.json").replace(unknown=measured)
            write_atomically(classifier.source / "card.json", card.to_json())
    return measured
