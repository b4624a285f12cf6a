"""Images per second of the integer engine, by width class and instruction set, and its share of the ceiling.

    python benchmarks/bench_engine.py [--models quicknet_s quicknet] [--rounds 12] [--json] [--record]

Batch 1, one thread, network only, drawn numbers, in one process, everything in turn (A B C D A B C D ...):
the engine in the four width classes by each instruction set of this CPU, the best int8 forms of
other runtimes where they are installed (`rivals.py`), and the ceilings: the multiply-adds per
second of each instruction set's inner loop with all operands in registers. `avx2` takes N
multiplications to bytes' sums in 16 bits, N - 1 additions, and a multiplication and an addition to
widen them, for 32 N multiply-adds; `avx512vnni` one instruction for 64; plain C has none. Shares are of medians.

Then as many threads as there are cores against one, for single images and batches of 32, and the
time from a file's bytes to the first answer. The best of a row is what an undisturbed machine does;
where others share the cores the medians of threads tell nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from quicknet import engine
from quicknet.core.machine import machine_card, usable_cores, versions
from quicknet.measure.timing import burst, percentile
from quicknet.models.config import QuickNetConfig
from quicknet.models.registry import base_config
from quicknet.onnx.runtime import present
from quicknet.qnz.container import pack_sections
from quicknet.qnz.encoding import encode_network
from quicknet.qnz.network import IntegerNetwork
from quicknet.study.records import write_record
from rivals import drawn_network, rivals, runner

ROOT = Path(__file__).resolve().parent.parent
BURST_S = 0.1
BATCH = 32


@dataclasses.dataclass(frozen=True)
class WidthClass:
    """FORMAT.md's table: largest weight, top of every map, N of the pointwise and of the stem."""

    largest: int
    top: int
    sums: int
    stem_sums: int


CLASSES = {
    "w7a8": WidthClass(64, 255, 1, 1),
    "w7a7": WidthClass(64, 127, 2, 1),
    "w6a7": WidthClass(32, 127, 4, 2),
    "w5a8": WidthClass(16, 255, 4, 2),
}
Key = tuple[str, str]  # width class, instruction set


def in_class(network: IntegerNetwork, width: WidthClass) -> IntegerNetwork:
    """Return a network of `w7a8` with its weights made small enough for another class."""
    stem, less = network.stem, 64 // width.largest
    stem_less = 2 if width.stem_sums == 2 else 1
    return dataclasses.replace(
        network,
        stem=dataclasses.replace(
            stem,
            sums=width.stem_sums,
            weight=stem.weight // stem_less,
            output=dataclasses.replace(stem.output, top=width.top),
        ),
        blocks=tuple(
            dataclasses.replace(
                block,
                sums=width.sums,
                weight=np.trunc(block.weight / less).astype(np.int8),
                middle_top=width.top,
                output=dataclasses.replace(block.output, top=width.top),
            )
            for block in network.blocks
        ),
    )


def blob_of(config: Any, width: WidthClass) -> bytes:
    netw, tens = encode_network(in_class(drawn_network(config, np.random.default_rng(0)), width))
    return pack_sections({"CARD": b"{}", "NETW": netw, "TENS": tens})


def multiply_adds(network: IntegerNetwork) -> int:
    side = (network.side - network.stem.weight.shape[1]) // network.stem.stride + 1
    total: int = side**2 * network.stem.weight.size
    for block in network.blocks:
        side = side // 2 if block.pool else side
        total += side**2 * (block.depthwise.size + block.weight.size)
    return total + network.weight.size


def config_of(shape: str) -> QuickNetConfig:
    config = base_config(shape)
    assert isinstance(config, QuickNetConfig)
    return config


def call_of(run: Callable[[Any], object], images: np.ndarray) -> Callable[[], object]:
    return lambda: run(images)


def single(shape: str, rounds: int) -> dict[str, Any]:
    """Return images/s of everything on one thread, and the ceilings."""
    config = config_of(shape)
    image = np.random.default_rng(1).integers(0, 256, (1, config.image_size, config.image_size, 3), dtype=np.uint8)
    work = multiply_adds(drawn_network(config, np.random.default_rng(0)))
    calls: dict[Key, Callable[[], object]] = {}
    for name, width in CLASSES.items():
        blob = blob_of(config, width)
        for isa in engine.instruction_sets():
            calls[name, isa] = call_of(engine.Engine(blob, 1, isa).run, image)
    for name, blob in rivals(shape).items():
        if "openvino" in present() or not name.startswith("OpenVINO"):
            calls[name, ""] = call_of(runner(name, blob), image)
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    peaks: dict[Key, list[float]] = {key: [] for key in calls if key[1] not in ("", "portable")}
    for _ in range(rounds):
        for key, call in calls.items():
            seconds[key] += burst(call, BURST_S, time.perf_counter)
            if key in peaks:
                peaks[key].append(engine.peak_rate(key[1], CLASSES[key[0]].sums, samples=10))
    rows = []
    for (name, isa), values in seconds.items():
        median_s = percentile(values, 0.5)
        row = {"name": name, "isa": isa, "n": len(values), "images_per_second": 1 / median_s}
        row |= {"best_images_per_second": 1 / min(values), "p95_ms": 1e3 * percentile(values, 0.95)}
        if (name, isa) in peaks:
            peak = percentile(peaks[name, isa], 0.5)
            row |= {"gmacs": work / median_s / 1e9, "ceiling_gmacs": peak / 1e9, "share": work / median_s / peak}
        rows.append(row)
    return {"multiply_adds": work, "rows": rows, "over_rivals": over_rivals(rows)}


def over_rivals(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return how many times the fastest rival's images/s each class reaches by its fastest instruction set."""
    others = [row["images_per_second"] for row in rows if not row["isa"]]
    if not others:
        return {}
    rates = {name: [row["images_per_second"] for row in rows if row["name"] == name] for name in CLASSES}
    return {name: max(images_per_second) / max(others) for name, images_per_second in rates.items()}


def threads(shape: str, rounds: int) -> dict[str, Any]:
    """Return how many times one thread's images/s all cores reach: by medians, and by the best of each."""
    config, cores = config_of(shape), usable_cores()
    blob = blob_of(config, CLASSES["w7a7"])
    images = np.random.default_rng(1).integers(0, 256, (BATCH, config.image_size, config.image_size, 3), dtype=np.uint8)
    rates: dict[str, Any] = {"threads": cores}
    for count in (1, BATCH):
        runs = [call_of(engine.Engine(blob, number).run, images[:count]) for number in (1, cores)]
        seconds: list[list[float]] = [[], []]
        for _ in range(rounds):
            for values, run in zip(seconds, runs, strict=True):
                values += burst(run, BURST_S, time.perf_counter)
        one, many = seconds
        rates[f"batch_{count}"] = {
            "median": percentile(one, 0.5) / percentile(many, 0.5),
            "best": min(one) / min(many),
            "images_per_second": count / percentile(many, 0.5),
        }
    return rates


def first_answer_ms(shape: str) -> dict[str, float]:
    """Return the median and best time from a file's bytes to the first logits."""
    config = config_of(shape)
    blob = blob_of(config, CLASSES["w7a7"])
    image = np.zeros((1, config.image_size, config.image_size, 3), np.uint8)
    seconds = burst(lambda: engine.Engine(blob).run(image), 0.5, time.perf_counter)
    return {"median": 1e3 * percentile(seconds, 0.5), "best": 1e3 * min(seconds)}


def print_model(shape: str, result: dict[str, Any]) -> None:
    print(f"\n{shape}, {result['multiply_adds'] / 1e6:.1f} M multiply-adds; images/s of one thread: median (best)")
    for row in result["rows"]:
        text = (
            f"  {row['name']:42} {row['isa']:11} {row['images_per_second']:6.0f} ({row['best_images_per_second']:.0f})"
        )
        if "share" in row:
            text += f", {row['gmacs']:6.1f} of {row['ceiling_gmacs']:6.1f} G multiply-adds/s, {row['share']:.0%}"
        print(text)
    ratios = [f"{name} {ratio:.2f}" for name, ratio in result["over_rivals"].items()]
    print("  times the fastest other runtime: " + (", ".join(ratios) or "none is installed"))
    several = result["threads"]
    for count in (1, BATCH):
        row = several[f"batch_{count}"]
        print(f"  {several['threads']} threads, batch {count}: {row['median']:.2f} times one (best {row['best']:.2f})")
    ready = result["first_answer_ms"]
    print(f"  from the file's bytes to the first answer: {ready['median']:.1f} ms (best {ready['best']:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["quicknet_s", "quicknet"])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="write results/NNNN-engine")
    options = parser.parse_args()
    card = machine_card()
    results = {
        shape: {
            **single(shape, options.rounds),
            "threads": threads(shape, options.rounds),
            "first_answer_ms": first_answer_ms(shape),
        }
        for shape in options.models
    }
    if options.json:
        print(json.dumps({"machine": card, "versions": versions(), "models": results}, indent=1))
        return
    if options.record:
        command = f"python benchmarks/bench_engine.py --rounds {options.rounds}"
        write_record(ROOT / "results", "engine", command, {"kind": "engine", "models": results})
    print(f"{card['cpu']}, {card['cores']} cores, load {card['load_1min']}; {engine.status()}")
    for shape, result in results.items():
        print_model(shape, result)


if __name__ == "__main__":
    main()
