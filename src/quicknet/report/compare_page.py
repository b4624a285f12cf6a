"""A comparison as one self-contained page: pictures, the tables, and what they assume."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from quicknet.report import compare_cells
from quicknet.report.compare_cells import Table
from quicknet.report.comparison import ComparedNetwork, Comparison
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
        lines.append(f"The machine was busy: other processes used up to {100 * busy:.0f}% of the core. Compare CPU ms.")
    shown = "".join(f'<p class="soft">{escaped(line)}</p>' for line in lines)
    count = f"{len(comparison.networks)} networks, as fast and as accurate as they are beside {comparison.base}."
    return f"<header><h1>Networks compared</h1><p>{escaped(count)}</p>{shown}</header>"


def _pictures(comparison: Comparison) -> str:
    """Return accuracy against time and against size."""
    time, reached = "CPU ms of one image on one core", "accuracy on CIFAR-10"
    charts = [
        scatter_chart(_marks(comparison, _times), Axes("Accuracy and time", time, reached)),
        scatter_chart(_marks(comparison, _sizes), Axes("Accuracy and size", "KB of the file", reached)),
    ]
    for same in compare_cells.trained_alike(comparison):
        title = f"All trained alike, {same} each: accuracy and time"
        charts.append(scatter_chart(_marks(comparison, _times, same), Axes(title, time, reached)))
    if not any(charts):
        return ""
    note = (
        "Filled: measured here. Hollow: published by others, with other recipes and training times. The lines are "
        "the Pareto fronts, each of one kind alone. Left and up is better."
    )
    return f'<section><h2>Accuracy against cost</h2><p class="soft">{note}</p>{"".join(charts)}</section>'


Costs = dict[str, float]  # kind of numbers → cost


def _times(row: ComparedNetwork) -> Costs:
    speeds = {"float32": row.float32, "int8": row.int8}
    return {numbers: speed.cpu_ms for numbers, speed in speeds.items() if speed}


def _sizes(row: ComparedNetwork) -> Costs:
    return {"float32": row.float_bytes / 1000, "int8": row.int8_bytes / 1000}


def _marks(comparison: Comparison, costs_of: Callable[[ComparedNetwork], Costs], alike: str = "") -> list[Mark]:
    return [mark for row in comparison.networks for mark in _marks_of(row, costs_of(row), alike)]


def _marks_of(row: ComparedNetwork, costs: Costs, alike: str) -> Iterator[Mark]:
    """Yield a network's accuracies at their cost: what others published at that of float32.

    With `alike` those that were reached by that training only.
    """
    for ours in row.ours:
        if ours.alike == alike and ours.numbers in costs:
            name = row.name if ours.numbers == "float32" else f"{row.name}, {ours.numbers}"
            yield Mark(name, costs[ours.numbers], ours.top1, ours=True)
    for other in () if alike else row.published:
        if "float32" in costs:
            yield Mark(row.name, costs["float32"], other.top1, ours=False)


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
