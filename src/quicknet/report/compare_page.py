"""A comparison as one self-contained page: pictures, the tables, and what they assume."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from quicknet.report import compare_cells
from quicknet.report.compare_cells import Table
from quicknet.report.comparison import ComparedNetwork, Comparison, Ours, Published
from quicknet.report.html import escaped, page
from quicknet.report.scatter import Mark, scatter_chart
from quicknet.report.svg import Axes

_BUSY = 0.1


def render_comparison(comparison: Comparison) -> str:
    """Return the whole page; the same comparison gives the same text."""
    parts = [_header(comparison), _pictures(comparison), *map(_table, compare_cells.tables(comparison))]
    return page("Networks compared", [part for part in parts if part])


def _header(comparison: Comparison) -> str:
    machine, busy = comparison.machine, compare_cells.busy(comparison)
    names = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    lines = [f"{machine['cpu']}, {machine['cores']} cores; {names}."]
    if busy > _BUSY:
        lines.append(f"The machine was busy: other processes used up to {100 * busy:.0f}% of the core. Compare x.")
    shown = "".join(f'<p class="soft">{escaped(line)}</p>' for line in lines)
    count = f"{len(comparison.networks)} networks, as fast and as accurate as they are beside {comparison.base}."
    return f"<header><h1>Networks compared</h1><p>{escaped(count)}</p>{shown}</header>"


def _pictures(comparison: Comparison) -> str:
    """Return accuracy against time and against size."""
    base, reached = comparison.networks[0], "accuracy on CIFAR-10"
    times, time = functools.partial(_times, base), f"ms of one image on one core: CPU time of {base.name} / x"
    marks = _marks(comparison, times, _of_one_pass)
    charts = [
        scatter_chart(marks, Axes("Accuracy and time", time, reached)),
        scatter_chart(_marks(comparison, _sizes), Axes("Accuracy and size", "KB of the file", reached)),
    ]
    for source, same in compare_cells.trained_alike(comparison).items():
        title = f"All trained alike, each for {same}: accuracy and time"
        marks = _marks(comparison, times, alike=source)
        charts.append(scatter_chart(marks, Axes(title, time, reached)))
    if not any(charts):
        return ""
    note = (
        "Filled: measured here. Hollow: published by others, with other recipes and training times. The lines are "
        "the Pareto fronts, each of one kind alone. Left and up is better."
    )
    under = "".join(f'<p class="soft">{escaped(line)}</p>' for line in _left_out(comparison))
    return f'<section><h2>Accuracy against cost</h2><p class="soft">{note}</p>{"".join(charts)}{under}</section>'


def _left_out(comparison: Comparison) -> Iterator[str]:
    """Yield what the pictures of time cannot show, and why."""
    several = [
        f"{row.name}, {100 * other.top1:.2f}% by {other.passes} passes"
        for row in comparison.networks
        for other in row.published
        if not _of_one_pass(other)
    ]
    if several:
        yield f"Not in the picture of time, which is that of one pass: {'; '.join(several)}."
    if comparison.networks[0].int8 is None and any(row.int8 for row in comparison.networks):
        yield f"Not in the pictures of time: int8, since {comparison.base} has no int8 time to compare with."


Costs = dict[str, float]  # kind of numbers → cost


def _times(base: ComparedNetwork, row: ComparedNetwork) -> Costs:
    """Return the times that a network would have taken in the base's minutes: only ratios are of the same ones."""
    pairs = {"float32": (base.float32, row.float32), "int8": (base.int8, row.int8)}
    return {numbers: its.cpu_ms / own.ratio for numbers, (its, own) in pairs.items() if its and own and own.ratio}


def _sizes(row: ComparedNetwork) -> Costs:
    return {"float32": row.float_bytes / 1000, "int8": row.int8_bytes / 1000}


def _any(other: Published) -> bool:
    return True


def _of_one_pass(other: Published) -> bool:
    return other.passes == 1


def _marks(
    comparison: Comparison,
    costs_of: Callable[[ComparedNetwork], Costs],
    shows: Callable[[Published], bool] = _any,
    alike: str = "",
) -> list[Mark]:
    """Return networks' accuracies at their cost: what others published, as far as it is shown, at that of float32.

    With `alike` those of that record only, where networks were trained alike.
    """
    marks: list[Mark] = []
    for row in comparison.networks:
        costs = costs_of(row)
        chosen = (ours for ours in row.ours if (ours.source if ours.alike else "") == alike)
        marks += [_mark(row.name, ours, costs) for ours in chosen if ours.numbers in costs]
        theirs = () if alike or "float32" not in costs else filter(shows, row.published)
        marks += [Mark(row.name, costs["float32"], other.top1, ours=False) for other in theirs]
    return marks


def _mark(name: str, ours: Ours, costs: Costs) -> Mark:
    shown = name if ours.numbers == "float32" else f"{name}, {ours.numbers}"
    return Mark(shown, costs[ours.numbers], ours.top1, ours=True)


def _table(table: Table) -> str:
    heads = "".join(
        f'<th scope="col"{_left(index, table)}>{escaped(head)}</th>' for index, head in enumerate(table.heads)
    )
    rows = "".join(f"<tr>{''.join(_cell(i, cell, table) for i, cell in enumerate(cells))}</tr>" for cells in table.rows)
    under = "".join(f'<p class="soft">{escaped(line)}</p>' for line in table.under)
    title = escaped(table.title[0].upper() + table.title[1:])
    return (
        f'<section><h2>{title}</h2><div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f'<table class="wide"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{under}</section>'
    )


def _left(index: int, table: Table) -> str:
    return ' style="text-align:left"' if index < table.texts else ""


def _cell(index: int, cell: str, table: Table) -> str:
    if index == 0:
        return f'<th scope="row">{escaped(cell)}</th>'
    return f"<td{_left(index, table)}>{escaped(cell)}</td>"
