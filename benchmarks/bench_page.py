"""The page of quicknet_s in headless Chromium, and resizing in C against Pillow's.

    python benchmarks/bench_page.py [--model quicknet_s.cifar10] [--repeats 7] [--seconds 3] [--json] [--record]

Aims: from opening the page to its first answer at most 500 ms; the network alone in the page's worker at least 700
images/s; the camera's path (frame to pixels to network to the page) at 640 x 480 at least 30 frames/s; resizing in C
at least as fast as Pillow.

Opening: a new browser each time, from the start of the navigation to "Ready", and from a picture's choice to its
answer, which the self-test's 16 images share the worker with; the sum counts. The camera is Chromium's own test
picture at 60 frames/s, so 60 is the most. Resizing: a drawn picture to 32 x 32 and to 64 x 64, with Pillow and by the
engine in turn, one thread, both from decoded RGB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from quicknet.core.card import PreprocessSpec
from quicknet.core.machine import machine_card
from quicknet.engine import resize
from quicknet.image import preprocess
from quicknet.image.preprocess import load_image
from quicknet.inference.shipped import locate
from quicknet.measure.timing import burst, percentile
from quicknet.qnz.file import read_qnz
from quicknet.report.page import render_page
from quicknet.study.records import write_record

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import browsing  # noqa: E402

FIRST_AIM_MS, NETWORK_AIM, CAMERA_AIM = 500.0, 700.0, 30.0
CAMERA = ["--use-fake-device-for-media-stream=fps=60", "--use-fake-ui-for-media-stream"]
SIZES = ((640, 480, 32), (640, 480, 64), (4032, 3024, 64))
BURST_S = 0.1
NETWORK = """(() => {
  const image = new Uint8Array(classifier.side ** 2 * classifier.channels).map((_, i) => (i * 97) % 256);
  const times = [];
  for (const end = performance.now() + SECONDS * 1000; performance.now() < end; ) {
    const before = performance.now();
    for (let i = 0; i < 10; i++) classifier.logits(image);
    times.push((performance.now() - before) / 10);
  }
  return times.slice(times.length >> 2);
})()"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="quicknet_s.cifar10", help="a .qnz, or the name of shipped weights")
    parser.add_argument("--repeats", type=int, default=7, help="browsers that open the page")
    parser.add_argument("--seconds", type=float, default=3, help="of the network alone, and of the camera")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="write results/NNNN-page")
    options = parser.parse_args()
    machine, fields = machine_card(), measure(options.model, options.repeats, options.seconds)
    if options.record:
        command = f"python benchmarks/bench_page.py --model {options.model} --repeats {options.repeats}"
        write_record(ROOT / "results", "page", f"{command} --seconds {options.seconds:g}", fields)
    if options.json:
        print(json.dumps({**fields, "machine": machine}, indent=1))
        return
    for row in fields["rows"]:
        aim = "" if row["aim"] is None else f", aim {row['aim']}"
        spread = f"n = {row['n']}, {row['best']:.1f} to {row['worst']:.1f}{aim}"
        print(f"{row['name']:48} {row['median']:9.1f} {row['unit']} ({spread})")
    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_1min']}")


def measure(model: str, repeats: int, seconds: float) -> dict[str, Any]:
    rows = [resizing(*sizes) for sizes in SIZES]
    if browsing.chromium() is None:
        print("bench_page: no Playwright or no Chromium here, so the page itself is not measured", file=sys.stderr)
    else:
        path = Path(model) if model.endswith(".qnz") else locate(model, "file", True)
        rows = [*in_browser(path, repeats, seconds), *rows]
    return {"model": model, "rows": rows}


def row(name: str, values: list[float], unit: str, aim: str | None, higher: bool) -> dict[str, Any]:
    """Return a line of the table: the median, which neighbours on the same cores lower, the best value, the worst."""
    worst, best = sorted((min(values), max(values)), reverse=not higher)
    spread = {"best": best, "worst": worst}
    return {"name": name, "n": len(values), "median": statistics.median(values), **spread, "unit": unit, "aim": aim}


def in_browser(path: Path, repeats: int, seconds: float) -> list[dict[str, Any]]:
    """Return the rows of the page: opening, the network alone, the camera."""
    file = read_qnz(path)
    page = render_page(file.blob, file.card)
    opened, ready, answered = [], [], []
    with tempfile.TemporaryDirectory(prefix="quicknet-") as folder:
        place = Path(folder)
        picture = place / "picture.png"
        Image.fromarray(drawn(640, 480)).save(picture)
        for repeat in range(repeats + 1):
            (place / str(repeat)).mkdir()
            said = browsing.browse(place / str(repeat), page, files=[str(picture)], at_once=True)["said"]
            times = {text.split()[0].rstrip(":"): ms for ms, text in said}
            if repeat:  # the first warms the disk
                ready.append(times["Ready"])
                answered.append(times["Classified"] - times["Classifying"])
                opened.append(ready[-1] + answered[-1])
        code = NETWORK.replace("SECONDS", str(seconds))
        times_ms = browsing.browse(place, page, in_worker=code)["in_worker"]
        said = browsing.browse(place, page, camera=True, camera_s=seconds, flags=CAMERA)["said"]
    frames = [float(text.split()[0]) for _, text in said if text.endswith("frames/s")]
    return [
        row("page opened to first answer", opened, "ms", f"at most {FIRST_AIM_MS:g}", False),
        row("  opened to ready", ready, "ms", None, False),
        row("  a PNG of 640 x 480 to its answer", answered, "ms", None, False),
        row(
            "network alone in the worker", [1e3 / ms for ms in times_ms], "images/s", f"at least {NETWORK_AIM:g}", True
        ),
        row("camera at 640 x 480", frames, "frames/s", f"at least {CAMERA_AIM:g}", True),
    ]


def resizing(width: int, height: int, size: int) -> dict[str, Any]:
    """Return how many times as fast as Pillow the engine is, one value a turn."""
    spec, pixels = PreprocessSpec(size=size), drawn(width, height)
    setattr(preprocess, "scaled_by_engine", lambda image, spec: None)  # noqa: B010  # else it would scale in both
    assert np.array_equal(load_image(pixels, spec), resize.prepare(pixels, spec))
    ratios = []
    for _ in range(10):
        pillow = burst(lambda: load_image(pixels, spec), BURST_S, time.perf_counter)
        engine = burst(lambda: resize.prepare(pixels, spec), BURST_S, time.perf_counter)
        ratios.append(percentile(pillow, 0.5) / percentile(engine, 0.5))
    return row(f"resize {width} x {height} to {size}, C over Pillow", ratios, "times as fast", "at least 1", True)


def drawn(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


if __name__ == "__main__":
    main()
