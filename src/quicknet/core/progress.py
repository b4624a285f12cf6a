"""A progress line on stderr: live on a terminal, a line every 30 s elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

_LINE_EVERY_S = 30.0


@contextlib.contextmanager
def progress(label: str, total: int, unit: str, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Yield `advance(n)`, which adds n to the number done and shows it with the rate and the time left.

    `unit` "bytes" is shown as megabytes, `total` 0 as unknown. Nothing is shown with `quiet`, and
    without a terminal nothing for work that ends within 30 s.
    """
    if quiet or sys.stderr is None:  # None: a program without a console
        yield lambda n: None
    elif sys.stderr.isatty():
        with _live(label, total, unit) as advance:
            yield advance
    else:
        yield _Lines(label, total, unit, time.monotonic).advance


@contextlib.contextmanager
def _live(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    scale, shown = (1e6, "MB") if unit == "bytes" else (1.0, unit)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}" + (f"/{total / scale:,.0f} " if total else " ") + shown),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    started, done = time.monotonic(), 0
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total / scale if total else None, rate="")

        def advance(n: int) -> None:
            nonlocal done
            done += n
            rate = done / scale / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=done / scale, rate=f"{rate:,.1f} {shown}/s")

        yield advance


class _Lines:
    """Progress for logs: a line with the number done, at most every 30 s."""

    def __init__(self, label: str, total: int, unit: str, clock: Callable[[], float]) -> None:
        self._label, self._total, self._clock = label, total, clock
        self._scale, self._unit = (1e6, "MB") if unit == "bytes" else (1.0, unit)
        self._started = self._shown = clock()
        self._done = 0

    def advance(self, n: int) -> None:
        self._done += n
        now = self._clock()
        if now - self._shown < _LINE_EVERY_S:
            return
        self._shown = now
        rate = self._done / (now - self._started)
        of = left = ""
        if self._total:
            of = f"/{self._total / self._scale:,.0f}"
            left = f", {(self._total - self._done) / rate:,.0f} s left"
        done = f"{self._label}: {self._done / self._scale:,.0f}{of} {self._unit}"
        with contextlib.suppress(OSError, ValueError):  # nobody reads it: no reason to end the work
            print(f"{done}, {rate / self._scale:,.1f} {self._unit}/s{left}", file=sys.stderr, flush=True)
