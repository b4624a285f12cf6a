"""Which way each map takes in the picture of a network: straight down to the next row, or past rows in a lane."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quicknet.core.flow import Flow


@dataclass(frozen=True, slots=True)
class Edge:
    """A map on its way from a node (the image is -1) to the next row, or, in a lane, to a later one."""

    source: int
    target: int
    lane: int | None = None  # None straight down, else counted from the boxes outwards


def route(flow: Flow) -> tuple[Edge, ...]:
    """Return an edge for each input of each node; a map has one lane, and no two maps are in a lane side by side.

    >>> from quicknet.core.flow import Join, Node
    >>> sums = [Node(Join("sum", 8, 8), inputs, (8, 8)) for inputs in ((-1,), (0, -1), (1, -1), (2, 1))]
    >>> [(edge.source, edge.target, edge.lane) for edge in route(tuple(sums)) if edge.lane is not None]
    [(-1, 1, 1), (-1, 2, 1), (1, 3, 0)]
    """
    lanes = _lanes(flow)
    pairs = ((source, target) for target, node in enumerate(flow) for source in node.inputs)
    return tuple(Edge(a, b, None if b == a + 1 else lanes[a]) for a, b in pairs)


def _lanes(flow: Flow) -> dict[int, int]:
    """Return the lane of each node whose map passes a row: the shortest ways are next to the boxes."""
    ends = dict(_passing(flow))  # the last of each
    lanes: dict[int, int] = {}
    taken: list[list[tuple[int, int]]] = []  # of each lane
    for source, end in sorted(ends.items(), key=lambda way: (way[1] - way[0], way[0])):
        free = (i for i, ways in enumerate(taken) if all(end <= first or last <= source for first, last in ways))
        lane = next(free, len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append((source, end))
        lanes[source] = lane
    return lanes


def _passing(flow: Flow) -> Iterator[tuple[int, int]]:
    for target, node in enumerate(flow):
        yield from ((source, target) for source in node.inputs if source != target - 1)
