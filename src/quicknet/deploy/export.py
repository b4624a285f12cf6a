"""`export`: a run folder becomes one verified file that runs without torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quicknet import __version__
from quicknet.core.card import Card, PreprocessSpec, Vectors, read_card, require_run_folder
from quicknet.core.errors import CheckFailed, ConfigError, ToolError, require_package
from quicknet.core.files import sha256_bytes, sha256_file, write_atomically
from quicknet.core.lineage import ExportStep, Predictions
from quicknet.core.settings import Settings
from quicknet.data import Dataset, load_data
from quicknet.data.load import require_models_source
from quicknet.data.request import request_for
from quicknet.deploy.fold import fold
from quicknet.image.vectors import GENERATOR, draw_vectors, vectors_sha256
from quicknet.inference.evaluate import classify, top1_metric
from quicknet.inference.receipt import SPLIT_SETTINGS, class_order_sha256, pack_classes
from quicknet.inference.verify import Verification, receipt_split, verify_file
from quicknet.models import fused
from quicknet.onnx.file import parse_onnx
from quicknet.training.checkpoint import RunFolder, TorchClassifier
from quicknet.training.recipe import DataSettings

Format = Literal["onnx", "openvino"]

# format → the packages that making and verifying it takes
TOOLS = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
# Float32 torch against the float64 network on the same images. Trained networks differ by 1e-5;
# what this must find (another normalization, other weights) differs by 0.1 and more.
_SAME_NETWORK = 1e-2
_DECIMALS = 6


class Exported(Settings, frozen=True, kw_only=True):
    """What was written. The JSON of `export --json` is this.

    `top1`, `n`, `different` None where the export was given no data: of the parent's test
    images, accuracy of the written file and how many have another class than by the parent.
    """

    path: str
    format: str
    sha256: str
    weights_sha256: str
    size_bytes: int
    runtimes: tuple[str, ...]
    split: str | None
    n: int | None
    top1: float | None
    different: int | None


def default_path(run: Path, format: Format) -> Path:  # noqa: A002
    """Return where a run's export goes by default: RUN/NAME.onnx, NAME being the folder's.

    >>> default_path(Path("runs/photos"), "onnx"), default_path(Path("runs/photos"), "openvino")
    (PosixPath('runs/photos/photos.onnx'), PosixPath('runs/photos/photos.openvino.onnx'))
    """
    name = run.resolve().name or "model"
    return run / (f"{name}.onnx" if format == "onnx" else f"{name}.openvino.onnx")


def export(
    run: str | Path,
    out: str | Path | None = None,
    format: Format = "onnx",  # noqa: A002
    data: Dataset | None = None,
    advance: Callable[[int], None] | None = None,
) -> Exported:
    """Write the classifier of a run folder as one file, after verifying that it answers as the run does.

    `onnx` is for ONNX Runtime, `openvino` an ONNX file for OpenVINO: they differ in how PReLU is
    written. With `data`, read by the card's spec and classes, the receipt records the parent's
    class of every test image, and the file is measured on them; `advance(n)` is called after every n
    images done. What was at `out` before stays there unless all holds.
    Raises ToolError, which names the extra that brings a missing tool, CheckFailed where the file does
    not answer as the run, CheckpointError where `run` is not a run folder.
    """
    run = Path(run)
    out = default_path(run, format) if out is None else Path(out)
    for package in TOOLS[format]:
        require_package(package, f"the format {format}")
    require_run_folder(run)
    if out.is_dir():
        raise ToolError(f"{out} is a folder; name a file with --out")
    parent = TorchClassifier(run)
    from quicknet.deploy.onnx import assemble, build_graph

    spec = parent.card.preprocess
    graph = build_graph(fold(parent.model, spec), spec.size, "fused" if format == "onnx" else "plain")
    card = parents_card(parent, format, split_settings_of(run))
    if data is not None:
        card = _with_receipt(parent, card, data, advance)
    verification = verify_file(parse_onnx(assemble(graph, card), out), data, advance)
    verification.require()
    if verification.measured is not None:
        measured = verification.measured
        metric = top1_metric(measured.top1, measured.n, measured.split, measured.protocol, verification.weights_sha256)
        card = card.replace(metrics=(*card.metrics, metric))
    blob = assemble(graph, card)
    verify_file(parse_onnx(blob, out)).require()
    write_atomically(out, blob)
    return described(out, format, verification.replace(sha256=sha256_bytes(blob)))


def described(out: Path, format: Format, verification: Verification) -> Exported:  # noqa: A002
    """Look at what lies on the disk now."""
    if sha256_file(out) != verification.sha256:
        out.unlink(missing_ok=True)
        raise ToolError(f"{out} does not read back as it was written; check the disk, then export again")
    measured = verification.measured
    replayed = (c.name.removeprefix("vectors ") for c in verification.checks if c.name.startswith("vectors "))
    return Exported(
        path=str(out),
        format=format,
        sha256=verification.sha256,
        weights_sha256=verification.weights_sha256,
        size_bytes=out.stat().st_size,
        runtimes=tuple(replayed),
        split=measured.split if measured else None,
        n=measured.n if measured else None,
        top1=measured.top1 if measured else None,
        different=measured.different if measured else None,
    )


# --- the card ------------------------------------------------------------------------------


def parents_card(parent: TorchClassifier, format: str, more: dict[str, Any]) -> Card:  # noqa: A002
    """Return the parent's card with its test vectors and one more step of lineage, in which `more` is too.

    Raises CheckFailed for a run whose answers are not finite.
    """
    spec = parent.card.preprocess
    images = draw_vectors(spec.size, spec.channels)
    logits = reference_logits(parent.model, images, spec)
    difference = float(np.abs(parent.logits(images) - logits).max())
    if not difference <= _SAME_NETWORK * max(1.0, float(np.abs(logits).max()) / 10):
        raise CheckFailed(
            f"the run folder's answers to its test vectors differ between float32 and float64 by {difference:.1e} "
            f"({parent.source}); its weights are not finite or too large to be exported"
        )
    rounded = tuple(tuple(round(float(value), _DECIMALS) for value in row) for row in logits)
    step = ExportStep(format=format, quicknet=__version__, parent_weights_sha256=parent.card.weights_sha256, **more)
    vectors = Vectors(generator=GENERATOR, sha256=vectors_sha256(images), logits=rounded)
    return parent.card.replace(vectors=vectors, lineage=(*parent.card.lineage, step))


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


def _with_receipt(
    parent: TorchClassifier,
    card: Card,
    data: Dataset,
    advance: Callable[[int], None] | None,
) -> Card:
    """Return the card with the parent's classes of the test images."""
    split = receipt_split(None, data)
    part = data.split(split)
    labels = np.asarray(part.labels)
    predicted = classify(parent, part.images, advance).argmax(1)
    classes, sha256 = pack_classes(predicted)
    predictions = Predictions(
        data=data.name,
        data_sha256=data.sha256,
        split=split,
        protocol=data.protocol,
        n=len(labels),
        correct=int((predicted == labels).sum()),
        class_order_sha256=class_order_sha256(card.classes),
        sha256=sha256,
        classes=classes,
    )
    return card.with_receipt(predictions=predictions)


def recipes_source(run: Path) -> str:
    """Return where the run's recipe says its data lies. Raises ConfigError or DataError where it is not there."""
    require_run_folder(run)
    source = RunFolder(run).read_recipe().data.source if (run / "recipe.toml").is_file() else ""
    if not source:
        raise ConfigError(f"{run} does not say what it was trained on; name that data with --data")
    require_models_source(source, run, "--data")
    return source


def load_run_data(run: Path, source: str, quiet: bool) -> Dataset:
    """Return the data that `source` names, decoded and split as the run was trained on it.

    Raises CheckpointError where `run` is not a run folder, DataError.
    """
    require_run_folder(run)
    return load_data(source, request_for(read_card(run / "card.json"), split_settings_of(run) | {"quiet": quiet}))
