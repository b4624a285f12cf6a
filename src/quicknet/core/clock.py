"""Time as an argument, so that code that waits can be tested without waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple


class Clock(NamedTuple):
    """`now()` in seconds, from any start; `sleep(seconds)`."""

    now: Callable[[], float]
    sleep: Callable[[float], object]


SYSTEM_CLOCK = Clock(time.perf_counter, time.sleep)
