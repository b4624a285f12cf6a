"""Speed of models side by side: every variant a process of its own, measured in turn.

Ratios hold on a noisy machine because all variants run A B C A B C … in short bursts, one at a
time, and the machine's peak takes its turns among them.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from quicknet.core.card import Card
from quicknet.core.errors import ConfigError
from quicknet.core.machine import machine_card, usable_cores, versions
from quicknet.core.settings import Settings
from quicknet.inference.artifact import open_artifact
from quicknet.measure.child import Child
from quicknet.measure.facts import ModelFacts, model_facts
from quicknet.measure.peak import MACS
from quicknet.measure.subjects import Subject, draw_jpegs, find_subjects
from quicknet.measure.timing import percentile, summarize

_ROUNDS = 10
_JPEGS = 16
_PATHS = ("network", "whole")

Advance = Callable[[int], None]


class BenchmarkSettings(Settings, frozen=True, kw_only=True):
    """What is measured; `seconds` are those of each case, `starts` how often each model is started.

    `runtimes` empty takes all that are present. `jpeg` (width, height) is that of the files on
    the whole path, None the model's own size.
    """

    batches: tuple[int, ...] = (1, 64)
    threads: tuple[int, ...] = (1,)
    seconds: float = 2.0
    starts: int = 3
    runtimes: tuple[str, ...] = ()
    jpeg: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be measured. Raises ConfigError."""
        cores = usable_cores()
        if not self.batches or not all(1 <= batch <= 4096 for batch in self.batches):
            raise ConfigError("batch sizes must lie in 1..4096")
        if not self.threads or not all(1 <= n <= cores for n in self.threads):
            raise ConfigError(f"threads must lie in 1..{cores}, this machine's usable cores")
        if not 0.01 <= self.seconds <= 3600 or not 1 <= self.starts <= 100:
            raise ConfigError("seconds must lie in 0.01..3600, starts in 1..100")
        if self.jpeg is not None and not all(1 <= side <= 4096 for side in self.jpeg):
            raise ConfigError("JPEG sides must lie in 1..4096 pixels")


class Row(Settings, frozen=True, kw_only=True):
    """One case of one subject: `path` "network" (uint8 → logits) or "whole" (JPEG bytes → labels).

    `cpu_ms` is the mean CPU time of a call, all threads together: what other processes take of the
    cores does not count in it. `cores_used` is CPU time per time: with one thread under 1 where
    others had part of the core. `ratio` is its images/s over those of the first model and runtime
    in the same case. `memory_bytes` is the most its process had resident, up to this batch.
    `peak_share` (network only) is its multiply-adds per second of CPU time over those of the
    matrix product on one core; None where the MACs are not known.
    """

    model: str
    runtime: str
    threads: int
    cores: tuple[int, ...] | None
    path: str
    batch: int
    n: int
    median_ms: float
    p95_ms: float
    images_per_second: float
    cpu_ms: float
    cores_used: float
    ratio: float
    memory_bytes: int
    gmacs_per_core_second: float | None
    peak_share: float | None


class PeakRow(Settings, frozen=True, kw_only=True):
    """The machine's fp32 peak: G multiply-adds/s, all threads together, and per second of CPU time."""

    threads: int
    n: int
    gmacs_median: float
    gmacs_best: float
    gmacs_per_core_second: float
    library: str


class StartRow(Settings, frozen=True, kw_only=True):
    """Seconds from starting Python to the first label, files in the page cache, one thread pinned."""

    model: str
    runtime: str
    n: int
    median_s: float
    fastest_s: float
    slowest_s: float


class Benchmark(Settings, frozen=True, kw_only=True):
    """Everything measured in one run, on which machine, with what.

    `runtimes` says what each is, `jpegs` the sides of the files on each model's whole path.
    """

    format: int = 1
    settings: BenchmarkSettings
    machine: dict[str, Any]
    versions: dict[str, str]
    runtimes: dict[str, str]
    models: tuple[ModelFacts, ...]
    jpegs: dict[str, str]
    peaks: tuple[PeakRow, ...]
    starts: tuple[StartRow, ...]
    rows: tuple[Row, ...]


def benchmark(
    models: Sequence[str | Path], settings: BenchmarkSettings | None = None, advance: Advance = lambda n: None
) -> Benchmark:
    """Measure `models` (run folders or exported files) in every runtime present, in turn.

    `advance(n)` is called after n more of `count_steps` done. Raises ConfigError, CheckpointError,
    FormatError and ToolError for what cannot be measured.
    """
    settings = settings or BenchmarkSettings()
    machine = machine_card()
    subjects = find_subjects(models, settings.runtimes, settings.threads)
    artifacts = {model: open_artifact(model) for model in dict.fromkeys(subject.model for subject in subjects)}
    cards = {model: artifact.card for model, artifact in artifacts.items()}
    facts = {model: model_facts(model, artifact) for model, artifact in artifacts.items()}
    with jpeg_folders(cards, settings.jpeg) as folders, contextlib.ExitStack() as stack:
        cold = _cold_starts(subjects, folders, settings.starts, advance)
        children = [stack.enter_context(Child(s, folders.get(s.model))) for s in (*subjects, *_peaks(subjects))]
        details = {child.subject.runtime: child.describe() for child in children}
        measured = _measure(children, settings, advance)
    peaks = tuple(_peak_row(case, details["peak"]) for case in measured if case.path == "peak")
    return Benchmark(
        settings=settings,
        machine=machine,
        versions=versions(),
        runtimes=details,
        models=tuple(facts.values()),
        jpegs={model: folder.name for model, folder in folders.items()},
        peaks=peaks,
        starts=tuple(_start_row(subject, seconds) for subject, seconds in cold.items()),
        rows=_rows(measured, facts, peaks),
    )


def count_steps(models: Sequence[str | Path], settings: BenchmarkSettings) -> int:
    """Return how many steps `benchmark` takes: starts and bursts. Raises as `benchmark` does."""
    subjects = find_subjects(models, settings.runtimes, settings.threads)
    bursts = len(subjects) * len(_PATHS) * len(set(settings.batches)) + len(_peaks(subjects))
    return len(_once_each(subjects)) * settings.starts + bursts * _ROUNDS


@contextlib.contextmanager
def jpeg_folders(cards: dict[str, Card], sides: tuple[int, int] | None) -> Iterator[dict[str, Path]]:
    """Yield a folder of JPEG files for each model, named by their sides, of the model's own size by default."""
    with tempfile.TemporaryDirectory(prefix="quicknet-") as root:
        folders = {}
        for model, card in cards.items():
            width, height = sides or (card.preprocess.size, card.preprocess.size)
            folder = Path(root) / f"{width}x{height}"
            folders[model] = folder
            if folder.exists():
                continue
            folder.mkdir()
            for index, blob in enumerate(draw_jpegs(width, height, _JPEGS)):
                (folder / f"{index:02d}.jpg").write_bytes(blob)
        yield folders


def _once_each(subjects: Sequence[Subject]) -> list[Subject]:
    """Return each model and runtime once, with the fewest threads."""
    once: dict[tuple[str, str], Subject] = {}
    for subject in sorted(subjects, key=lambda s: s.threads):
        once.setdefault((subject.model, subject.runtime), subject)
    return list(dict.fromkeys(subject for subject in subjects if subject in once.values()))


def _peaks(subjects: Sequence[Subject]) -> list[Subject]:
    """Return the matrix product on one core, which shares are of, and with every number of threads used.

    Not with as many threads as the subject: BLAS threads spin while they wait, and on
    a busy machine (load 9 on 2 cores) did 7 G multiply-adds per second of CPU time where one did 48.
    """
    threads = dict.fromkeys((1, *(subject.threads for subject in subjects)))
    return [Subject(model="", runtime="peak", threads=n) for n in threads]


def _cold_starts(
    subjects: Sequence[Subject], folders: dict[str, Path], starts: int, advance: Advance
) -> dict[Subject, list[float]]:
    cold: dict[Subject, list[float]] = {subject: [] for subject in _once_each(subjects)}
    for _ in range(starts):
        for subject, seconds in cold.items():
            with Child(subject, folders[subject.model]) as child:
                seconds.append(child.cold_start_s)
            advance(1)
    return cold


# --- taking turns --------------------------------------------------------------------------


class _Case:
    """One case of one subject and the seconds of its calls so far."""

    def __init__(self, child: Child, path: str, batch: int) -> None:
        self.child, self.path, self.batch = child, path, batch
        self.seconds: list[float] = []
        self.calls, self.wall_s, self.cpu_s = 0, 0.0, 0.0
        self.memory_bytes = int(child.ask("warm", path=path, batch=batch)["memory_bytes"])

    @property
    def key(self) -> tuple[str, int, int]:
        """What must be equal for two subjects to be compared."""
        return self.path, self.batch, self.child.subject.threads

    def burst(self, seconds: float) -> None:
        """Take a turn."""
        answer = self.child.ask("burst", path=self.path, batch=self.batch, seconds=seconds)
        self.seconds += answer["seconds"]
        self.calls += answer["calls"]
        self.wall_s += answer["wall_s"]
        self.cpu_s += answer["cpu_s"]


def _measure(children: Sequence[Child], settings: BenchmarkSettings, advance: Advance) -> list[_Case]:
    """Warm all up, small batches first (memory only grows), then let all take turns, case by case."""
    cases = []
    for batch in sorted(set(settings.batches)):
        for path in _PATHS:
            cases += [_Case(child, path, batch) for child in children if child.subject.model]
        if batch == min(settings.batches):
            cases += [_Case(child, "peak", 1) for child in children if not child.subject.model]
    for _ in range(_ROUNDS):
        for case in cases:
            case.burst(settings.seconds / _ROUNDS)
            advance(1)
    return cases


# --- from seconds to figures ---------------------------------------------------------------


def _peak_row(case: _Case, library: str) -> PeakRow:
    return PeakRow(
        threads=case.child.subject.threads,
        n=len(case.seconds),
        gmacs_median=MACS / percentile(case.seconds, 0.5) / 1e9,
        gmacs_best=MACS / min(case.seconds) / 1e9,
        gmacs_per_core_second=MACS * case.calls / case.cpu_s / 1e9,
        library=library,
    )


def _start_row(subject: Subject, seconds: Sequence[float]) -> StartRow:
    return StartRow(
        model=subject.model,
        runtime=subject.runtime,
        n=len(seconds),
        median_s=percentile(seconds, 0.5),
        fastest_s=min(seconds),
        slowest_s=max(seconds),
    )


def _rows(measured: Sequence[_Case], facts: dict[str, ModelFacts], peaks: Sequence[PeakRow]) -> tuple[Row, ...]:
    core = next(peak.gmacs_per_core_second for peak in peaks if peak.threads == 1)
    firsts: dict[tuple[str, int, int], float] = {}
    rows = []
    for case in measured:
        subject, timing = case.child.subject, summarize(case.seconds, case.batch)
        if case.path == "peak":
            continue
        macs = facts[subject.model].macs if case.path == "network" else None
        gmacs = macs * case.batch * case.calls / case.cpu_s / 1e9 if macs else None
        first = firsts.setdefault(case.key, timing.images_per_second)
        rows.append(
            Row(
                **subject.to_dict(),
                **timing.to_dict(),
                cores=tuple(case.child.cores) if case.child.cores else None,
                path=case.path,
                batch=case.batch,
                cpu_ms=1000 * case.cpu_s / case.calls,
                cores_used=case.cpu_s / case.wall_s,
                ratio=timing.images_per_second / first,
                memory_bytes=case.memory_bytes,
                gmacs_per_core_second=gmacs,
                peak_share=gmacs / core if gmacs else None,
            )
        )
    return tuple(rows)
