"""Silence for Pillow's warnings that works from many threads at once."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

_lock = threading.Lock()
_inside = 0
_saved: warnings.catch_warnings[None] | None = None


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Ignore the warnings of Pillow's modules while any thread is inside.

    `warnings.catch_warnings` swaps a process-wide list: two threads that enter and leave in
    turn would restore each other's. So the first thread that enters saves it, and the last that
    leaves restores it; no lock is held while decoding.
    """
    global _inside, _saved
    with _lock:
        if _inside == 0:
            _saved = warnings.catch_warnings()
            _saved.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _saved is not None:
                _saved.__exit__(None, None, None)
                _saved = None
