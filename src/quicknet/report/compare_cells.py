"""A comparison as tables of text, the same on a terminal and in the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from quicknet.report.comparison import ComparedNetwork, Comparison, Ours, Speed

_NONE = "–"
_FAMILY = "quicknet"
Cells = tuple[str, ...]


class Table(NamedTuple):
    """A table: the first `texts` columns hold text, the others numbers; `under` are its footnotes."""

    title: str
    texts: int
    heads: Cells
    rows: tuple[Cells, ...]
    under: tuple[str, ...] = ()


def tables(comparison: Comparison) -> tuple[Table, ...]:
    """Return what was counted, measured, reached or published, and the paper's table where it was asked for."""
    paper = (_paper(comparison),) if comparison.paper else ()
    alike = (_alike(comparison, same) for same in trained_alike(comparison))
    return (*paper, _counted(comparison), _measured(comparison), *alike, *_accuracies(comparison))


def trained_alike(comparison: Comparison) -> tuple[str, ...]:
    """Return what networks were given the same of: "30 minutes", "8 epochs"."""
    return tuple(dict.fromkeys(ours.alike for row in comparison.networks for ours in row.ours if ours.alike))


def busy(comparison: Comparison) -> float:
    """Return the largest share of the core that other processes had while a network was measured."""
    speeds = [speed for row in comparison.networks for speed in (row.float32, row.int8) if speed]
    return max((1 - speed.cpu_ms * speed.images_per_second / 1000 for speed in speeds), default=0.0)


def _counted(comparison: Comparison) -> Table:
    heads = ("network", "input", "parameters", "multiply-adds", "fp32 KB", "int8 KB", "peak KB", "fp32 µJ", "int8 µJ")
    rows = tuple(
        (
            row.name,
            row.input,
            f"{row.parameters:,}",
            f"{row.macs:,}",
            _size(row.float_bytes, row.float_bytes_measured),
            _size(row.int8_bytes, row.int8_bytes_measured),
            f"{row.peak_activation_bytes / 1000:,.0f}",
            f"{row.energy_float_uj:,.0f}",
            f"{row.energy_int8_uj:,.0f}",
        )
        for row in comparison.networks
    )
    return Table("counted: size, memory and energy of one image", 2, heads, rows, comparison.assumptions[:2])


def _size(size_bytes: int, measured: bool) -> str:
    return f"{size_bytes / 1000:,.0f}{'' if measured else '*'}"


def _measured(comparison: Comparison) -> Table:
    each = ("ms", "CPU ms", "images/s", "x")
    heads = ("network", *(f"fp32 {name}" for name in each), *(f"int8 {name}" for name in each))
    rows = tuple((row.name, *_speed(row.float32), *_speed(row.int8)) for row in comparison.networks)
    title = f"measured: one image, one core; x is over {comparison.base}"
    return Table(title, 1, heads, rows, (comparison.assumptions[2], *_absent(comparison)))


def _speed(speed: Speed | None) -> Cells:
    if speed is None:
        return (_NONE,) * 4
    return f"{speed.median_ms:.2f}", f"{speed.cpu_ms:.2f}", f"{speed.images_per_second:,.0f}", _ratio(speed)


def _ratio(speed: Speed | None) -> str:
    if speed is None or speed.ratio is None:
        return _NONE
    return f"{speed.ratio:.2f}" if speed.ratio >= 0.1 else f"{speed.ratio:.2g}"


def _absent(comparison: Comparison) -> Iterator[str]:
    """Yield each reason why figures are absent, with the networks that it is for."""
    reasons: dict[str, list[str]] = {}
    for row in comparison.networks:
        for note in row.notes:
            reasons.setdefault(note, []).append(row.name)
    for reason, names in reasons.items():
        yield f"{_NONE} {reason} ({', '.join(names)})"


def _alike(comparison: Comparison, same: str) -> Table:
    """Return what networks reach by the same training, and for each the QuickNet that is at most as slow."""
    found = [(row, ours) for row in comparison.networks for ours in row.ours if ours.alike == same]
    found.sort(key=lambda pair: -pair[1].top1)
    quicknets = [(row, ours) for row, ours in found if row.name.startswith(_FAMILY)]
    rows = tuple(
        (
            row.name,
            _rival(row, ours, quicknets),
            percent(ours),
            str(ours.epochs),
            _NONE if row.float32 is None else f"{row.float32.cpu_ms:.2f}",
        )
        for row, ours in found
    )
    heads = ("network", "best QuickNet at most as slow, points", "ours %", "epochs", "fp32 CPU ms")
    how_all = f"One recipe for all, {same} each: {how(found[0][1])}."
    return Table(f"trained alike: {same} each", 2, heads, rows, (how_all,))


def _rival(row: ComparedNetwork, ours: Ours, quicknets: Sequence[tuple[ComparedNetwork, Ours]]) -> str:
    """Return the most accurate QuickNet that takes at most a network's time, and by how many points it is ahead."""
    if row.float32 is None or row.name.startswith(_FAMILY):
        return ""
    limit = row.float32.cpu_ms
    as_fast = [(other.top1, its.name) for its, other in quicknets if its.float32 and its.float32.cpu_ms <= limit]
    if not as_fast:
        return "none is as fast"
    top1, name = max(as_fast)
    return f"{name} {100 * (top1 - ours.top1):+.2f}"


def _accuracies(comparison: Comparison) -> Iterator[Table]:
    rows = [cells for row in comparison.networks for cells in _accuracy(row)]
    if rows:
        heads = ("network", "ours, how", "published, where", "ours %", "published %")
        yield Table("accuracy on CIFAR-10", 3, heads, tuple(rows), comparison.assumptions[3:])


def _accuracy(row: ComparedNetwork) -> Iterator[Cells]:
    name = row.name
    for ours in row.ours:
        if ours.alike:
            continue
        yield name, how(ours), "", percent(ours), ""
        name = ""
    for other in row.published:
        where = f"{other.source.removeprefix('https://')}{f' ({other.note})' if other.note else ''}"
        yield name, "", where, "", f"{100 * other.top1:.2f}"
        name = ""


def percent(ours: Ours) -> str:
    """Return an accuracy in per cent, with the spread over seeds where there are several."""
    return f"{100 * ours.top1:.2f}" + ("" if ours.spread is None else f" ± {100 * ours.spread:.2f}")


def how(ours: Ours) -> str:
    """Return what an accuracy of ours was measured on, by which protocol, and with which seeds."""
    seeds = f", seed{'s' if len(ours.seeds) > 1 else ''} {', '.join(map(str, ours.seeds))}" if ours.seeds else ""
    return f"{ours.numbers}, {ours.protocol}, {ours.split}, n = {ours.n:,}{seeds}: {ours.source}"


def _paper(comparison: Comparison) -> Table:
    """Return the paper's table with what is known of it here; each row's trap is a footnote."""
    by_name = {row.name: row for row in comparison.networks}
    rows, under = [], []
    for number, paper in enumerate(comparison.paper, 1):
        row = by_name[paper.network]
        ours = next((percent(o) for o in row.ours if o.numbers == "float32" and not o.alike), _NONE)
        said = _NONE if paper.top1 is None else f"{100 * paper.top1:.2f}"
        counts = (f"{row.parameters:,}", f"{row.macs / 1e6:,.0f} M", _ratio(row.float32))
        rows.append((f"{paper.name} [{number}]", paper.network, said, _best(row), ours, *counts))
        under.append(f"[{number}] {paper.trap}")
    heads = ("the paper's row", "here", "the paper, %", "published, %", "ours, %", "parameters", "multiply-adds", "x")
    more = f"x: times as fast as {comparison.base}, fp32, measured here. {_NONE}: not known, or not trained here."
    return Table("the paper's table (Ghosh 2017) on CIFAR-10", 2, heads, tuple(rows), (*under, more))


def _best(row: ComparedNetwork) -> str:
    return " / ".join(f"{100 * other.top1:.2f}" for other in row.published) or _NONE
