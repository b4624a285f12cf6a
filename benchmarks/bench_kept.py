"""What kept answers of a teacher cost a student: steps with them, without a teacher, and with one asked, in turn.

    python benchmarks/bench_kept.py [--model quicknet_xs] [--teacher quicknet_xs.cifar10] [--data cifar10]
                                    [--rounds 40] [--json] [--record]

Aim: a step with kept answers takes at most 1.03 times one without a teacher. One epoch of answers is kept first, which
is not counted; then each round takes a batch by each of the three runs, in turn, so that all meet the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from quicknet import training
from quicknet.core.machine import machine_card
from quicknet.study.records import ROOT, write_record
from quicknet.training.ask import ask_ahead
from quicknet.training.loop import step

AIM = 1.03
_WARM = 3  # rounds that are not counted


def open_runs(options: argparse.Namespace, folder: Path) -> dict[str, training.Run]:
    """Return the run without a teacher, the one with kept answers, and the one that asks in every step."""
    common = [f"data.source={json.dumps(options.data)}", f"model.name={options.model}", "train.epochs=1"]
    asked = [*common, f"distill.teacher={json.dumps(options.teacher)}"]
    changes = {"alone": common, "kept": [*asked, "distill.kept=1"], "asked": asked}
    cpu = torch.device("cpu")
    return {
        name: training.start(training.load_recipe("fast", settings), folder / name, cpu)
        for name, settings in changes.items()
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds a step and the ratios, each of one round."""
    with tempfile.TemporaryDirectory(prefix="quicknet-") as folder:
        os.environ["QUICKNET_CACHE"] = os.environ.get("QUICKNET_CACHE", folder)
        runs = open_runs(options, Path(folder))
        began = time.perf_counter()
        for _ in ask_ahead(runs["kept"]):
            pass
        print(f"answers of an epoch kept in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        batches = {name: run.remaining_batches() for name, run in runs.items()}
        for run in runs.values():
            run.model.train()
        for _ in range(_WARM + options.rounds):
            for name, run in runs.items():
                indices = next(batches[name])
                started = time.perf_counter()
                step(run, indices)
                seconds[name].append(time.perf_counter() - started)
    timed = {name: values[_WARM:] for name, values in seconds.items()}
    ratios = {
        name: [with_it / alone for with_it, alone in zip(values, timed["alone"], strict=True)]
        for name, values in timed.items()
        if name != "alone"
    }
    return {
        "kind": "kept",
        "model": options.model,
        "teacher": options.teacher,
        "rounds": options.rounds,
        "step_ms": {name: 1e3 * statistics.median(values) for name, values in timed.items()},
        "ratio": {name: statistics.median(values) for name, values in ratios.items()},
        "aim": AIM,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="quicknet_xs")
    parser.add_argument("--teacher", default="quicknet_xs.cifar10")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="write results/NNNN-kept-answers")
    options = parser.parse_args()
    machine, fields = machine_card(), measure(options)
    if options.record:
        words = f"--model {options.model} --teacher {options.teacher} --rounds {options.rounds}"
        write_record(ROOT / "results", "kept-answers", f"python benchmarks/bench_kept.py {words}", fields)
    if options.json:
        print(json.dumps({**fields, "machine": machine}, indent=1))
        return
    for name, ms in fields["step_ms"].items():
        ratio = fields["ratio"].get(name)
        print(
            f"{name:6} {ms:7.1f} ms a step" + ("" if ratio is None else f", {ratio:.3f} times that without a teacher")
        )
    print(f"aim for kept: at most {AIM}; {machine['cpu']}, {machine['cores']} cores, load {machine['load_1min']}")


if __name__ == "__main__":
    main()
