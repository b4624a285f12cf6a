"""`verify`: whether a file still gives the answers in its receipt. Data are needed only to measure accuracy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import Card
from quicknet.core.choice import Images, Runner
from quicknet.core.errors import CheckFailed, CheckpointError, DataError, FormatError
from quicknet.core.lineage import Predictions
from quicknet.core.machine import usable_cores
from quicknet.core.settings import Settings
from quicknet.data.dataset import Dataset
from quicknet.data.load import load_data
from quicknet.data.request import request_for
from quicknet.image.batches import classes_in_batches
from quicknet.image.vectors import GENERATOR, draw_vectors, vectors_sha256
from quicknet.inference.artifact import ExportedArtifact, open_artifact
from quicknet.inference.receipt import (
    class_order_sha256,
    pack_classes,
    recorded_predictions,
    split_settings,
    stated_tolerance,
    unpack_classes,
)
from quicknet.onnx.file import OnnxFile
from quicknet.onnx.runtime import open_runner, require_runtimes, run_chunks
from quicknet.qnz.file import QnzFile
from quicknet.qnz.implementations import implementations

TOLERANCE = 1e-4  # of a float logit; or 1e-5 of the largest, if that is over 10
MAX_DIFFERENT = 0.001  # share of images whose predicted class may differ from the parent's: ONNX only


class Check(Settings, frozen=True, kw_only=True):
    """One check; `detail` is a sentence with the figures."""

    name: str
    ok: bool
    detail: str


class Measured(Settings, frozen=True, kw_only=True):
    """A split classified again: accuracy now and as recorded, and images whose class differs (None: unknown)."""

    data: str
    split: str
    protocol: str
    runtime: str
    n: int
    top1: float
    top1_recorded: float | None
    different: int | None


class Verification(Settings, frozen=True, kw_only=True):
    """The result of `verify`. The JSON of `verify --json` is this, with "holds".

    `receipt_measured` says whether the export measured the file on data.
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
        """Raise CheckFailed with the first check that did not hold, if any."""
        failed = [check for check in self.checks if not check.ok]
        if failed:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            raise CheckFailed(
                f"the receipt does not hold: {failed[0].detail}{more} ({self.file}); "
                "do not use the file, export it again from its run folder"
            )


class _File(NamedTuple):
    """An exported file to verify: what runs it, and whether its answers must be equal exactly.

    `expected` are the recorded logits of the test vectors (images, classes).
    """

    path: Path
    sha256: str
    weights_sha256: str
    card: Card
    runners: Mapping[str, Callable[[Images], NDArray[Any]]]
    expected: tuple[tuple[float, ...], ...] | None
    exact: bool


def verify(
    path: str | Path,
    data: Dataset | None = None,
    advance: Callable[[int], None] | None = None,
) -> Verification:
    """Return whether an exported file gives the answers in its receipt, by every runtime that is installed.

    Checked are digests, declared shapes and the test vectors; with `data` (read by the card's spec
    and classes) also accuracy and agreement with the recorded classes on the receipt's split.
    `advance(n)` is called after every n images. Raises FormatError for a file that cannot be read,
    ToolError if no runtime is installed, DataError for data of other classes or without images.
    """
    return verify_file(read_exported(path), data, advance)


def read_exported(path: str | Path) -> OnnxFile | QnzFile:
    """Read a `.qnz` or an exported ONNX file. Raises CheckpointError if there is no file, FormatError for another."""
    artifact = open_artifact(path)
    if not isinstance(artifact, ExportedArtifact):
        raise CheckpointError(f"{path} is a {artifact.kind}; verify takes an exported file, which carries a receipt")
    file: OnnxFile | QnzFile = artifact.file
    return file


def load_receipt_data(card: Card, source: str, quiet: bool) -> Dataset:
    """Return the data that `source` names, read and split as a file's receipt says. Raises DataError."""
    recorded = recorded_predictions(card)
    changes = split_settings(card) | {"quiet": quiet}
    if recorded is not None:
        changes["protocol"] = recorded.protocol
    return load_data(source, request_for(card, changes))


def verify_file(
    file: OnnxFile | QnzFile, data: Dataset | None = None, advance: Callable[[int], None] | None = None
) -> Verification:
    """Verify a file that was read, as `verify` does."""
    exported = _integer(file) if isinstance(file, QnzFile) else _floating(file)
    card = exported.card
    checks = [_digests(file), *_bounds(file), _shapes(card), *_vectors(exported)]
    recorded = recorded_predictions(card)
    if recorded is not None:
        checks.append(_class_order(card, recorded))
    measured = None
    if data is not None:
        measured, more = _measure(exported, recorded, data, advance)
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
    expected = file.card.vectors.logits if file.card.vectors else None
    return _File(file.path, file.sha256, file.weights_sha256, file.card, runners, expected, exact=False)


def _by_chunks(run: Runner, card: Card, images: Images) -> NDArray[np.float32]:
    return run_chunks(run, images, card)


def _integer(file: QnzFile) -> _File:
    runners = implementations(file, usable_cores())
    expected = file.card.vectors.integers if file.card.vectors else None
    return _File(file.path, file.sha256, file.weights_sha256, file.card, runners, expected, exact=True)


def _digests(file: OnnxFile | QnzFile) -> Check:
    if isinstance(file, QnzFile):  # those of the sections and of the file were checked while reading it
        ok = file.card.weights_sha256 == file.weights_sha256
        text = f"the file and its {len(file.sections)} sections have their sha256"
        return Check(
            name="digests", ok=ok, detail=text if ok else "the card is of another network (weights_sha256 differs)"
        )
    if file.intact:
        return Check(name="digests", ok=True, detail="graph and card are those that were written together")
    return Check(name="digests", ok=False, detail="graph or card were changed since the export (sha256 differs)")


def _bounds(file: OnnxFile | QnzFile) -> list[Check]:
    """Return the check of FORMAT.md's bounds, which reading a `.qnz` has made."""
    if not isinstance(file, QnzFile):
        return []
    text = f"{1 + len(file.network.blocks)} layers within the bounds of the format: no sum can overflow"
    return [Check(name="bounds", ok=True, detail=text)]


def _shapes(card: Card) -> Check:
    """Compare the card with itself; reading has compared the file's shapes with the card."""
    spec, config = card.preprocess, card.model.config
    expected = {"num_classes": len(card.classes), "in_channels": spec.channels, "image_size": spec.size}
    odd = [f"{key} {config[key]}, not {value}" for key, value in expected.items() if config.get(key, value) != value]
    if odd:
        return Check(name="shapes", ok=False, detail=f"the card contradicts itself: the network has {'; '.join(odd)}")
    text = f"uint8 (N, {spec.size}, {spec.size}, {spec.channels}) to float32 (N, {len(card.classes)})"
    return Check(name="shapes", ok=True, detail=text)


def _vectors(file: _File) -> list[Check]:
    """Replay the test vectors through each runtime."""
    recorded, spec = file.card.vectors, file.card.preprocess
    if recorded is None or file.expected is None:
        return [Check(name="vectors", ok=False, detail="the file carries no test vectors")]
    if recorded.generator != GENERATOR:
        raise FormatError(
            f"the test vectors are of generator {recorded.generator}, this QuickNet draws {GENERATOR} "
            f"({file.path}); update QuickNet"
        )
    images = draw_vectors(spec.size, spec.channels)
    expected = _matrix(file.expected, (len(images), len(file.card.classes)))
    if expected is None or vectors_sha256(images) != recorded.sha256:
        return [Check(name="vectors", ok=False, detail="the test vectors are not those of this image size")]
    if file.exact:
        return [_equal(name, run(images), expected) for name, run in file.runners.items()]
    tolerance = stated_tolerance(file.card)
    return [_replayed(name, run(images), expected, tolerance) for name, run in file.runners.items()]


def _equal(name: str, logits: NDArray[Any], expected: NDArray[np.float64]) -> Check:
    """Compare integer logits, which float64 holds exactly."""
    different = int((logits != expected).any(axis=1).sum())
    text = f"{len(expected)} test vectors by {name}: "
    text += f"{different} have other logits than recorded" if different else "exactly the recorded integer logits"
    return Check(name=f"vectors {name}", ok=not different, detail=text)


def _matrix(rows: tuple[tuple[float, ...], ...], shape: tuple[int, int]) -> NDArray[np.float64] | None:
    """Return rows as an array of `shape`; None if they have another shape or are not finite."""
    if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
        return None
    array = np.array(rows, np.float64)
    return array if np.isfinite(array).all() else None


def _replayed(name: str, logits: NDArray[Any], expected: NDArray[np.float64], stated: float | None) -> Check:
    tolerance = stated or TOLERANCE * max(1.0, float(np.abs(expected).max()) / 10)
    difference = float(np.abs(logits - expected).max())
    ok = bool(difference <= tolerance)  # a NaN is not
    compared = "within" if ok else "which is over"
    compared += " the stated" if stated else ""
    text = f"{len(expected)} test vectors by {name}: logits differ by {difference:.1e}, {compared} {tolerance:.0e}"
    return Check(name=f"vectors {name}", ok=ok, detail=text)


def _class_order(card: Card, recorded: Predictions) -> Check:
    if class_order_sha256(card.classes) == recorded.class_order_sha256:
        return Check(name="class order", ok=True, detail=f"{len(card.classes)} class names in the parent's order")
    return Check(name="class order", ok=False, detail="the class names differ from the parent's, or their order does")


def receipt_split(recorded: Predictions | None, data: Dataset) -> str:
    """Return the split to measure: the receipt's, else `test`, else `val`."""
    if recorded is not None:
        return recorded.split
    try:
        data.split("test")
    except DataError:
        return "val"
    return "test"


def _measure(
    file: _File, recorded: Predictions | None, data: Dataset, advance: Callable[[int], None] | None
) -> tuple[Measured, list[Check]]:
    """Classify the receipt's split again; return the figures and their checks."""
    card = file.card
    if data.classes != card.classes:
        raise DataError(f"{data.name} has other classes than the model; load it with the card's class names")
    split = receipt_split(recorded, data)
    part = data.split(split)
    labels = np.asarray(part.labels)
    if not len(labels):
        raise DataError(f"the split {split!r} of {data.name} holds no images; name the data of the receipt")
    runtime, run = next(iter(file.runners.items()))
    predicted = classes_in_batches(run, part.images, advance=advance)
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
    """Return how many images have another class than recorded (None if only the digest is known), and the check."""
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


def _recorded_top1(card: Card, recorded: Predictions | None, data: Dataset, split: str, n: int) -> float | None:
    """Return the parent's accuracy on the same images; None if the card does not have it.

    Without recorded classes it is the card's metric, if that is of exactly this data.
    """
    if recorded is not None:
        return recorded.correct / n
    if card.data is None or card.data.sha256 != data.sha256:
        return None
    expected = ("top1", split, data.protocol, n)
    return next((m.value for m in card.metrics if (m.name, m.split, m.protocol, m.n) == expected), None)


def _same_data(recorded: Predictions, data: Dataset, n: int) -> Check:
    """Check whether `data`, its images in order and their labels, is the data of the receipt."""
    if (n, data.sha256, data.protocol) == (recorded.n, recorded.data_sha256, recorded.protocol):
        return Check(name="data", ok=True, detail=f"{data.name} is the data of the receipt")
    text = (
        f"{data.name} with {n:,} images, read by this card, is not the data of the receipt "
        f"({recorded.data}, {recorded.split}, {recorded.n:,} images, protocol {recorded.protocol})"
    )
    return Check(name="data", ok=False, detail=text)
