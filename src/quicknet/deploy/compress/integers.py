"""From a pruned network, or a whole one, to the integers of a `.qnz`; absent weights are exactly zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quicknet.core.card import Card
from quicknet.core.errors import TargetMissed
from quicknet.core.lineage import CompressStep, DistillStep
from quicknet.data import Dataset
from quicknet.deploy.compress.path import Trained
from quicknet.deploy.compress.prepare import Prepared, kept_share
from quicknet.deploy.compress.settings import CompressSettings
from quicknet.deploy.compress.steps import Attempt, Tried, layer_steps
from quicknet.deploy.qnz import QnzSettings, begin, integer_card, judge, quantized_of, tuned
from quicknet.deploy.quantize import QatSettings, Quantized
from quicknet.deploy.quantize.coarse import coarsen
from quicknet.deploy.quantize.qat import Show
from quicknet.deploy.quantize.student import Student
from quicknet.inference import metrics
from quicknet.inference.unknown import choose_unknown
from quicknet.models.costs import count_costs
from quicknet.models.registry import model_from_record, model_record
from quicknet.qnz.file import Coding, assemble_qnz
from quicknet.training.checkpoint import TorchClassifier
from quicknet.training.teacher import Teacher
from quicknet.training.teachers import origin

CODING: Coding = "contexts"
_WEAKEST, _STRONGEST = 0.05, 8.0  # what a bit may cost, to bring a file under its size
_NEAR = 1.05  # of two strengths that are as good as one
_RECEIPT_BYTES = 400  # results 0028 to 0042: 239 to 278


class Integers(NamedTuple):
    """The integer network, and the card that it is written with."""

    quantized: Quantized
    card: Card


def pruned_integers(
    parent: TorchClassifier,
    trained: Trained,
    data: Dataset,
    settings: CompressSettings,
    prepared: Prepared,
    place: tuple[Path, Show],
    teacher: Teacher | None = None,
) -> Integers:
    """Return the pruned network, or the whole one, in integers: as they were made or as they were fine-tuned towards
    what `teacher` answers (None: the run `parent`), whichever is the more accurate on `val`.

    `place`: the work folder, where fine-tuning goes on from, and what shows how far it is.

    Raises TargetMissed where the file cannot be brought under `target_size`.
    """
    work, show = place
    writing = QnzSettings(bits=settings.bits, max_loss=None, seed=settings.seed)
    card = compressed_card(parent.card, trained, settings, teacher)
    task = begin(parent, trained.network, card, data, writing)
    if teacher is not None:
        task = task._replace(teacher=teacher)
    if trained.tried is not None:
        made = trained.tried.quantized
    else:
        made = quantized_of(task, show, layer_steps(trained.network, prepared.sensitivity, settings.grid))
    choices, tuning = [(made, task.card)], _tuning(settings)
    if tuning is not None:
        choices.append(tuned(task, made, tuning, show, work))
    quantized, card = _most_accurate(choices, data, settings, parent.source)
    card = calibrated(card, quantized, data, settings, parent.source)
    return Integers(quantized, integer_card(card, quantized, settings.bits))


def _most_accurate(
    choices: Sequence[tuple[Quantized, Card]], data: Dataset, settings: CompressSettings, run: Path
) -> tuple[Quantized, Card]:
    """Return the integers, and their card, that are right most often on `val` as they would be written; of equal ones
    the smaller.

    Where a bit has its price, fine-tuning cannot keep what it began with, which is larger: of 12 files 7 were better
    before it, the pruned `quicknet` by 0.3 to 0.6 points for 2% of the bytes (docs/log.md, 2026-12-01). Raises
    TargetMissed where none fits `target_size`.
    """
    val, missed = data.split("val"), None
    best: tuple[float, int, Quantized, Card] | None = None
    for quantized, card in choices:
        quantized = coarsen(quantized)
        try:
            if settings.target_size is not None:
                quantized = fitting(quantized, card, settings)
        except TargetMissed as error:
            missed = error
            continue
        classes = judge(card, settings.bits, run, quantized, np.asarray(val.images)).argmax(1)
        right = float((classes == np.asarray(val.labels)).mean())
        size = file_bytes(quantized, card, settings)
        if best is None or (right, -size) > (best[0], -best[1]):
            best = right, size, quantized, card
    if best is None:
        assert missed is not None  # there is one choice at least
        raise missed
    return best[2], best[3]


def _tuning(settings: CompressSettings) -> QatSettings | None:
    if not settings.qat_epochs:
        return None
    return QatSettings(epochs=settings.qat_epochs, seed=settings.seed, rate=settings.rate)


def grid_of(trained: Trained, settings: CompressSettings) -> float:
    """Return the step of the integers: the one that was found, or that is asked for."""
    return settings.grid if trained.tried is None else trained.tried.step


def attempts(
    parent: TorchClassifier, data: Dataset, settings: CompressSettings, prepared: Prepared, show: Show
) -> Attempt:
    """Return what makes the run's integers of a step, without training, and measures them on `val`."""
    writing = QnzSettings(bits=settings.bits, max_loss=None, seed=settings.seed)
    card = compressed_card(parent.card, Trained(parent.model, kept_share(parent.model), ()), settings, None)
    task, val = begin(parent, parent.model, card, data, writing), data.split("val")

    def attempt(step: float) -> Tried:
        coarse = layer_steps(parent.model, prepared.sensitivity, step)
        quantized, card = quantized_of(task, show, coarse), task.card
        cheap = coarsen(quantized)
        classes = judge(card, settings.bits, parent.source, cheap, np.asarray(val.images)).argmax(1)
        right = float((classes == np.asarray(val.labels)).mean())
        return Tried(step, quantized, file_bytes(cheap, card, settings), right)

    return attempt


def compressed_card(card: Card, trained: Trained, settings: CompressSettings, teacher: Teacher | None) -> Card:
    """Return the run's card as the pruned network's."""
    assert settings.epochs is not None  # they are fitted
    step = CompressStep(
        parent_weights_sha256=card.weights_sha256,
        pattern=settings.pattern,
        density=trained.density,
        epochs=settings.epochs,
        seed=settings.seed,
        grid=grid_of(trained, settings),
    )
    taught = () if teacher is None else (DistillStep(**origin(teacher.card)),)
    card = card.replace(lineage=(*card.lineage, *taught, step))
    if settings.pattern != "channel":
        return card
    record = model_record(card.model.name, trained.network)
    return card.replace(model=record, costs=count_costs(lambda: model_from_record(record)))


def kept_card(card: Card, trained: Trained, settings: CompressSettings, teacher: Teacher | None) -> Card:
    """Return the card of the pruned network in float32, of which nothing has been measured yet."""
    card = compressed_card(card, trained, settings, teacher)
    return card.replace(metrics=(), temperature=None, unknown=None, vectors=None)


def calibrated(card: Card, quantized: Quantized, data: Dataset, settings: CompressSettings, run: Path) -> Card:
    """Return the card with temperature and threshold of these integers, where it has the run's: pruned networks are
    less sure (quicknet_s, results 0039: 7.5% below a threshold meant for 5%).
    """
    if card.temperature is None:
        return card
    val = data.split("val")
    logits = judge(card, settings.bits, run, quantized, np.asarray(val.images)) * quantized.logit_scale
    temperature = metrics.fit_temperature(logits, np.asarray(val.labels))
    unknown = card.unknown and choose_unknown(logits, temperature, "val", card.unknown.none_class)
    return card.replace(temperature=temperature, unknown=unknown)


# --- a size ------------------------------------------------------------------------------------


def fitting(quantized: Quantized, card: Card, settings: CompressSettings) -> Quantized:
    """Return the network, its weights moved to cheaper values until the coded file fits `target_size`.

    By the smallest strength that does (`quantize/rate.py`), to a twentieth: what is stronger than it must be
    costs accuracy. Raises CheckFailed naming the nearest size.
    """
    assert settings.target_size is not None
    smallest = file_bytes(quantized, card, settings)
    if smallest <= settings.target_size:
        return quantized
    low, high, best = _WEAKEST / _NEAR, _WEAKEST, None
    while best is None or high / low > _NEAR:
        strength = high if best is None else (low * high) ** 0.5
        candidate = cheapened(quantized, strength)
        size = file_bytes(candidate, card, settings)
        smallest = min(smallest, size)
        if size <= settings.target_size:
            high, best = strength, candidate
        elif strength >= _STRONGEST:
            other = ", or give a --density below the one that was tried" if settings.epochs else ""
            raise TargetMissed(
                f"the file would be {smallest:,} bytes, over --target-size {settings.target_size:,}; "
                f"allow {math.ceil(smallest / 1000)}KB{other}"
            )
        else:
            low, high = strength, 2 * strength if best is None else high
    return best


def cheapened(quantized: Quantized, strength: float) -> Quantized:
    """Return the network with each weight at the value that is cheapest, a bit costing `strength` squared steps."""
    student = Student(quantized)
    student.weigh_bits(strength)
    return coarsen(student.quantized())


def file_bytes(quantized: Quantized, card: Card, settings: CompressSettings) -> int:
    """Return how long the coded file of a network is at most, with the receipt that its card gets when written."""
    return _RECEIPT_BYTES + len(assemble_qnz(quantized.network, integer_card(card, quantized, settings.bits), CODING))
