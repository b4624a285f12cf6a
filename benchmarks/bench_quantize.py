"""What integers cost in accuracy: a trained run against each width class, after training and fine-tuned.

    python benchmarks/bench_quantize.py RUN [--data cifar10] [--bits w7a8 w7a7 w6a7 w5a8] [--qat 0 1]
                                        [--test] [--threads 2] [--record] [--json]

A row for each width class and each number of fine-tuning epochs: top-1 of the very integer network
(by the engine, or numpy's reference) beside the float parent's on the same images, the points
lost, and how many images got another class. All choices are made on `val`; `test` is looked at
with --test only, once everything is chosen. --record writes results/NNNN-quantize.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch

from quicknet.core.errors import program
from quicknet.core.progress import progress
from quicknet.data import Dataset
from quicknet.deploy.export import load_run_data, recipes_source
from quicknet.deploy.qnz import QnzSettings, make_qnz
from quicknet.deploy.quantize import WIDTHS, Bits
from quicknet.study.records import write_record

ROOT = Path(__file__).resolve().parent.parent


def measure(run: Path, data: Dataset, bits: Bits, epochs: float) -> list[dict[str, Any]]:
    """Return a row for each split of one width class."""
    started = time.perf_counter()
    settings = QnzSettings(bits=bits, qat_epochs=epochs, max_loss=None)
    file, compared = make_qnz(run, data, Path(f"{bits}.qnz"), settings, functools.partial(progress, quiet=False))
    seconds = round(time.perf_counter() - started, 1)
    common = {"bits": bits, "qat_epochs": epochs, "seconds": seconds, "file_bytes": len(file.blob)}
    step = file.card.to_dict()["lineage"][-1]
    tuned = {key: step["qat"][key] for key in ("steps", "before", "checks")} if epochs else None
    weights = {"weights_sha256": file.weights_sha256, "calibration": step["calibration"], "qat": tuned}
    return [{**common, **row.to_dict(), **weights} for row in compared]


def show(row: dict[str, Any]) -> str:
    return (
        f"{row['bits']}  {row['qat_epochs']:4g} epochs  {row['split']:4}  n = {row['n']:6,}  "
        f"{100 * row['top1']:6.2f}%  float {100 * row['parent_top1']:6.2f}%  lost {row['lost_points']:+6.2f} points  "
        f"{row['different']:4} of another class  {row['seconds']:6.1f} s"
    )


@program
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", help="what it was trained on (default: as its recipe says)")
    parser.add_argument("--bits", nargs="+", choices=list(WIDTHS), default=list(WIDTHS))
    parser.add_argument("--qat", nargs="+", type=float, default=[0.0], metavar="EPOCHS")
    parser.add_argument("--test", action="store_true", help="look at the test images too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load_run_data(options.run, options.data or recipes_source(options.run), False)
    if not options.test:
        others = {name: split for name, split in data.splits.items() if name != "test"}
        data = dataclasses.replace(data, splits=others)
    rows = []
    for bits, epochs in itertools.product(options.bits, options.qat):
        rows += measure(options.run, data, bits, epochs)
        if not options.json:
            print("\n".join(map(show, rows[-1 - options.test :])), flush=True)
    if options.json:
        print(json.dumps(rows, indent=1))
    if options.record:
        command = shlex.join(["python", "benchmarks/bench_quantize.py", *sys.argv[1:]])
        fields = {"kind": "quantize", "threads": options.threads, "data_sha256": data.sha256, "rows": rows}
        print(write_record(ROOT / "results", "quantize", command, fields))


if __name__ == "__main__":
    sys.exit(main())
