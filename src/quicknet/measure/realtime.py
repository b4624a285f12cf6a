"""Whether a model holds so many frames a second on a share of one core (paper §1: low-power CPUs)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from quicknet.core.errors import ConfigError
from quicknet.core.machine import usable_cores
from quicknet.core.settings import Settings
from quicknet.inference.artifact import open_artifact
from quicknet.measure.benchmark import jpeg_folders
from quicknet.measure.child import Child
from quicknet.measure.frames import FrameRow, Paced, count_late, holds, latency_ms
from quicknet.measure.quota import cpu_limit, period_s
from quicknet.measure.subjects import Subject, find_subjects, own_runtime


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


class SmallestShare(Settings, frozen=True, kw_only=True):
    """The smallest share of one core, in steps of 0.01, with which a model held the rate; None: not with a whole core.

    `trials` are all that was tried, in order.
    """

    model: str
    runtime: str
    threads: int
    cpu_share: float | None
    trials: tuple[FrameRow, ...]

    @property
    def row(self) -> FrameRow:
        """The last trial with the smallest share, or with a whole core."""
        share = self.cpu_share if self.cpu_share is not None else 1.0
        return next(row for row in reversed(self.trials) if row.cpu_share == share)


def hold_frames(paths: Sequence[str | Path], settings: FrameSettings) -> tuple[FrameRow, ...]:
    """Run the whole path of the models at `paths` on frames in real time, one after the other.

    Raises what `benchmark` raises, and ToolError where a CPU share cannot be kept here.
    """
    rows = []
    with _subjects(paths, settings) as subjects:
        for subject, folder in subjects:
            with _warm(subject, folder) as child:
                rows.append(_hold(child, folder, settings))
    return tuple(rows)


def smallest_shares(
    paths: Sequence[str | Path], settings: FrameSettings, tried: Callable[[FrameRow], None] = lambda row: None
) -> tuple[SmallestShare, ...]:
    """Find for each model the smallest share of one core that holds the rate; `tried` is called after every trial.

    Each trial lasts `settings.seconds`. Raises as `hold_frames`.
    """
    shares = []
    with _subjects(paths, settings) as subjects:
        for subject, folder in subjects:
            with _warm(subject, folder) as child:
                shares.append(_search(child, folder, settings, tried))
    return tuple(shares)


def _search(child: Child, folder: Path, settings: FrameSettings, tried: Callable[[FrameRow], None]) -> SmallestShare:
    trials: list[FrameRow] = []

    def holds_with(hundredths: int) -> bool:
        row = _hold(child, folder, settings.replace(cpu_share=hundredths / 100))
        trials.append(row)
        tried(row)
        return row.holds

    share = smallest(holds_with)
    return SmallestShare(
        model=trials[-1].model,
        runtime=trials[-1].runtime,
        threads=trials[-1].threads,
        cpu_share=None if share is None else share / 100,
        trials=tuple(trials),
    )


def smallest(holds_with: Callable[[int], bool], highest: int = 100) -> int | None:
    """Return the smallest number within 1..highest with which something holds, None if not with `highest`.

    By bisection, which one lucky trial would mislead: the number must hold twice, else the next
    higher is tried.

    >>> smallest(lambda number: number >= 37)
    37
    """
    if not holds_with(highest):
        return None
    fails, number = 0, highest
    while number - fails > 1:
        middle = (fails + number) // 2
        if holds_with(middle):
            number = middle
        else:
            fails = middle
    held = 1
    while number < highest and held < 2:
        if holds_with(number):
            held += 1
        else:
            number, held = number + 1, 0
    return number


@contextlib.contextmanager
def _subjects(paths: Sequence[str | Path], settings: FrameSettings) -> Iterator[list[tuple[Subject, Path]]]:
    """Yield what is to be run, each with its folder of JPEG files."""
    subjects = find_subjects(paths, settings.runtimes, [settings.threads])
    if not settings.runtimes:
        models = dict.fromkeys(subject.model for subject in subjects)
        subjects = tuple(Subject(model=m, runtime=own_runtime(m), threads=settings.threads) for m in models)
    cards = {model: open_artifact(model).card for model in dict.fromkeys(subject.model for subject in subjects)}
    with jpeg_folders(cards, settings.jpeg) as folders:
        yield [(subject, folders[subject.model]) for subject in subjects]


@contextlib.contextmanager
def _warm(subject: Subject, folder: Path) -> Iterator[Child]:
    with Child(subject, folder) as child:
        child.ask("warm", path="whole", batch=1)
        yield child


def _hold(child: Child, folder: Path, settings: FrameSettings) -> FrameRow:
    """Run one trial with the share of the settings."""
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
        **{**child.subject.to_dict(), "runtime": runtime},
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
