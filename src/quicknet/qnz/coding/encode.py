"""From the numbers of TENS to CODE: the other side of `decode.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quicknet.core.errors import FormatError
from quicknet.qnz.coding.model import (
    BITS,
    LENGTHS,
    MAGNITUDE_CLASS,
    MASK,
    NODES,
    NUMBERS,
    SAME_TABLE,
    VALUES,
    Kind,
    Parts,
    below,
)
from quicknet.qnz.coding.prefix import code_lengths, prefix_code
from quicknet.qnz.coding.sinks import AdaptiveSink, Path, PlainSink, Sink
from quicknet.qnz.format import (
    CLASSES_OF_DENSITY,
    CLASSES_OF_MAGNITUDE,
    CODE_HEADER,
    CODED_BLOCK,
    CONTEXTS,
    COUNT_BITS,
    DENSITY_PRIOR,
    DENSITY_SCALE,
    EXPANSION,
    EXPANSION_FREE,
    GAP,
    HUFFMAN,
    LENGTH_BITS,
    MAGNITUDE_BITS,
    MAGNITUDE_RATE,
    MAGNITUDE_SHIFT,
    MAX_WEIGHT,
)
from quicknet.qnz.network import IntegerNetwork, IntegerSeparable, IntegerStem

Array = NDArray[Any]


def encode_numbers(network: IntegerNetwork, coding: int, size_bytes: int) -> bytes:
    """Return the section CODE of a network within FORMAT.md's bounds; equal arguments give equal bytes.

    Raises FormatError for a network whose `size_bytes` of numbers become so few that a reader refuses them.
    """
    writer = _Writer(network, coding)
    writer.write(network)
    code = CODE_HEADER.pack(coding, b"") + writer.sink.finish()
    if size_bytes > EXPANSION_FREE + EXPANSION * len(code):
        raise FormatError(
            f"{size_bytes:,} bytes of numbers become {len(code):,}, which readers take for an attack; "
            "write the network without coding"
        )
    return code


def layer_bits(network: IntegerNetwork, coding: int) -> tuple[Parts, ...]:
    """Return what the bits of each layer in CODE are for, rounded to whole ones.

    The layers are the stem, depthwise and pointwise of each block, and the classifier; `values` are a layer's weights,
    `others` its biases and multipliers. The tables of the kinds of numbers are the stem's. All add up to the section
    without its header and the coder's state, but for what the coder's rounding takes.
    """
    writer = _Writer(network, coding)
    writer.write(network)
    bits = writer.sink.bits([end for end, _, _ in writer.ends])
    layers = [dict.fromkeys(Parts._fields, 0.0) for _ in range(writer.layer + 1)]
    for (_, layer, part), count in zip(writer.ends, np.diff(bits, prepend=0.0).tolist(), strict=True):
        layers[layer][part] += count
    return tuple(Parts(**{part: round(count) for part, count in layer.items()}) for layer in layers)


class _Writer:
    def __init__(self, network: IntegerNetwork, coding: int) -> None:
        self.coding = coding
        self.sink: Sink = AdaptiveSink() if coding == CONTEXTS else PlainSink()
        self.layer = 0
        self.ends: list[tuple[int, int, str]] = []  # decisions so far; layer and part of those since the last end
        self.paths = [self._table(_counts(_numbers(network, kind), BITS[kind])) for kind in Kind]
        self._count("tables")
        self.values: dict[int, Path] = {}  # of the last layer's table
        self.largest = 0

    def write(self, network: IntegerNetwork) -> None:
        """Write all numbers in the order of the section."""
        stem = network.stem
        for row, weights in enumerate(stem.weight.reshape(len(stem.weight), -1)):
            self._numbers(Kind.STEM, weights)
            self._output(stem, row)
        for block in network.blocks:
            self.layer += 1
            taps = block.depthwise.reshape(-1, block.depthwise.shape[2]).T
            for weights, multiplier in zip(taps, block.multiplier, strict=True):
                self._numbers(Kind.DEPTHWISE, weights)
                self._number(Kind.MULTIPLIER, int(multiplier))
                self._count("others")
            self.layer += 1
            self._pointwise(block)
        self.layer += 1
        for weights, bias in zip(network.weight, network.bias, strict=True):
            self._numbers(Kind.CLASSIFIER, weights)
            self._number(Kind.CLASSIFIER_BIAS, int(bias))
            self._count("others")

    def _count(self, part: str) -> None:
        """Note that the decisions since the last call are for a part of the layer."""
        self.ends.append((self.sink.taken, self.layer, part))

    # --- numbers -----------------------------------------------------------------------------

    def _table(self, counts: list[int]) -> dict[int, Path]:
        """Write the table of a prefix code for symbols that occur so often; return their paths."""
        if not any(counts):
            counts = [1, *counts[1:]]
        lengths = code_lengths(counts)
        before = 0
        for length in lengths:
            node = 1
            for bit in reversed(range(LENGTH_BITS)):
                self.sink.decide(LENGTHS + (before << LENGTH_BITS) + node, length >> bit & 1)
                node = 2 * node + (length >> bit & 1)
            before = length
        return prefix_code(lengths, "the network to write").paths()

    def _number(self, kind: Kind, number: int) -> None:
        bits, chances, magnitude = BITS[kind], NUMBERS[kind], abs(number)
        length = magnitude.bit_length()
        self.sink.symbol(self.paths[kind][length], chances)
        if length == 0:
            return
        self.sink.decide(chances + bits, int(number < 0))
        first = chances + bits + 1 + below(length)
        for bit in range(length - 2, -1, -1):
            self.sink.decide(first + bit, magnitude >> bit & 1)

    def _numbers(self, kind: Kind, numbers: Array) -> None:
        for number in numbers.tolist():
            self._number(kind, number)
        self._count("values")

    def _output(self, layer: IntegerStem | IntegerSeparable, row: int) -> None:
        self._number(Kind.BIAS, int(layer.bias[row]))
        self._number(Kind.POSITIVE, int(layer.output.positive[row]))
        self._number(Kind.NEGATIVE, int(layer.output.negative[row]))
        self._count("others")

    # --- pointwise weights -------------------------------------------------------------------

    def _pointwise(self, block: IntegerSeparable) -> None:
        weight = block.weight
        rows, inputs = weight.shape
        kept = kept_blocks(weight)
        counts = np.zeros(2 * MAX_WEIGHT + 1, np.int64)
        whole = np.repeat(kept, CODED_BLOCK, axis=1)[:, :inputs]
        values, times = np.unique(weight[whole], return_counts=True)
        counts[values.astype(np.int64) + MAX_WEIGHT] = times
        self._values_table(counts)
        self._count("tables")
        gaps = list(_gaps(kept)) if self.coding == HUFFMAN else []
        gap_paths: dict[int, Path] = {}
        if self.coding == HUFFMAN:
            self.sink.plain(int(kept.sum()), COUNT_BITS)
            gap_paths = self._table(np.bincount([gap for row in gaps for gap in row], minlength=GAP + 1).tolist())
        self._count("places")
        columns = np.zeros(kept.shape[1], np.int64)
        averages = [self.largest << MAGNITUDE_SHIFT - 2] * inputs
        for row in range(rows):
            self._output(block, row)
            if self.coding == HUFFMAN:
                for gap in gaps[row]:
                    self.sink.symbol(gap_paths[gap], 0)
            else:
                self._mask(kept[row], columns, row)
                columns += kept[row]
            self._count("places")
            self._row_values(weight[row], np.flatnonzero(kept[row]).tolist(), averages)
            self._count("values")

    def _values_table(self, counts: Array) -> None:
        """Write the table of a layer's values, or that it is the last layer's, whichever takes fewer bits."""
        used = np.flatnonzero(counts) - MAX_WEIGHT
        if self.values:
            if all(int(value) in self.values for value in used) and not self._new_table_pays(counts):
                self.sink.decide(SAME_TABLE, 1)
                return
            self.sink.decide(SAME_TABLE, 0)
        self.largest = int(np.abs(used).max(initial=0))
        self.sink.plain(self.largest, MAGNITUDE_BITS)
        ends = slice(MAX_WEIGHT - self.largest, MAX_WEIGHT + self.largest + 1)
        paths = self._table(counts[ends].tolist())
        self.values = {symbol - self.largest: path for symbol, path in paths.items()}
        self.sink.forget(range(VALUES, VALUES + CLASSES_OF_MAGNITUDE * NODES))

    def _new_table_pays(self, counts: Array) -> bool:
        lengths = np.array(code_lengths(counts.tolist()))
        bits = np.array([len(self.values.get(symbol - MAX_WEIGHT, ())) for symbol in range(len(counts))])
        return int(((bits - lengths) * counts).sum()) > _TABLE_BITS * int(np.count_nonzero(lengths))

    def _mask(self, kept: Array, columns: Array, row: int) -> None:
        most, so_far = CLASSES_OF_DENSITY - 1, 0
        classes = np.minimum((DENSITY_SCALE * columns + DENSITY_PRIOR) // (row + 1), most) * CLASSES_OF_DENSITY + MASK
        for place, (bit, column) in enumerate(zip(kept.tolist(), classes.tolist(), strict=True)):
            self.sink.decide(column + min((DENSITY_SCALE * so_far + DENSITY_PRIOR) // (place + 1), most), int(bit))
            so_far += bit

    def _row_values(self, weights: Array, places: list[int], averages: list[int]) -> None:
        for place in places:
            begin = CODED_BLOCK * place
            for column, value in enumerate(weights[begin : begin + CODED_BLOCK].tolist(), begin):
                average = averages[column]
                self.sink.symbol(self.values[value], VALUES + MAGNITUDE_CLASS[average] * NODES)
                averages[column] = average + (((abs(value) << MAGNITUDE_SHIFT) - average) >> MAGNITUDE_RATE)


_TABLE_BITS = 3  # of a table, for each symbol that occurs: what length and learning its chances anew take


def _gaps(kept: NDArray[np.bool_]) -> Iterator[list[int]]:
    """Yield the symbols of each row: the absent blocks before each kept one, in steps of at most GAP.

    A gap that reaches into later rows is among the symbols of the row where it begins.
    """
    blocks = kept.shape[1]
    at = 0  # where the next gap begins
    ends = iter(np.flatnonzero(kept).tolist())
    end = next(ends, None)
    for row in range(len(kept)):
        symbols: list[int] = []
        while end is not None and at < (row + 1) * blocks:
            whole, rest = divmod(end - at, GAP)
            symbols += [GAP] * whole + [rest]
            at, end = end + 1, next(ends, None)
        yield symbols


def kept_blocks(weight: Array) -> NDArray[np.bool_]:
    """Return which blocks of a pointwise's weights (O, C) have a weight that is not 0: (O, C / 4 rounded up)."""
    missing = -weight.shape[1] % CODED_BLOCK
    blocks = np.pad(weight, ((0, 0), (0, missing))).reshape(len(weight), -1, CODED_BLOCK)
    kept: NDArray[np.bool_] = np.any(blocks, axis=2)
    return kept


def _numbers(network: IntegerNetwork, kind: Kind) -> Iterable[Array]:
    """Return all arrays of a kind of numbers."""
    layers: list[IntegerStem | IntegerSeparable] = [network.stem, *network.blocks]
    match kind:
        case Kind.STEM:
            return [network.stem.weight]
        case Kind.DEPTHWISE:
            return [block.depthwise for block in network.blocks]
        case Kind.MULTIPLIER:
            return [block.multiplier for block in network.blocks]
        case Kind.BIAS:
            return [layer.bias for layer in layers]
        case Kind.POSITIVE:
            return [layer.output.positive for layer in layers]
        case Kind.NEGATIVE:
            return [layer.output.negative for layer in layers]
        case Kind.CLASSIFIER:
            return [network.weight]
        case _:
            return [network.bias]


def _counts(arrays: Iterable[Array], bits: int) -> list[int]:
    """Return how many of the numbers have magnitudes of 0, 1, .. bits."""
    counts = np.zeros(bits + 1, np.int64)
    for array in arrays:
        lengths = np.frexp(np.abs(array.astype(np.float64)))[1]  # exact: 32 bits
        counts += np.bincount(lengths.ravel(), minlength=bits + 1)
    return [int(count) for count in counts]
