"""The live line of a training: a thread that reads the run's meter and writes to stderr."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from quicknet.cli.text import shown

_TERMINAL_EVERY_S = 0.5
_LOG_EVERY_S = 30.0


def duration(seconds: float) -> str:
    """Return a duration in words.

    >>> duration(59), duration(90), duration(7260)
    ('59 s', '1 min 30 s', '2 h 1 min')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Live:
    """One line that is rewritten on a terminal, and printed every 30 s elsewhere."""

    def __init__(self, text: Callable[[], str], stream: TextIO, quiet: bool) -> None:
        self._text, self._stream, self._quiet = text, stream, quiet
        self._terminal = stream.isatty()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def _turn(self) -> None:
        every = _TERMINAL_EVERY_S if self._terminal else _LOG_EVERY_S
        while not self._ended.wait(every):
            with self._lock:
                line = self._text()
                if line:
                    self._stream.write(f"\r\x1b[K{line}" if self._terminal else f"{line}\n")
                    self._stream.flush()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if self._quiet:
            return
        with self._lock:
            plain = shown(line)  # it may hold names of files and classes
            self._stream.write(f"\r\x1b[K{plain}\n" if self._terminal else f"{plain}\n")
            self._stream.flush()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Show the line while the block lasts."""
        if self._quiet:
            yield
            return
        thread = threading.Thread(target=self._turn, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            if self._terminal:
                self._stream.write("\r\x1b[K")
                self._stream.flush()


class Rate:
    """Estimates the seconds that are left, from the pace since the first call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, float] | None = None

    def left(self, done: float, total: float) -> float | None:
        """Return the seconds until `total`, or None while the pace is unknown."""
        now = self._clock()
        if self._first is None:
            self._first = (now, done)
            return None
        since, before = self._first
        if done <= before or now <= since:
            return None
        return (total - done) * (now - since) / (done - before)


def stderr() -> TextIO:
    """Return the stream for progress and notes."""
    return sys.stderr
