"""Small charts as inline SVG: text in, text out; colours come from the page's style."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 400, 220  # small, so that the text is legible on a phone
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 20, 10, 34
_MOST_POINTS = 1000


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: its name and (x, y) points."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Axes:
    """What the axes say; `percent` writes y as per cent, `from_zero` starts it at 0."""

    title: str
    x: str
    y: str
    percent: bool = False
    from_zero: bool = False


def line_chart(lines: Sequence[Line], axes: Axes) -> str:
    """Return an <svg> of up to four curves over whole-numbered x, "" where no point is finite.

    Each curve also has its own dashes, for readers who do not see the colours.
    """
    kept = [Line(line.name, _finite(line.points)) for line in lines]
    kept = [line for line in kept if line.points]
    if not kept:
        return ""
    points = [point for line in kept for point in line.points]
    x_low, x_high = _range([x for x, _ in points])
    y_low, y_high = _range([y for _, y in points] + ([0.0] if axes.from_zero else []))
    scale = _Scale(x_low, x_high, y_low, y_high)
    body = [_grid(scale, axes)]
    for index, line in enumerate(kept):
        path = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in line.points)
        if len(line.points) == 1:
            x, y = line.points[0]
            body.append(f'<circle class="dot c{index}" cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="4"/>')
        body.append(f'<polyline class="curve c{index}" points="{path}"/>')
    names = ", ".join(f"{line.name} ends at {_number(line.points[-1][1], axes.percent)}" for line in kept)
    return _figure(axes, "".join(body), names, [line.name for line in kept] if len(kept) > 1 else [])


def reliability_chart(bins: Sequence[tuple[int, float, float]], axes: Axes) -> str:
    """Return an <svg> of accuracy over confidence: (images, confidence, accuracy) per equal bin.

    A bar on the diagonal is a model whose confidence is its accuracy.
    """
    if not bins or not sum(n for n, _, _ in bins):
        return ""
    scale = _Scale(0.0, 1.0, 0.0, 1.0)
    width = (scale.x(1.0) - scale.x(0.0)) / len(bins)
    body = [_grid(scale, axes, x_percent=True)]
    for index, (n, confidence, accuracy) in enumerate(bins):
        if n:
            left, top = scale.x(0) + index * width + 1, scale.y(accuracy)
            text = f"{n:,} images, confidence {confidence:.1%}, accuracy {accuracy:.1%}"
            body.append(
                f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{width - 2:.1f}" '
                f'height="{max(scale.y(0) - top, 1):.1f}"><title>{text}</title></rect>'
            )
    body.append(f'<line class="ideal" x1="{scale.x(0)}" y1="{scale.y(0)}" x2="{scale.x(1)}" y2="{scale.y(1)}"/>')
    return _figure(axes, "".join(body), "bars: accuracy of the images in each step of confidence", [])


class _Scale:
    """Data to pixels."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self.x_low, self.x_high, self.y_low, self.y_high = x_low, x_high, y_low, y_high

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return _HEIGHT - _BOTTOM - min(max(share, 0), 1) * (_HEIGHT - _TOP - _BOTTOM)


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the finite points, thinned to what a screen can show, the last one kept."""
    kept = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    step = -(-len(kept) // _MOST_POINTS) or 1
    return kept[::step] if not kept or (len(kept) - 1) % step == 0 else [*kept[::step], kept[-1]]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high > low:
        return low, high
    return low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)


def ticks(low: float, high: float, most: int = 6, whole: bool = False) -> list[float]:
    """Return round numbers (1, 2 or 5 times a power of ten apart) within low..high.

    With `whole` they are at least 1 apart.

    >>> ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= most)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float, percent: bool = False) -> str:
    return f"{100 * value:.4g}%" if percent else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _grid(scale: _Scale, axes: Axes, x_percent: bool = False) -> str:
    parts = []
    for value in ticks(scale.y_low, scale.y_high, 5):
        y = scale.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value, axes.percent)}</text>')
    for value in ticks(scale.x_low, scale.x_high, whole=not x_percent):
        text = _number(value, x_percent)
        parts.append(f'<text x="{scale.x(value):.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{text}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">{html.escape(axes.x)}</text>')
    base = scale.y(scale.y_low)
    parts.append(f'<line class="axis" x1="{_LEFT}" y1="{base}" x2="{_WIDTH - _RIGHT}" y2="{base}"/>')
    return "".join(parts)


def _figure(axes: Axes, body: str, described: str, names: Sequence[str]) -> str:
    title = html.escape(axes.title)
    label = html.escape(f"{axes.title}: {axes.y} over {axes.x}; {described}", quote=True)
    keys = "".join(
        f'<span class="key"><svg viewBox="0 0 26 8" aria-hidden="true"><line class="curve c{index}" '
        f'x1="0" y1="4" x2="26" y2="4"/></svg>{html.escape(name)}</span>'
        for index, name in enumerate(names)
    )
    return (
        f'<figure class="chart"><figcaption>{title}{keys}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{body}</svg></figure>'
    )
