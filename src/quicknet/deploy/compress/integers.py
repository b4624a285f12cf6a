"""From a pruned network to the integers of a `.qnz`, whose absent weights are exactly zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quicknet.core.card import Card
from quicknet.core.errors import CheckFailed
from quicknet.core.lineage import CompressStep, DistillStep
from quicknet.data import Dataset
from quicknet.deploy.compress.path import Trained
from quicknet.deploy.compress.prepare import Prepared, network_densities, plan_of
from quicknet.deploy.compress.sensitivity import LayerSensitivity
from quicknet.deploy.compress.settings import CompressSettings
from quicknet.deploy.qnz import QnzSettings, begin, integer_card, judge, make_integers
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
from quicknet.training.setup import origin
from quicknet.training.teacher import Teacher

CODING: Coding = "contexts"
_WEAKEST, _STRONGEST = 0.05, 8.0  # what a bit may cost, to bring a file under its size
_NEAR = 1.05  # of two strengths that are as good as one
_RECEIPT_BYTES = 400  # results 0028 to 0042: 239 to 278
_STEPS = (0.3, 1.6)  # of a layer's step to that of all, at most


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
    """Return the pruned network in integers, fine-tuned towards what `teacher` answers; None: the run `parent`.

    `place`: the work folder, where fine-tuning goes on from, and what shows how far it is.

    Raises CheckFailed where the file cannot be brought under `target_size`.
    """
    work, show = place
    writing = QnzSettings(bits=settings.bits, max_loss=None, seed=settings.seed)
    card = compressed_card(parent.card, trained, settings, teacher)
    task = begin(parent, trained.network, card, data, writing)
    if teacher is not None:
        task = task._replace(teacher=teacher)
    coarse = layer_steps(trained, prepared.sensitivity, settings.step)
    tuning = None
    if settings.qat_epochs:
        tuning = QatSettings(epochs=settings.qat_epochs, seed=settings.seed, rate=settings.rate)
    quantized, card = make_integers(task, tuning, show, coarse, work)
    quantized = coarsen(quantized)
    if settings.target_size is not None:
        quantized = fitting(quantized, card, settings)
    card = calibrated(card, quantized, data, settings, parent.source)
    return Integers(quantized, integer_card(card, quantized, settings.bits))


def compressed_card(card: Card, trained: Trained, settings: CompressSettings, teacher: Teacher | None) -> Card:
    """Return the run's card as the pruned network's."""
    assert settings.epochs is not None  # they are fitted
    step = CompressStep(
        parent_weights_sha256=card.weights_sha256,
        pattern=settings.pattern,
        density=trained.density,
        epochs=settings.epochs,
        seed=settings.seed,
        grid=settings.step,
    )
    taught = () if teacher is None else (DistillStep(**origin(teacher.card)),)
    card = card.replace(lineage=(*card.lineage, *taught, step))
    if settings.pattern != "channel":
        return card
    record = model_record(card.model.name, trained.network)
    return card.replace(model=record, costs=count_costs(lambda: model_from_record(record)))


def layer_steps(trained: Trained, sensitivity: Sequence[LayerSensitivity], step: float) -> tuple[float, ...]:
    """Return the step of each pointwise layer's integers, in root mean squares of its weights; `step` on average.

    A step c moves the answers by about s·c² in a layer of sensitivity s, and saves log2 c bits of
    each of its n weights: the sum is least where c² is proportional to n / s.
    """
    densities, layers = network_densities(trained.network), plan_of(trained.network)[1:]
    kept = [density * layer.in_channels * layer.out_channels for density, layer in zip(densities, layers, strict=True)]
    costs = [row.divergence[0] for row in sensitivity if row.importance is not None]
    logs = [0.5 * math.log(max(n, 1.0) / max(cost, 1e-6)) for n, cost in zip(kept, costs, strict=True)]
    mean = sum(log * n for log, n in zip(logs, kept, strict=True)) / max(sum(kept), 1.0)
    return tuple(step * min(max(math.exp(log - mean), _STEPS[0]), _STEPS[1]) for log in logs)


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
            raise CheckFailed(
                f"the file would be {smallest:,} bytes, over --target-size {settings.target_size:,}; "
                f"allow {math.ceil(smallest / 1000)}KB, or give a --density below the one that was tried"
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
