"""Which of several runtimes is the fastest on this machine: measured once, remembered in the user's cache.

Measuring takes about a second, mostly for loading both runtimes, and a command that classifies one
picture should not take that each time.
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
_WARM_UP = 3  # calls that are not counted: the first ones allocate memory
_LIMIT_BYTES = 1 << 20
_LIMIT_ENTRIES = 500

Images = NDArray[np.uint8]
Logits = NDArray[np.float32]


class Runner(Protocol):
    """A compiled graph that any thread may call."""

    def __call__(self, images: Images) -> Logits:
        """Return (N, classes) for (N, H, W, C)."""
        ...


def faster(runners: dict[str, Runner], image: Images, clock: Callable[[], float]) -> str:
    """Return the name of the runner with the lowest median time on `image`; they run in turn.

    In turn, so that a change of the machine's speed affects all of them; medians, since other work
    may run beside.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(_WARM_UP + _REPEATS):
        for name, run in runners.items():
            started = clock()
            run(image)
            seconds[name].append(clock() - started)
    return min(runners, key=lambda name: statistics.median(seconds[name][_WARM_UP:]))


def question(weights_sha256: str, threads: int, names: tuple[str, ...]) -> str:
    """Return a digest of everything that the answer depends on: graph, threads, CPU, installed runtimes."""
    installed = []
    for name in names:
        spec = importlib.util.find_spec(name)
        # the file's time changes with every installation and can be read without importing
        installed.append([name, Path(spec.origin).stat().st_mtime_ns if spec and spec.origin else 0])
    return sha256_bytes(json.dumps([weights_sha256, threads, machine_card()["cpu"], installed]).encode())


_lock = threading.Lock()


def remembered(key: str, names: tuple[str, ...], measure: Callable[[], str]) -> str:
    """Return the answer to `key` from the cache, else from `measure`, and store it in the cache.

    If the cache is damaged or cannot be written, the only cost is measuring again.
    """
    try:
        path = user_cache() / "runtimes.json"
    except ToolError:
        return measure()
    with _lock:
        known = _read(path)
        if known.get(key) in names:
            return known[key]
        known[key] = measure()
        newest = dict(list(known.items())[-_LIMIT_ENTRIES:])
        with contextlib.suppress(ToolError):
            write_atomically(path, json.dumps(newest, indent=1) + "\n")
        return known[key]


def _read(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        known = read_json(path, "the memory of runtimes", _LIMIT_BYTES)
    except FormatError:
        return {}
    return {key: value for key, value in known.items() if isinstance(value, str)} if isinstance(known, dict) else {}
