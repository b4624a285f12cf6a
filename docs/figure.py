"""The README's picture: accuracy against size, as SVG that is the same on every machine."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 20, 56
_X = (1e5, 8e7)  # bytes
_Y = (88.0, 98.0)  # per cent
_TICKS_X = ((1e5, "100 kB"), (1e6, "1 MB"), (1e7, "10 MB"))
_LOOKS = {
    "ours": ("#0b6e4f", "our measurements (bytes of the file)"),
    "published": ("#8a8a8a", "publications (4 bytes × their parameters)"),
    "claimed": ("#c1440e", "the paper's claim, another protocol"),
}


class Point(NamedTuple):
    """A network in the picture: bytes, accuracy in per cent, and a key of `_LOOKS`."""

    name: str
    size_bytes: float
    accuracy: float
    look: str
    shift: tuple[float, float] = (0, 0)


def accuracy_against_size(points: Sequence[Point]) -> str:
    """Return the SVG document. Raises ValueError for a point outside the axes."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12" role="img" aria-label="CIFAR-10 accuracy against size">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        *_axes(),
        *(part for point in points for part in _mark(point)),
        *_legend(points),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(size_bytes: float) -> float:
    low, high = map(math.log10, _X)
    return _LEFT + (math.log10(size_bytes) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)


def _y(accuracy: float) -> float:
    return _HEIGHT - _BOTTOM - (accuracy - _Y[0]) / (_Y[1] - _Y[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _axes() -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for accuracy in range(int(_Y[0]), int(_Y[1]) + 1, 2):
        y = _y(accuracy)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{accuracy}%</text>')
    for size_bytes, label in _TICKS_X:
        x = _x(size_bytes)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    title = "CIFAR-10 test accuracy against size of the weights"
    parts.append(f'<text x="{(_LEFT + right) / 2:.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{title}</text>')
    return parts


def _mark(point: Point) -> list[str]:
    if not (_X[0] <= point.size_bytes <= _X[1] and _Y[0] <= point.accuracy <= _Y[1]):
        raise ValueError(f"{point.name} lies outside the picture: {point.size_bytes:,} bytes, {point.accuracy}%")
    x, y = _x(point.size_bytes), _y(point.accuracy)
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
