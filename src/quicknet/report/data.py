"""What a report shows: the card, the epochs' records, one evaluation, the worst mistakes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import Card
from quicknet.inference import metrics
from quicknet.inference.evaluate import Evaluation

_LOG_LIMIT_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Mistake:
    """An image (H, W, C) uint8 that was classified wrongly, and how sure the model was."""

    image: NDArray[np.uint8]
    true: str
    predicted: str
    probability: float
    path: str = ""


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything on the page. `epochs` are the records of log.jsonl, `notes` are sentences."""

    title: str
    card: Card
    evaluation: Evaluation | None = None
    epochs: Sequence[dict[str, Any]] = ()
    mistakes: Sequence[Mistake] = ()
    notes: Sequence[str] = field(default=())


def worst_mistakes(
    images: NDArray[np.uint8],
    labels: NDArray[Any],
    logits: NDArray[np.float32],
    card: Card,
    paths: Sequence[str] | None = None,
    count: int = 24,
) -> tuple[Mistake, ...]:
    """Return the wrongly classified images of which the model was surest, surest first.

    images (N, H, W, C), labels (N,), logits (N, classes); probabilities by the card's
    temperature. Raises DataError where they do not fit each other.
    """
    metrics.check_logits(logits, labels)
    probabilities = metrics.softmax(logits, card.temperature or 1.0)
    predicted = probabilities.argmax(1)
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:count]
    return tuple(
        Mistake(
            image=np.array(images[row]),
            true=card.classes[int(labels[row])],
            predicted=card.classes[int(predicted[row])],
            probability=float(probabilities[row, predicted[row]]),
            path=paths[int(row)] if paths else "",
        )
        for row in order
    )


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the epochs' records of a log.jsonl; an empty list where there is no such file.

    A line that a kill cut short is left out.
    """
    if not path.is_file() or path.stat().st_size > _LOG_LIMIT_BYTES:
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
