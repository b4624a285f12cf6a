"""When an answer is not to be believed: a confidence below which a picture is of none of the classes."""

from __future__ import annotations

import math
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


def choose_unknown(logits: Logits, temperature: float, split: str, none_class: bool = False) -> UnknownRecord:
    """Return the largest threshold at which 95% of these images are answered.

    The score is the largest probability (Hendrycks & Gimpel 2017, §2), with `none_class` among those of
    the classes and of none of them (`training/none_class.py`). `logits` (N, classes) are of images of the
    classes, which no weight was fitted to. Raises DataError for logits that are not finite.

    >>> choose_unknown(np.array([[0.0, 1.0]] * 19 + [[0.0, 0.1]]), 1.0, "val").min_confidence
    0.731
    """
    metrics.check_logits(logits)
    confidences = np.sort(metrics.confidences(logits, temperature, none_class))
    refused = math.floor((1 - KEPT) * len(confidences) + 1e-9)
    threshold = math.floor(1000 * confidences[refused]) / 1000  # three digits, none of the answered lost
    kept = float((confidences >= threshold).mean())
    return UnknownRecord(min_confidence=threshold, none_class=none_class, split=split, n=len(confidences), kept=kept)


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
    settings = PredictSettings(top=1, min_confidence=record.min_confidence)
    answers = list(predict(classifier, find_images(folder), settings))
    refused = [answer.label is None for answer in answers if isinstance(answer, Prediction)]
    if not refused:
        errors = [answer.error for answer in answers if isinstance(answer, Unreadable)]
        raise DataError(errors[0] if errors else f"no picture in {folder} can be read; name a folder of pictures")
    share = sum(refused) / len(refused)
    measured = record.replace(others=Path(folder).name, others_n=len(refused), refused=share)
    if keep:
        with folder_lock(classifier.source):
            card = read_card(classifier.source / "card.json").replace(unknown=measured)
            write_atomically(classifier.source / "card.json", card.to_json())
    return measured
