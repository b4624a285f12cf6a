"""How fast other runtimes run QuickNet in int8, by the form in which the graph is written.

    python benchmarks/bench_int8.py [--models quicknet_s quicknet] [--rounds 12] [--qnz FILE] [--json] [--record]

Batch 1, one thread, network only, in one process, in turn (A B C D A B C D ...), drawn numbers:

fp32       the exported float network, per runtime in its fastest form
int8       the integer network as QDQ graph: PReLU between a Gemm and a QuantizeLinear (onnxruntime)
           or as the PRelu operator (openvino); the other runtime's form for comparison; LeakyReLU, ReLU
operators  what ONNX Runtime made of a graph: the nodes of its optimized model

Then OpenVINO's rows once more in a process of its own with ONEDNN_MAX_CPU_ISA=AVX2, in which oneDNN
does without VNNI, as it must on most small machines; ONNX Runtime has no such switch.

With --qnz, a file trained on CIFAR-10: what each runtime answers by each form, executed, beside the
integer network's answers, on the images of its test split.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

import onnx
from quicknet.core.card import Card, PreprocessSpec
from quicknet.core.machine import machine_card, versions
from quicknet.data import DataRequest, load_data
from quicknet.deploy.fold import fold
from quicknet.deploy.onnx import assemble, build_graph
from quicknet.deploy.onnx_int8 import Form, build_int8
from quicknet.image.vectors import draw_vectors
from quicknet.measure.timing import burst, percentile
from quicknet.models.registry import create_model, model_record
from quicknet.onnx.file import parse_onnx
from quicknet.onnx.runtime import import_onnxruntime, open_runner, present
from quicknet.qnz.file import read_qnz
from quicknet.qnz.implementations import implementations
from quicknet.study.records import write_record
from rivals import ONNXRUNTIME, OPENVINO, OPENVINO_PRODUCTS, int8_file, runner

onnxruntime = import_onnxruntime()

ROOT = Path(__file__).resolve().parent.parent
BURST_S = 0.15
BATCH = 8
HIDDEN = {"ONEDNN_MAX_CPU_ISA": "AVX2"}


def files(shape: str) -> dict[str, bytes]:
    """Return the ONNX files to compare, by the name of their row."""
    return {
        "ONNX Runtime fp32, PReLU": float_file(shape, "fused"),
        "ONNX Runtime int8, PReLU": int8_file(shape, "prelu", "onnxruntime"),
        "ONNX Runtime int8, PRelu operator": int8_file(shape, "prelu", "openvino"),
        "ONNX Runtime int8, LeakyReLU": int8_file(shape, "leaky_relu", "onnxruntime"),
        ONNXRUNTIME: int8_file(shape, "relu", "onnxruntime"),
        "OpenVINO fp32, PReLU": float_file(shape, "plain"),
        OPENVINO: int8_file(shape, "prelu", "openvino"),
        OPENVINO_PRODUCTS: int8_file(shape, "prelu", "onnxruntime"),
        "OpenVINO int8, ReLU": int8_file(shape, "relu", "openvino"),
    }


def float_file(shape: str, form: Any) -> bytes:
    torch.manual_seed(0)
    model: Any = create_model(shape)
    spec = PreprocessSpec(size=model.config.image_size)
    classes = tuple(map(str, range(model.config.num_classes)))
    graph = build_graph(fold(model.eval(), spec), spec.size, form)
    return assemble(graph, Card(model=model_record(shape, model), classes=classes, preprocess=spec))


def speed(shape: str, rounds: int, only: str = "") -> dict[str, Any]:
    """Return images/s by row, of those whose name begins with `only`."""
    images = draw_vectors(32, 3)
    blobs = {
        name: blob
        for name, blob in files(shape).items()
        if name.startswith(only) and ("openvino" in present() or not name.startswith("OpenVINO"))
    }
    calls = {name: through(runner(name, blob), images) for name, blob in blobs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name] += burst(call, BURST_S, time.perf_counter)
    return {
        name: {
            "n": len(values),
            "median_ms": 1e3 * percentile(values, 0.5),
            "p95_ms": 1e3 * percentile(values, 0.95),
            "best_ms": 1e3 * min(values),
            "images_per_second": 1 / percentile(values, 0.5),
            "bytes": len(blobs[name]),
        }
        for name, values in seconds.items()
    }


def through(call: Callable[[Any], object], images: Any) -> Callable[[], object]:
    """Return a call that takes the next image each time."""
    endless = itertools.cycle(images[index : index + 1] for index in range(len(images)))
    return lambda: call(next(endless))


def agreement(path: Path) -> dict[str, Any]:
    """Return how a `.qnz` answers as int8 ONNX, by form and runtime: accuracy, and what differs from itself."""
    file = read_qnz(path)
    request = DataRequest(spec=file.card.preprocess, classes=file.card.classes, quiet=True, download=False)
    part = load_data("cifar10", request).split("test")
    run = next(iter(implementations(file, 1).values()))
    expected = by_batches(run, part.images) * file.record.logit_scale
    rows: dict[str, Any] = {"integer network": {"top1": float((expected.argmax(1) == part.labels).mean())}}
    for form in get_args(Form):
        graph = parse_onnx(build_int8(file.network, file.card, form), path)
        for runtime in present():
            answers = by_batches(open_runner(graph, runtime, 1), part.images)
            rows[f"form {form} by {runtime}"] = {
                "top1": float((answers.argmax(1) == part.labels).mean()),
                "different": int((answers.argmax(1) != expected.argmax(1)).sum()),
                "max_difference": float(np.abs(answers - expected).max()),
            }
    return {"n": len(expected), "bits": file.record.bits, "max_logit": float(np.abs(expected).max()), "rows": rows}


def by_batches(run: Callable[[Any], Any], images: Any) -> Any:
    return np.concatenate([run(np.ascontiguousarray(images[i : i + BATCH])) for i in range(0, len(images), BATCH)])


def operators(blob: bytes) -> dict[str, int]:
    """Return how many nodes of each kind ONNX Runtime's optimized model has."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "m.onnx")
        onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath).graph.node
    return dict(collections.Counter(node.op_type for node in nodes).most_common())


def hidden(shape: str, rounds: int) -> dict[str, Any]:
    """Return OpenVINO's rows without VNNI, by a process of its own."""
    command = [sys.executable, __file__, "--models", shape, "--rounds", str(rounds), "--only", "OpenVINO", "--json"]
    done = subprocess.run(command, env={**os.environ, **HIDDEN}, check=True, capture_output=True, text=True)
    answers: dict[str, Any] = json.loads(done.stdout)
    return dict(answers["models"][shape]["speed"])


def measured(shape: str, options: argparse.Namespace) -> dict[str, Any]:
    if options.only:
        return {"speed": speed(shape, options.rounds, options.only)}
    result: dict[str, Any] = {"speed": speed(shape, options.rounds)}
    result["operators"] = {
        name: operators(blob) for name, blob in files(shape).items() if name.startswith("ONNX Runtime int8")
    }
    if "openvino" in present():
        result["without_vnni"] = hidden(shape, options.rounds)
    return result


def print_rows(rows: dict[str, Any]) -> None:
    for name, row in rows.items():
        print(
            f"  {name:42} {row['images_per_second']:6.0f} images/s, {row['median_ms']:.3f} ms median, "
            f"p95 {row['p95_ms']:.3f}, best {row['best_ms']:.3f}, n = {row['n']}; {row['bytes']:,} bytes"
        )


def print_agreement(answers: dict[str, Any]) -> None:
    print(f"\n{answers['bits']}, {answers['n']:,} CIFAR-10 test images, logits up to {answers['max_logit']:.1f}")
    for name, row in answers["rows"].items():
        text = f"  {name:36} top-1 {100 * row['top1']:.2f}%"
        if "different" in row:
            text += f", {row['different']} of another class, logits differ by at most {row['max_difference']:.2f}"
        print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["quicknet_s", "quicknet"])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--qnz", type=Path, help="a .qnz trained on CIFAR-10, for accuracy")
    parser.add_argument("--only", default="", help="rows whose name begins so, and nothing else")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="write results/NNNN-int8-runtimes")
    options = parser.parse_args()
    if options.record and options.only:
        parser.error("--record is for the whole of it, without --only")
    card = machine_card()
    answers = agreement(options.qnz) if options.qnz else None
    results = {shape: measured(shape, options) for shape in options.models}
    if options.json:
        print(json.dumps({"machine": card, "versions": versions(), "models": results, "answers": answers}, indent=1))
        return
    if options.record:
        command = f"python benchmarks/bench_int8.py --rounds {options.rounds}"
        command += f" --qnz {options.qnz}" if options.qnz else ""
        fields = {"threads": 1, "models": results, "answers": answers}
        write_record(ROOT / "results", "int8-runtimes", command, fields)
    print(f"{card['cpu']}, {card['cores']} cores, load {card['load_1min']}; {versions()}")
    for shape, result in results.items():
        print(f"\n{shape}")
        print_rows(result["speed"])
        for name, kinds in result.get("operators", {}).items():
            print(f"  {name}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
        if "without_vnni" in result:
            print("  with ONEDNN_MAX_CPU_ISA=AVX2:")
            print_rows(result["without_vnni"])
    if answers:
        print_agreement(answers)


if __name__ == "__main__":
    main()
