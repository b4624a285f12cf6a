"""Training throughput: QuickNet's loop against a plain PyTorch loop of the same network.

    python benchmarks/bench_training.py [--data cifar10] [--rounds 5] [--record] [--json]

The plain loop is what people write first: a DataLoader with 2 workers and per-image transforms
(reflect-pad crop, flip, normalize), the network in its default layout without the fused kernels,
SGD with momentum. QuickNet's is `train.loop.step` itself with the same network, batch, optimizer
and augmentation. Each lives in a process of its own (the fused kernels also change how freed
memory is kept) and they take turns (A B P A B P ...), one at a time; P is the peak of the cores, a
large fp32 matrix product. Where the CPU has bfloat16 products, both loops take turns with them,
too: `train.precision=bf16`, and torch's autocast. `share of peak` counts 3 x forward multiply-adds an image; `input` is
the share of a step spent in the augmenter.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from quicknet import training
from quicknet.data import load_data
from quicknet.models import fused
from quicknet.models.registry import create_model
from quicknet.study.records import write_record
from quicknet.training.loop import step

AIMS = {"quicknet_s": {"ratio": 3.5, "peak": 0.45}, "quicknet": {"peak": 0.45}}
INPUT_AIM = 0.05


class PerImage(Dataset[tuple[Tensor, int]]):
    """CIFAR images with transforms image by image, as tutorials have it."""

    def __init__(self, images: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> None:
        self.images, self.labels, self.mean, self.std = images, labels, mean, std

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index].permute(2, 0, 1).float() / 255
        image = F.pad(image[None], (4, 4, 4, 4), mode="reflect")[0]
        top, left = (int(v) for v in torch.randint(0, 9, (2,)))
        image = image[:, top : top + 32, left : left + 32]
        if torch.rand(()) < 0.5:
            image = image.flip(2)
        return (image - self.mean) / self.std, int(self.labels[index])


def plain_steps(model_name: str, data: str, batch: int, bf16: bool) -> Iterator[tuple[float, float]]:
    """Yield the seconds of each step of the plain loop, without end; its input is not told apart."""
    source = load_data(data)
    train = source.split("train")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (source.spec.mean, source.spec.std))
    dataset = PerImage(torch.tensor(train.images), torch.tensor(train.labels), mean, std)
    model = create_model(model_name, dropout=0.0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    while True:
        began = time.perf_counter()
        for images, labels in DataLoader(dataset, batch, shuffle=True, num_workers=2, drop_last=True):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = F.cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()
            yield time.perf_counter() - began, 0.0
            began = time.perf_counter()


def our_steps(model_name: str, data: str, batch: int, bf16: bool) -> Iterator[tuple[float, float]]:
    """Yield the seconds of each step of the loop, and those of them in the augmenter."""
    changes = [
        f"data.source={json.dumps(data)}",
        f"model.name={model_name}",
        f"train.batch_size={batch}",
        "train.ema_decay=0.0",
        "augment.cutout=0",
        "augment.flip=random",
        "optim.name=sgd",
        "optim.lr=0.01",
        f"train.precision={'bf16' if bf16 else 'fp32'}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = training.start(training.load_recipe("fast", changes), Path(folder), torch.device("cpu"))
    run.model.train()
    in_augmenter = 0.0
    augment = run.augmenter.batch

    def timed(*arguments: Any) -> Any:
        nonlocal in_augmenter
        began = time.perf_counter()
        result = augment(*arguments)
        in_augmenter += time.perf_counter() - began
        return result

    vars(run.augmenter)["batch"] = timed
    while True:
        for indices in run.remaining_batches():
            in_augmenter, began = 0.0, time.perf_counter()
            step(run, indices)
            yield time.perf_counter() - began, in_augmenter


def peak_gmacs(repeats: int = 3, side: int = 2048) -> float:
    """Return the best multiply-adds/s, in G, of a large fp32 matrix product on all threads."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return side**3 / best / 1e9


def macs(model_name: str) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        create_model(model_name).eval()(torch.zeros(1, 3, 32, 32))
    return int(counter.get_total_flops()) // 2


class Worker:
    """A process that runs one variant's steps when told to."""

    def __init__(self, variant: str, *arguments: Any) -> None:
        os.environ["QUICKNET_FUSED"] = "0" if variant == "plain" else "1"
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, variant, *arguments))
        self.process.start()
        self.turn(0)  # warm-up: workers, allocator, kernels

    def turn(self, seconds: float) -> list[tuple[float, float]]:
        """Run steps for so long, at least four; return (step, input) seconds of each."""
        self.pipe.send(seconds)
        timings = self.pipe.recv()
        assert isinstance(timings, list)
        return timings

    def end(self) -> None:
        self.pipe.send(None)
        self.process.join(10)
        self.process.kill()


def serve(pipe: Connection, variant: str, *arguments: Any) -> None:
    steps = (plain_steps if variant == "plain" else our_steps)(*arguments)
    while (seconds := pipe.recv()) is not None:
        began, timings = time.perf_counter(), [next(steps)]
        while time.perf_counter() - began < seconds or len(timings) < 4:
            timings.append(next(steps))
        pipe.send(timings)
    pipe.send(fused.status())
    os._exit(0)  # a DataLoader in mid-epoch would wait for its workers


def measure(model_name: str, data: str, batch: int, rounds: int) -> dict[str, Any]:
    """Return the figures of one network; `rounds` turns of some seconds each."""
    kinds = [("plain", False), ("ours", False), *([("plain", True), ("ours", True)] if fused.has_bf16() else [])]
    workers = {kind + ("_bf16" if bf16 else ""): Worker(kind, model_name, data, batch, bf16) for kind, bf16 in kinds}
    turns: dict[str, list[float]] = collections.defaultdict(list)
    per_image = 3 * macs(model_name)
    for _ in range(rounds):
        timings = {name: worker.turn(3.0 if "plain" in name else 2.0) for name, worker in workers.items()}
        seconds = {name: statistics.median(step for step, _ in steps) for name, steps in timings.items()}
        peak = peak_gmacs()
        for name, each in seconds.items():
            turns[name].append(batch / each)
        turns["input"].append(statistics.median(inside / step for step, inside in timings["ours"]))
        turns["peak"].append(peak)
        turns["ratio"].append(seconds["plain"] / seconds["ours"])
        turns["share"].append(batch / seconds["ours"] * per_image / 1e9 / peak)
        if "ours_bf16" in seconds:
            best_plain = min(seconds["plain"], seconds["plain_bf16"])
            turns["ratio_bf16"].append(best_plain / seconds["ours_bf16"])
    for worker in workers.values():
        worker.end()
    figures = {key: {"median": statistics.median(v), "min": min(v), "max": max(v)} for key, v in turns.items()}
    return {"model": model_name, "batch": batch, "rounds": rounds, "kernels": workers["ours"].pipe.recv(), **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--models", default="quicknet_s,quicknet,quicknet_xs")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="write results/NNNN-training-throughput")
    options = parser.parse_args()
    rows = []
    for name in options.models.split(","):
        rows.append(measure(name, options.data, options.batch, options.rounds))
        if not options.json:
            show(rows[-1])
    fields = {"threads": torch.get_num_threads(), "aims": AIMS, "input_aim": INPUT_AIM, "rows": rows}
    if options.json:
        print(json.dumps(fields, indent=1))
    if options.record:
        command = f"python benchmarks/bench_training.py --rounds {options.rounds} --batch {options.batch}"
        root = Path(__file__).resolve().parent.parent
        print(write_record(root / "results", "training-throughput", command, fields))


def show(row: dict[str, Any]) -> None:
    aim = AIMS.get(row["model"], {})
    print(f"{row['model']}, batch {row['batch']}, {torch.get_num_threads()} threads, {row['rounds']} rounds in turn")
    print(f"  plain PyTorch  {row['plain']['median']:8,.0f} images/s")
    print(f"  quicknet       {row['ours']['median']:8,.0f} images/s   ({row['kernels']})")
    if "ours_bf16" in row:
        print(f"  ... autocast   {row['plain_bf16']['median']:8,.0f} images/s   (bfloat16)")
        print(f"  ... bf16       {row['ours_bf16']['median']:8,.0f} images/s   (bfloat16 products)")
    for key, label, form in (
        ("ratio", "ratio", "{:.2f}x"),
        ("ratio_bf16", "ratio, bf16", "{:.2f}x"),
        ("share", "share of peak", "{:.1%}"),
        ("input", "input", "{:.1%}"),
    ):
        if key not in row:
            continue
        spread = f"{form.format(row[key]['min'])} to {form.format(row[key]['max'])}"
        expected = {
            "ratio": aim.get("ratio"),
            "ratio_bf16": aim.get("ratio"),
            "share": aim.get("peak"),
            "input": INPUT_AIM,
        }[key]
        reach = (
            "" if expected is None else f"   aim {'at most' if key == 'input' else 'at least'} {form.format(expected)}"
        )
        print(f"  {label:14} {form.format(row[key]['median']):>8} ({spread}){reach}")
    print(f"  peak           {row['peak']['median']:8.1f} G multiply-adds/s, fp32 matrix product of 2048 (torch)")


if __name__ == "__main__":
    main()
