"""Whether a model holds so many frames a second on a share of one core (paper §1: low-power CPUs)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quicknet.compare.benchmark import jpeg_folders
from quicknet.compare.child import Child
from quicknet.compare.facts import read_model
from quicknet.compare.frames import FrameRow, Paced, count_late, holds, latency_ms
from quicknet.compare.quota import cpu_limit, period_s
from quicknet.compare.subjects import Subject, find_subjects, own_runtime
from quicknet.core.errors import ConfigError
from quicknet.core.machine import usable_cores
from quicknet.core.settings import Settings


class FrameSettings(Settings, frozen=True, kw_only=True):
    """Frames a second, for how long, with which share of one core (None: no quota).

    `runtimes` empty takes the one that QuickNet itself would use: torch, for a file the faster.
    `jpeg` is as for `BenchmarkSettings`.
    """

    fps: float
    seconds: float = 10.0
    cpu_share: float | None = None
    threads: int = 1
    runtimes: tuple[str, ...] = ()
    jpeg: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be paced. Raises ConfigError."""
        if not 0.1 <= self.fps <= 10_000 or not 0.01 <= self.seconds <= 3600 or self.frames < 1:
            raise ConfigError("frames a second must lie in 0.1..10,000, seconds in 0.01..3600, for one frame at least")
        if not 1 <= self.threads <= usable_cores():
            raise ConfigError(f"threads must lie in 1..{usable_cores()}, this machine's usable cores")
        if self.cpu_share is not None:
            period_s(self.cpu_share)

    @property
    def frames(self) -> int:
        """How many frames come."""
        return round(self.fps * self.seconds)


def hold_frames(paths: Sequence[str | Path], settings: FrameSettings) -> tuple[FrameRow, ...]:
    """Run the whole path of the models at `paths` on frames in real time, one after the other.

    Raises what `benchmark` raises, and ToolError where a CPU share cannot be kept here.
    """
    subjects = find_subjects(paths, settings.runtimes, [settings.threads])
    if not settings.runtimes:
        models = dict.fromkeys(subject.model for subject in subjects)
        subjects = tuple(Subject(model=m, runtime=own_runtime(m), threads=settings.threads) for m in models)
    cards = {subject.model: read_model(subject.model)[0] for subject in subjects}
    rows = []
    with jpeg_folders(cards, settings.jpeg) as folders:
        for subject in subjects:
            rows.append(_hold(subject, folders[subject.model], settings))
    return tuple(rows)


def _hold(subject: Subject, folder: Path, settings: FrameSettings) -> FrameRow:
    with Child(subject, folder) as child:
        child.ask("warm", path="whole", batch=1)
        runtime = str(child.ask("describe")["runtime"])
        if settings.cpu_share is None:
            quota, used = "none", None
            answer = child.ask("pace", fps=settings.fps, frames=settings.frames)
        else:
            with cpu_limit(child.pid, settings.cpu_share) as limit:
                answer = child.ask("pace", fps=settings.fps, frames=settings.frames)
            quota, used = limit.method, limit.used_share
    paced = Paced(**{**answer, "latencies_s": tuple(answer["latencies_s"])})
    median_ms, p95_ms, worst_ms = latency_ms(paced)
    return FrameRow(
        **{**subject.to_dict(), "runtime": runtime},
        jpeg=folder.name,
        fps=settings.fps,
        holds=holds(paced, settings.fps),
        frames=paced.frames,
        answered=len(paced.latencies_s),
        late=count_late(paced.latencies_s, settings.fps),
        dropped=paced.dropped,
        median_ms=median_ms,
        p95_ms=p95_ms,
        worst_ms=worst_ms,
        cpu_share=settings.cpu_share,
        cpu_share_used=used,
        quota=quota,
    )
