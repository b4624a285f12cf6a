"""A drawn data set for the demo: ten shapes and textures in cluttered scenes.

Place, size, rotation and colours are random, and so are background, distractors, lighting and
noise, so the pixels' colours tell nothing of the class: a linear classifier stays near chance,
a small convolutional network learns it in minutes.

    python -m quicknet.data.scenes FOLDER --per-class 500 --seed 0
"""

from __future__ import annotations

import argparse
import io
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from quicknet.core.errors import DataError, ToolError, program
from quicknet.core.files import write_advice

GENERATOR = 1  # counts up whenever the same settings give other pixels
_RECORD = "scenes.json"
_FINE = 3  # shapes are drawn at this multiple of the size, then averaged: smooth edges

Rng = np.random.Generator
Points = list[tuple[float, float]]
# a shape of radius about 1 around the origin: polygons, each filled (True) or cut out again (False)
Shape = list[tuple[Points, bool]]


def draw_scenes(folder: str | Path, per_class: int, seed: int, size: int = 32) -> Path:
    """Write class folders of PNG scenes: `train/` with `per_class` images of each of ten classes,
    `val/` with a tenth and `test/` with a fifth of that (at least one), and return the folder.

    The same arguments draw the same pixels; a folder that holds just these is left as it is.
    The folder appears whole or not at all. Raises DataError where it holds anything else or
    the arguments are out of range, ToolError for the disk.
    """
    target = Path(folder)
    record = {"generator": GENERATOR, "per_class": per_class, "seed": seed, "size": size}
    if not (1 <= per_class <= 100_000 and 16 <= size <= 256 and 0 <= seed < 2**63):
        raise DataError("scenes need per_class in 1..100,000, size in 16..256 and seed from 0")
    if _holds(target, record):
        return target
    workdir = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workdir = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        for number, (split, count) in enumerate(_counts(per_class).items()):
            _draw_split(workdir / split, number, count, seed, size)
        (workdir / _RECORD).write_text(json.dumps(record))
        workdir.chmod(0o755)
        workdir.rename(target)
    except OSError as error:
        raise ToolError(
            f"cannot write the scenes to {target} ({error.strerror or error}); {write_advice(error)}"
        ) from error
    finally:
        if workdir is not None:
            shutil.rmtree(workdir, ignore_errors=True)
    return target


def _counts(per_class: int) -> dict[str, int]:
    return {"train": per_class, "val": max(per_class // 10, 1), "test": max(per_class // 5, 1)}


def _holds(target: Path, record: dict[str, int]) -> bool:
    """Tell whether the scenes are there already. Raises DataError where something else is."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        existing = json.loads((target / _RECORD).read_text())
    except (OSError, ValueError):
        existing = None
    if existing != record:
        raise DataError(f"{target} exists and holds something else; name a new folder or delete it")
    return True


def _draw_split(folder: Path, number: int, count: int, seed: int, size: int) -> None:
    for label, name in enumerate(SHAPES):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            rng = np.random.default_rng((seed, number, label, index))
            blob = io.BytesIO()
            Image.fromarray(draw_scene(name, rng, size)).save(blob, "PNG", compress_level=1)
            (folder / name / f"{index:05}.png").write_bytes(blob.getvalue())


def draw_scene(name: str, rng: Rng, size: int = 32) -> NDArray[np.uint8]:
    """Return one scene (size, size, 3) with the shape `name` of `SHAPES` in it."""
    canvas = _background(rng, size)
    canvas = _distractors(canvas, rng, size)
    radius = rng.uniform(0.32, 0.44) * size
    slack = size / 2 - 0.8 * radius
    centre = (size / 2 + rng.uniform(-slack, slack), size / 2 + rng.uniform(-slack, slack))
    mask = _mask(SHAPES[name](rng), centre, radius, rng.uniform(0, 2 * math.pi), size)
    colour = _contrasting(canvas, mask, rng)
    opacity = rng.uniform(0.85, 1.0) * mask[..., None]
    canvas = canvas + (colour - canvas) * opacity
    canvas = canvas * _lighting(rng, size) + rng.normal(0, rng.uniform(2, 9), (size, size, 3))
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _background(rng: Rng, size: int) -> NDArray[np.float64]:
    """Smooth colour patches: a few random pixels scaled up."""
    cells = int(rng.integers(2, 6))
    patches = rng.normal(rng.uniform(60, 195, 3), rng.uniform(10, 40), (cells, cells, 3))
    image = Image.fromarray(np.clip(patches, 0, 255).astype(np.uint8))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), np.float64)


def _distractors(canvas: NDArray[np.float64], rng: Rng, size: int) -> NDArray[np.float64]:
    """Scraps of lines, dots and corners, each smaller than any shape."""
    image = Image.fromarray(canvas.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 9))):
        x, y = rng.uniform(0, size, 2)
        reach = rng.uniform(0.04, 0.14) * size
        red, green, blue = (int(level) for level in rng.integers(0, 256, 3))
        ink = (red, green, blue)
        kind = int(rng.integers(3))
        if kind == 0:
            angle = rng.uniform(0, math.pi)
            dx, dy = 2 * reach * math.cos(angle), 2 * reach * math.sin(angle)
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=ink, width=int(rng.integers(1, 3)))
        elif kind == 1:
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=ink)
        else:
            corners = np.array([x, y]) + rng.uniform(-1.3 * reach, 1.3 * reach, (3, 2))
            draw.polygon([(float(a), float(b)) for a, b in corners], fill=ink)
    return np.asarray(image, np.float64)


def _mask(shape: Shape, centre: tuple[float, float], radius: float, angle: float, size: int) -> NDArray[np.float64]:
    """Return the coverage of each pixel by the turned and scaled shape, (size, size) in 0..1."""
    image = Image.new("L", (size * _FINE, size * _FINE))
    draw = ImageDraw.Draw(image)
    cos, sin = radius * _FINE * math.cos(angle), radius * _FINE * math.sin(angle)
    x0, y0 = centre[0] * _FINE, centre[1] * _FINE
    for points, filled in shape:
        turned = [(x0 + cos * x - sin * y, y0 + sin * x + cos * y) for x, y in points]
        draw.polygon(turned, fill=255 if filled else 0)
    return np.asarray(image.reduce(_FINE), np.float64) / 255


def _contrasting(canvas: NDArray[np.float64], mask: NDArray[np.float64], rng: Rng) -> NDArray[np.float64]:
    """Return a colour that differs clearly from what lies around the shape."""
    around = (canvas * mask[..., None]).sum((0, 1)) / max(mask.sum(), 1)
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.linalg.norm(colour - around) > 120:
            return colour


def _lighting(rng: Rng, size: int) -> NDArray[np.float64]:
    """Return a slope of brightness over the image, (size, size, 1) around 1."""
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.35)
    axis = np.linspace(-1, 1, size)
    slope = math.cos(angle) * axis[:, None] + math.sin(angle) * axis
    return (rng.uniform(0.8, 1.15) + strength * slope / 1.4)[..., None]


# --- the shapes ---------------------------------------------------------------------------


def _circle(radius: float = 1.0, x: float = 0.0) -> Points:
    steps = [2 * math.pi * i / 40 for i in range(40)]
    return [(x + radius * math.cos(t), radius * math.sin(t)) for t in steps]


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _star(rng: Rng) -> Shape:
    radii = [1.1 if i % 2 == 0 else 0.4 for i in range(10)]
    return [([(r * math.cos(math.pi * i / 5), r * math.sin(math.pi * i / 5)) for i, r in enumerate(radii)], True)]


def _triangle(rng: Rng) -> Shape:
    return [([(math.cos(2 * math.pi * i / 3), math.sin(2 * math.pi * i / 3)) for i in range(3)], True)]


def _arrow(rng: Rng) -> Shape:
    head = [(1.1, 0.0), (0.25, 0.75), (0.25, -0.75)]
    return [(head, True), (_box(-1.1, -0.22, 0.3, 0.22), True)]


def _cross(rng: Rng) -> Shape:
    width = rng.uniform(0.18, 0.28)
    return [(_box(-1, -width, 1, width), True), (_box(-width, -1, width, 1), True)]


def _stripes(rng: Rng) -> Shape:
    return [(_box(-0.85, y - 0.15, 0.85, y + 0.15), True) for y in (-0.75, -0.25, 0.25, 0.75)]


def _checker(rng: Rng) -> Shape:
    edge = 1.6 / 4
    cells = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    return [
        (_box(-0.8 + edge * i, -0.8 + edge * j, -0.8 + edge * (i + 1), -0.8 + edge * (j + 1)), True) for i, j in cells
    ]


def _spiral(rng: Rng) -> Shape:
    turn = 1 if rng.random() < 0.5 else -1
    angles = [0.5 + 9.5 * i / 60 for i in range(61)]
    outer = [((0.1 * a + 0.1) * math.cos(a), turn * (0.1 * a + 0.1) * math.sin(a)) for a in angles]
    inner = [((0.1 * a - 0.14) * math.cos(a), turn * (0.1 * a - 0.14) * math.sin(a)) for a in angles]
    return [(outer + inner[::-1], True)]


SHAPES: dict[str, Callable[[Rng], Shape]] = {
    "arrow": _arrow,
    "checker": _checker,
    "crescent": lambda rng: [(_circle(), True), (_circle(0.85, 0.45), False)],
    "cross": _cross,
    "disc": lambda rng: [(_circle(), True)],
    "ring": lambda rng: [(_circle(), True), (_circle(rng.uniform(0.5, 0.7)), False)],
    "spiral": _spiral,
    "star": _star,
    "stripes": _stripes,
    "triangle": _triangle,
}


@program
def main(arguments: list[str] | None = None) -> None:
    """Draw scenes from the command line."""
    parser = argparse.ArgumentParser(prog="python -m quicknet.data.scenes", description="Draw ten classes of pictures.")
    parser.add_argument("folder", help="The folder to write: train/CLASS/ and test/CLASS/.")
    parser.add_argument("--per-class", type=int, default=500, metavar="N", help="Draw N pictures per class. [500]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="Start random numbers from N. [0]")
    parser.add_argument("--size", type=int, default=32, metavar="N", help="Draw pictures of N by N pixels. [32]")
    options = parser.parse_args(arguments)
    print(draw_scenes(options.folder, options.per_class, options.seed, options.size))


if __name__ == "__main__":
    sys.exit(main())
