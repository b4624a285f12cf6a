"""Training beside other work: images/s with one busy process on one core, as a share of undisturbed speed.

    python benchmarks/bench_busy.py [--model quicknet_s] [--size 64] [--rounds 5] [--before SRC] [--record] [--json]

Each round measures the loop's steps undisturbed, then beside a process that spins on core 0 at the
usual priority. `--before SRC` names the `src` folder of an older checkout: it takes turns with this
one in every round, so that both meet the same machine. The images are noise in memory: speed does
not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
AIM_BUSY, AIM_QUIET = 0.60, 0.98
SPIN = "import os, sys; os.sched_setaffinity(0, {0}); print(flush=True)\nwhile True: pass"


def serve(model: str, size: int, batch: int) -> None:
    """Run steps for as many seconds as each line of standard input says; answer with images/s."""
    import tempfile

    import numpy as np
    import torch

    from quicknet import training
    from quicknet.training.loop import step

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        draw(data, size, np)
        changes = [f"data.source={json.dumps(str(data))}", f"data.size={size}", f"model.name={model}"]
        changes += [f"train.batch_size={batch}", "train.precision=fp32", "optim.name=sgd", "optim.lr=0.01"]
        run = training.start(training.load_recipe("fast", changes), Path(folder) / "run", torch.device("cpu"))
    run.model.train()
    batches = [np.arange(batch) for _ in range(8)]
    for indices in batches[:2]:
        step(run, indices)
    print("ready", flush=True)
    for line in sys.stdin:
        steps, began = 0, time.perf_counter()
        while time.perf_counter() - began < float(line):
            step(run, batches[steps % len(batches)])
            steps += 1
        print(steps * batch / (time.perf_counter() - began), flush=True)


def draw(folder: Path, size: int, np: Any) -> None:
    from PIL import Image

    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for i in range(320):
            pixels = np.random.default_rng((ord(label), i)).integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")


class Worker:
    """A process that trains when told to, on the code of one `src` folder."""

    def __init__(self, source: Path, options: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--serve", "--model", options.model]
        command += ["--size", str(options.size), "--batch", str(options.batch)]
        environment = {**os.environ, "PYTHONPATH": str(source)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended; its message is above")
        return line

    def turn(self, seconds: float) -> float:
        """Return images/s over so many seconds of steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return float(self._line())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class Spinner:
    """A process that keeps core 0 busy while the block runs."""

    def __enter__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return per variant the images/s undisturbed and busy, round by round, and their ratios."""
    sources = {"now": ROOT / "src"} | ({"before": options.before.resolve()} if options.before else {})
    workers = {name: Worker(source, options) for name, source in sources.items()}
    rows: dict[str, list[float]] = {f"{name}_{state}": [] for name in sources for state in ("quiet", "busy")}
    for _ in range(options.rounds):
        for name, worker in workers.items():
            rows[f"{name}_quiet"].append(worker.turn(options.seconds))
        with Spinner():
            for name, worker in workers.items():
                rows[f"{name}_busy"].append(worker.turn(options.seconds))
    for worker in workers.values():
        worker.end()
    for name in sources:
        rows[f"{name}_share"] = [b / q for b, q in zip(rows[f"{name}_busy"], rows[f"{name}_quiet"], strict=True)]
    if options.before:
        rows["quiet_ratio"] = [n / b for n, b in zip(rows["now_quiet"], rows["before_quiet"], strict=True)]
    return {key: {"median": statistics.median(v), "min": min(v), "max": max(v)} for key, v in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="quicknet_s")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of steps in each turn")
    parser.add_argument("--before", type=Path, help="the src folder of an older checkout")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="write results/NNNN-training-busy")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.model, options.size, options.batch)
        return
    figures = measure(options)
    fields = {"model": options.model, "size": options.size, "batch": options.batch, "rounds": options.rounds}
    fields |= {"cores": os.cpu_count(), "aims": {"busy": AIM_BUSY, "quiet": AIM_QUIET}, **figures}
    if options.json:
        print(json.dumps(fields, indent=1))
    else:
        for key, row in figures.items():
            print(f"{key:14} {row['median']:8.3g}   ({row['min']:.3g} to {row['max']:.3g})")
    if options.record:
        from quicknet.study.records import write_record

        command = f"python benchmarks/bench_busy.py --model {options.model} --size {options.size}"
        print(write_record(ROOT / "results", "training-busy", command, fields))


if __name__ == "__main__":
    main()
