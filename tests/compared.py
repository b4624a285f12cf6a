"""Comparisons without a process: speeds that are made up, so that only what is done with them is tested."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from quicknet.report.comparison import Speed
from quicknet.study import compare as module
from quicknet.study.compare_speed import Built
from quicknet.study.compare_state import Measured


def speed(cpu_ms: float, ratio: float | None = 1.0) -> Speed:
    return Speed(
        runtime="onnxruntime",
        n=9,
        median_ms=cpu_ms,
        p95_ms=cpu_ms,
        images_per_second=1000 / cpu_ms,
        cpu_ms=cpu_ms,
        ratio=ratio,
    )


def without_processes(patch: pytest.MonkeyPatch, interrupt: Callable[[list[str]], None] | None = None) -> list[str]:
    """Have `compare` build and measure nothing; returns the names that it asked for, as they come."""
    asked: list[str] = []

    def build(name: str, size: int, folder: Path) -> Built:
        return Built(name, notes=[] if name.startswith("quicknet") else ["no int8 file: made up"])

    def measure(group: Sequence[Built], base: Built, rounds: int, advance: Any) -> dict[str, Measured]:
        asked.extend(built.name for built in group)
        if interrupt is not None:
            interrupt(asked)
        advance(rounds * len(group))
        return {built.name: measured(built) for built in group}

    def measured(built: Built) -> Measured:
        integers = speed(0.5) if not built.notes else None
        return Measured(
            name=built.name,
            float_bytes=None,
            int8_bytes=1234 if integers else None,
            float32=speed(1.0 + len(built.name)),
            int8=integers,
            notes=tuple(built.notes),
        )

    patch.setattr(module, "build", build)
    patch.setattr(module, "measure", measure)
    return asked
