"""`verify`: whether a file still answers as its receipt says. Needs data only to measure accuracy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import Card
from quicknet.core.errors import CheckFailed, CheckpointError, DataError, FormatError
from quicknet.core.machine import usable_cores
from quicknet.core.settings import Settings
from quicknet.lite.choice import Images, Runner
from quicknet.lite.evaluate import LabelledData
from quicknet.lite.implementations import implementations
from quicknet.lite.onnx_file import OnnxFile, looks_like_onnx, read_onnx
from quicknet.lite.qnz import QnzFile, looks_like_qnz, read_qnz
from quicknet.lite.receipt import (
    Predictions,
    class_order_sha256,
    pack_classes,
    recorded_predictions,
    stated_tolerance,
    unpack_classes,
)
from quicknet.lite.runtime import open_runner, require_runtimes, run_chunks
from quicknet.lite.shipped import did_you_mean, locate
from quicknet.lite.vectors import GENERATOR, draw_vectors, vectors_sha256

TOLERANCE = 1e-4  # of a float logit; or 1e-5 of the largest, where logits pass 10
MAX_DIFFERENT = 0.001  # share of images whose predicted class may be another than the parent's: ONNX only


class Check(Settings, frozen=True, kw_only=True):
    """One thing that was looked at; `detail` is a sentence with the figures."""

    name: str
    ok: bool
    detail: str


class Measured(Settings, frozen=True, kw_only=True):
    """A split classified again: accuracy now and then, and images whose class differs (None: not known)."""

    data: str
    split: str
    protocol: str
    runtime: str
    n: int
    top1: float
    top1_recorded: float | None
    different: int | None


class Verification(Settings, frozen=True, kw_only=True):
    """What `verify` found. The JSON of `verify --json` is this, with "holds".

    `receipt_measured` says whether the file's maker measured it on data at all.
    """

    file: str
    sha256: str
    weights_sha256: str
    checks: tuple[Check, ...]
    receipt_measured: bool
    measured: Measured | None

    @property
    def holds(self) -> bool:
        """Whether every check held."""
        return all(check.ok for check in self.checks)

    def require(self) -> None:
        """Raise CheckFailed with what did not hold, if anything."""
        failed = [check for check in self.checks if not check.ok]
        if failed:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            raise CheckFailed(
                f"the receipt does not hold: {failed[0].detail}{more} ({self.file}); "
                "do not use the file, export it again from its run folder"
            )


class _File(NamedTuple):
    """An exported file as it is verified: what runs it, and whether its answers are to be met exactly.

    `wanted` are the test vectors' logits (images, classes).
    """

    path: Path
    sha256: str
    weights_sha256: str
    card: Card
    runners: Mapping[str, Callable[[Images], NDArray[Any]]]
    wanted: tuple[tuple[float, ...], ...] | None
    exact: bool


def verify(
    path: str | Path,
    data: LabelledData | None = None,
    advance: Callable[[int], None] | None = None,
) -> Verification:
    """Return whether an exported file answers as its receipt says, by every runtime present.

    Digests, declared shapes, the test vectors; with `data` (read by the card's spec and classes)
    accuracy and agreement with the recorded classes on the receipt's split. `advance(n)` is told
    of every n images done. Raises FormatError for a file that cannot be read at all, DataError
    for data of other classes or without images.
    """
    return verify_file(read_exported(path), data, advance)


def read_exported(path: str | Path) -> OnnxFile | QnzFile:
    """Read a `.qnz` or an exported ONNX file. Raises CheckpointError where none is, FormatError for another."""
    path = locate(path, "file")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; verify takes an exported file")
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist{did_you_mean(path)}; name an exported file")
    if looks_like_qnz(path):
        return read_qnz(path)
    if looks_like_onnx(path):
        return read_onnx(path)
    raise FormatError(f"{path} is not a file that `quicknet export` wrote; only those carry a receipt")


def verify_file(
    file: OnnxFile | QnzFile, data: LabelledData | None = None, advance: Callable[[int], None] | None = None
) -> Verification:
    """Do as `verify` for a file that was read."""
    found = _integer(file) if isinstance(file, QnzFile) else _floating(file)
    card = found.card
    checks = [_digests(file), *_bounds(file), _shapes(card), *_vectors(found)]
    recorded = recorded_predictions(card)
    if recorded is not None:
        checks.append(_class_order(card, recorded))
    measured = None
    if data is not None:
        measured, more = _measure(found, recorded, data, advance)
        checks += more
    return Verification(
        file=str(file.path),
        sha256=file.sha256,
        weights_sha256=file.weights_sha256,
        checks=tuple(checks),
        receipt_measured=recorded is not None,
        measured=measured,
    )


def _floating(file: OnnxFile) -> _File:
    opened = {name: open_runner(file, name, usable_cores()) for name in require_runtimes()}
    runners = {name: functools.partial(_by_chunks, run, file.card) for name, run in opened.items()}
    wanted = file.card.vectors.logits if file.card.vectors else None
    return _File(file.path, file.sha256, file.weights_sha256, file.card, runners, wanted, exact=False)


def _by_chunks(run: Runner, card: Card, images: Images) -> NDArray[np.float32]:
    return run_chunks(run, images, card)


def _integer(file: QnzFile) -> _File:
    runners = implementations(file, usable_cores())
    wanted = file.card.vectors.integers if file.card.vectors else None
    return _File(file.path, file.sha256, file.weights_sha256, file.card, runners, wanted, exact=True)


def _digests(file: OnnxFile | QnzFile) -> Check:
    if isinstance(file, QnzFile):  # each section's and the file's own were checked in reading it
        ok = file.card.weights_sha256 == file.weights_sha256
        text = f"the file and its {len(file.sections)} sections have their sha256"
        return Check(
            name="digests", ok=ok, detail=text if ok else "the card is of another network (weights_sha256 differs)"
        )
    if file.intact:
        return Check(name="digests", ok=True, detail="graph and card are those that were written together")
    return Check(name="digests", ok=False, detail="graph or card were changed since the export (sha256 differs)")


def _bounds(file: OnnxFile | QnzFile) -> list[Check]:
    """Reading a `.qnz` proves FORMAT.md's bounds; say so."""
    if not isinstance(file, QnzFile):
        return []
    text = f"{1 + len(file.network.blocks)} layers within the bounds of the format: no sum can overflow"
    return [Check(name="bounds", ok=True, detail=text)]


def _shapes(card: Card) -> Check:
    """The file's own shapes were compared with the card in reading; here the card with itself."""
    spec, config = card.preprocess, card.model.config
    wanted = {"num_classes": len(card.classes), "in_channels": spec.channels, "image_size": spec.size}
    odd = [f"{key} {config[key]}, not {value}" for key, value in wanted.items() if config.get(key, value) != value]
    if odd:
        return Check(name="shapes", ok=False, detail=f"the card contradicts itself: the network has {'; '.join(odd)}")
    text = f"uint8 (N, {spec.size}, {spec.size}, {spec.channels}) to float32 (N, {len(card.classes)})"
    return Check(name="shapes", ok=True, detail=text)


def _vectors(file: _File) -> list[Check]:
    """Replay the test vectors through each runtime."""
    recorded, spec = file.card.vectors, file.card.preprocess
    if recorded is None or file.wanted is None:
        return [Check(name="vectors", ok=False, detail="the file carries no test vectors")]
    if recorded.generator != GENERATOR:
        raise FormatError(
            f"the test vectors are of generator {recorded.generator}, this QuickNet draws {GENERATOR} "
            f"({file.path}); update QuickNet"
        )
    images = draw_vectors(spec.size, spec.channels)
    wanted = _matrix(file.wanted, (len(images), len(file.card.classes)))
    if wanted is None or vectors_sha256(images) != recorded.sha256:
        return [Check(name="vectors", ok=False, detail="the test vectors are not those that belong to this size")]
    if file.exact:
        return [_met(name, run(images), wanted) for name, run in file.runners.items()]
    tolerance = stated_tolerance(file.card)
    return [_replayed(name, run(images), wanted, tolerance) for name, run in file.runners.items()]


def _met(name: str, found: NDArray[Any], wanted: NDArray[np.float64]) -> Check:
    """Compare integer logits: float64 holds 32 bits exactly."""
    off = int((found != wanted).any(axis=1).sum())
    text = f"{len(wanted)} test vectors by {name}: "
    text += f"{off} have other logits than recorded" if off else "exactly the recorded integer logits"
    return Check(name=f"vectors {name}", ok=not off, detail=text)


def _matrix(rows: tuple[tuple[float, ...], ...], shape: tuple[int, int]) -> NDArray[np.float64] | None:
    """Return rows as an array of `shape`; None where they are another or not finite."""
    if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
        return None
    array = np.array(rows, np.float64)
    return array if np.isfinite(array).all() else None


def _replayed(name: str, found: NDArray[Any], wanted: NDArray[np.float64], stated: float | None) -> Check:
    tolerance = stated or TOLERANCE * max(1.0, float(np.abs(wanted).max()) / 10)
    difference = float(np.abs(found - wanted).max())
    ok = bool(difference <= tolerance)  # a NaN is not
    compared = "within" if ok else "which is over"
    compared += " the stated" if stated else ""
    text = f"{len(wanted)} test vectors by {name}: logits differ by {difference:.1e}, {compared} {tolerance:.0e}"
    return Check(name=f"vectors {name}", ok=ok, detail=text)


def _class_order(card: Card, recorded: Predictions) -> Check:
    if class_order_sha256(card.classes) == recorded.class_order_sha256:
        return Check(name="class order", ok=True, detail=f"{len(card.classes)} class names in the parent's order")
    return Check(
        name="class order", ok=False, detail="the class names are other than the parent's, or in another order"
    )


def receipt_split(recorded: Predictions | None, data: LabelledData) -> str:
    """Return the split to measure: the receipt's, else `test`, else `val`."""
    if recorded is not None:
        return recorded.split
    try:
        data.split("test")
    except DataError:
        return "val"
    return "test"


def _measure(
    file: _File, recorded: Predictions | None, data: LabelledData, advance: Callable[[int], None] | None
) -> tuple[Measured, list[Check]]:
    """Classify the receipt's split again; return the figures and what follows from them."""
    card = file.card
    if tuple(data.classes) != card.classes:
        raise DataError(f"{data.name} has other classes than the model; load it with the card's class names")
    split = receipt_split(recorded, data)
    part = data.split(split)
    labels = np.asarray(part.labels)
    if not len(labels):
        raise DataError(f"the split {split!r} of {data.name} holds no images; name the data of the receipt")
    runtime, run = next(iter(file.runners.items()))
    predicted = _classify(run, part.images, advance)
    correct, n = int((predicted == labels).sum()), len(labels)
    checks, different, allowed = [], None, 0 if file.exact else int(MAX_DIFFERENT * n)
    if recorded is not None:
        checks.append(_same_data(recorded, data, n))
    if recorded is not None and checks[0].ok:
        different, agreement = _agreement(file.exact, recorded, predicted, allowed)
        checks.append(agreement)
    before = _recorded_top1(card, recorded, data, split, n)
    if before is not None:
        text = f"top-1 {100 * correct / n:.2f}% on {data.name} {split}, {100 * before:.2f}% in the receipt"
        checks.append(Check(name="accuracy", ok=abs(correct - round(before * n)) <= allowed, detail=text))
    measured = Measured(
        data=data.name,
        split=split,
        protocol=data.protocol,
        runtime=runtime,
        n=n,
        top1=correct / n,
        top1_recorded=before,
        different=different,
    )
    return measured, checks


def _agreement(
    exact: bool, recorded: Predictions, predicted: NDArray[np.int64], allowed: int
) -> tuple[int | None, Check]:
    """Return how many images have another class than recorded (None: it is a digest that differs), and the check."""
    n, same = len(predicted), pack_classes(predicted)[1] == recorded.sha256
    different: int | None = 0 if same else None
    if recorded.classes:
        different = int((predicted != unpack_classes(recorded.classes, recorded.sha256, recorded.n)).sum())
    if exact:
        text = f"the classes of {n:,} images have the recorded digest" if same else ""
        other = "some" if different is None else f"{different:,}"
        text = text or f"the classes of {n:,} images have another digest than recorded: {other} differ"
        return different, Check(name="agreement", ok=same, detail=text)
    if different is None:
        return None, Check(name="agreement", ok=False, detail="the receipt names no classes, and their digest differs")
    text = f"{different} of {n:,} images have another class than by the parent, {allowed} may"
    return different, Check(name="agreement", ok=different <= allowed, detail=text)


def _recorded_top1(card: Card, recorded: Predictions | None, data: LabelledData, split: str, n: int) -> float | None:
    """Return the parent's accuracy on the same images; None where the card has none.

    Without recorded classes it is the card's metric, if that is of this very data.
    """
    if recorded is not None:
        return recorded.correct / n
    if card.data is None or card.data.sha256 != getattr(data, "sha256", None):
        return None
    wanted = ("top1", split, data.protocol, n)
    return next((m.value for m in card.metrics if (m.name, m.split, m.protocol, m.n) == wanted), None)


def _same_data(recorded: Predictions, data: LabelledData, n: int) -> Check:
    """Say whether `data`, its images in order and their labels, is what the receipt was made on."""
    digest = getattr(data, "sha256", recorded.data_sha256)
    if (n, digest, data.protocol) == (recorded.n, recorded.data_sha256, recorded.protocol):
        return Check(name="data", ok=True, detail=f"{data.name} is the data of the receipt")
    text = (
        f"{data.name} with {n:,} images, read by this card, is not the data of the receipt "
        f"({recorded.data}, {recorded.split}, {recorded.n:,} images, protocol {recorded.protocol})"
    )
    return Check(name="data", ok=False, detail=text)


def _classify(
    run: Callable[[Images], NDArray[Any]],
    images: Images,
    advance: Callable[[int], None] | None,
    batch: int = 256,
) -> NDArray[np.int64]:
    found = []
    for start in range(0, len(images), batch):
        rows = images[start : start + batch]
        found.append(run(np.ascontiguousarray(rows)).argmax(1))
        if advance is not None:
            advance(len(rows))
    return np.concatenate(found)
