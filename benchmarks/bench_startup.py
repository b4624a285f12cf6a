"""How long it takes until something happens: `quicknet --help`, and the first answer of a `.qnz`.

    python benchmarks/bench_startup.py [--json] [--repeats 20] [FILE.qnz ...]

Whole processes from start to exit take turns, so that a drift of the machine's speed meets them
alike; only ratios of medians compare between runs. `import quicknet and predict` classifies one
PNG of the network's size: at most 350 ms. `load and answer` is what of that is left when all is
imported: reading, checking and packing the file and classifying one image, at most 20 ms. CPU ms
are the process's own, which others on the machine do not change. Without FILES, random networks
of the shapes of quicknet_s and quicknet are measured. `quicknet --help`: at most twice `import numpy`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from quicknet import engine
from quicknet.core.machine import machine_card
from quicknet.image.vectors import draw_vectors
from quicknet.qnz.file import assemble_qnz, read_qnz
from quicknet.study.records import write_record

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from networks import Block, Shape, network_card, random_network  # noqa: E402

HELP_AIM, PREDICT_AIM_MS, LOAD_AIM_MS = 2.0, 350.0, 20.0
PREDICT = "import sys, quicknet; print(next(quicknet.predict(quicknet.load(sys.argv[1]), sys.argv[2])).label)"
LOAD = """
import json, sys, time
from pathlib import Path
import quicknet
from quicknet.inference.predict import predict
from quicknet.image.preprocess import load_image
from quicknet.qnz.file import read_qnz
from quicknet import engine
engine.available()
image = load_image(sys.argv[2], read_qnz(Path(sys.argv[1])).card.preprocess)[None]
wall, cpu = time.perf_counter(), time.process_time()
quicknet.load(sys.argv[1], threads=1).logits(image)
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))
"""


@dataclass
class Times:
    """Seconds of each repeat, by the clock and of CPU time; at most `aim_ms` is asked for, None nothing."""

    name: str
    aim_ms: float | None
    wall_s: list[float]
    cpu_s: list[float]

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "n": len(self.wall_s),
            "median_ms": 1000 * statistics.median(self.wall_s),
            "p95_ms": 1000 * statistics.quantiles(self.wall_s, n=20)[-1],
            "fastest_ms": 1000 * min(self.wall_s),
            "cpu_ms": 1000 * statistics.median(self.cpu_s),
            "aim_ms": self.aim_ms,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="trained networks to measure in place of random ones")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=20, help="of each command, after one that warms the disk")
    parser.add_argument("--record", action="store_true", help="write results/NNNN-startup")
    options = parser.parse_args()
    if options.repeats < 10:
        parser.error("--repeats must be at least 10, for a 95th percentile")
    machine = machine_card()
    isa = engine.instruction_sets()[-1] if engine.available() else "none: numpy's reference"  # compiles it now
    with tempfile.TemporaryDirectory(prefix="quicknet-") as folder:
        rows = [times.row() for times in measure(options.repeats, options.files or draw_files(Path(folder)))]
    fields = {"rows": rows, "ratio": rows[1]["median_ms"] / rows[0]["median_ms"], "aim": HELP_AIM, "engine": isa}
    if options.record:
        names = "".join(f" {path}" for path in options.files)
        command = f"python benchmarks/bench_startup.py --repeats {options.repeats}{names}"
        write_record(ROOT / "results", "startup", command, fields)
    if options.json:
        print(json.dumps({**fields, "machine": machine}, indent=1))
        return
    for row in rows:
        aim = "" if row["aim_ms"] is None else f", aim {row['aim_ms']:g}"
        spread = (
            f"fastest {row['fastest_ms']:.1f}, p95 {row['p95_ms']:.1f}, CPU {row['cpu_ms']:.1f}, n = {row['n']}{aim}"
        )
        print(f"{row['name']:44} {row['median_ms']:7.1f} ms ({spread})")
    print(f"ratio of quicknet --help to import numpy {fields['ratio']:.2f} (aim: at most {HELP_AIM:g}); engine {isa}")


def draw_files(folder: Path) -> list[Path]:
    """Write random networks of the shapes of quicknet_s and quicknet."""
    paths = []
    for name, stem in (("quicknet_s", 32), ("quicknet", 64)):
        blocks = [Block(2**stage * stem, pool=stage > 1 and n == 0) for stage in range(1, 5) for n in range(3)]
        network = random_network(np.random.default_rng(0), Shape(stem=stem, blocks=tuple(blocks)))
        paths.append(folder / f"{name}.qnz")
        paths[-1].write_bytes(assemble_qnz(network, network_card(network)))
    return paths


def measure(repeats: int, files: list[Path]) -> list[Times]:
    """Return the times of each command, taken in turn."""
    python, quicknet = sys.executable, str(Path(sys.executable).with_name("quicknet"))
    commands: list[tuple[Times, list[str]]] = [
        (Times("import numpy", None, [], []), [python, "-c", "import numpy"]),
        (Times("quicknet --help", None, [], []), [quicknet, "--help"]),
    ]
    with tempfile.TemporaryDirectory(prefix="quicknet-") as folder:
        for path in files:
            picture = draw_picture(path, Path(folder))
            whole = Times(f"import quicknet and predict, {path.name}", PREDICT_AIM_MS, [], [])
            loaded = Times(f"load and answer, {path.name}", LOAD_AIM_MS, [], [])
            commands.append((whole, [python, "-c", PREDICT, str(path), str(picture)]))
            commands.append((loaded, [python, "-c", LOAD, str(path), str(picture)]))
        for repeat in range(repeats + 1):
            for times, command in commands:
                wall_s, cpu_s = run_once(command, times.aim_ms == LOAD_AIM_MS)
                if repeat:
                    times.wall_s.append(wall_s)
                    times.cpu_s.append(cpu_s)
    return [times for times, _ in commands]


def draw_picture(path: Path, folder: Path) -> Path:
    """Write a PNG that the network at `path` takes as it is."""
    spec = read_qnz(path).card.preprocess
    picture = folder / f"{path.stem}.png"
    Image.fromarray(draw_vectors(spec.size, spec.channels, 1)[0].squeeze()).save(picture)
    return picture


def run_once(command: list[str], says: bool) -> tuple[float, float]:
    """Run a command to its end and return seconds by the clock and of CPU time; what it says itself if it does."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
    if says:
        own_wall_s, own_cpu_s = json.loads(said)
        return own_wall_s, own_cpu_s
    return wall_s, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
