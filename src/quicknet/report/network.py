"""A network as one SVG document: its layers from image to logits, one below the other, and what each costs.

The layers are those that a card counts. It does not say which maps a layer takes, so a layer that cannot take the one
above it alone has an arrow from the right, and sums are not drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quicknet.core.card import LayerCosts
from quicknet.report.html import escaped, resource

_WIDTH, _TOP, _ROW, _BOX = 832, 82, 32, 22
_LEFT, _BOX_WIDTH = 16, 250
_CHANNELS, _OUTPUT, _MACS, _PARAMETERS, _BARS = 320, 404, 552, 638, 654  # middles, then right ends, then left ends
_BAR = 84  # pixels of the largest share
_LONGEST = 21  # letters of a layer's name that have room
_COLOURS = {"stem": "c1", "depthwise": "c2", "separable": "c2", "linear": "c3"}  # of a kind; other kinds: c0
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: var(--ink); }
.title { font-size: 16px; font-weight: 600; }
.soft { fill: var(--soft); }
.page { fill: var(--card); }
.box { fill: var(--page); stroke: var(--rule); }
.arrow { stroke: var(--soft); fill: none; marker-end: url(#head); }
.head { fill: var(--soft); }
.bar { opacity: .75; }
.c0 { fill: var(--c0); }
.c1 { fill: var(--c1); }
.c2 { fill: var(--c2); }
.c3 { fill: var(--c3); }
"""
_HEAD = (
    '<defs><marker id="head" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
    '<path class="head" d="M0 0L6 3L0 6z"/></marker></defs>'
)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A network to draw: its name, the image it takes, its layers, and the share of time of each, if it was measured.

    `side` is the image's in pixels.
    """

    name: str
    channels: int
    side: int
    layers: Sequence[LayerCosts]
    times: Sequence[float] = ()


def draw_network(drawing: Drawing) -> str:
    """Return the document; the same drawing gives the same text. It fetches nothing and holds no script."""
    layers = drawing.layers
    total, parameters = sum(layer.macs for layer in layers), sum(layer.parameters for layer in layers)
    image = f"{drawing.channels}×{drawing.side}×{drawing.side}"
    counts = f"{parameters:,} parameters · {total:,} multiply-adds an image"
    notes = list(_notes(drawing))
    end = _TOP + _ROW * (len(layers) + 1)
    height = end + 18 * len(notes) + 2
    described = escaped(f"{drawing.name}: {len(layers)} layers from an image of {image} to the logits; {counts}")
    rows = [_row(drawing, index, max(1, total)) for index in range(len(layers))]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        f'role="img" aria-label="{described}">',
        f"<style>{_colours()}{_STYLE}</style>{_HEAD}",
        f'<rect class="page" width="{_WIDTH}" height="{height}"/>',
        f'<text class="title" x="{_LEFT}" y="28">{escaped(drawing.name)}</text>',
        f'<text class="soft" x="{_LEFT}" y="48">{counts}</text>',
        *_columns(bool(drawing.times)),
        f'<rect class="box" x="{_LEFT}" y="{_TOP}" width="{_BOX_WIDTH}" height="{_BOX}" rx="4"/>',
        _text(_LEFT + 12, _TOP + 15, "image"),
        _text(_OUTPUT, _TOP + 15, image, "middle"),
        *rows,
        *(_text(_LEFT, end + 12 + 18 * index, note, soft=True) for index, note in enumerate(notes)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _colours() -> str:
    """Return the colours of the pages, light and dark: what stands above the first rule of their style."""
    return resource("style.css").partition("* {")[0]


def _columns(timed: bool) -> Iterator[str]:
    yield _text(_CHANNELS, 70, "channels", "middle", soft=True)
    yield _text(_OUTPUT, 70, "output", "middle", soft=True)
    yield _text(_MACS, 70, "multiply-adds", "end", soft=True)
    yield _text(_PARAMETERS, 70, "parameters", "end", soft=True)
    yield _text(_BARS, 70, "share, and of time" if timed else "share", soft=True)


def _row(drawing: Drawing, index: int, total: int) -> str:
    """Return a layer: the arrow into its box, the box, its counts and bars."""
    layer, y = drawing.layers[index], _TOP + _ROW * (index + 1)
    colour = _COLOURS.get(layer.kind, "c0")
    kernel = "" if layer.kind == "linear" else f" {layer.kernel}×{layer.kernel}"
    output = f"{layer.out_channels}" if layer.kind == "linear" else f"{layer.out_channels}×{layer.side}×{layer.side}"
    name = layer.name if len(layer.name) <= _LONGEST else f"{layer.name[: _LONGEST - 1]}…"
    parts = [
        _arrow(drawing, index, y),
        f"<g><title>{escaped(f'{layer.name}: {layer.kind}{kernel}')}</title>"
        f'<rect class="box" x="{_LEFT}" y="{y}" width="{_BOX_WIDTH}" height="{_BOX}" rx="4"/>'
        f'<rect class="{colour}" x="{_LEFT}" y="{y}" width="5" height="{_BOX}" rx="2"/>',
        f"{_text(_LEFT + 12, y + 15, name)}",
        f"{_text(_LEFT + _BOX_WIDTH - 8, y + 15, f'{layer.kind[:14]}{kernel}', 'end', soft=True)}</g>",
        _text(_CHANNELS, y + 15, f"{layer.in_channels}→{layer.out_channels}", "middle"),
        _text(_OUTPUT, y + 15, output, "middle"),
        _text(_MACS, y + 15, f"{layer.macs:,}", "end"),
        _text(_PARAMETERS, y + 15, f"{layer.parameters:,}", "end"),
        *_bars(drawing, index, y, total),
    ]
    return "".join(parts)


def _arrow(drawing: Drawing, index: int, y: int) -> str:
    """Return the arrow from the box above, and beside it by how much the map has shrunk on the way and in the layer."""
    channels, side = _before(drawing, index)
    layer, x = drawing.layers[index], _LEFT + _BOX_WIDTH // 2
    alone = layer.in_channels == channels
    path = f"M{x} {y - _ROW + _BOX}V{y}" if alone else f"M{_LEFT + _BOX_WIDTH + 18} {y + _BOX // 2}h-18"
    arrow = f'<path class="arrow" d="{path}"/>'
    if layer.kind == "linear":
        shrunk = "average" if side > 1 and alone else ""
    else:
        factor = round(side / layer.side) if layer.side else 1
        shrunk = f"side ÷ {factor}" if factor > 1 else ""
    return arrow + (_text(x + 8, y - 2, shrunk, soft=True, small=True) if shrunk else "")


def _before(drawing: Drawing, index: int) -> tuple[int, int]:
    """Return channels and side of the row above a layer."""
    if index == 0:
        return drawing.channels, drawing.side
    above = drawing.layers[index - 1]
    return above.out_channels, above.side


def _bars(drawing: Drawing, index: int, y: int, total: int) -> Iterator[str]:
    """Yield the bar of a layer's share of the multiply-adds, and below it that of its share of the time."""
    shares = [layer.macs / total for layer in drawing.layers]
    largest = max(*shares, *drawing.times, 1e-9)
    bars = [(shares[index], "c0", "of the multiply-adds")]
    bars += [(drawing.times[index], "c1", "of the time")] if drawing.times else []
    thick = 14 // len(bars)
    for place, (share, colour, what) in enumerate(bars):
        top = y + 4 + place * (thick + 1)
        width = max(1.0, _BAR * share / largest)
        title = f"<title>{100 * share:.1f}% {what}</title>"
        yield (f'<rect class="bar {colour}" x="{_BARS}" y="{top}" width="{width:.1f}" height="{thick}">{title}</rect>')
    words = " · ".join(f"{100 * share:.1f}" for share, _, _ in bars)
    yield _text(_BARS + _BAR * max(share for share, _, _ in bars) / largest + 5, y + 15, f"{words}%")


def _notes(drawing: Drawing) -> Iterator[str]:
    layers = range(len(drawing.layers))
    if any(drawing.layers[index].in_channels != _before(drawing, index)[0] for index in layers):
        yield "Arrow from the right: the layer takes another map than that of the row above, or several side by side."
    yield "Norms, activations and pools count with their layer; sums are not drawn."
    if drawing.times:
        yield "Upper bar: share of the multiply-adds; lower bar: share of the time, measured on one core."


def _text(x: float, y: int, text: str, anchor: str = "start", soft: bool = False, small: bool = False) -> str:
    at = "" if anchor == "start" else f' text-anchor="{anchor}"'
    look = (' class="soft"' if soft else "") + (' style="font-size:10px"' if small else "")
    return f'<text x="{x:.4g}" y="{y}"{at}{look}>{escaped(text)}</text>'
