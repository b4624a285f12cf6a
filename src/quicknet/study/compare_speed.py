"""The files of compared networks, with random weights, and their speed on one core, in turn.

Networks are measured some at a time, and the base network takes its turns with each such group:
a ratio is always of the same minutes, and what is measured can be kept group by group.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from quicknet import engine
from quicknet.core.card import Card, PreprocessSpec
from quicknet.core.errors import ConfigError, FormatError, QuickNetError
from quicknet.core.files import write_atomically
from quicknet.deploy.fold import fold
from quicknet.deploy.graph import Folded
from quicknet.deploy.onnx import assemble, build_graph
from quicknet.deploy.quantize import require_expressible
from quicknet.inference.artifact import open_artifact
from quicknet.inference.shipped import PACKAGED
from quicknet.measure.benchmark import jpeg_folders
from quicknet.measure.child import Child
from quicknet.measure.subjects import Subject
from quicknet.measure.timing import summarize
from quicknet.models.network import Network
from quicknet.models.registry import create_model, model_record
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
    """Write the network's float ONNX file into `folder`, and find its shipped `.qnz`.

    Raises ToolError where the disk refuses. What cannot be exported is noted.
    """
    built = Built(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model(name, image_size=size).eval()
    channels = model.config.in_channels
    spec = PreprocessSpec(size=size, mode=_MODES[channels], mean=(0.5,) * channels, std=(0.25,) * channels)
    try:
        net = fold(model, spec)
        blob = _float_file(name, model, spec, net)
    except (ConfigError, FormatError) as error:
        built.notes += [f"no float32 file: {error}", "no int8 file without a float32 one"]
        return built
    built.files["float32"] = folder / f"{name}.onnx"
    write_atomically(built.files["float32"], blob)
    try:
        require_expressible(net, size)
    except ConfigError as error:
        built.notes.append(f"no int8 file: {str(error).partition('; ')[0]}")
        return built
    integers = PACKAGED / f"{name}.cifar10.qnz"
    if integers.is_file() and open_artifact(integers).card.preprocess.size == size:
        built.files["int8"] = integers
    else:
        built.notes.append("no int8 file: QuickNet ships no .qnz of this network and image size")
    return built


def _float_file(name: str, model: Network, spec: PreprocessSpec, net: Folded) -> bytes:
    classes = tuple(map(str, range(model.config.num_classes)))
    card = Card(model=model_record(name, model), classes=classes, preprocess=spec)
    return assemble(build_graph(net, spec.size, "fused"), card)


# --- taking turns --------------------------------------------------------------------------


class _Turns:
    """One file in its own process, and the seconds of its calls so far."""

    def __init__(self, name: str, numbers: Numbers, child: Child) -> None:
        self.name, self.numbers, self.child = name, numbers, child
        self._seconds: list[float] = []
        self._calls, self._cpu_s = 0, 0.0
        child.ask("warm", path="network", batch=1)

    def take(self) -> None:
        answer = self.child.ask("burst", path="network", batch=1, seconds=_BURST_S)
        self._seconds += answer["seconds"]
        self._calls += answer["calls"]
        self._cpu_s += answer["cpu_s"]

    def speed(self) -> Speed:
        timing = summarize(self._seconds, 1)
        cpu_ms = 1000 * self._cpu_s / self._calls
        return Speed(runtime=_RUNTIMES[self.numbers], cpu_ms=cpu_ms, ratio=None, **timing.to_dict())


def measure(group: Sequence[Built], base: Built, rounds: int, advance: Advance) -> dict[str, Measured]:
    """Measure a group and the base in turn; returns the group's figures. `advance(n)` is told of n turns done."""
    subjects = {built.name: built for built in (base, *group)}
    with contextlib.ExitStack() as stack:
        turns = [turn for built in subjects.values() for turn in _opened(built, stack)]
        for _ in range(rounds):
            for turn in turns:
                turn.take()
            advance(len(group))
    speeds = {(turn.name, turn.numbers): turn.speed() for turn in turns}
    return {
        built.name: Measured(
            name=built.name,
            float_bytes=built.size_bytes("float32"),
            int8_bytes=built.size_bytes("int8"),
            float32=_over(speeds, built, base, "float32"),
            int8=_over(speeds, built, base, "int8"),
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


def _over(speeds: dict[tuple[str, Numbers], Speed], built: Built, base: Built, numbers: Numbers) -> Speed | None:
    """Return a network's speed with its ratio to that of the base."""
    speed, of_base = speeds.get((built.name, numbers)), speeds.get((base.name, numbers))
    if speed is None or of_base is None:
        return speed
    return speed.replace(ratio=of_base.cpu_ms / speed.cpu_ms)
