"""Where a reader of CODE takes decisions from: plain bits, or an ANS coder with adaptive chances."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Any

import numpy as np

from quicknet.core.errors import FormatError
from quicknet.qnz.coding.model import CHANCES, FIRST, HALF, RATES
from quicknet.qnz.coding.prefix import PrefixCode
from quicknet.qnz.format import CHANCE_BITS, CODED_CHANCE_BITS, LAST_COUNT, STATE_LOW

_SHORT = "the coded numbers end too early"
_DAMAGED = "it is damaged or was not written by QuickNet: export it again"
_DROP = CHANCE_BITS - CODED_CHANCE_BITS
_ONE = 1 << CODED_CHANCE_BITS
_LOW = _ONE - 1
_MOST = (1 << CHANCE_BITS) - 1
_WINDOW = 1 << 16  # bytes of plain bits that are unpacked at a time
_TURN = 8 * (_WINDOW - 64)  # no number or symbol has more bits than are left there


class Source(abc.ABC):
    """Decisions in the order in which they were written; `where` is for messages."""

    def __init__(self, where: str) -> None:
        self.where = where

    @abc.abstractmethod
    def decide(self, chance: int) -> int:
        """Return the next decision, 0 or 1; `chance` is the index of its chance."""

    @abc.abstractmethod
    def plain(self, bits: int) -> int:
        """Return a number of so many even decisions, the highest bit first."""

    @abc.abstractmethod
    def symbol(self, code: PrefixCode, chances: int) -> int:
        """Return a symbol of `code`; `chances` is where the chances of its nodes begin."""

    @abc.abstractmethod
    def forget(self, chances: Iterable[int]) -> None:
        """Set chances to what they were in the beginning."""

    @property
    @abc.abstractmethod
    def bits_read(self) -> int:
        """The bits of the section that were read."""

    @abc.abstractmethod
    def check_end(self) -> None:
        """Raise FormatError where something is left, or what is left is not what a writer leaves."""

    def too_short(self) -> FormatError:
        """Return the error for a section that ends too early."""
        return FormatError(f"{_SHORT} ({self.where}); {_DAMAGED}")

    def left_over(self) -> FormatError:
        """Return the error for a section that does not end with the last number."""
        return FormatError(f"the coded numbers do not end with the section ({self.where}); {_DAMAGED}")


class PlainSource(Source):
    """The bits of bytes, the highest first: what `huffman` is."""

    def __init__(self, data: memoryview, where: str) -> None:
        super().__init__(where)
        self._data, self._first, self._at = data, 0, 0  # bytes before the window, bits read of it
        self._fill()

    def _fill(self) -> None:
        """Unpack what comes next: a byte a bit, so never much at a time."""
        self._first, self._at = self._first + self._at // 8, self._at % 8
        window = self._data[self._first : self._first + _WINDOW]
        self._bits = np.unpackbits(np.frombuffer(window, np.uint8)).tobytes()

    def decide(self, chance: int) -> int:
        """Return the next bit."""
        return self.plain(1)

    def plain(self, bits: int) -> int:
        """Return a number of so many bits."""
        if self._at > _TURN:
            self._fill()
        taken = self._bits[self._at : self._at + bits]
        if len(taken) < bits:
            raise self.too_short()
        self._at += bits
        number = 0
        for bit in taken:
            number = 2 * number + bit
        return number

    def symbol(self, code: PrefixCode, chances: int) -> int:
        """Return a symbol by the bits of its code."""
        if self._at > _TURN:
            self._fill()
        node, at, bits, children = code.root, self._at, self._bits, code.children
        try:
            while node >= 0:
                node = children[2 * node + bits[at]]
                at += 1
        except IndexError:
            raise self.too_short() from None
        self._at = at
        return -1 - node

    def forget(self, chances: Iterable[int]) -> None:
        """Do nothing: there are no chances."""

    @property
    def bits_read(self) -> int:
        """The bits that were read."""
        return 8 * self._first + self._at

    def check_end(self) -> None:
        """Check that fewer than 8 bits are left, all 0."""
        if 8 * len(self._data) - self.bits_read >= 8 or any(self._bits[self._at :]):
            raise self.left_over()


class AdaptiveSource(Source):
    """Decisions by their chances, from the state and the words of an ANS coder: what `contexts` is."""

    def __init__(self, data: memoryview, where: str) -> None:
        super().__init__(where)
        if len(data) < 4 or len(data) % 2:
            raise self.too_short()
        self._state = int.from_bytes(data[:4], "little")
        if self._state < STATE_LOW:
            raise FormatError(f"the coder's state is {self._state}, below {STATE_LOW} ({where}); {_DAMAGED}")
        words: Any = np.frombuffer(data[4:], "<u2").astype(np.uint16)  # a copy: in a file they lie at any place
        self._words = memoryview(words)
        self._at = 0
        self.chances = [HALF] * CHANCES  # that a decision is 0, in 2^-16
        self.counts = [FIRST] * CHANCES

    def decide(self, chance: int) -> int:
        """Return a decision and move its chance."""
        kept, count = self.chances[chance], self.counts[chance]
        share = (kept >> _DROP) | 1
        state = self._state
        low = state & _LOW
        if low < share:
            bit = 0
            state = share * (state >> CODED_CHANCE_BITS) + low
            self.chances[chance] = kept + ((_MOST - kept) * RATES[count] >> CHANCE_BITS)
        else:
            bit = 1
            state = (_ONE - share) * (state >> CODED_CHANCE_BITS) + low - share
            self.chances[chance] = kept - (kept * RATES[count] >> CHANCE_BITS)
        if count < LAST_COUNT:
            self.counts[chance] = count + 1
        self._state = state if state >= STATE_LOW else self._refilled(state)
        return bit

    def _refilled(self, state: int) -> int:
        if self._at == len(self._words):
            raise self.too_short()
        self._at += 1
        return state << 16 | self._words[self._at - 1]

    def plain(self, bits: int) -> int:
        """Return a number of decisions of one half each."""
        number = 0
        for _ in range(bits):
            bit = self._state >> CODED_CHANCE_BITS - 1 & 1
            state = (self._state >> CODED_CHANCE_BITS) * (_ONE // 2) + (self._state & _ONE // 2 - 1)
            self._state = state if state >= STATE_LOW else self._refilled(state)
            number = 2 * number + bit
        return number

    def symbol(self, code: PrefixCode, chances: int) -> int:
        """Return a symbol by a decision at each node. `decide` is written out in it: half of all time goes here."""
        node = code.root
        if node < 0:
            return -1 - node
        state, at, words, children = self._state, self._at, self._words, code.children
        values, counts = self.chances, self.counts
        while node >= 0:
            place = chances + node
            kept, count = values[place], counts[place]
            share = (kept >> _DROP) | 1
            low = state & _LOW
            if low < share:
                state = share * (state >> CODED_CHANCE_BITS) + low
                values[place] = kept + ((_MOST - kept) * RATES[count] >> CHANCE_BITS)
                node = children[2 * node]
            else:
                state = (_ONE - share) * (state >> CODED_CHANCE_BITS) + low - share
                values[place] = kept - (kept * RATES[count] >> CHANCE_BITS)
                node = children[2 * node + 1]
            if count < LAST_COUNT:
                counts[place] = count + 1
            if state < STATE_LOW:
                if at == len(words):
                    raise self.too_short()
                state = state << 16 | words[at]
                at += 1
        self._state, self._at = state, at
        return -1 - node

    def forget(self, chances: Iterable[int]) -> None:
        """Set chances to one half."""
        for chance in chances:
            self.chances[chance], self.counts[chance] = HALF, FIRST

    @property
    def bits_read(self) -> int:
        """The bits of the words that were read, and of the state."""
        return 32 + 16 * self._at

    def check_end(self) -> None:
        """Check that all words were read, and that the state is a writer's first."""
        if self._at != len(self._words) or self._state != STATE_LOW:
            raise self.left_over()
