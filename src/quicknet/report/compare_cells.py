"""A comparison as tables of text, the same on a terminal and in the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from quicknet.report.comparison import ComparedNetwork, Comparison, Ours, Published, Speed

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
    alike = (_alike(comparison, *same) for same in trained_alike(comparison).items())
    return (*paper, _counted(comparison), _measured(comparison), *alike, *_accuracies(comparison))


def trained_alike(comparison: Comparison) -> dict[str, str]:
    """Return the records of trainings alike, and what networks were given the same of: "about 30 minutes"."""
    rows = comparison.networks
    trained = {ours.source: ours.alike for row in rows for ours in row.ours if ours.alike}
    return trained | {left_out.source: left_out.alike for row in rows for left_out in row.untrained}


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
    folded = tuple(
        f"{row.name} is counted as {row.counted_as}, the form in which it is exported and measured."
        for row in comparison.networks
        if row.counted_as != row.name
    )
    under = (*folded, *comparison.assumptions[:2])
    return Table("counted: size, memory and energy of one image", 2, heads, rows, under)


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


def _alike(comparison: Comparison, source: str, same: str) -> Table:
    """Return what networks reach by the same training, and for each the QuickNet that is at most as slow."""
    found = [(row, ours) for row in comparison.networks for ours in row.ours if ours.alike and ours.source == source]
    found.sort(key=lambda pair: -pair[1].top1)
    quicknets = [(row, ours) for row, ours in found if row.name.startswith(_FAMILY)]
    rows = [
        (
            row.name,
            _rival(row, ours, quicknets),
            percent(ours),
            str(ours.epochs),
            _NONE if ours.minutes is None else f"{ours.minutes:.1f}",
            _ratio(row.float32),
        )
        for row, ours in found
    ]
    rows += [
        (row.name, f"not trained here: {left_out.why}", _NONE, _NONE, _NONE, _ratio(row.float32))
        for row in comparison.networks
        for left_out in row.untrained
        if left_out.source == source
    ]
    heads = ("network", "best QuickNet at most as slow, points", "ours %", "epochs", "minutes", "fp32 x")
    under = f"One recipe for all, whole epochs, one at least: {how(found[0][1]) if found else source}."
    slow = f"At most as slow: x, over {comparison.base}, is at least as large."
    return Table(f"trained alike: each for {same}", 2, heads, tuple(rows), (under, slow))


def _rival(row: ComparedNetwork, ours: Ours, quicknets: Sequence[tuple[ComparedNetwork, Ours]]) -> str:
    """Return the most accurate QuickNet that takes at most a network's time, and by how many points it is ahead.

    By the ratios, since milliseconds of two networks may be of different minutes.
    """
    if row.name.startswith(_FAMILY):
        return ""
    if row.float32 is None or row.float32.ratio is None:
        return _NONE
    as_fast = [(other.top1, its.name) for its, other in quicknets if _is_as_fast(its, row.float32.ratio)]
    if not as_fast:
        return "none is as fast"
    top1, name = max(as_fast)
    return f"{name} {100 * (top1 - ours.top1):+.2f}"


def _is_as_fast(row: ComparedNetwork, ratio: float) -> bool:
    return row.float32 is not None and row.float32.ratio is not None and row.float32.ratio >= ratio


def _accuracies(comparison: Comparison) -> Iterator[Table]:
    rows = [cells for row in comparison.networks for cells in _accuracy(row)]
    if rows:
        heads = ("network", "ours, how", "published, where", "ours %", "published %")
        yield Table("accuracy on CIFAR-10", 3, heads, tuple(rows), comparison.assumptions[3:])


def _accuracy(row: ComparedNetwork) -> Iterator[Cells]:
    own = [ours for ours in row.ours if not ours.alike]
    cells = [(how(ours), "", percent(ours), "") for ours in own]
    if not own and (row.ours or row.untrained or row.published):
        cells.append((_without_own(row), "", _NONE, ""))
    for other in row.published:
        where = f"{other.source.removeprefix('https://')}{f' ({other.note})' if other.note else ''}"
        cells.append(("", where, "", f"{100 * other.top1:.2f}"))
    for index, rest in enumerate(cells):
        yield (row.name if not index else "", *rest)


def _without_own(row: ComparedNetwork) -> str:
    return "trained alike only" if row.ours else "not trained here"


def percent(ours: Ours) -> str:
    """Return an accuracy in per cent, with the spread over seeds where there are several."""
    return f"{100 * ours.top1:.2f}" + ("" if ours.spread is None else f" ± {100 * ours.spread:.2f}")


def how(ours: Ours) -> str:
    """Return what an accuracy of ours was measured on, by which protocol, with which seeds, and who taught it."""
    seeds = f", seed{'s' if len(ours.seeds) > 1 else ''} {', '.join(map(str, ours.seeds))}" if ours.seeds else ""
    teacher = ", with a teacher" if ours.teacher else ""
    return f"{ours.numbers}, {ours.protocol}, {ours.split}, n = {ours.n:,}{seeds}{teacher}: {ours.source}"


def _paper(comparison: Comparison) -> Table:
    """Return the paper's table with what is known of it here; footnotes have each row's trap, and how ours was made."""
    by_name = {row.name: row for row in comparison.networks}
    rows, under = [], []
    for number, paper in enumerate(comparison.paper, 1):
        row = by_name[paper.network]
        ours = next((o for o in row.ours if o.numbers == "float32" and not o.alike), None)
        said = _NONE if paper.top1 is None else f"{100 * paper.top1:.2f}"
        counts = (f"{row.parameters:,}", f"{row.macs / 1e6:,.0f} M", _ratio(row.float32))
        reached = _without_own(row) if ours is None else f"{percent(ours)} [{number}]"
        rows.append((f"{paper.name} [{number}]", paper.network, said, _best(row), reached, *counts))
        under.append(f"[{number}] {paper.trap}{'' if ours is None else f'. Ours: {how(ours)}'}")
    heads = ("the paper's row", "here", "the paper, %", "published, %", "ours, %", "parameters", "multiply-adds", "x")
    more = f"x: times as fast as {comparison.base}, fp32, measured here. {_NONE}: not known."
    return Table("the paper's table (Ghosh 2017) on CIFAR-10", 2, heads, tuple(rows), (*under, more))


def _best(row: ComparedNetwork) -> str:
    return " / ".join(f"{100 * other.top1:.2f}{_passes(other)}" for other in row.published) or _NONE


def _passes(other: Published) -> str:
    return f" ({other.passes} passes)" if other.passes > 1 else ""
