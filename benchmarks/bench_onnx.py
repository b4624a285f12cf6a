"""The exported float network: is it the same classifier, and how fast is it on one core?

    python benchmarks/bench_onnx.py [--models quicknet_s quicknet] [--run RUN] [--rounds 12] [--json]
                                    [--only accuracy|speed|profile|start]

accuracy   torch and the exported file (ONNX Runtime) on all CIFAR-10 test images: max |Δlogit|, and
           how many images have another top-1. Without --run the weights are He's random ones with
           batch norm's statistics and a classifier fitted to 2,000 training images.
speed      batch 1, one thread, in one process, in turn (A B C D A B C D ...): torch eager (plain
           path, normalized input), torch.onnx.export + ONNX Runtime (PReLU as it is), ours by every
           runtime present, and a float32 matrix product of numpy's BLAS as the core's peak. Ours
           takes uint8 and normalizes inside. All go through the same images in turn: the time of
           ONNX Runtime's PRelu depends on how often signs change, 1.1 ms (a smooth gradient) to
           1.7 ms (noise) for quicknet_s, so one image repeated would mislead.
profile    where ONNX Runtime's time goes, by stage and kind of layer, and at which share of the peak;
           by its own profiler, which adds about a microsecond to each of some 60 nodes.
start      seconds from starting Python to the first prediction of an image file, of a fresh process;
           beside them the processor seconds, which other processes' load does not lengthen.

CIFAR-10 must be on this machine (QUICKNET_DATA or the cache).
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["QUICKNET_FUSED"] = "0"  # torch as a user has it; our training kernels are another benchmark's
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # the peak of one core, too

import numpy as np
import torch
from torch import nn

from quicknet.core.card import Card, PreprocessSpec, read_card
from quicknet.core.errors import QuickNetError
from quicknet.core.machine import machine_card, versions
from quicknet.data import DataRequest, Dataset, load_data
from quicknet.data.augment import normalize
from quicknet.deploy.export import export
from quicknet.image.vectors import draw_vectors
from quicknet.inference.evaluate import classify
from quicknet.measure.peak import MACS, library, matrix_product
from quicknet.measure.timing import burst, percentile
from quicknet.models.config import plan
from quicknet.models.costs import count_costs
from quicknet.models.registry import create_model, model_from_record, model_record
from quicknet.onnx.runtime import OnnxClassifier, import_onnxruntime, present
from quicknet.study.records import write_record
from quicknet.training.checkpoint import RunFolder, TorchClassifier

onnxruntime = import_onnxruntime()

CIFAR_SPEC = PreprocessSpec(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
BURST_S = 0.15
IMAGES = 100

ROOT = Path(__file__).resolve().parent.parent
# what is asked of the exported file, per network: times torch eager, times torch.onnx.export
AIMS = {
    "quicknet": {"times_torch": 3.3, "times_default_export": 1.6, "share_of_peak": 0.6},
    "quicknet_s": {"times_torch": 5.5, "times_default_export": 2.4, "share_of_peak": 0.6},
    "start_s": 0.5,
}


def random_run(folder: Path, name: str, data: Dataset | None) -> Path:
    """Write a run folder of a network whose logits are of a trained one's size."""
    torch.manual_seed(0)
    model = create_model(name)
    for module in model.modules():
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.0, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    spec = data.spec if data is not None else CIFAR_SPEC
    images = np.array(data.split("train").images[:2000]) if data is not None else draw_vectors(32, 3, 64)
    with torch.no_grad():
        pixels = normalize(torch.from_numpy(images), spec.mean, spec.std)
        for part in pixels.split(250):  # type: ignore[no-untyped-call]
            model.train()(part)
        model.eval()
        if data is not None:
            fit_classifier(model, pixels, torch.from_numpy(np.array(data.split("train").labels[:2000])))
    classes = data.classes if data is not None else tuple("0123456789")
    card = Card(model=model_record(name, model), classes=classes, preprocess=spec)
    RunFolder(folder).save_model(dict(model.state_dict()), card)
    return folder


def fit_classifier(model: Any, pixels: torch.Tensor, labels: torch.Tensor) -> None:
    """Ridge regression of one-hot labels, ten times as large, on the features."""
    features = torch.cat([model.forward_head(model.forward_features(p), pre_logits=True) for p in pixels.split(250)])  # type: ignore[no-untyped-call]
    targets = 10 * nn.functional.one_hot(labels, 10).double()
    wide = torch.cat([features, torch.ones(len(features), 1)], 1).double()
    solved = torch.linalg.solve(wide.T @ wide + torch.eye(wide.shape[1]), wide.T @ targets).T.float()
    model.classifier.weight.copy_(solved[:, :-1])
    model.classifier.bias.copy_(solved[:, -1])


def accuracy(run: Path, data: Dataset) -> dict[str, Any]:
    test = data.split("test")
    by_torch = classify(TorchClassifier(run), test.images)
    by_file = classify(OnnxClassifier(run / "m.onnx", "onnxruntime"), test.images)
    labels = np.asarray(test.labels)
    return {
        "n": len(labels),
        "max_logit": float(np.abs(by_torch).max()),
        "max_difference": float(np.abs(by_torch - by_file).max()),
        "top1_different": int((by_torch.argmax(1) != by_file.argmax(1)).sum()),
        "top1_torch": float((by_torch.argmax(1) == labels).mean()),
        "top1_file": float((by_file.argmax(1) == labels).mean()),
    }


def default_export(model: nn.Module) -> tuple[bytes, str]:
    """Return what torch.onnx.export makes of the network, and by which of its two exporters.

    The newer one needs onnxscript; both give the same operators: batch norm folded, PRelu.
    """
    image = torch.zeros(1, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(model, (image,), dynamo=True, input_names=["x"], verbose=False)
            assert program is not None
            return program.model_proto.SerializeToString(), "dynamo"
        except ModuleNotFoundError:
            file: Any = io.BytesIO()  # what torch takes, though its annotation names paths only
            torch.onnx.export(model, (image,), file, dynamo=False, input_names=["x"])
            return bytes(file.getvalue()), "torchscript"


def through(call: Callable[[Any], object], inputs: list[Any]) -> Callable[[], object]:
    """Return a call that takes the next of `inputs` each time."""
    endless = itertools.cycle(inputs)
    return lambda: call(next(endless))


def calls(run: Path, data: Dataset | None) -> tuple[dict[str, Callable[[], object]], str]:
    """Return what is timed, by name, and which torch.onnx exporter there is."""
    parent = TorchClassifier(run)
    spec, model = parent.card.preprocess, parent.model
    images = draw_vectors(spec.size, spec.channels) if data is None else np.array(data.split("test").images[:IMAGES])
    pixels = [normalize(torch.from_numpy(i[None]), spec.mean, spec.std).contiguous() for i in images]
    blob, exporter = default_export(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])

    def eager(x: torch.Tensor) -> object:
        with torch.inference_mode():
            return model(x)

    calls: dict[str, Callable[[], object]] = {
        "torch eager": through(eager, pixels),
        "torch.onnx.export": through(lambda x: session.run(None, {"x": x}), [x.numpy() for x in pixels]),
    }
    for name in present():
        classifier = OnnxClassifier(run / "m.onnx", name, threads=1)
        calls[f"quicknet {name}"] = through(classifier.logits, [image[None] for image in images])
    calls["peak"] = matrix_product()
    return calls, exporter


def speed(run: Path, data: Dataset | None, rounds: int) -> dict[str, Any]:
    timed, exporter = calls(run, data)
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, call in timed.items():
            seconds[name] += burst(call, BURST_S, time.perf_counter)
    rows = {
        name: {
            "n": len(values),
            "median_ms": 1e3 * percentile(values, 0.5),
            "p95_ms": 1e3 * percentile(values, 0.95),
            "best_ms": 1e3 * min(values),
        }
        for name, values in seconds.items()
    }
    record = TorchClassifier(run).card.model
    ours, macs = rows["quicknet onnxruntime"], count_costs(lambda: model_from_record(record)).macs
    peak = rows.pop("peak")
    return {
        "exporter": exporter,
        "rows": rows,
        "peak_gmacs": MACS / peak["median_ms"] / 1e6,
        "peak_best_gmacs": MACS / peak["best_ms"] / 1e6,
        "times_torch": rows["torch eager"]["median_ms"] / ours["median_ms"],
        "times_default_export": rows["torch.onnx.export"]["median_ms"] / ours["median_ms"],
        "times_torch_best": rows["torch eager"]["best_ms"] / ours["best_ms"],
        "times_default_export_best": rows["torch.onnx.export"]["best_ms"] / ours["best_ms"],
        "share_of_peak": macs / ours["median_ms"] / (MACS / peak["median_ms"]),
        "share_of_peak_best": macs / ours["best_ms"] / (MACS / peak["best_ms"]),
    }


def kind_of(node: str) -> str:
    """Return the kind of layer that a node of the exported graph belongs to."""
    for part, kind in (("negative_part", "PReLU"), ("rest", "PReLU"), ("pool", "pool"), ("depthwise", "depthwise")):
        if part in node:
            return kind
    return "pointwise" if "pointwise" in node else "stem" if node.startswith("stem") else "rest"


def profile(run: Path) -> dict[str, Any]:
    """Microseconds of each stage's kinds of layers (the sum over their nodes of medians), and G multiply-adds/s."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.enable_profiling = 1, 4, True
    options.profile_file_prefix = str(run / "profile")
    session = onnxruntime.InferenceSession(run / "m.onnx", options, providers=["CPUExecutionProvider"])
    _, size, _, channels = session.get_inputs()[0].shape
    for image in draw_vectors(size, channels):
        for _ in range(25):
            session.run(None, {"images": image[None]})
    nodes: dict[str, list[float]] = {}
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"])
    config: Any = TorchClassifier(run).model.config
    layers = plan(config)
    rows: dict[str, dict[str, float]] = {}
    for name, values in nodes.items():
        kind = kind_of(name)
        block = int(name[5:].split(".")[0]) if name.startswith("block") else None
        layer = layers[0] if block is None else layers[block + 1]
        inside = "stem " if kind == "PReLU" else ""
        stage = inside if block is None else f"stage {layer.stage} "
        row = rows.setdefault(f"{stage}{kind}", {"us": 0.0, "macs": 0.0})
        row["us"] += percentile(values, 0.5)
        per_pixel = {"stem": layer.in_channels * layer.kernel**2 * layer.out_channels}
        per_pixel |= {"depthwise": layer.in_channels * layer.kernel**2}
        per_pixel |= {"pointwise": layer.in_channels * layer.out_channels}
        row["macs"] += per_pixel.get(kind, 0) * layer.side**2
    call = matrix_product()
    peak = MACS / min(burst(call, 1.0, time.perf_counter)) / 1e9
    for row in rows.values():
        row["share_of_peak"] = row.pop("macs") / max(row["us"], 1e-9) / 1e3 / peak
    return {"peak_gmacs": peak, "rows": rows}


def start(run: Path, repeats: int) -> dict[str, Any]:
    """Seconds of a fresh process until it has classified one image file, in turn with `auto`."""
    from PIL import Image

    picture = run / "picture.png"
    Image.fromarray(draw_vectors(100, 3, 3)[2]).save(picture)
    code = "import quicknet, sys; m = quicknet.load(sys.argv[1]); print(next(quicknet.predict(m, sys.argv[2])).label)"
    samples: dict[str, list[tuple[float, float]]] = {"onnxruntime": [], "auto": []}
    for _ in range(repeats):
        for name, values in samples.items():
            environment = {**os.environ, "QUICKNET_RUNTIME": name}
            started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-c", code, str(run / "m.onnx"), str(picture)]
            subprocess.run(command, check=True, env=environment, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            values.append((time.perf_counter() - started, processor))
    return {
        name: {
            "n": len(values),
            "median_s": percentile([wall for wall, _ in values], 0.5),
            "best_s": min(wall for wall, _ in values),
            "processor_s": percentile([processor for _, processor in values], 0.5),
        }
        for name, values in samples.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["quicknet_s", "quicknet"])
    parser.add_argument("--run", type=Path, help="a trained run folder in place of random networks")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", choices=["accuracy", "speed", "profile", "start"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="write results/NNNN-onnx-runtime")
    options = parser.parse_args()
    if options.record and (options.run or options.only):
        parser.error("--record is for the whole of it, without --run and --only")
    torch.set_num_threads(1)
    card, results = machine_card(), {}
    data = None
    if options.only in (None, "accuracy", "speed"):
        data = cifar10(options.run)
    with tempfile.TemporaryDirectory() as temporary:
        for name in [str(options.run)] if options.run else options.models:
            run = Path(temporary) / Path(name).name
            if options.run:
                shutil.copytree(options.run, run)
            else:
                random_run(run, name, data)
            export(run, run / "m.onnx")
            results[name] = measured(run, data, options)
    if options.json:
        print(json.dumps({"machine": card, "versions": versions(), "blas": library(), "models": results}, indent=1))
        return
    if options.record:
        command = f"python benchmarks/bench_onnx.py --rounds {options.rounds}"
        fields = {"threads": 1, "aims": AIMS, "blas": library(), "models": results}
        write_record(ROOT / "results", "onnx-runtime", command, fields)
    print(f"{card['cpu']}, {card['cores']} cores, load {card['load_1min']}; {versions()}; peak by {library()}")
    for name, result in results.items():
        print_model(name, result)


def cifar10(run: Path | None) -> Dataset:
    """Return the data, read by the run's card where there is one."""
    request = DataRequest(quiet=True, download=False)
    if run is not None:
        card = read_card(run / "card.json")
        request = request.replace(spec=card.preprocess.to_dict(), classes=list(card.classes))
    return load_data("cifar10", request)


def measured(run: Path, data: Dataset | None, options: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if options.only in (None, "accuracy"):
        assert data is not None
        result["accuracy"] = accuracy(run, data)
    if options.only in (None, "speed"):
        result["speed"] = speed(run, data, options.rounds)
    if options.only in (None, "profile") and TorchClassifier(run).card.model.family == "quicknet":
        result["profile"] = profile(run)
    if options.only in (None, "start"):
        result["start"] = start(run, 7)
    return result


def print_model(name: str, result: dict[str, Any]) -> None:
    print(f"\n{name}")
    if part := result.get("accuracy"):
        print(
            f"  {part['n']:,} CIFAR-10 test images: logits up to {part['max_logit']:.1f} differ by at most "
            f"{part['max_difference']:.1e}, top-1 of {part['top1_different']} images "
            f"({100 * part['top1_torch']:.2f}% torch, {100 * part['top1_file']:.2f}% file)"
        )
    if part := result.get("speed"):
        for label, row in part["rows"].items():
            label = f"{label} ({part['exporter']})" if label == "torch.onnx.export" else label
            print(
                f"  {label:34} {row['median_ms']:7.3f} ms median, p95 {row['p95_ms']:.3f}, "
                f"best {row['best_ms']:.3f}, n = {row['n']}"
            )
        print(
            f"  ours (onnxruntime): {part['times_torch']:.1f}x torch eager, "
            f"{part['times_default_export']:.2f}x torch.onnx.export, {100 * part['share_of_peak']:.0f}% of the "
            f"core's {part['peak_gmacs']:.0f} G multiply-adds/s; by the best times {part['times_torch_best']:.1f}x, "
            f"{part['times_default_export_best']:.2f}x, {100 * part['share_of_peak_best']:.0f}% of "
            f"{part['peak_best_gmacs']:.0f} G"
        )
    if part := result.get("profile"):
        total = sum(row["us"] for row in part["rows"].values())
        print(f"  profile by ONNX Runtime, {total:.0f} us; peak {part['peak_gmacs']:.0f} G multiply-adds/s")
        for label, row in part["rows"].items():
            share = f"{100 * row['share_of_peak']:3.0f}% of the peak" if row["share_of_peak"] else ""
            print(f"    {label:18} {row['us']:6.0f} us {100 * row['us'] / total:4.0f}%  {share}")
    for label, row in result.get("start", {}).items():
        print(
            f"  start to first prediction, {label}: {row['median_s']:.2f} s median, best {row['best_s']:.2f}, "
            f"processor {row['processor_s']:.2f} s"
        )


if __name__ == "__main__":
    try:
        main()
    except QuickNetError as error:
        sys.exit(f"bench_onnx: {error}")
