"""Which of several runtimes is the fastest here: measured once, remembered in the user's cache.

Measuring costs a second or so, most of it for loading both, which a command that classifies one
picture should not pay each time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import statistics
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quicknet.core.errors import FormatError, ToolError
from quicknet.core.files import read_json, sha256_bytes, write_atomically
from quicknet.core.machine import machine_card
from quicknet.core.places import user_cache

_REPEATS = 15
_FIRST = 3  # calls that allocate, not counted
_LIMIT_BYTES = 1 << 20
_KEPT = 500

Images = NDArray[np.uint8]
Logits = NDArray[np.float32]


class Runner(Protocol):
    """A compiled graph; called from any thread."""

    def __call__(self, images: Images) -> Logits:
        """Return (N, classes) for (N, H, W, C)."""
        ...


def faster(runners: dict[str, Runner], image: Images, clock: Callable[[], float]) -> str:
    """Return the name of the runner whose median time on `image` is least; they run in turn.

    In turn, so that a drift of the machine's speed meets them all; medians, since it is shared.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(_FIRST + _REPEATS):
        for name, run in runners.items():
            started = clock()
            run(image)
            seconds[name].append(clock() - started)
    return min(runners, key=lambda name: statistics.median(seconds[name][_FIRST:]))


def question(weights_sha256: str, threads: int, names: tuple[str, ...]) -> str:
    """Return a digest of all that the answer may depend on: graph, threads, CPU, installed runtimes."""
    installed = []
    for name in names:
        spec = importlib.util.find_spec(name)
        # the file's time changes with every installation, and is read without importing
        installed.append([name, Path(spec.origin).stat().st_mtime_ns if spec and spec.origin else 0])
    return sha256_bytes(json.dumps([weights_sha256, threads, machine_card()["cpu"], installed]).encode())


_lock = threading.Lock()


def remembered(key: str, names: tuple[str, ...], measure: Callable[[], str]) -> str:
    """Return the answer to `key` from the cache, else by `measure`, whose answer is kept there.

    A cache that is damaged or cannot be written costs measuring again, nothing else.
    """
    path = user_cache() / "runtimes.json"
    with _lock:
        known = _read(path)
        if known.get(key) in names:
            return known[key]
        known[key] = measure()
        kept = dict(list(known.items())[-_KEPT:])
        with contextlib.suppress(ToolError):
            write_atomically(path, json.dumps(kept, indent=1) + "\n")
        return known[key]


def _read(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        known = read_json(path, "the memory of runtimes", _LIMIT_BYTES)
    except FormatError:
        return {}
    return {key: value for key, value in known.items() if isinstance(value, str)} if isinstance(known, dict) else {}
