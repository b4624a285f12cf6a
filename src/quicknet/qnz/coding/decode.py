"""From CODE to the numbers of TENS. FORMAT.md, "`CODE`"; `engine/csrc/coding.c` does the same in C."""

from __future__ import annotations

from collections.abc import Iterator
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
from quicknet.qnz.coding.prefix import PrefixCode, prefix_code
from quicknet.qnz.coding.sources import AdaptiveSource, PlainSource, Source
from quicknet.qnz.format import (
    CLASSES_OF_DENSITY,
    CLASSES_OF_MAGNITUDE,
    CODE_HEADER,
    CODED_BLOCK,
    CONTEXTS,
    COUNT_BITS,
    DENSITY_PRIOR,
    DENSITY_SCALE,
    GAP,
    HUFFMAN,
    LENGTH_BITS,
    MAGNITUDE_BITS,
    MAGNITUDE_RATE,
    MAGNITUDE_SHIFT,
)
from quicknet.qnz.network import NetworkShape

_DAMAGED = "it is damaged or was not written by QuickNet: export it again"
Array = NDArray[Any]


def decode_arrays(code: memoryview, shape: NetworkShape, where: str) -> tuple[list[Array], Parts]:
    """Return the arrays of TENS in its order, of a network of `shape`; CODE's header was checked.

    Raises FormatError with `where` for anything that no writer writes.
    """
    coding = CODE_HEADER.unpack_from(code)[0]
    data = code[CODE_HEADER.size :]
    source = AdaptiveSource(data, where) if coding == CONTEXTS else PlainSource(data, where)
    reader = _Reader(coding, source)
    arrays = list(reader.arrays(shape))
    source.check_end()
    return arrays, Parts(**reader.bits)


class _Reader:
    def __init__(self, coding: int, source: Source) -> None:
        self.coding = coding
        self.source = source
        self.where = source.where
        self.bits = dict.fromkeys(Parts._fields, 0)
        self._counted = 0
        self.codes = [self._table(bits + 1) for bits in BITS]
        self._count("tables")
        self.values: PrefixCode | None = None
        self.largest = 0  # magnitude of a value

    def arrays(self, shape: NetworkShape) -> Iterator[Array]:
        """Yield the arrays in TENS's order."""
        stem, *layers = shape.layers
        inputs = shape.channels
        weight = np.empty((stem.channels, stem.kernel**2 * inputs), np.int8)
        outputs = _Outputs(stem.channels)
        for row in range(stem.channels):
            weight[row] = self._numbers(Kind.STEM, weight.shape[1])
            self._output(outputs, row)
        yield weight.reshape(stem.channels, stem.kernel, stem.kernel, inputs)
        yield from outputs.arrays
        inputs = stem.channels
        for layer in layers:
            taps = np.empty((inputs, layer.kernel**2), np.int8)
            multiplier = np.empty(inputs, np.int16)
            for channel in range(inputs):
                taps[channel] = self._numbers(Kind.DEPTHWISE, taps.shape[1])
                multiplier[channel] = self._number(Kind.MULTIPLIER)
            yield np.ascontiguousarray(taps.T).reshape(layer.kernel, layer.kernel, inputs)
            yield multiplier
            outputs = _Outputs(layer.channels)
            yield self._pointwise(outputs, inputs)
            yield from outputs.arrays
            inputs = layer.channels
        head = np.empty((shape.classes, inputs), np.int16)
        bias = np.empty(shape.classes, np.int32)
        for row in range(shape.classes):
            head[row] = self._numbers(Kind.CLASSIFIER, inputs)
            bias[row] = self._number(Kind.CLASSIFIER_BIAS)
        self._count("others")
        yield head
        yield bias

    def _count(self, part: str) -> None:
        """Count the bits since the last call for a part of the section."""
        now = self.source.bits_read
        self.bits[part] += now - self._counted
        self._counted = now

    # --- numbers -----------------------------------------------------------------------------

    def _table(self, symbols: int) -> PrefixCode:
        lengths, before = [], 0
        for _ in range(symbols):
            node = 1
            for _ in range(LENGTH_BITS):
                node = 2 * node + self.source.decide(LENGTHS + (before << LENGTH_BITS) + node)
            before = node - (1 << LENGTH_BITS)
            lengths.append(before)
        return prefix_code(lengths, self.where)

    def _number(self, kind: Kind) -> int:
        source, bits, chances = self.source, BITS[kind], NUMBERS[kind]
        length = source.symbol(self.codes[kind], chances)
        if length == 0:
            return 0
        negative = source.decide(chances + bits)
        magnitude = 1
        first = chances + bits + 1 + below(length)
        for bit in range(length - 2, -1, -1):
            magnitude = 2 * magnitude + source.decide(first + bit)
        number = -magnitude if negative else magnitude
        if not -(1 << bits - 1) <= number < 1 << bits - 1:
            raise FormatError(f"a number of {bits} bits is {number} ({self.where}); {_DAMAGED}")
        return number

    def _numbers(self, kind: Kind, count: int) -> list[int]:
        return [self._number(kind) for _ in range(count)]

    def _output(self, outputs: _Outputs, row: int) -> None:
        for array, kind in zip(outputs.arrays, (Kind.BIAS, Kind.POSITIVE, Kind.NEGATIVE), strict=True):
            array[row] = self._number(kind)

    # --- pointwise weights -------------------------------------------------------------------

    def _pointwise(self, outputs: _Outputs, inputs: int) -> Array:
        rows, blocks = len(outputs.arrays[0]), -(-inputs // CODED_BLOCK)
        self._count("others")
        self._values_table()
        self._count("tables")
        gaps = _Gaps(self, rows * blocks) if self.coding == HUFFMAN else None
        self._count("places")
        weight = np.zeros((rows, blocks * CODED_BLOCK), np.int8)
        kept = np.zeros(blocks, np.int64)  # rows so far that keep a column's block
        averages = [self.largest << MAGNITUDE_SHIFT - 2] * inputs  # magnitude of each column's values
        for row in range(rows):
            self._output(outputs, row)
            self._count("others")
            places = gaps.row(blocks) if gaps else self._mask(kept, row)
            self._count("places")
            if places:
                kept[places] += 1
                self._row_values(weight[row], places, averages)
            self._count("values")
        return np.ascontiguousarray(weight[:, :inputs])

    def _values_table(self) -> None:
        source = self.source
        if self.values is not None and source.decide(SAME_TABLE):
            return
        self.largest = source.plain(MAGNITUDE_BITS)
        self.values = self._table(2 * self.largest + 1)
        source.forget(range(VALUES, VALUES + CLASSES_OF_MAGNITUDE * NODES))

    def _mask(self, kept: Array, row: int) -> list[int]:
        """Return the places of a row's blocks, by the density of its column so far and of the row so far."""
        decide = self.source.decide
        places: list[int] = []
        most = CLASSES_OF_DENSITY - 1
        columns = np.minimum((DENSITY_SCALE * kept + DENSITY_PRIOR) // (row + 1), most) * CLASSES_OF_DENSITY + MASK
        for place, column in enumerate(columns.tolist()):
            density = (DENSITY_SCALE * len(places) + DENSITY_PRIOR) // (place + 1)
            if decide(column + (density if density < most else most)):
                places.append(place)
        return places

    def _row_values(self, weights: Array, places: list[int], averages: list[int]) -> None:
        code, symbol, largest = self.values, self.source.symbol, self.largest
        assert code is not None
        for place in places:
            begin = CODED_BLOCK * place
            for column in range(begin, min(begin + CODED_BLOCK, len(averages))):
                average = averages[column]
                value = symbol(code, VALUES + MAGNITUDE_CLASS[average] * NODES) - largest
                weights[column] = value
                averages[column] = average + (((abs(value) << MAGNITUDE_SHIFT) - average) >> MAGNITUDE_RATE)


class _Outputs:
    """What a layer has for each output channel."""

    def __init__(self, channels: int) -> None:
        self.arrays: tuple[Array, ...] = (
            np.empty(channels, np.int32),
            np.empty(channels, np.int16),
            np.empty(channels, np.int16),
        )


class _Gaps:
    """The places of a layer's kept blocks by the absent blocks between them: `huffman`."""

    def __init__(self, reader: _Reader, positions: int) -> None:
        self._source, self._where = reader.source, reader.where
        self._left = reader.source.plain(COUNT_BITS)  # blocks
        self._positions = positions  # not passed yet
        if self._left > positions:
            raise FormatError(f"{self._left:,} blocks are kept of {positions:,} ({self._where}); {_DAMAGED}")
        self._code = reader._table(GAP + 1)
        self._gap = -1  # absent blocks before the next one; −1: not read

    def row(self, blocks: int) -> list[int]:
        """Return the places in the next row."""
        places, place = [], 0
        while self._left and place < blocks:
            if self._gap < 0:
                self._gap = self._next(self._positions - place)
            if place + self._gap >= blocks:
                self._gap -= blocks - place
                break
            place += self._gap
            places.append(place)
            place, self._gap = place + 1, -1
            self._left -= 1
        self._positions -= blocks
        if self._left and not self._positions:
            raise self._outside()
        return places

    def _next(self, positions: int) -> int:
        """Return the number of absent blocks before the next one, which is one of so many positions."""
        gap = 0
        while True:
            symbol = self._source.symbol(self._code, 0)
            gap += symbol
            if gap >= positions:
                raise self._outside()
            if symbol < GAP:
                return gap

    def _outside(self) -> FormatError:
        return FormatError(f"a kept block lies outside its layer ({self._where}); {_DAMAGED}")
