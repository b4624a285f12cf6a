"""Networks of the registry side by side: counted, measured in turn on this machine, reached here, published."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quicknet.core.card import Costs
from quicknet.core.errors import ConfigError, require_package
from quicknet.core.files import sha256_file
from quicknet.core.machine import machine_card, versions
from quicknet.core.settings import Settings
from quicknet.deploy.qnz import silent
from quicknet.deploy.quantize.qat import Show
from quicknet.measure.energy import ASSUMPTIONS, energy_uj
from quicknet.models.config import NetworkConfig
from quicknet.models.costs import count_costs
from quicknet.models.registry import base_config, create_model, list_models
from quicknet.report.comparison import ComparedNetwork, Comparison
from quicknet.study.compare_speed import build, measure, shipped_file
from quicknet.study.compare_state import Measured, State, key_of
from quicknet.study.reached import FOLDED, Reached, default_results, reached, takes_cifar
from quicknet.study.references import paper_table, published

_GROUP = 4  # networks that are measured at a time, with the base: each is a process that holds its weights

_SIZES = (
    "Sizes are of the exported ONNX file and of the .qnz; with * counted, 4 bytes or 1 byte a parameter. Peak is the "
    "largest set of float32 feature maps that are needed at one time."
)
_SPEEDS = (
    "Speed is that of one image at a time on one core, the network alone: median time, and CPU time, which other "
    "work on the core does not lengthen. x is how many times as fast as the base it is, with the same kind of numbers: "
    "the median over rounds, in each of which both took a turn. Four networks are measured at a time, and the "
    "machine's speed drifts: only x compares networks. Weights are random, but for a shipped .qnz, since speed does "
    "not depend on them."
)
_ACCURACIES = (
    "Ours: CIFAR-10, measured here, with protocol, n and seeds; n = 9,980 is the official test set without 20 images, "
    "which are absent from the copy that was read. Published: others' figures on the whole of it, under the conditions "
    "of the source; recipes and training times differ, so the two columns cannot be compared with each other."
)


class CompareSettings(Settings, frozen=True, kw_only=True):
    """How networks are compared: `base` is what ratios are over, `size` pixels None each network's own.

    `rounds` is how many turns each takes; `paper` adds the paper's table.
    """

    base: str = "quicknet_s"
    size: int | None = None
    rounds: int = 10  # bursts: 50 repeats or 2 s (measure/timing.py)
    paper: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be followed."""
        if not 1 <= self.rounds <= 1000:
            raise ConfigError(f"rounds {self.rounds} must lie in 1..1000")


class _Counted(NamedTuple):
    """A network before anything is measured, and the key of its measurement; `costs` are of the exported form."""

    name: str
    config: NetworkConfig
    costs: Costs
    trained_parameters: int
    key: str


def compare(
    names: Sequence[str] = (),
    settings: CompareSettings | None = None,
    state: Path | None = None,
    results: Path | None = None,
    show: Show = silent,
) -> Comparison:
    """Compare networks of the registry, all of them by default, the base always first.

    With `state`, what was measured is kept there, group by group, and a second call goes on from
    it. `results` holds records of accuracies, by default those of the checkout. Raises ConfigError
    for an unknown name, one that is given twice, a size that a network cannot take, and a record
    that does not match its network; ToolError where a tool is missing or the disk refuses.
    """
    started, settings = time.monotonic(), settings or CompareSettings()
    paper = paper_table() if settings.paper else ()
    chosen = _chosen(names or [row.network for row in paper], settings.base)
    require_package("onnxruntime", "compare")
    require_package("onnx", "compare")
    machine, installed = machine_card(), versions()
    with show("count", len(chosen), "networks") as advance:
        counted = []
        for name in chosen:
            counted.append(_count(name, settings, machine, installed))
            advance(1)
    results = results or default_results()
    accuracies = {
        c.name: reached(c.name, c.trained_parameters, results) if takes_cifar(c.config) else Reached() for c in counted
    }
    kept = State(state)
    known = kept.find(c.key for c in counted)
    missing = [c for c in counted if c.key not in known]
    if missing:
        _measure(missing, counted[0], settings, kept, show)
    measured = kept.find(c.key for c in counted)
    return Comparison(
        base=settings.base,
        size=settings.size,
        machine=machine,
        versions=installed,
        seconds=round(time.monotonic() - started, 1),
        kept=len(known),
        assumptions=(_SIZES, ASSUMPTIONS, _SPEEDS, _ACCURACIES),
        networks=tuple(_row(c, measured[c.key], accuracies[c.name]) for c in counted),
        paper=paper,
    )


def _chosen(names: Sequence[str], base: str) -> list[str]:
    """Return the base and the names. Raises ConfigError for an unknown name and one that is given twice."""
    for name in (base, *names):
        base_config(name)
    for name in names:
        if list(names).count(name) > 1:
            raise ConfigError(f"{name} is named twice; name each network once")
    return [base, *(name for name in names or list_models() if name != base)]


def _count(name: str, settings: CompareSettings, machine: dict[str, Any], installed: dict[str, str]) -> _Counted:
    own, base = base_config(name), base_config(settings.base)
    size = settings.size or own.image_size
    try:
        trained = count_costs(lambda: create_model(name, image_size=size))
    except ConfigError as error:
        raise ConfigError(f"{name} cannot be compared at {size} pixels: {error}") from error
    costs = count_costs(lambda: create_model(FOLDED[name], image_size=size)) if name in FOLDED else trained
    # counts too: they tell a network from what it was before its code was changed
    counts = costs.replace(layers=()).to_dict()
    shipped = [_shipped_sha256(name, size), _shipped_sha256(settings.base, settings.size or base.image_size)]
    asked = [name, own.to_dict(), size, counts, settings.base, base.to_dict(), settings.size, settings.rounds, shipped]
    key = key_of(asked, machine, installed)
    return _Counted(name, own.replace(image_size=size), costs, trained.parameters, key)


def _shipped_sha256(name: str, size: int) -> str | None:
    path = shipped_file(name, size)
    return None if path is None else sha256_file(path)


def _measure(missing: Sequence[_Counted], base: _Counted, settings: CompareSettings, kept: State, show: Show) -> None:
    """Measure what is missing, group by group, and keep each group."""
    with (
        tempfile.TemporaryDirectory(prefix="quicknet-") as root,
        show("compare", len(missing) * (1 + settings.rounds), "turns") as advance,
    ):
        built_base = build(base.name, base.config.image_size, Path(root))
        for start in range(0, len(missing), _GROUP):
            group = missing[start : start + _GROUP]
            with tempfile.TemporaryDirectory(prefix="quicknet-") as folder:
                built = []
                for c in group:
                    one = built_base if c.name == base.name else build(c.name, c.config.image_size, Path(folder))
                    built.append(one)
                    advance(1)
                figures = measure(built, built_base, settings.rounds, advance)
            kept.keep({c.key: figures[c.name] for c in group})


def _row(counted: _Counted, measured: Measured, accuracies: Reached) -> ComparedNetwork:
    config, costs = counted.config, counted.costs
    return ComparedNetwork(
        name=counted.name,
        counted_as=FOLDED.get(counted.name, counted.name),
        input=f"{config.in_channels}x{config.image_size}x{config.image_size}",
        parameters=costs.parameters,
        macs=costs.macs,
        float_bytes=measured.float_bytes or 4 * costs.parameters,
        float_bytes_measured=measured.float_bytes is not None,
        int8_bytes=measured.int8_bytes or costs.parameters,
        int8_bytes_measured=measured.int8_bytes is not None,
        peak_activation_bytes=costs.peak_activation_bytes,
        energy_float_uj=energy_uj(costs, 32),
        energy_int8_uj=energy_uj(costs, 8),
        float32=measured.float32,
        int8=measured.int8,
        ours=accuracies.ours,
        untrained=accuracies.untrained,
        published=published(counted.name) if takes_cifar(config) else (),
        notes=(*measured.notes, *accuracies.notes),
    )
