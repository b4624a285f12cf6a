"""Figures from repeated timings, and the bursts that they come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from quicknet.core.errors import ConfigError
from quicknet.core.settings import Settings

# A burst has this many calls, unless it would last longer than this many seconds: ten bursts
# make 50 repeats or 2 s.
BURST_CALLS = 5
BURST_S = 0.2


class Timing(Settings, frozen=True, kw_only=True):
    """Repeats of one call on `batch` images: median and p95 in ms, images/s by the median."""

    n: int
    median_ms: float
    p95_ms: float
    images_per_second: float


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of the values do not exceed (nearest rank).

    Raises ConfigError without values.

    >>> percentile([3, 1, 2], 0.5), percentile(range(1, 101), 0.95)
    (2, 95)
    """
    if not values:
        raise ConfigError("nothing was measured; allow more --seconds")
    return sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]


def summarize(seconds: Sequence[float], batch: int) -> Timing:
    """Return the timing of calls that took `seconds` each. Raises ConfigError without any."""
    median_s = percentile(seconds, 0.5)
    return Timing(
        n=len(seconds),
        median_ms=1000 * median_s,
        p95_ms=1000 * percentile(seconds, 0.95),
        images_per_second=batch / median_s,
    )


def burst(call: Callable[[], object], seconds: float, clock: Callable[[], float]) -> list[float]:
    """Return the seconds of repeated calls, for `seconds` and BURST_CALLS calls or BURST_S.

    The first call is not counted, since the variant that was measured before has filled the caches;
    but it is where it alone fills the burst.
    """
    started = clock()
    taken = [_timed(call, clock)]
    if taken[0] < min(seconds, BURST_S):
        taken, started = [], clock()
    while not taken or clock() - started < seconds or (len(taken) < BURST_CALLS and clock() - started < BURST_S):
        taken.append(_timed(call, clock))
    return taken


def _timed(call: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start
