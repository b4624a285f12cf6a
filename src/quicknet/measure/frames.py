"""Frames that arrive in real time: how many are answered, how late, how many are lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quicknet.core.clock import Clock
from quicknet.core.settings import Settings
from quicknet.measure.timing import percentile

# A camera that holds its rate loses no more than this, and answers the rest of 95% in time.
DROPPED_SHARE = 0.01
MISSED_SHARE = 0.05


class Paced(Settings, frozen=True, kw_only=True):
    """What became of the frames: latencies (s) of those answered, since each arrived."""

    frames: int
    dropped: int
    latencies_s: tuple[float, ...]


def pace(answer: Callable[[int], object], fps: float, frames: int, clock: Clock) -> Paced:
    """Answer frames that arrive every 1/fps seconds, as from a camera that keeps the newest only.

    A frame that arrived while an earlier one was being answered waits; a newer one replaces it,
    and it is dropped.
    """
    start = clock.now()
    latencies_s: list[float] = []
    dropped = frame = 0
    while frame < frames:
        wait_s = start + frame / fps - clock.now()
        if wait_s > 0:
            clock.sleep(wait_s)
        else:
            newest = max(frame, min(frames - 1, int((clock.now() - start) * fps)))
            dropped += newest - frame
            frame = newest
        answer(frame)
        latencies_s.append(clock.now() - (start + frame / fps))
        frame += 1
    return Paced(frames=frames, dropped=dropped, latencies_s=tuple(latencies_s))


class FrameRow(Settings, frozen=True, kw_only=True):
    """One model's answer to "does it hold so many frames a second?"; latencies count from arrival.

    `late` frames were answered after the next had arrived. `cpu_share` is of one core, None
    without a quota; `cpu_share_used` is what was really used while frames came.
    """

    model: str
    runtime: str
    threads: int
    jpeg: str
    fps: float
    holds: bool
    frames: int
    answered: int
    late: int
    dropped: int
    median_ms: float
    p95_ms: float
    worst_ms: float
    cpu_share: float | None
    cpu_share_used: float | None
    quota: str


def count_late(latencies_s: Sequence[float], fps: float) -> int:
    """Return how many frames were answered after the next one had arrived."""
    return sum(latency > 1 / fps for latency in latencies_s)


def holds(paced: Paced, fps: float) -> bool:
    """Return whether at most 1% of the frames were dropped and 95% answered before the next came.

    >>> holds(Paced(frames=100, dropped=0, latencies_s=(0.01,) * 95 + (0.03,) * 5), 60)
    True
    >>> holds(Paced(frames=100, dropped=2, latencies_s=(0.01,) * 98), 60)
    False
    """
    missed = paced.dropped + count_late(paced.latencies_s, fps)
    return paced.dropped <= DROPPED_SHARE * paced.frames and missed <= MISSED_SHARE * paced.frames


def latency_ms(paced: Paced) -> tuple[float, float, float]:
    """Return median, 95th percentile and worst latency in ms."""
    shares = (0.5, 0.95, 1.0)
    median, p95, worst = (1000 * percentile(paced.latencies_s, share) for share in shares)
    return median, p95, worst
