"""Where a writer of CODE puts decisions: the other side of `sources.py`."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quicknet.qnz.coding.model import CHANCES, FIRST, HALF, RATES
from quicknet.qnz.format import CHANCE_BITS, CODED_CHANCE_BITS, LAST_COUNT, STATE_LOW

_DROP = CHANCE_BITS - CODED_CHANCE_BITS
_ONE = 1 << CODED_CHANCE_BITS
_MOST = (1 << CHANCE_BITS) - 1

Array = NDArray[Any]
Path = list[tuple[int, int]]  # (node, bit) from a code's root to a symbol


class Sink(abc.ABC):
    """Takes decisions in the order in which a reader will ask for them."""

    @abc.abstractmethod
    def decide(self, chance: int, bit: int) -> None:
        """Take a decision; `chance` is the index of its chance."""

    @abc.abstractmethod
    def plain(self, number: int, bits: int) -> None:
        """Take a number of so many even decisions."""

    @abc.abstractmethod
    def forget(self, chances: Iterable[int]) -> None:
        """Set chances to what they were in the beginning."""

    @abc.abstractmethod
    def finish(self) -> bytes:
        """Return what the section holds behind its header."""

    @property
    @abc.abstractmethod
    def taken(self) -> int:
        """The decisions that were taken."""

    @abc.abstractmethod
    def bits(self, ends: Sequence[int]) -> Array:
        """Return, for each of `ends`, how many bits so many of the first decisions become: (n,) float64."""

    def symbol(self, path: Path, chances: int) -> None:
        """Take a symbol of a prefix code; `chances` is where the chances of its nodes begin."""
        for node, bit in path:
            self.decide(chances + node, bit)


class PlainSink(Sink):
    """Bits, the highest of a byte first."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def decide(self, chance: int, bit: int) -> None:
        """Append the bit."""
        self._bits.append(bit)

    def plain(self, number: int, bits: int) -> None:
        """Append the number's bits."""
        self._bits.extend(number >> bit & 1 for bit in reversed(range(bits)))

    def forget(self, chances: Iterable[int]) -> None:
        """Do nothing: there are no chances."""

    def finish(self) -> bytes:
        """Return the bits, filled up with zeros to a whole byte."""
        return np.packbits(np.frombuffer(bytes(self._bits), np.uint8)).tobytes()

    @property
    def taken(self) -> int:
        """The decisions, which are the bits."""
        return len(self._bits)

    def bits(self, ends: Sequence[int]) -> Array:
        """Return as many bits as decisions."""
        return np.array(ends, np.float64)


class AdaptiveSink(Sink):
    """Decisions with their chances, kept until the end: an ANS coder writes backwards."""

    def __init__(self) -> None:
        self._decisions: list[int] = []  # 2 · chance that it is 0, in 2^-12, + decision
        self.chances = [HALF] * CHANCES
        self.counts = [FIRST] * CHANCES

    def decide(self, chance: int, bit: int) -> None:
        """Keep a decision and move its chance."""
        kept, count = self.chances[chance], self.counts[chance]
        self._decisions.append(((kept >> _DROP) | 1) << 1 | bit)
        if bit:
            self.chances[chance] = kept - (kept * RATES[count] >> CHANCE_BITS)
        else:
            self.chances[chance] = kept + ((_MOST - kept) * RATES[count] >> CHANCE_BITS)
        if count < LAST_COUNT:
            self.counts[chance] = count + 1

    def plain(self, number: int, bits: int) -> None:
        """Keep a number's bits, each with one half."""
        self._decisions.extend(_ONE | (number >> bit & 1) for bit in reversed(range(bits)))

    def forget(self, chances: Iterable[int]) -> None:
        """Set chances to one half."""
        for chance in chances:
            self.chances[chance], self.counts[chance] = HALF, FIRST

    def finish(self) -> bytes:
        """Return the state and the words, coded from the last decision to the first."""
        state, words = STATE_LOW, []
        for decision in reversed(self._decisions):
            chance, bit = decision >> 1, decision & 1
            share = _ONE - chance if bit else chance
            if state >= share << 20:  # it would pass 32 bits
                words.append(state & 0xFFFF)
                state >>= 16
            whole, part = divmod(state, share)
            state = (whole << CODED_CHANCE_BITS) + part + (chance if bit else 0)
        return state.to_bytes(4, "little") + np.array(words[::-1], "<u2").tobytes()

    @property
    def taken(self) -> int:
        """The decisions that are kept."""
        return len(self._decisions)

    def bits(self, ends: Sequence[int]) -> Array:
        """Return sums of −log2 of the decisions' chances: with the state, 5 bytes from the section of results/0042."""
        decisions = np.array(self._decisions, np.int64)
        chances = np.where(decisions & 1, _ONE - (decisions >> 1), decisions >> 1)
        return np.append(0.0, np.cumsum(CODED_CHANCE_BITS - np.log2(chances)))[np.array(ends, np.int64)]
