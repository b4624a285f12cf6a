"""What reader and writer of CODE share: the kinds of numbers, and the chances of decisions."""

from __future__ import annotations

import enum
from typing import NamedTuple

from quicknet.qnz.format import (
    CHANCE_BITS,
    CLASSES_OF_DENSITY,
    CLASSES_OF_MAGNITUDE,
    FIRST_COUNT,
    LAST_COUNT,
    MAGNITUDE_SHIFT,
    MAX_CODE_BITS,
    MAX_WEIGHT,
)


class Kind(enum.IntEnum):
    """The numbers beside pointwise weights, in the order of their tables."""

    STEM = 0
    DEPTHWISE = 1
    MULTIPLIER = 2
    BIAS = 3
    POSITIVE = 4
    NEGATIVE = 5
    CLASSIFIER = 6
    CLASSIFIER_BIAS = 7


class Parts(NamedTuple):
    """What the bits of CODE, or of a layer in it, are for."""

    tables: int
    places: int
    values: int
    others: int


BITS = (8, 8, 16, 32, 16, 16, 16, 32)  # of each kind of number

MOST_SYMBOLS = 2 * MAX_WEIGHT + 1
NODES = MOST_SYMBOLS - 1  # of a table of values, at most

# Where in the list of chances those of a decision begin.
MASK = 0
LENGTHS = MASK + CLASSES_OF_DENSITY**2
SAME_TABLE = LENGTHS + (MAX_CODE_BITS + 1) ** 2
NUMBERS = [SAME_TABLE + 1]  # of each kind: nodes of its table, sign, bits below the highest
for _bits in BITS:
    NUMBERS.append(NUMBERS[-1] + _bits + 1 + _bits * (_bits - 1) // 2)
VALUES = NUMBERS.pop()
CHANCES = VALUES + CLASSES_OF_MAGNITUDE * NODES

HALF = 1 << (CHANCE_BITS - 1)
# How far a chance moves towards a decision, in 2^-16, by the number of decisions that it stands for.
RATES = [2 * (1 << CHANCE_BITS) // (2 * count + 3) for count in range(LAST_COUNT + 1)]
FIRST = FIRST_COUNT


def below(bits: int) -> int:
    """Return where the chances of the bits below the highest begin, for numbers of `bits` bits."""
    return (bits - 1) * (bits - 2) // 2


def _magnitude_class(average: int) -> int:
    """Return the class of a column's average magnitude, in sixteenths: two for each power of two."""
    quarter = average >> (MAGNITUDE_SHIFT - 2)
    length = quarter.bit_length()
    halves = length if length < 2 else 2 * length - 2 + (quarter >> (length - 2) & 1)
    return min(halves, CLASSES_OF_MAGNITUDE - 1)


MAGNITUDE_CLASS = [_magnitude_class(average) for average in range((MAX_WEIGHT << MAGNITUDE_SHIFT) + 1)]
