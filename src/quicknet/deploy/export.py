"""`export`: a run folder becomes one verified file that runs without torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from quicknet import __version__
from quicknet.core.card import read_card, require_run_folder
from quicknet.core.errors import ConfigError, require_package
from quicknet.core.lineage import ExportStep
from quicknet.core.settings import Settings
from quicknet.data import Dataset, load_data
from quicknet.data.cifar import CIFARS
from quicknet.data.load import require_models_source
from quicknet.data.request import request_for
from quicknet.deploy.fold import fold
from quicknet.deploy.pipeline import (
    Advance,
    Draft,
    Receipt,
    Verified,
    Written,
    default_path,
    export_file,
    exported_card,
    parents_vectors,
    split_settings_of,
)
from quicknet.inference.evaluate import classify
from quicknet.inference.receipt import predictions_of
from quicknet.inference.verify import receipt_split
from quicknet.onnx.file import OnnxFile, parse_onnx
from quicknet.training.checkpoint import RunFolder, TorchClassifier

Format = Literal["onnx", "openvino"]

# format → the packages that making and verifying it takes
_TOOLS = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}


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


def export(
    run: str | Path,
    out: str | Path | None = None,
    format: Format = "onnx",
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
    require_tools(format)
    require_run_folder(run)
    return described(format, *export_file(lambda: _draft(run, format, advance), out, data, advance))


def require_tools(format: Format) -> None:
    """Raise ToolError, which names the extra, where a package is missing that the format needs."""
    for package in _TOOLS[format]:
        require_package(package, f"the format {format}")


def described(format: Format, written: Written, verified: Verified[OnnxFile]) -> Exported:
    """Return what `export --json` says of a written file."""
    measured = verified.measured
    return Exported(
        format=format,
        split=measured.split if measured else None,
        n=measured.n if measured else None,
        top1=measured.top1 if measured else None,
        different=verified.different,
        **written._asdict(),
    )


def _draft(run: Path, format: Format, advance: Advance | None) -> Draft[OnnxFile]:
    """Return the run's network, folded, as a graph."""
    from quicknet.deploy.onnx import assemble, build_graph

    parent = TorchClassifier(run)
    spec = parent.card.preprocess
    graph = build_graph(fold(parent.model, spec), spec.size, "fused" if format == "onnx" else "plain")
    step = ExportStep(
        format=format,
        quicknet=__version__,
        parent_weights_sha256=parent.card.weights_sha256,
        **split_settings_of(run),
    )

    def measure(_: OnnxFile, data: Dataset) -> Receipt:
        split = receipt_split(None, data)
        predicted = classify(parent, data.split(split).images, advance).argmax(1)
        return Receipt(predictions_of(predicted, data, split, parent.card.classes, packed=True))

    card = exported_card(parent.card, step, parents_vectors(parent))
    return Draft(card, functools.partial(assemble, graph), parse_onnx, measure)


# --- the run's data ------------------------------------------------------------------------


def recipes_source(run: Path) -> str:
    """Return where the run's recipe says its data lies. Raises ConfigError or DataError where it is not there."""
    require_run_folder(run)
    source = RunFolder(run).read_recipe().data.source if (run / "recipe.toml").is_file() else ""
    if not source:
        raise ConfigError(f"{run} does not say what it was trained on; name that data with --data")
    require_models_source(source, run, "--data")
    return source


def usual_source(run: Path) -> str:
    """Return where a run's data lies: by its recipe, else CIFAR by the name in its card. Raises as `recipes_source`."""
    require_run_folder(run)
    record = read_card(run / "card.json").data
    if not (run / "recipe.toml").is_file() and record is not None and record.name in CIFARS:
        return record.name
    return recipes_source(run)


def load_run_data(run: Path, source: str, quiet: bool) -> Dataset:
    """Return the data that `source` names, decoded and split as the run was trained on it.

    Raises CheckpointError where `run` is not a run folder, DataError.
    """
    require_run_folder(run)
    return load_data(source, request_for(read_card(run / "card.json"), split_settings_of(run) | {"quiet": quiet}))
