"""Canonical prefix codes: from lengths to a tree and its codes, and from counts to lengths."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from quicknet.core.errors import FormatError
from quicknet.qnz.format import MAX_CODE_BITS


@dataclass(frozen=True, slots=True)
class PrefixCode:
    """A code by its tree: inner node n has at 2 n and 2 n + 1 an inner node, or −1 − symbol; `root` is 0 or a symbol.

    Nodes are numbered from the root, level by level, from the left. `lengths`: bits of each symbol, 0 where it does
    not occur.
    """

    lengths: tuple[int, ...]
    root: int
    children: list[int]

    def paths(self) -> dict[int, list[tuple[int, int]]]:
        """Return symbol → (node, bit) from the root."""
        if self.root < 0:
            return {-1 - self.root: []}
        paths: dict[int, list[tuple[int, int]]] = {0: []}
        for node in range(len(self.children) // 2):
            path = paths.pop(node)
            for bit in (0, 1):
                paths[self.children[2 * node + bit]] = [*path, (node, bit)]
        return {-1 - leaf: path for leaf, path in paths.items()}


def prefix_code(lengths: Sequence[int], where: str) -> PrefixCode:
    """Return the canonical code of lengths 0..15, of which at least one is not 0.

    Codes ascend by length, and by symbol where the lengths are equal. A single symbol has length 1 and a code
    without bits. Raises FormatError where no prefix code has these lengths.
    """
    symbols = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    if len(symbols) == 1 and symbols[0][0] == 1:
        return PrefixCode(tuple(lengths), -1 - symbols[0][1], [])
    children: list[int] = []
    inner, at = 1, 0  # nodes of a level that have children; symbols placed
    nodes = 1
    for level in range(1, MAX_CODE_BITS + 1):
        end = at
        while end < len(symbols) and symbols[end][0] == level:
            end += 1
        places = 2 * inner
        inner = places - (end - at)
        if inner < 0:
            raise FormatError(f"a prefix code has more symbols than codes ({where}); {_DAMAGED}")
        children += [-1 - symbol for _, symbol in symbols[at:end]]
        if end == len(symbols):
            break
        children += range(nodes, nodes + inner)
        nodes, at = nodes + inner, end
        if inner > len(symbols):
            break
    if inner or not symbols:
        raise FormatError(f"a prefix code has codes without a symbol ({where}); {_DAMAGED}")
    return PrefixCode(tuple(lengths), 0, children)


_DAMAGED = "it is damaged or was not written by QuickNet: export it again"


def code_lengths(counts: Sequence[int]) -> list[int]:
    """Return the lengths of a Huffman code for symbols that occur `counts` times, none above 15 bits.

    >>> code_lengths([5, 0, 1, 1])
    [1, 0, 2, 2]
    """
    used = [symbol for symbol, count in enumerate(counts) if count]
    lengths = [0] * len(counts)
    if len(used) == 1:
        lengths[used[0]] = 1
        return lengths
    halvings = 0
    while True:  # counts made more alike until no code is too long
        heap: list[tuple[int, int, list[int]]] = [
            (max(1, counts[symbol] >> halvings), symbol, [symbol]) for symbol in used
        ]
        heapq.heapify(heap)
        lengths = [0] * len(counts)
        while len(heap) > 1:
            first, _, left = heapq.heappop(heap)
            second, order, right = heapq.heappop(heap)
            for symbol in left + right:
                lengths[symbol] += 1
            heapq.heappush(heap, (first + second, order + len(counts), left + right))
        if max(lengths) <= MAX_CODE_BITS:
            return lengths
        halvings += 1
