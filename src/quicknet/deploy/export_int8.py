"""A `.qnz`'s integer network as one int8 ONNX file for ONNX Runtime or OpenVINO, verified and measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from quicknet import __version__
from quicknet.core.card import Card, Vectors
from quicknet.core.errors import ToolError, require_package
from quicknet.core.files import sha256_bytes, write_atomically
from quicknet.core.lineage import ExportStep, Predictions
from quicknet.core.machine import usable_cores
from quicknet.data import Dataset
from quicknet.deploy.export import TOOLS, Exported, Format, described
from quicknet.image.batches import classes_in_batches
from quicknet.image.vectors import GENERATOR, draw_vectors, vectors_sha256
from quicknet.inference.evaluate import top1_metric
from quicknet.inference.receipt import class_order_sha256, pack_classes, split_settings
from quicknet.inference.verify import receipt_split, verify_file
from quicknet.onnx.file import OnnxFile, parse_onnx
from quicknet.onnx.runtime import open_runner, run_chunks
from quicknet.qnz import reference
from quicknet.qnz.file import QnzFile
from quicknet.qnz.implementations import implementations

# Of the largest logit on the test vectors, by which a runtime's may differ from the integer
# network's. Trained quicknet_s: 1 to 2% (w7a8), 5% (w7a7) by ONNX Runtime and OpenVINO; sums that
# saturate are off by more than all of it.
_TOLERANCE = 0.1
_DECIMALS = 6


def export_int8(
    parent: QnzFile,
    out: Path,
    format: Format = "onnx",  # noqa: A002
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
    for package in TOOLS[format]:
        require_package(package, f"the format {format}")
    if out.is_dir():
        raise ToolError(f"{out} is a folder; name a file with --out")
    from quicknet.deploy.onnx import assemble
    from quicknet.deploy.onnx_int8 import build_int8_graph

    form: Literal["onnxruntime", "openvino"] = "onnxruntime" if format == "onnx" else "openvino"
    graph = build_int8_graph(parent.network, parent.record.logit_scale, form)
    card, different = _card(parent, format), None
    if data is not None:
        predictions, different = _answers(parse_onnx(assemble(graph, card), out), parent, data, advance)
        card = card.with_receipt(predictions=predictions)
    verification = verify_file(parse_onnx(assemble(graph, card), out), data, advance)
    verification.require()
    if verification.measured is not None:
        measured = verification.measured
        metric = top1_metric(measured.top1, measured.n, measured.split, measured.protocol, verification.weights_sha256)
        card = card.replace(metrics=(*card.metrics, metric))
    blob = assemble(graph, card)
    write_atomically(out, blob)
    return described(out, format, verification.replace(sha256=sha256_bytes(blob))).replace(different=different)


def _card(parent: QnzFile, format: Format) -> Card:  # noqa: A002
    """Return the parent's card with one more step of lineage."""
    spec, card = parent.card.preprocess, parent.card
    images = draw_vectors(spec.size, spec.channels)
    logits = reference.run(parent.network, images) * parent.record.logit_scale
    step = ExportStep(
        format=format,
        numbers="int8",
        quicknet=__version__,
        parent_weights_sha256=parent.weights_sha256,
        tolerance=round(max(_TOLERANCE * float(np.abs(logits).max()), 1e-3), 3),
        **split_settings(card),
    )
    rounded = tuple(tuple(round(float(value), _DECIMALS) for value in row) for row in logits)
    vectors = Vectors(generator=GENERATOR, sha256=vectors_sha256(images), logits=rounded)
    return card.replace(vectors=vectors, lineage=(*card.lineage, step))


def _answers(
    file: OnnxFile, parent: QnzFile, data: Dataset, advance: Callable[[int], None] | None
) -> tuple[Predictions, int]:
    """Return what the file answers by ONNX Runtime, and for how many images the integer network gives another class."""
    split = receipt_split(None, data)
    part = data.split(split)
    run = open_runner(file, "onnxruntime", usable_cores())
    predicted = classes_in_batches(lambda images: run_chunks(run, images, file.card), part.images, advance=advance)
    integer = next(iter(implementations(parent, usable_cores()).values()))
    different = int((predicted != classes_in_batches(integer, part.images, advance=advance)).sum())
    classes, sha256 = pack_classes(predicted)
    predictions = Predictions(
        data=data.name,
        data_sha256=data.sha256,
        split=split,
        protocol=data.protocol,
        n=len(predicted),
        correct=int((predicted == np.asarray(part.labels)).sum()),
        class_order_sha256=class_order_sha256(file.card.classes),
        sha256=sha256,
        classes=classes,
    )
    return predictions, different
