"""The pictures of README and docs, as SVG that is the same on every machine."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 20, 56
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
    shift: tuple[float, float] = (0, 0)


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
    axes = _Axes("CIFAR-10 test accuracy against size of the weights", (1e5, 8e7), (88.0, 98.0), ticks, log=True)
    marks = [part for point in points for part in _mark(axes, point)]
    return _document(axes, [*marks, *_legend(points)])


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


def _mark(axes: _Axes, point: Point) -> list[str]:
    if not axes.holds(point.size_bytes, point.accuracy):
        raise ValueError(f"{point.name} lies outside the picture: {point.size_bytes:,} bytes, {point.accuracy}%")
    x, y = axes.at_x(point.size_bytes), axes.at_y(point.accuracy)
    text_x, text_y = x + 10 + point.shift[0], y + 4 + point.shift[1]
    weight = ' font-weight="bold"' if point.look == "ours" else ""
    label = f'<text x="{text_x:.1f}" y="{text_y:.1f}"{weight}>{html.escape(point.name)}</text>'
    return [_shape(point.look, x, y), label]


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
