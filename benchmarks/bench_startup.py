"""How long `quicknet --help` takes, and the ratio to `python -c "import numpy"`; the aim is 2 at most.

    python benchmarks/bench_startup.py [--json] [--repeats 20]

Both take turns, as whole processes from start to exit, so that a drift of the machine's speed
meets them alike; only the ratio of the medians compares between runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from quicknet.core.machine import machine_card
from quicknet.core.records import write_record

ROOT = Path(__file__).resolve().parent.parent
AIM = 2.0
COMMANDS = {
    "import numpy": [sys.executable, "-c", "import numpy"],
    "quicknet --help": [str(Path(sys.executable).with_name("quicknet")), "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=20, help="of each command, after one that warms the disk")
    parser.add_argument("--record", action="store_true", help="write results/NNNN-startup")
    options = parser.parse_args()
    if options.repeats < 10:
        parser.error("--repeats must be at least 10, for a 95th percentile")
    machine = machine_card()
    rows = [summary(name, took) for name, took in measure(options.repeats).items()]
    ratio = rows[1]["median_ms"] / rows[0]["median_ms"]
    if options.record:
        command = f"python benchmarks/bench_startup.py --repeats {options.repeats}"
        write_record(ROOT / "results", "startup", command, {"rows": rows, "ratio": ratio, "aim": AIM})
    if options.json:
        print(json.dumps({"rows": rows, "ratio": ratio, "aim": AIM, "machine": machine}, indent=1))
        return
    for row in rows:
        print(f"{row['name']:16} {row['median_ms']:6.0f} ms (p95 {row['p95_ms']:.0f} ms, n = {row['n']})")
    print(f"ratio {ratio:.2f} (aim: at most {AIM:g})")


def measure(repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each command, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repeat in range(repeats + 1):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if repeat:
                times[name].append(time.perf_counter() - started)
    return times


def summary(name: str, seconds: list[float]) -> dict[str, str | float | int]:
    """Return n, median and 95th percentile in ms."""
    return {
        "name": name,
        "n": len(seconds),
        "median_ms": 1000 * statistics.median(seconds),
        "p95_ms": 1000 * statistics.quantiles(seconds, n=20)[-1],
    }


if __name__ == "__main__":
    main()
