"""The files of compared networks, with random weights, and their speed on one core, in turn.

Networks are measured some at a time, and the base network takes its turns with each such group:
a ratio is always of the same minutes, and what is measured can be kept group by group.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from quicknet import engine
from quicknet.core.card import Card, IntegerRecord, PreprocessSpec
from quicknet.core.errors import ConfigError, DataError, FormatError, QuickNetError
from quicknet.core.files import write_atomically
from quicknet.deploy.fold import fold
from quicknet.deploy.graph import Folded
from quicknet.deploy.onnx import assemble, build_graph
from quicknet.deploy.qnz import QnzSettings
from quicknet.deploy.quantize import quantize, require_expressible
from quicknet.image.vectors import draw_vectors
from quicknet.inference.artifact import open_artifact
from quicknet.inference.shipped import PACKAGED
from quicknet.measure.benchmark import jpeg_folders
from quicknet.measure.child import Child
from quicknet.measure.subjects import Subject
from quicknet.measure.timing import summarize
from quicknet.models.registry import create_model, model_record
from quicknet.qnz.file import assemble_qnz
from quicknet.report.comparison import Speed
from quicknet.study.compare_state import Measured

Numbers = Literal["float32", "int8"]
_RUNTIMES: dict[Numbers, str] = {"float32": "onnxruntime", "int8": "engine"}
_MODES: dict[int, Literal["L", "RGB", "RGBA"]] = {1: "L", 3: "RGB", 4: "RGBA"}
_BURST_S = 0.08  # some bursts are one call only: a call of the largest networks takes longer

Advance = Callable[[int], None]


@dataclass
class Built:
    """A network's files: none where it has none, for which `notes` has the reason."""

    name: str
    files: dict[Numbers, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def size_bytes(self, numbers: Numbers) -> int | None:
        """Return the size of a file, None without one."""
        return self.files[numbers].stat().st_size if numbers in self.files else None


def build(name: str, size: int, folder: Path) -> Built:
    """Write the network's float ONNX file into `folder`, and its `.qnz` where none of that size ships.

    Raises ToolError where the disk refuses. What cannot be exported is noted.
    """
    built = Built(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model(name, image_size=size).eval()
    channels = model.config.in_channels
    spec = PreprocessSpec(size=size, mode=_MODES[channels], mean=(0.5,) * channels, std=(0.25,) * channels)
    card = Card(
        model=model_record(name, model), classes=tuple(map(str, range(model.config.num_classes))), preprocess=spec
    )
    try:
        net = fold(model, spec)
        blob = assemble(build_graph(net, size, "fused"), card)
    except (ConfigError, FormatError) as error:
        built.notes += [f"no float32 file: {error}", "no int8 file without a float32 one"]
        return built
    built.files["float32"] = folder / f"{name}.onnx"
    write_atomically(built.files["float32"], blob)
    try:
        require_expressible(net, size)
        built.files["int8"] = shipped_file(name, size) or _written(folder / f"{name}.qnz", _integer_file(net, card))
    except (ConfigError, DataError, FormatError) as error:
        built.notes.append(f"no int8 file: {str(error).partition('; ')[0]}")
    return built


def shipped_file(name: str, size: int) -> Path | None:
    """Return the `.qnz` of a network and image size that lies in the package, None without one."""
    path = PACKAGED / f"{name}.cifar10.qnz"
    return path if path.is_file() and open_artifact(path).card.preprocess.size == size else None


def _written(path: Path, blob: bytes) -> Path:
    write_atomically(path, blob)
    return path


def _integer_file(net: Folded, card: Card) -> bytes:
    """Return the `.qnz` of a network as `export` makes it, calibrated on drawn images: its speed is that of any other.

    Raises ConfigError or FormatError where random weights do not become integers.
    """
    bits, spec = QnzSettings().bits, card.preprocess
    quantized = quantize(net, draw_vectors(spec.size, spec.channels), bits)
    record = IntegerRecord(bits=bits, logit_scale=quantized.logit_scale)
    return assemble_qnz(quantized.network, card.replace(integer=record))


# --- taking turns --------------------------------------------------------------------------


class _Turns:
    """One file in its own process, and what its calls took so far: `cpu_s` is the CPU time of one, round by round."""

    def __init__(self, name: str, numbers: Numbers, child: Child) -> None:
        self.name, self.numbers, self.child = name, numbers, child
        self._seconds: list[float] = []
        self.cpu_s: list[float] = []
        child.ask("warm", path="network", batch=1)

    def take(self) -> None:
        answer = self.child.ask("burst", path="network", batch=1, seconds=_BURST_S)
        self._seconds += answer["seconds"]
        self.cpu_s.append(answer["cpu_s"] / answer["calls"])

    def speed(self, base: _Turns | None) -> Speed:
        """Return what was measured, over the base in the same rounds."""
        cpu_ms = 1000 * statistics.median(self.cpu_s)
        ratio = None if base is None else median_ratio(base.cpu_s, self.cpu_s)
        timing = summarize(self._seconds, 1)
        return Speed(runtime=_RUNTIMES[self.numbers], cpu_ms=cpu_ms, ratio=ratio, **timing.to_dict())


def median_ratio(base: Sequence[float], own: Sequence[float]) -> float:
    """Return the median over rounds of base over own: what disturbs a few of the rounds does not move it.

    >>> median_ratio([2.0, 2.0, 2.0], [1.0, 1.0, 9.0])
    2.0
    """
    return statistics.median(one / other for one, other in zip(base, own, strict=True))


def measure(group: Sequence[Built], base: Built, rounds: int, advance: Advance) -> dict[str, Measured]:
    """Measure a group and the base in turn; returns the group's figures. `advance(n)` is told of n turns done."""
    subjects = {built.name: built for built in (base, *group)}
    with contextlib.ExitStack() as stack:
        turns = [turn for built in subjects.values() for turn in _opened(built, stack)]
        for _ in range(rounds):
            for turn in turns:
                turn.take()
            advance(len(group))
    bases = {turn.numbers: turn for turn in turns if turn.name == base.name}
    speeds = {(turn.name, turn.numbers): turn.speed(bases.get(turn.numbers)) for turn in turns}
    return {
        built.name: Measured(
            name=built.name,
            float_bytes=built.size_bytes("float32"),
            int8_bytes=built.size_bytes("int8"),
            float32=speeds.get((built.name, "float32")),
            int8=speeds.get((built.name, "int8")),
            notes=tuple(built.notes),
        )
        for built in group
    }


def _opened(built: Built, stack: contextlib.ExitStack) -> Iterator[_Turns]:
    for numbers, path in built.files.items():
        if numbers == "int8" and not engine.available():
            built.notes.append("int8 not measured: the engine cannot be built here")
            continue
        subject = Subject(model=str(path), runtime=_RUNTIMES[numbers], threads=1)
        folders = stack.enter_context(jpeg_folders({str(path): open_artifact(path).card}, None))
        try:
            child = stack.enter_context(Child(subject, folders[str(path)]))
            yield _Turns(built.name, numbers, child)
        except QuickNetError as error:
            built.notes.append(f"{numbers} not measured: {str(error).replace(str(path), 'its file')}")
