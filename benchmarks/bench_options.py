"""What each option of the family (paper §7) gains, and what it costs: one recipe, some seeds, paired differences.

    python benchmarks/bench_options.py [--only residual ...] [--data cifar10] [--recipe fast] [--set KEY=VALUE]...
                                       [--seeds 0 1 2] [--jobs 1] [--runs runs] [--seconds 2] [--record] [--json]

Every option is trained at the size of `quicknet_xs` beside the plain network, once per seed, by
`quicknet.study.ablate`: finished runs are not repeated, what was interrupted goes on. Beside the
difference, seed by seed with its standard error on `val` and on `test`, stand the costs as they
were counted in training (parameters, multiply-adds, bytes of all maps and of those that are
needed at one time) and the latency of the exported float file in ONNX Runtime: one image, one
thread, all files in turn in one run, as a ratio to the plain network's too. What is not exported
has no latency. --record writes results/NNNN-options.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from quicknet.core.card import Card
from quicknet.core.errors import ConfigError, program
from quicknet.deploy.export import export
from quicknet.measure.benchmark import BenchmarkSettings, benchmark
from quicknet.study import ablate
from quicknet.study.records import ROOT, write_record

PLAIN = "plain"
# option → its value here; a pyramid keeps one bin for the whole map, as the average has
VALUES = {
    "residual": "true",
    "dense": "true",
    "weight_norm": "true",
    "pyramid": "[1, 2]",
    "transformer": "16",
    "groups": "2",
    "pool_ratio": "1.5",
}


def parse() -> argparse.Namespace:
    """Return the command's options, with what `ablate` takes of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=VALUES, default=list(VALUES), metavar="OPTION")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each file's latency")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.name, options.set = "options", ["model.name=quicknet_xs", *options.set]
    options.variant = [[PLAIN], *([name, f"model.overrides.options.{name}={VALUES[name]}"] for name in options.only)]
    return options


def costs_of(card: Card) -> dict[str, int]:
    """Return what was counted when the network was trained."""
    assert card.costs is not None  # every run of this version counts
    fields = card.costs.to_dict()
    return {name: fields[name] for name in ("parameters", "macs", "activation_bytes", "peak_activation_bytes")}


def latencies(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Return the latency of each variant's exported file, and its ratio to the plain network's; none of the others."""
    files: dict[str, str] = {}
    for label, *_ in options.variant:
        out = folder / f"{label}.onnx"
        try:
            export(ablate.run_folder(options, label, options.seeds[0]), out)
        except ConfigError as error:
            print(f"{label:12} has no latency: {error}", file=sys.stderr)
            continue
        files[str(out)] = label
    settings = BenchmarkSettings(
        batches=(1,), threads=(1,), seconds=options.seconds, starts=1, runtimes=("onnxruntime",)
    )
    rows = [row for row in benchmark(list(files), settings).rows if row.path == "network"]
    return {files[row.model]: {"median_ms": row.median_ms, "times_faster": row.ratio} for row in rows}


def error_of(row: dict[str, Any]) -> float:
    """Return a difference's standard error in points; one seed has none."""
    return math.nan if row["standard_error"] is None else 100 * float(row["standard_error"])


def show(fields: dict[str, Any]) -> None:
    """Print the table: gains, then costs as ratios to the plain network's."""
    for label, costs in fields["costs"].items():
        gains = "  ".join(
            f"{split} {100 * row['difference']:+.2f} ± {error_of(row):.2f}"
            for split, row in ((split, fields[split][label]) for split in ("val", "test"))
        )
        ratios = "  ".join(f"{name} x{costs[name] / fields['costs'][PLAIN][name]:.2f}" for name in costs)
        latency = fields["latency"].get(label)
        time = (
            "not exported" if latency is None else f"{latency['median_ms']:.2f} ms, x{1 / latency['times_faster']:.2f}"
        )
        print(f"{label:12} {gains}  {ratios}  {time}")


@program
def main() -> None:
    """Carry out the command."""
    options = parse()
    cards = ablate.carry_out(options)
    with tempfile.TemporaryDirectory() as folder:
        latency = latencies(options, Path(folder))
    costs = {label: costs_of(present[0]) for label, present in cards.items()}
    fields = {**ablate.record_fields(options, cards), "costs": costs, "latency": latency}
    if options.json:
        print(json.dumps(fields, indent=1))
    else:
        show(fields)
    if options.record:
        words = [word for word in sys.argv[1:] if word not in ("--record", "--json")]
        command = shlex.join(["python", "benchmarks/bench_options.py", *words])
        print(write_record(ROOT / "results", options.name, command, fields), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
