"""An export, in the same steps for every format: fold · build · receipt · verify · write.

A format folds its parent's network and builds a `Draft`. From there on all formats share the steps,
each of which takes what the step before it returns:

build    → Draft      the card, and how a file is assembled from it
receipt  → Receipted  the card records what was measured on data
verify   → Verified   the file that will be written answers as its card says
write    → Written    the file lies on the disk and reads back
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quicknet.core.card import Card, Metric, PreprocessSpec, Vectors
from quicknet.core.errors import CheckFailed, ToolError
from quicknet.core.files import sha256_file, write_atomically
from quicknet.core.lineage import Compared, ExportStep, Predictions
from quicknet.data import Dataset
from quicknet.image.vectors import GENERATOR, draw_vectors, vectors_sha256
from quicknet.inference.evaluate import top1_metric
from quicknet.inference.receipt import SPLIT_SETTINGS
from quicknet.inference.verify import Measured, verify_file
from quicknet.models import fused
from quicknet.onnx.file import OnnxFile
from quicknet.qnz.file import QnzFile
from quicknet.training.checkpoint import RunFolder, TorchClassifier
from quicknet.training.settings import DataSettings

Advance = Callable[[int], None]
File = TypeVar("File", bound=OnnxFile | QnzFile)

# Float32 torch against the float64 network on the same images. Trained networks differ by 1e-5;
# what this must find (another normalization, other weights) differs by 0.1 and more.
_SAME_NETWORK = 1e-2
_DECIMALS = 6


class Receipt(NamedTuple):
    """What was measured on data before the file is verified: nothing, where there are no data.

    Without `compared`, `verify` measures how accurate the file is. `different` counts the images of
    another class than by the parent; None leaves that to `verify` too.
    """

    predictions: Predictions | None = None
    compared: tuple[Compared, ...] = ()
    different: int | None = None


@dataclass(frozen=True)
class Draft(Generic[File]):
    """A file that is not written yet: its card, and what the format does with it.

    `assemble` returns the bytes of a file with this card, `parse` reads and checks them (the path is
    for messages), `measure` returns the receipt of a file on data.
    """

    card: Card
    assemble: Callable[[Card], bytes]
    parse: Callable[[bytes, Path], File]
    measure: Callable[[File, Dataset], Receipt]

    def replace_card(self, **changes: Any) -> Draft[File]:
        """Return the draft with `changes` in its card."""
        return replace(self, card=self.card.replace(**changes))

    def file(self, path: Path) -> File:
        """Return the file as a reader of `path` will get it."""
        return self.parse(self.assemble(self.card), path)


class Receipted(NamedTuple, Generic[File]):
    """A draft whose card holds the receipt, and its file."""

    draft: Draft[File]
    file: File
    receipt: Receipt


class Verified(NamedTuple, Generic[File]):
    """A file that answers as its card says, by `runtimes`; `different` as in `Receipt`."""

    file: File
    runtimes: tuple[str, ...]
    measured: Measured | None
    receipt: Receipt

    @property
    def different(self) -> int | None:
        """How many images have another class than by the parent; None where that is unknown."""
        if self.receipt.different is not None or self.measured is None:
            return self.receipt.different
        return self.measured.different


class Written(NamedTuple):
    """A file on the disk; the fields that all results of an export share."""

    path: str
    sha256: str
    weights_sha256: str
    size_bytes: int
    runtimes: tuple[str, ...]


def default_path(model: Path, format: str, int8: bool = False) -> Path:
    """Return where an export goes by default: NAME.onnx in the run folder, or beside a `.qnz`.

    >>> default_path(Path("runs/photos"), "qnz"), default_path(Path("runs/photos"), "openvino", int8=True)
    (PosixPath('runs/photos/photos.qnz'), PosixPath('runs/photos/photos.int8.openvino.onnx'))
    """
    ending = f"{'.int8' if int8 else ''}{_ENDINGS[format]}"
    if model.is_file():
        return model.with_name(model.name.removesuffix(_ENDINGS["qnz"]) + ending)
    return model / f"{model.resolve().name or 'model'}{ending}"


_ENDINGS = {"qnz": ".qnz", "onnx": ".onnx", "openvino": ".openvino.onnx"}


def export_file(
    build: Callable[[], Draft[File]], path: Path, data: Dataset | None, advance: Advance | None = None
) -> tuple[Written, Verified[File]]:
    """Take every step from `build` to the file at `path`, which stays as it was unless all holds.

    `advance(n)` is called after every n images that `verify` measures. Raises ToolError where `path`
    is a folder or cannot be written, CheckFailed where the file does not answer as its card says.
    """
    if path.is_dir():
        raise ToolError(f"{path} is a folder; name a file with --out")
    receipted = record_receipt(build(), path, data)
    verified = verify(receipted, data, advance)
    return write(verified), verified


# --- the steps -----------------------------------------------------------------------------


def record_receipt(draft: Draft[File], path: Path, data: Dataset | None) -> Receipted[File]:
    """Measure the draft on `data`, if there are any, and record that in its card."""
    file = draft.file(path)
    if data is None:
        return Receipted(draft, file, Receipt())
    receipt = draft.measure(file, data)
    card = draft.card.with_receipt(predictions=receipt.predictions, compared=receipt.compared or None)
    metrics = (_metric(row, file.weights_sha256) for row in receipt.compared)
    draft = draft.replace_card(lineage=card.lineage, metrics=(*card.metrics, *metrics))
    return Receipted(draft, draft.file(path), receipt)


def verify(receipted: Receipted[File], data: Dataset | None, advance: Advance | None) -> Verified[File]:
    """Verify the file, on `data` too where the receipt does not say how accurate it is, and add that to its card."""
    draft, file, receipt = receipted
    verification = verify_file(file, None if receipt.compared else data, advance)
    verification.require()
    measured = verification.measured
    if measured is not None:
        metric = _metric(measured, file.weights_sha256)
        file = draft.replace_card(metrics=(*draft.card.metrics, metric)).file(file.path)
        verify_file(file).require()
    replayed = (c.name.removeprefix("vectors ") for c in verification.checks if c.name.startswith("vectors "))
    return Verified(file, tuple(replayed), measured, receipt)


def write(verified: Verified[File]) -> Written:
    """Write the file and read it back. Raises ToolError; a file that does not read back is removed."""
    file, path = verified.file, verified.file.path
    sha256 = file.sha256
    write_atomically(path, file.blob)
    if sha256_file(path) != sha256:
        path.unlink(missing_ok=True)
        raise ToolError(f"{path} does not read back as it was written; check the disk, then export again")
    return Written(str(path), sha256, file.weights_sha256, len(file.blob), verified.runtimes)


def _metric(row: Compared | Measured, weights_sha256: str) -> Metric:
    return top1_metric(row.top1, row.n, row.split, row.protocol, weights_sha256)


# --- the card ------------------------------------------------------------------------------


def exported_card(card: Card, step: ExportStep, vectors: Vectors) -> Card:
    """Return the parent's card with one more step of lineage and the test vectors."""
    return card.replace(vectors=vectors, lineage=(*card.lineage, step))


def rounded_vectors(images: NDArray[np.uint8], logits: NDArray[Any]) -> Vectors:
    """Return the logits (N, classes) of drawn images as a card keeps them."""
    rounded = tuple(tuple(round(float(value), _DECIMALS) for value in row) for row in logits)
    return Vectors(generator=GENERATOR, sha256=vectors_sha256(images), logits=rounded)


def parents_vectors(parent: TorchClassifier) -> Vectors:
    """Return the run's answers to the test vectors. Raises CheckFailed where they are not finite."""
    spec = parent.card.preprocess
    images = draw_vectors(spec.size, spec.channels)
    logits = reference_logits(parent.model, images, spec)
    difference = float(np.abs(parent.logits(images) - logits).max())
    if not difference <= _SAME_NETWORK * max(1.0, float(np.abs(logits).max()) / 10):
        raise CheckFailed(
            f"the run folder's answers to its test vectors differ between float32 and float64 by {difference:.1e} "
            f"({parent.source}); its weights are not finite or too large to be exported"
        )
    return rounded_vectors(images, logits)


@torch.no_grad()
def reference_logits(model: nn.Module, images: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.float64]:
    """Return the network's logits (N, classes) in float64, its batch norm not folded.

    Float64, and rounded in the card, so that the card's bytes do not depend on the CPU: float32
    logits differ in their last bits between machines.
    """
    network = copy.deepcopy(model).double().eval()
    pixels = images.astype(np.float64) / 255  # (N, H, W, C)
    normalized = (pixels - np.array(spec.mean)) / np.array(spec.std)
    with fused.disabled():  # this is what they, too, are held to
        logits = network(torch.from_numpy(np.ascontiguousarray(normalized.transpose(0, 3, 1, 2))))
    return np.asarray(logits.numpy(), np.float64)


def split_settings_of(run: Path) -> dict[str, Any]:
    """Return how the run's data was read and split: by the recipe, else the defaults."""
    settings = RunFolder(run).read_recipe().data if (run / "recipe.toml").is_file() else DataSettings()
    return {key: getattr(settings, key) for key in SPLIT_SETTINGS}
