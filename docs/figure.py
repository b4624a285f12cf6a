"""The pictures of README and docs, as SVG that is the same on every machine but for the places of names."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 20, 56
_DPI, _FONT_SIZE, _DESCENT = 100, 12, 3  # pixels an inch; pixels of the font and below its baseline
_MARK = 7  # pixels from the middle of a mark to where a label may begin
_FAR = 14  # pixels from a mark to its label from which a line joins them
_LOOKS = {
    "ours": ("#0b6e4f", "our measurements (bytes of the file)"),
    "published": ("#8a8a8a", "publications (4 bytes × their parameters)"),
    "claimed": ("#c1440e", "the paper's claim, another protocol"),
}
_CURVES = ("#0b6e4f", "#1f5fa8", "#8a5a00", "#7a3b8f", "#444444", "#b02a5b")
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "12 3")


class Point(NamedTuple):
    """A network in the picture: bytes, accuracy in per cent, and a key of `_LOOKS`."""

    name: str
    size_bytes: float
    accuracy: float
    look: str


class Curve(NamedTuple):
    """A training: its name, and accuracy in per cent after each epoch from the first."""

    name: str
    accuracies: Sequence[float]


class _Axes(NamedTuple):
    """Ranges and labels; x is logarithmic where `log` says so, y is in per cent."""

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_ticks: Sequence[tuple[float, str]]
    log: bool = False

    def at_x(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (*self.x, value))
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def at_y(self, accuracy: float) -> float:
        low, high = self.y
        return _HEIGHT - _BOTTOM - (accuracy - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def holds(self, x: float, y: float) -> bool:
        return self.x[0] <= x <= self.x[1] and self.y[0] <= y <= self.y[1]


def accuracy_against_size(points: Sequence[Point]) -> str:
    """Return the SVG document. Raises ValueError for a point outside the axes."""
    ticks = ((1e5, "100 kB"), (1e6, "1 MB"), (1e7, "10 MB"))
    axes = _Axes("CIFAR-10 test accuracy against size of the weights", (4e4, 8e7), (88.0, 98.0), ticks, log=True)
    marks = [_mark(axes, point) for point in points]
    return _document(axes, [*_labels(axes, points), *marks, *_legend(points)])


def without_places(picture: str) -> str:
    """Return a picture without where its names lie and the lines to them.

    Which of two equally good places textalloc takes depends on the CPU's rounding.
    """
    return re.sub(r'(<text) x="[^"]*" y="[^"]*"|<line [^>]*stroke="#aaaaaa"/>\n', r"\1", picture)


def training_curves(curves: Sequence[Curve], claim: tuple[int, float]) -> str:
    """Return the SVG document; `claim`, an epoch and what the paper says of it, is a ring."""
    most = max([claim[0], *(len(curve.accuracies) for curve in curves)])
    ticks = [(float(epoch), str(epoch)) for epoch in range(0, most + 1, 20)]
    axes = _Axes("accuracy on val after each epoch", (0.0, most + 2.0), (70.0, 100.0), ticks)
    parts = [_shape("claimed", axes.at_x(claim[0]), axes.at_y(claim[1]))]
    text = f"the paper: {claim[1]:g}% within {claim[0]} epochs"
    parts.append(f'<text x="{axes.at_x(claim[0]) - 10:.1f}" y="{axes.at_y(claim[1]) + 20:.1f}">{text}</text>')
    for number, curve in enumerate(curves):
        colour, dashes = _CURVES[number % len(_CURVES)], _DASHES[number % len(_DASHES)]
        shown = [(x, y) for x, y in enumerate(curve.accuracies, 1) if axes.holds(x, y)]
        path = " ".join(f"{axes.at_x(x):.1f},{axes.at_y(y):.1f}" for x, y in shown)
        style = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'
        parts.append(f'<polyline points="{path}" {style}/>')
        y = _HEIGHT - _BOTTOM - 18 - 20 * (len(curves) - 1 - number)
        parts.append(f'<line x1="{_LEFT + 12}" y1="{y - 4}" x2="{_LEFT + 42}" y2="{y - 4}" {style}/>')
        parts.append(f'<text x="{_LEFT + 50}" y="{y}">{html.escape(curve.name)}</text>')
    return _document(axes, parts)


def _document(axes: _Axes, body: Sequence[str]) -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{axes.title}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        *_grid(axes),
        *body,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _grid(axes: _Axes) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    low, high = map(int, axes.y)
    parts = []
    for accuracy in range(low, high + 1, 2 if high - low <= 10 else 5):
        y = axes.at_y(accuracy)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{accuracy}%</text>')
    for value, label in axes.x_ticks:
        x = axes.at_x(value)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{(_LEFT + right) / 2:.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{axes.title}</text>')
    return parts


def _mark(axes: _Axes, point: Point) -> str:
    if not axes.holds(point.size_bytes, point.accuracy):
        raise ValueError(f"{point.name} lies outside the picture: {point.size_bytes:,} bytes, {point.accuracy}%")
    return _shape(point.look, axes.at_x(point.size_bytes), axes.at_y(point.accuracy))


def _labels(axes: _Axes, points: Sequence[Point]) -> list[str]:
    """Return the names of `points`, placed by textalloc where they overlap nothing, with lines to their points.

    It works in the picture's own pixels, y upwards. Viewers have other fonts than matplotlib's, which is a wide one.
    """
    import textalloc
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(_WIDTH / _DPI, _HEIGHT / _DPI), dpi=_DPI)
    area = canvas.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(0, _HEIGHT))
    points = sorted(points, key=lambda point: point.look != "ours")  # those get the nearest places
    at_x = [axes.at_x(point.size_bytes) for point in points]
    at_y = [_HEIGHT - axes.at_y(point.accuracy) for point in points]
    obstacles = [_box(_LEFT, _BOTTOM, _WIDTH - 4, _HEIGHT - 4), *_legend_lines(points)]
    obstacles += [_box(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in zip(at_x, at_y, strict=True)]
    texts: Any
    _, _, texts, _ = textalloc.allocate(
        area,
        at_x,
        at_y,
        [point.name for point in points],
        x_lines=[list(xs) for xs, _ in obstacles],
        y_lines=[list(ys) for _, ys in obstacles],
        textsize=_FONT_SIZE * 72 / _DPI,
        fontweight=["bold" if point.look == "ours" else "normal" for point in points],
        min_distance=0.02,
        max_distance=0.25,
        margin=0.002,
        draw_lines=True,  # on this canvas; its other options for lines need it
        avoid_label_lines_overlap=True,
        avoid_crossing_label_lines=True,
        nbr_candidates=1000,
        auto_ha=False,
    )
    canvas.draw_without_rendering()
    rows = zip(points, texts, at_x, at_y, strict=True)
    return [part for point, text, x, y in rows for part in _label(point, text.get_window_extent(), (x, _HEIGHT - y))]


def _label(point: Point, box: Any, mark: tuple[float, float]) -> list[str]:
    """Return the name of a point whose text fills `box` (y upwards), and a line to its `mark` where that is far."""
    left, right, top, bottom = (round(v) for v in (box.x0, box.x1, _HEIGHT - box.y1, _HEIGHT - box.y0))
    weight = ' font-weight="bold"' if point.look == "ours" else ""
    parts = [f'<text x="{left}" y="{bottom - _DESCENT}"{weight}>{html.escape(point.name)}</text>']
    near = (min(max(mark[0], left), right), min(max(mark[1], top), bottom))
    if math.dist(near, mark) > _FAR:
        ends = f'x1="{mark[0]:.0f}" y1="{mark[1]:.0f}" x2="{near[0]:.0f}" y2="{near[1]:.0f}"'
        parts.append(f'<line {ends} stroke="#aaaaaa"/>')
    return parts


_Line = tuple[Sequence[float], Sequence[float]]  # x and y of its corners


def _box(left: float, bottom: float, right: float, top: float) -> _Line:
    return (left, right, right, left, left), (bottom, bottom, top, top, bottom)


def _legend_lines(points: Sequence[Point]) -> list[_Line]:
    """Return lines across the legend, so that no label lies on it."""
    rows = len({point.look for point in points})
    top, right = _HEIGHT - _TOP - 4, _LEFT + 320
    return [((_LEFT, right), (top - 10 * step, top - 10 * step)) for step in range(2 * rows + 1)]


def _shape(look: str, x: float, y: float) -> str:
    """A square, a disc or a ring: told apart without their colours too."""
    colour = _LOOKS[look][0]
    if look == "ours":
        return f'<rect x="{x - 6:.1f}" y="{y - 6:.1f}" width="12" height="12" fill="{colour}"/>'
    fill = f'fill="none" stroke="{colour}" stroke-width="2"' if look == "claimed" else f'fill="{colour}"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {fill}/>'


def _legend(points: Sequence[Point]) -> list[str]:
    shown = [look for look in _LOOKS if any(point.look == look for point in points)]
    x, top = _LEFT + 18, _TOP + 18
    parts = []
    for row, look in enumerate(shown):
        y = top + 20 * row
        parts.append(_shape(look, x, y))
        parts.append(f'<text x="{x + 14}" y="{y + 4}">{html.escape(_LOOKS[look][1])}</text>')
    return parts
