"""A setting of the whole process that holds while any thread needs it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class WhileAny(Generic[T]):
    """`begin` is called as the first thread enters, `end` with what it returned as the last one leaves.

    Two threads that change such a setting and restore it in turn would restore each other's. No lock is held inside.
    """

    def __init__(self, begin: Callable[[], T], end: Callable[[T], object]) -> None:
        self._begin, self._end = begin, end
        self._lock = threading.Lock()
        self._inside: list[T] = []  # what `begin` returned, once for each thread inside

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Enter, and leave at the end of the block."""
        with self._lock:
            self._inside.append(self._inside[0] if self._inside else self._begin())
        try:
            yield
        finally:
            with self._lock:
                before = self._inside.pop()
                if not self._inside:
                    self._end(before)
