"""A network as one SVG document: its layers from image to logits, one below the other, and what each costs.

The layers are those that a card counts. Each has an arrow from every layer whose map it takes: straight where that is
the row above, else in a lane at the right of the boxes. Sums and other joins of maps are rows too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from quicknet.core.card import LayerCosts
from quicknet.core.flow import IMAGE, Flow, Join, Node
from quicknet.report.html import escaped, resource
from quicknet.report.lanes import Edge, route

_WIDTH, _TOP, _ROW, _BOX = 832, 82, 32, 22
_LEFT, _BOX_WIDTH = 16, 250
_CHANNELS, _OUTPUT, _MACS, _PARAMETERS, _BARS = 320, 404, 552, 638, 654  # middles, then right ends, then left ends
_LANE = 10  # pixels between two lanes, and from the boxes to the first
_JOIN_WIDTH = 92
_BAR = 84  # pixels of the largest share
_LONGEST = 21  # letters of a layer's name that have room
_COLOURS = {"stem": "c1", "depthwise": "c2", "separable": "c2", "linear": "c3"}  # of a kind; other kinds: c0
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: var(--ink); }
.title { font-size: 16px; font-weight: 600; }
.soft { fill: var(--soft); }
.page { fill: var(--card); }
.box { fill: var(--page); stroke: var(--rule); }
.join { fill: var(--card); stroke: var(--soft); }
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


@dataclass(frozen=True)
class Drawing:
    """A network to draw: its name, the image it takes, its layers, and the share of time of each, if it was measured.

    `side` is the image's in pixels.
    """

    name: str
    channels: int
    side: int
    flow: Flow
    times: Sequence[float] = ()

    @cached_property
    def layers(self) -> tuple[LayerCosts, ...]:
        """The nodes that are no joins."""
        return tuple(node.what for node in self.flow if not isinstance(node.what, Join))

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """The arrows."""
        return route(self.flow)

    @cached_property
    def aside(self) -> int:
        """How far the columns stand to the right to make room for lanes, in pixels."""
        return _LANE * (1 + max((edge.lane for edge in self.edges if edge.lane is not None), default=-1))

    def size(self, number: int) -> tuple[int, int]:
        """Return channels and side of a node's map."""
        if number == IMAGE:
            return self.channels, self.side
        return self.flow[number].channels, self.flow[number].side


def draw_network(drawing: Drawing) -> str:
    """Return the document; the same drawing gives the same text. It fetches nothing and holds no script."""
    layers, width = drawing.layers, _WIDTH + drawing.aside
    total, parameters = sum(layer.macs for layer in layers), sum(layer.parameters for layer in layers)
    image = f"{drawing.channels}×{drawing.side}×{drawing.side}"
    counts = f"{parameters:,} parameters · {total:,} multiply-adds an image"
    notes = list(_notes(drawing))
    end = _y(len(drawing.flow))
    height = end + 18 * len(notes) + 2
    described = escaped(f"{drawing.name}: {len(layers)} layers from an image of {image} to the logits; {counts}")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{described}">',
        f"<style>{_colours()}{_STYLE}</style>{_HEAD}",
        f'<rect class="page" width="{width}" height="{height}"/>',
        f'<text class="title" x="{_LEFT}" y="28">{escaped(drawing.name)}</text>',
        f'<text class="soft" x="{_LEFT}" y="48">{counts}</text>',
        *_columns(bool(drawing.times), drawing.aside),
        f'<rect class="box" x="{_LEFT}" y="{_TOP}" width="{_BOX_WIDTH}" height="{_BOX}" rx="4"/>',
        _text(_LEFT + 12, _TOP + 15, "image"),
        _text(_OUTPUT + drawing.aside, _TOP + 15, image, "middle"),
        *_rows(drawing, max(1, total)),
        *(_text(_LEFT, end + 12 + 18 * index, note, soft=True) for index, note in enumerate(notes)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _y(number: int) -> int:
    """Return where a node's row begins."""
    return _TOP + _ROW * (number + 1)


def _colours() -> str:
    """Return the colours of the pages, light and dark: what stands above the first rule of their style."""
    return resource("style.css").partition("* {")[0]


def _columns(timed: bool, aside: int) -> Iterator[str]:
    yield _text(_CHANNELS + aside, 70, "channels", "middle", soft=True)
    yield _text(_OUTPUT + aside, 70, "output", "middle", soft=True)
    yield _text(_MACS + aside, 70, "multiply-adds", "end", soft=True)
    yield _text(_PARAMETERS + aside, 70, "parameters", "end", soft=True)
    yield _text(_BARS + aside, 70, "share, and of time" if timed else "share", soft=True)


def _rows(drawing: Drawing, total: int) -> Iterator[str]:
    """Yield each node: the arrows into its box, the box, and a layer's counts and bars."""
    shares = [layer.macs / total for layer in drawing.layers]
    largest = max((*shares, *drawing.times, 1e-9))
    place = 0  # among the layers
    for number, node in enumerate(drawing.flow):
        y, output = _y(number), _OUTPUT + drawing.aside
        arrows = "".join(_arrow(drawing, edge) for edge in drawing.edges if edge.target == number)
        arrows += _passed(drawing, number)
        if isinstance(node.what, Join):
            size = f"{node.channels}×{node.side}×{node.side}" if node.side > 1 else f"{node.channels}"
            yield arrows + _join(node.what, y) + _text(output, y + 15, size, "middle")
            continue
        bars = [(shares[place], "c0", "of the multiply-adds")]
        bars += [(drawing.times[place], "c1", "of the time")] if drawing.times else []
        yield arrows + _layer(node.what, y, drawing.aside) + "".join(_bars(bars, largest, y, drawing.aside))
        place += 1


def _layer(layer: LayerCosts, y: int, aside: int) -> str:
    """Return a layer's box and its counts."""
    colour = _COLOURS.get(layer.kind, "c0")
    kernel = "" if layer.kind == "linear" else f" {layer.kernel}×{layer.kernel}"
    output = f"{layer.out_channels}" if layer.kind == "linear" else f"{layer.out_channels}×{layer.side}×{layer.side}"
    name = layer.name if len(layer.name) <= _LONGEST else f"{layer.name[: _LONGEST - 1]}…"
    parts = [
        f"<g><title>{escaped(f'{layer.name}: {layer.kind}{kernel}')}</title>"
        f'<rect class="box" x="{_LEFT}" y="{y}" width="{_BOX_WIDTH}" height="{_BOX}" rx="4"/>'
        f'<rect class="{colour}" x="{_LEFT}" y="{y}" width="5" height="{_BOX}" rx="2"/>',
        f"{_text(_LEFT + 12, y + 15, name)}",
        f"{_text(_LEFT + _BOX_WIDTH - 8, y + 15, f'{layer.kind[:14]}{kernel}', 'end', soft=True)}</g>",
        _text(_CHANNELS + aside, y + 15, f"{layer.in_channels}→{layer.out_channels}", "middle"),
        _text(_OUTPUT + aside, y + 15, output, "middle"),
        _text(_MACS + aside, y + 15, f"{layer.macs:,}", "end"),
        _text(_PARAMETERS + aside, y + 15, f"{layer.parameters:,}", "end"),
    ]
    return "".join(parts)


def _join(join: Join, y: int) -> str:
    """Return a join's rounded box."""
    middle = _LEFT + _BOX_WIDTH // 2
    box = f'<rect class="join" x="{middle - _JOIN_WIDTH // 2}" y="{y}" width="{_JOIN_WIDTH}" height="{_BOX}" rx="11"/>'
    return box + _text(middle, y + 15, join.kind[:13], "middle")


def _arrow(drawing: Drawing, edge: Edge) -> str:
    """Return the arrow from the row above, or by its lane from a row further up: out low at the right, in high."""
    if edge.lane is None:
        x, y = _LEFT + _BOX_WIDTH // 2, _y(edge.target)
        return f'<path class="arrow" d="M{x} {y - _ROW + _BOX}V{y}"/>'
    start, end = _right(drawing, edge.source), _right(drawing, edge.target)
    x, low, high = _LEFT + _BOX_WIDTH + _LANE * (edge.lane + 1) + 4, _y(edge.source) + 16, _y(edge.target) + 6
    turns = f"M{start} {low}H{x - 4}Q{x} {low} {x} {low + 4}V{high - 4}Q{x} {high} {x - 4} {high}H{end}"
    title = escaped(f"{_name(drawing, edge.source)} → {_name(drawing, edge.target)}")
    return f'<path class="arrow" d="{turns}"><title>{title}</title></path>'


def _right(drawing: Drawing, number: int) -> int:
    """Return the right end of a node's box."""
    joins = number != IMAGE and isinstance(drawing.flow[number].what, Join)
    return _LEFT + _BOX_WIDTH // 2 + _JOIN_WIDTH // 2 if joins else _LEFT + _BOX_WIDTH


def _name(drawing: Drawing, number: int) -> str:
    if number == IMAGE:
        return "image"
    what = drawing.flow[number].what
    return what.kind if isinstance(what, Join) else what.name


def _passed(drawing: Drawing, number: int) -> str:
    """Return what is written at the arrows into a box: how much of a map arrives, and by how much it has shrunk."""
    above, joins = _y(number) - 2, isinstance(drawing.flow[number].what, Join)
    words: dict[bool, dict[str, None]] = {True: {}, False: {}}  # of the straight arrow, and of those from lanes
    for place, source in enumerate(drawing.flow[number].inputs):
        words[source == number - 1].update(dict.fromkeys(_changes(drawing, number, place)))
    straight, lanes = (" · ".join(words[which]) for which in (True, False))
    written = _text(_LEFT + _BOX_WIDTH // 2 + 8, above, straight, soft=True, small=True) if straight else ""
    at = above + 5 * joins  # beside a join there is room
    return written + (_text(_LEFT + _BOX_WIDTH - 4, at, lanes, "end", soft=True, small=True) if lanes else "")


def _changes(drawing: Drawing, number: int, place: int) -> Iterator[str]:
    """Yield what happens to an input on its way into a node, and in it."""
    node = drawing.flow[number]
    taken, (channels, side) = node.taken[place], drawing.size(node.inputs[place])
    if taken < channels:
        yield f"{taken} of {channels}"
    if isinstance(node.what, LayerCosts) and node.what.kind == "linear":
        if side > 1 and taken <= channels:
            yield "average"
        return
    features = isinstance(node.what, Join) and node.side == 1  # the bins of a pyramid
    if node.side and round(side / node.side) > 1 and not features:
        yield f"side ÷ {round(side / node.side)}"


def _bars(bars: Sequence[tuple[float, str, str]], largest: float, y: int, aside: int) -> Iterator[str]:
    """Yield the bar of a layer's share of the multiply-adds, and below it that of its share of the time."""
    thick, left = 14 // len(bars), _BARS + aside
    for place, (share, colour, what) in enumerate(bars):
        top = y + 4 + place * (thick + 1)
        width = max(1.0, _BAR * share / largest)
        title = f"<title>{100 * share:.1f}% {what}</title>"
        yield (f'<rect class="bar {colour}" x="{left}" y="{top}" width="{width:.1f}" height="{thick}">{title}</rect>')
    words = " · ".join(f"{100 * share:.1f}" for share, _, _ in bars)
    yield _text(left + _BAR * max(share for share, _, _ in bars) / largest + 5, y + 15, f"{words}%")


def _takes_part(drawing: Drawing, node: Node) -> bool:
    return any(taken < drawing.size(source)[0] for source, taken in zip(node.inputs, node.taken, strict=True))


def _notes(drawing: Drawing) -> Iterator[str]:
    if any(edge.lane is not None for edge in drawing.edges):
        yield "A line at the right takes a map past the rows between. Rounded boxes make one map of several."
    if any(_takes_part(drawing, node) for node in drawing.flow):
        yield "“24 of 48” at an arrow: so many of the map's channels are taken."
    if not drawing.edges:
        yield "From where each layer takes its input is not drawn: the network, which tells that, cannot be built here."
    yield "Norms, activations and pools count with their layer."
    if drawing.times:
        yield "Upper bar: share of the multiply-adds; lower bar: share of the time, measured on one core."


def _text(x: float, y: int, text: str, anchor: str = "start", soft: bool = False, small: bool = False) -> str:
    at = "" if anchor == "start" else f' text-anchor="{anchor}"'
    look = (' class="soft"' if soft else "") + (' style="font-size:10px"' if small else "")
    return f'<text x="{x:.4g}" y="{y}"{at}{look}>{escaped(text)}</text>'
