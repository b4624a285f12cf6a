"""A `.qnz`'s integer network as one int8 ONNX file for ONNX Runtime or OpenVINO, verified and measured."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from quicknet import __version__
from quicknet.core.lineage import ExportStep
from quicknet.core.machine import usable_cores
from quicknet.data import Dataset
from quicknet.deploy.export import Exported, Format, described, require_tools
from quicknet.deploy.pipeline import Advance, Draft, Receipt, export_file, exported_card, rounded_vectors
from quicknet.image.batches import classes_in_batches
from quicknet.image.vectors import draw_vectors
from quicknet.inference.receipt import predictions_of, split_settings
from quicknet.inference.verify import receipt_split
from quicknet.onnx.file import OnnxFile, parse_onnx
from quicknet.onnx.runtime import open_runner, run_chunks
from quicknet.qnz import reference
from quicknet.qnz.file import QnzFile
from quicknet.qnz.implementations import implementations

# Of the largest logit on the test vectors, by which a runtime's may differ from the integer
# network's. Trained quicknet_s: 1 to 2% (w7a8), 5% (w7a7) by ONNX Runtime and OpenVINO; sums that
# saturate are off by more than all of it.
_TOLERANCE = 0.1


def export_int8(
    parent: QnzFile,
    out: Path,
    format: Format = "onnx",
    data: Dataset | None = None,
    advance: Callable[[int], None] | None = None,
) -> Exported:
    """Write the integer network of `parent` as an int8 ONNX file for the runtime of `format`.

    Its receipt holds the integer network's logits on the test vectors, with a tolerance, since
    runtimes round differently; with `data`, read by the card's spec and classes, also what the file
    itself answers by ONNX Runtime, the same with VNNI and without. `different` counts the images
    whose class is another than by the integer network. `advance(n)` is told of every n images
    done, each three times. Raises ToolError, which names the extra that brings a missing tool,
    CheckFailed where the file does not answer as the network.
    """
    require_tools(format)
    return described(format, *export_file(lambda: _draft(parent, format, advance), out, data, advance))


def _draft(parent: QnzFile, format: Format, advance: Advance | None) -> Draft[OnnxFile]:
    """Return the integer network as a graph."""
    from quicknet.deploy.onnx import assemble
    from quicknet.deploy.onnx_int8 import build_int8_graph

    scale, spec = parent.record.logit_scale, parent.card.preprocess
    graph = build_int8_graph(parent.network, scale, "onnxruntime" if format == "onnx" else "openvino")
    images = draw_vectors(spec.size, spec.channels)
    logits = reference.run(parent.network, images) * scale
    step = ExportStep(
        format=format,
        numbers="int8",
        quicknet=__version__,
        parent_weights_sha256=parent.weights_sha256,
        tolerance=round(max(_TOLERANCE * float(np.abs(logits).max()), 1e-3), 3),
        **split_settings(parent.card),
    )
    card = exported_card(parent.card, step, rounded_vectors(images, logits))
    return Draft(card, functools.partial(assemble, graph), parse_onnx, functools.partial(_measure, parent, advance))


def _measure(parent: QnzFile, advance: Advance | None, file: OnnxFile, data: Dataset) -> Receipt:
    """Return what the file answers by ONNX Runtime, and for how many images the integer network gives another class."""
    split = receipt_split(None, data)
    images = data.split(split).images
    run = open_runner(file, "onnxruntime", usable_cores())
    predicted = classes_in_batches(lambda rows: run_chunks(run, rows, file.card), images, advance=advance)
    integer = next(iter(implementations(parent, usable_cores()).values()))
    different = int((predicted != classes_in_batches(integer, images, advance=advance)).sum())
    return Receipt(predictions_of(predicted, data, split, file.card.classes, packed=True), different=different)
