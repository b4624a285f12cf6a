"""When an answer is not to be believed: a probability below which a picture is of none of the classes."""

from __future__ import annotations

import math

import numpy as np

from quicknet.core.card import UnknownRecord
from quicknet.inference import metrics
from quicknet.inference.metrics import Logits

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


def measure_refused(record: UnknownRecord, logits: Logits, temperature: float, others: str) -> UnknownRecord:
    """Return the record with the share of these images, which are of none of the classes, that is unknown."""
    metrics.check_logits(logits)
    confidences = metrics.softmax(logits, temperature).max(1)
    refused = float((confidences < record.min_confidence).mean())
    return record.replace(others=others, others_n=len(confidences), refused=refused)
