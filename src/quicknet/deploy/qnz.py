"""A run folder as a `.qnz`: quantized, fine-tuned where asked, measured, verified, then written."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quicknet import __version__
from quicknet.core.card import Card, IntegerRecord, require_run_folder
from quicknet.core.errors import ConfigError, TargetMissed
from quicknet.core.files import sha256_bytes
from quicknet.core.lineage import CalibrationRecord, Compared, ExportStep, QatRecord
from quicknet.core.machine import usable_cores
from quicknet.core.settings import Settings
from quicknet.data import Dataset
from quicknet.data.augment import AugmentSettings
from quicknet.deploy.fold import fold
from quicknet.deploy.graph import Folded
from quicknet.deploy.pipeline import (
    Draft,
    Receipt,
    default_path,
    export_file,
    exported_card,
    parents_vectors,
    record_receipt,
    split_settings_of,
)
from quicknet.deploy.quantize import (
    Lesson,
    QatSettings,
    Quantized,
    calibration_count,
    fine_tune,
    quantize,
    require_expressible,
)
from quicknet.deploy.quantize.qat import Show
from quicknet.image.batches import in_batches
from quicknet.image.vectors import draw_vectors
from quicknet.inference.receipt import predictions_of
from quicknet.inference.verify import receipt_split
from quicknet.models.network import Network
from quicknet.models.predicates import require_in_format
from quicknet.qnz import reference
from quicknet.qnz.file import Coding, QnzFile, assemble_qnz, parse_qnz
from quicknet.qnz.format import Bits
from quicknet.qnz.implementations import implementations
from quicknet.training.checkpoint import RunFolder, TorchClassifier

_BATCH = 256

Answers = Callable[[NDArray[np.uint8]], NDArray[Any]]


class QnzSettings(Settings, frozen=True, kw_only=True):
    """How a run becomes a `.qnz`.

    `bits` is a width class of FORMAT.md, `qat_epochs` how long to fine-tune through the
    simulation, a part of one too; `max_loss` how many points of top-1 on `val` may be lost to the
    float parent (one image always may), None for any; `images` of the training split to
    calibrate on, None for as many as memory holds, up to 1,024; `seed` chooses them and the
    order of fine-tuning; `coding` "contexts" or "huffman" writes the same network into fewer bytes.
    """

    # w5a8 loses nothing on val (results: quantize) and is the fastest: on one AVX2 core
    # 1.29 times w7a8, 1.12 times w7a7; with VNNI all four are alike
    bits: Bits = "w5a8"
    qat_epochs: float = 0.0
    max_loss: float | None = 0.2
    images: int | None = None
    seed: int = 0
    # a quarter smaller by contexts (quicknet_s.cifar10 943 to 686 KB), and 10 to 90 ms more to open
    coding: Coding = "none"

    def __post_init__(self) -> None:
        """Refuse what cannot be followed."""
        if not 0 <= self.qat_epochs <= 1000:
            raise ConfigError(f"qat_epochs {self.qat_epochs} must lie in 0..1000")
        if self.max_loss is not None and not 0 <= self.max_loss <= 100:
            raise ConfigError(f"max_loss {self.max_loss} must lie in 0..100 points")
        if self.images is not None and self.images < 1:
            raise ConfigError(f"images {self.images} must be at least 1")
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"seed {self.seed} must lie in 0..2^63-1")


class ExportedQnz(Settings, frozen=True, kw_only=True):
    """What was written. The JSON of `export --format qnz --json` is this.

    `compared` on `val`, where choices are made, and on `test`, where there is one.
    """

    path: str
    format: str
    bits: str
    qat_epochs: float
    sha256: str
    weights_sha256: str
    size_bytes: int
    runtimes: tuple[str, ...]
    compared: tuple[Compared, ...]


@contextlib.contextmanager
def silent(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show nothing: the `Show` that is used where no progress is shown."""
    yield lambda n: None


def export_qnz(
    run: str | Path,
    data: Dataset,
    out: str | Path | None = None,
    settings: QnzSettings | None = None,
    show: Show = silent,
) -> ExportedQnz:
    """Write the classifier of a run folder as a `.qnz`, after quantizing, measuring and verifying it.

    `data` is what the run was trained on (`load_run_data`): calibration and fine-tuning take its
    `train`, choices its `val`, the receipt its `test`. The same inputs give the same bytes on one
    machine. What was at `out` before stays there unless all holds. Raises CheckFailed where more
    than `max_loss` is lost, ConfigError for a network that FORMAT.md cannot express, DataError for
    too few images, CheckpointError where `run` is not a run folder.
    """
    run, settings = Path(run), settings or QnzSettings()
    out = default_path(run, "qnz") if out is None else Path(out)
    written, verified = export_file(lambda: _draft(run, data, settings, show), out, data)
    return ExportedQnz(
        format="qnz",
        bits=settings.bits,
        qat_epochs=settings.qat_epochs,
        compared=verified.receipt.compared,
        **written._asdict(),
    )


def make_qnz(
    run: Path, data: Dataset, path: Path, settings: QnzSettings, show: Show = silent
) -> tuple[QnzFile, tuple[Compared, ...]]:
    """Return the file that `export_qnz` would write to `path`, and how it compares to the run. Raises as that does."""
    _, file, receipt = record_receipt(_draft(run, data, settings, show), path, data)
    return file, receipt.compared


def _draft(run: Path, data: Dataset, settings: QnzSettings, show: Show) -> Draft[QnzFile]:
    """Return the run's network in integers, fine-tuned where asked."""
    require_run_folder(run)
    parent = TorchClassifier(run)
    task = begin(parent, parent.model, parent.card, data, settings)
    tuning = QatSettings(epochs=settings.qat_epochs, seed=settings.seed) if settings.qat_epochs else None
    quantized, card = make_integers(task, tuning, show)
    card = integer_card(card, quantized, settings.bits)
    measure = functools.partial(measure_against, parent, settings, show)
    assemble = functools.partial(assemble_qnz, quantized.network, coding=settings.coding)
    return Draft(card, assemble, parse_qnz, measure)


class Task(NamedTuple):
    """A network that becomes integers: calibrated on `images`, fine-tuned on `data` towards what `teacher` answers."""

    parent: TorchClassifier
    net: Folded
    images: NDArray[np.uint8]
    data: Dataset
    card: Card
    bits: Bits
    teacher: Callable[[Tensor], Tensor]


def begin(parent: TorchClassifier, network: Network, card: Card, data: Dataset, settings: QnzSettings) -> Task:
    """Return the task for a network, the parent's own or one made of it, with `card` as an export's card.

    The parent teaches.

    Raises ConfigError for a network that FORMAT.md cannot express, DataError for too few images.
    """
    require_in_format(network.plan)
    net = fold(network, parent.card.preprocess)
    require_expressible(net, parent.card.preprocess.size)
    images = calibration_images(net, data, settings)
    step = ExportStep(
        format="qnz",
        quicknet=__version__,
        parent_weights_sha256=parent.card.weights_sha256,
        bits=settings.bits,
        calibration=calibration_record(images, settings),
        **split_settings_of(parent.source),
    )
    card = exported_card(card, step, parents_vectors(parent))
    return Task(parent, net, images, data, card, settings.bits, parent.model)


def make_integers(
    task: Task, tuning: QatSettings | None, show: Show, coarse: Sequence[float] = (), folder: Path | None = None
) -> tuple[Quantized, Card]:
    """Return the integers, fine-tuned where there is `tuning`, and the card that says so.

    `coarse` as in `quantize`; fine-tuning goes on from what is in `folder`, if that is given.
    """
    quantized = quantized_of(task, show, coarse)
    return (quantized, task.card) if tuning is None else tuned(task, quantized, tuning, show, folder)


def quantized_of(task: Task, show: Show, coarse: Sequence[float] = ()) -> Quantized:
    """Return the integers, not fine-tuned; `coarse` as in `quantize`."""
    layers = len(require_expressible(task.net, task.card.preprocess.size)[1])
    with show("quantize", 1 + layers, "layers") as advance:
        return quantize(task.net, task.images, task.bits, advance, coarse)


def tuned(
    task: Task, quantized: Quantized, tuning: QatSettings, show: Show, folder: Path | None = None
) -> tuple[Quantized, Card]:
    """Return integers fine-tuned, from what is in `folder` on if that is given, and the card that says so."""
    run = task.parent.source
    lesson = Lesson(task.teacher, task.data, augmentation_of(run), functools.partial(judge, task.card, task.bits, run))
    quantized, how = fine_tune(quantized, lesson, tuning, show, folder)
    return quantized, task.card.with_receipt(qat=QatRecord(**{**tuning.to_dict(), **how.to_dict()}))


def calibration_images(net: Folded, data: Dataset, settings: QnzSettings) -> NDArray[np.uint8]:
    """Return the training images, in the data's order, on which ranges are chosen."""
    train = data.split("train").images
    count = settings.images or calibration_count(net, train.shape[1])
    rng = np.random.default_rng(settings.seed)
    rows = np.sort(rng.permutation(len(train))[:count])
    return np.ascontiguousarray(train[rows])


# --- the card ------------------------------------------------------------------------------


def calibration_record(images: NDArray[np.uint8], settings: QnzSettings) -> CalibrationRecord:
    """Return which images were calibrated on."""
    return CalibrationRecord(split="train", n=len(images), seed=settings.seed, sha256=sha256_bytes(images.tobytes()))


def augmentation_of(run: Path) -> AugmentSettings:
    """Return how the run's recipe augments; flips and small shifts for a run folder without one."""
    return RunFolder(run).read_recipe().augment if (run / "recipe.toml").is_file() else AugmentSettings()


def integer_card(card: Card, quantized: Quantized, bits: Bits) -> Card:
    """Return the parent's card as the integer network's: its own logits on the test vectors, and its scale."""
    spec = card.preprocess
    integers = reference.run(quantized.network, draw_vectors(spec.size, spec.channels))
    assert card.vectors is not None  # parents_card has just put them in
    vectors = msgspec.structs.replace(card.vectors, integers=tuple(tuple(map(int, row)) for row in integers))
    costs = None if card.costs is None else card.costs.replace(layers=())  # an integer network tells its own
    return card.replace(
        vectors=vectors, costs=costs, integer=IntegerRecord(bits=bits, logit_scale=quantized.logit_scale)
    )


# --- measuring -----------------------------------------------------------------------------


def _answers(file: QnzFile) -> Answers:
    """Return what gives the integer logits of images by the fastest implementation here."""
    return next(iter(implementations(file, usable_cores()).values()))


def judge(card: Card, bits: Bits, run: Path, quantized: Quantized, images: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the logits (N, classes) of a network that is still being fine-tuned."""
    blob = assemble_qnz(quantized.network, integer_card(card, quantized, bits))
    logits = np.empty((len(images), len(card.classes)), np.int32)
    return in_batches(_answers(parse_qnz(blob, run)), images, _BATCH, logits)


def measure_against(
    parent: TorchClassifier, settings: QnzSettings, show: Show, file: QnzFile, data: Dataset
) -> Receipt:
    """Return the digest of the file's own classes, and how it compares to the run: on `val`, then on `test`.

    Raises CheckFailed where too much is lost on `val`.
    """
    answers, split = _answers(file), receipt_split(None, data)
    measured = {"val": _compare(parent, answers, data, "val", show)}
    _require_little_loss(measured["val"][0], settings)
    if split not in measured:
        measured[split] = _compare(parent, answers, data, split, show)
    compared, predicted = tuple(row for row, _ in measured.values()), measured[split][1]
    return Receipt(predictions_of(predicted, data, split, file.card.classes, packed=False), compared)


def _compare(
    parent: TorchClassifier, answers: Answers, data: Dataset, split: str, show: Show
) -> tuple[Compared, NDArray[np.int64]]:
    """Return how integer network and parent do on a split, and the integer network's classes (N,)."""
    part = data.split(split)
    n, labels = len(part), np.asarray(part.labels)

    def classes(images: NDArray[np.uint8]) -> NDArray[np.int64]:
        return np.stack([answers(images).argmax(1), parent.logits(images).argmax(1)], axis=1)

    with show(f"measure on {split}", n, "images") as advance:
        ours, theirs = in_batches(classes, part.images, _BATCH, np.empty((n, 2), np.int64), advance).T
    top1, parent_top1 = int((ours == labels).sum()), int((theirs == labels).sum())
    compared = Compared(
        split=split,
        protocol=data.protocol,
        n=n,
        top1=top1 / n,
        parent_top1=parent_top1 / n,
        lost_points=round(100 * (parent_top1 - top1) / n, 4),
        different=int((ours != theirs).sum()),
    )
    return compared, ours


def _require_little_loss(compared: Compared, settings: QnzSettings) -> None:
    lost = round((compared.parent_top1 - compared.top1) * compared.n)  # images
    if settings.max_loss is None or lost <= 1 or compared.lost_points <= settings.max_loss:
        return  # one image more or less is chance, however few there are
    remedies = ["use more --qat epochs" if settings.qat_epochs else "fine-tune with --qat 1"]
    remedies += ["use --bits w7a8"] if settings.bits != "w7a8" else []
    raise TargetMissed(
        f"{settings.bits} loses {compared.lost_points:.2f} points of top-1 on {compared.split} "
        f"({100 * compared.parent_top1:.2f}% to {100 * compared.top1:.2f}%, n = {compared.n:,}), over --max-loss "
        f"{settings.max_loss:g}; {', or '.join(remedies)}, or allow more"
    )
