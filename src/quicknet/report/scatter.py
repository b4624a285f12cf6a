"""Marks in a plane as inline SVG: what is measured here filled, what is published hollow, each with its own front."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from quicknet.report.svg import Axes, ticks

_WIDTH, _HEIGHT = 720, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 24, 14, 40
_RADIUS = 5
_LETTER, _LINE = 6.9, 13  # pixels of a letter and of a line of the labels
_PLACES = tuple((r, a) for r in (9, 16, 24, 34, 46) for a in (0, 180, 45, 135, 315, 225, 90, 270))  # near, then far
_BESIDE = 13  # pixels from a mark to its name from which a line joins them


@dataclass(frozen=True, slots=True)
class Mark:
    """A network at (x, y), x above 0, y a share of 1; `ours` where y was measured here."""

    name: str
    x: float
    y: float
    ours: bool


def scatter_chart(marks: Sequence[Mark], axes: Axes) -> str:
    """Return an <svg> over a logarithmic x, "" without marks.

    A line joins the marks of each kind of which no other of that kind has both a smaller x and a
    larger y (the Pareto front). A name stands once for each kind, at the highest of its marks; where it finds no
    place beside that, it is left to the mark's title.
    """
    if not marks:
        return ""
    scale = _Scale(marks)
    steps = {
        kind: _steps(scale, [m for m in marks if m.ours is ours]) for kind, ours in ((" theirs", False), ("", True))
    }
    fronts = [_front(corners, kind) for kind, corners in steps.items()]
    labels = _labels(scale, marks, [side for corners in steps.values() for side in pairwise(corners)])
    body = "".join([*_grid(scale, axes), *fronts, *labels, *(_shape(scale, mark) for mark in marks)])
    described = "; ".join(f"{m.name} {100 * m.y:.2f}% {'ours' if m.ours else 'published'}" for m in marks)
    label = html.escape(f"{axes.title}: {axes.y} over {axes.x}; {described}", quote=True)
    keys = [_key(name, kind) for name, kind in (("measured here", ""), ("published", " hollow"))]
    return (
        f'<figure class="chart"><figcaption>{html.escape(axes.title)}{"".join(keys)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{body}</svg></figure>'
    )


def front(marks: Sequence[Mark]) -> list[Mark]:
    """Return the marks that no other has both a smaller x and a larger y than, by x.

    >>> [m.name for m in front([Mark("a", 1, 0.5, True), Mark("b", 2, 0.4, True), Mark("c", 3, 0.6, True)])]
    ['a', 'c']
    """
    kept: list[Mark] = []
    for mark in sorted(marks, key=lambda m: (m.x, -m.y)):
        if not kept or mark.y > kept[-1].y:
            kept.append(mark)
    return kept


class _Scale:
    """Data to pixels; a twentieth of room on each side."""

    def __init__(self, marks: Sequence[Mark]) -> None:
        logs, ys = [math.log10(mark.x) for mark in marks], [mark.y for mark in marks]
        across, up = max(logs) - min(logs) or 1.0, max(ys) - min(ys) or 0.02
        self.low, self.high = min(logs) - across / 20, max(logs) + across / 20
        self.y_low, self.y_high = min(ys) - up / 20, max(ys) + up / 20

    def x(self, value: float) -> float:
        return _LEFT + (math.log10(value) - self.low) / (self.high - self.low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (_HEIGHT - _TOP - _BOTTOM)

    def at(self, mark: Mark) -> tuple[float, float]:
        return self.x(mark.x), self.y(mark.y)


def _grid(scale: _Scale, axes: Axes) -> Iterator[str]:
    for value in ticks(scale.y_low, scale.y_high, 8):
        y = scale.y(value)
        yield f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * value:.4g}%</text>'
    for value in _log_ticks(scale.low, scale.high):
        x = scale.x(value)
        yield f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_HEIGHT - _BOTTOM}"/>'
        yield f'<text x="{x:.1f}" y="{_HEIGHT - 22}" text-anchor="middle">{_number(value)}</text>'
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield f'<text x="{middle}" y="{_HEIGHT - 5}" text-anchor="middle">{html.escape(axes.x)}</text>'
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    turned = f'x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})"'
    yield f"<text {turned}>{html.escape(axes.y)}</text>"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten within 10^low..10^high; over two decades the powers alone.

    Where these are fewer than two, round numbers that are equally far apart.

    >>> _log_ticks(math.log10(1.1), math.log10(1.9))
    [1.2, 1.4, 1.6, 1.8]
    """
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    values = [f * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for f in factors]
    inside = [value for value in values if low <= math.log10(value) <= high]
    return inside if len(inside) > 1 else ticks(10.0**low, 10.0**high)


_Point = tuple[float, float]


def _steps(scale: _Scale, marks: Sequence[Mark]) -> list[_Point]:
    """Return the corners of a front: between two of its marks nothing is known but the lower one."""
    steps: list[_Point] = []
    for x, y in (scale.at(mark) for mark in front(marks)):
        steps += [(x, steps[-1][1]), (x, y)] if steps else [(x, y)]
    return steps


def _front(corners: Sequence[_Point], kind: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    return f'<polyline class="front{kind}" points="{path}"/>' if len(corners) > 1 else ""


def _shape(scale: _Scale, mark: Mark) -> str:
    x, y = scale.at(mark)
    kind = "ours" if mark.ours else "published"
    title = html.escape(f"{mark.name}: {100 * mark.y:.2f}% ({kind}) at {mark.x:,.4g}")
    hollow = "" if mark.ours else " hollow"
    return f'<circle class="mark{hollow}" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}"><title>{title}</title></circle>'


def _key(name: str, kind: str) -> str:
    circle = f'<circle class="mark{kind}" cx="13" cy="6" r="4"/>'
    return f'<span class="key"><svg viewBox="0 0 26 12" aria-hidden="true">{circle}</svg>{name}</span>'


_Box = tuple[float, float, float, float]  # left, top, right, bottom


def _labels(scale: _Scale, marks: Sequence[Mark], sides: Sequence[tuple[_Point, _Point]]) -> Iterator[str]:
    """Yield the names, ours first, each at the first of its places where it covers no mark, name or front.

    A line joins a name to its mark where that is not beside it.
    """
    taken = [(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in map(scale.at, marks)]
    taken += [(min(a[0], b[0]) - 1, min(a[1], b[1]) - 1, max(a[0], b[0]) + 1, max(a[1], b[1]) + 1) for a, b in sides]
    highest: dict[tuple[str, bool], Mark] = {}
    for mark in sorted(marks, key=lambda m: (not m.ours, -m.y)):
        highest.setdefault((mark.name, mark.ours), mark)
    for mark in highest.values():
        at = scale.at(mark)
        box = next((box for box in _boxes(at, len(mark.name)) if _is_free(box, taken)), None)
        if box is None:
            continue
        taken.append(box)
        near = (min(max(at[0], box[0]), box[2]), min(max(at[1], box[1]), box[3]))
        if math.dist(near, at) > _BESIDE:
            ends = f'x1="{at[0]:.1f}" y1="{at[1]:.1f}" x2="{near[0]:.1f}" y2="{near[1]:.1f}"'
            yield f'<line class="axis" {ends}/>'
        yield f'<text x="{box[0]:.1f}" y="{box[3] - 3:.1f}">{html.escape(mark.name)}</text>'


def _boxes(at: tuple[float, float], letters: int) -> Iterator[_Box]:
    wide = _LETTER * letters
    for distance, degrees in _PLACES:
        x = at[0] + distance * math.cos(math.radians(degrees))
        y = at[1] - distance * math.sin(math.radians(degrees))
        left = x if degrees in (0, 45, 315) else x - wide if degrees in (135, 180, 225) else x - wide / 2
        yield left, y - _LINE / 2, left + wide, y + _LINE / 2


def _is_free(box: _Box, taken: Sequence[_Box]) -> bool:
    inside = box[0] >= _LEFT and box[2] <= _WIDTH and box[1] >= _TOP - 8 and box[3] <= _HEIGHT - _BOTTOM
    apart = (box[2] <= t[0] or t[2] <= box[0] or box[3] <= t[1] or t[3] <= box[1] for t in taken)
    return inside and all(apart)
