"""What a comparison of networks is: counted, measured, and reached by us or published, never mixed."""

from __future__ import annotations

from typing import Any

from quicknet.core.settings import Settings


class Speed(Settings, frozen=True, kw_only=True):
    """One image at a time on one core, the network alone.

    `cpu_ms` is the CPU time of a call, which other processes on the core do not lengthen: the median over rounds.
    `ratio` is the base network's CPU time with the same kind of numbers over its own, the median over rounds, in each
    of which both took a turn: how many times as fast it is. None where the base was not measured. Milliseconds of two
    networks may be from different minutes, or days; only ratios compare them.
    """

    runtime: str
    n: int
    median_ms: float
    p95_ms: float
    images_per_second: float
    cpu_ms: float
    ratio: float | None


class Ours(Settings, frozen=True, kw_only=True):
    """An accuracy that was measured here, on CIFAR-10: mean over `seeds`, spread None for one seed.

    `numbers` is float32 or int8, `source` a record under results/ or the name of shipped weights. `teacher` says
    whether it learned from another network's answers. `alike` says what several networks were given the same of, such
    as "about 30 minutes", "" for a training of its own; `epochs` and `minutes` are then how many each seed really had.
    """

    numbers: str
    top1: float
    spread: float | None
    protocol: str
    split: str
    n: int
    seeds: tuple[int, ...]
    source: str
    alike: str = ""
    epochs: int | None = None
    minutes: float | None = None
    teacher: bool = False


class Untrained(Settings, frozen=True, kw_only=True):
    """Why a network was left out where others were trained alike; `alike` and `source` as in `Ours`."""

    alike: str
    source: str
    why: str


class Published(Settings, frozen=True, kw_only=True):
    """An accuracy that others published, on CIFAR-10, a share of 1; `note` says under which conditions.

    `passes` through the network, of which the answers were averaged: a latency measured here is that of one.
    """

    top1: float
    note: str
    source: str
    passes: int = 1


class PaperRow(Settings, frozen=True, kw_only=True):
    """One row of the paper's table: what it says, which network of ours stands for it, and the trap in it."""

    name: str
    network: str
    top1: float | None
    trap: str


class ComparedNetwork(Settings, frozen=True, kw_only=True):
    """One network. Counts are those of its float form; sizes that were counted and not measured say so.

    `counted_as` is the network whose counts these are: its own name, or that of the form that export makes of it.
    `float_bytes` is the size of the exported ONNX file, else 4 bytes a parameter; `int8_bytes` that
    of the `.qnz`, else 1 byte a parameter. `notes` says why a figure is absent, `untrained` why it was not trained
    where others were.
    """

    name: str
    counted_as: str
    input: str
    parameters: int
    macs: int
    float_bytes: int
    float_bytes_measured: bool
    int8_bytes: int
    int8_bytes_measured: bool
    peak_activation_bytes: int
    energy_float_uj: float
    energy_int8_uj: float
    float32: Speed | None
    int8: Speed | None
    ours: tuple[Ours, ...]
    untrained: tuple[Untrained, ...]
    published: tuple[Published, ...]
    notes: tuple[str, ...]


class Comparison(Settings, frozen=True, kw_only=True):
    """Everything of one comparison. `kept` counts the networks whose measurements came from the state file."""

    format: int = 1
    base: str
    size: int | None
    machine: dict[str, Any]
    versions: dict[str, str]
    seconds: float
    kept: int
    assumptions: tuple[str, ...]
    networks: tuple[ComparedNetwork, ...]
    paper: tuple[PaperRow, ...]
