"""Which accuracy a network has reached here: by a record under results/, else by the shipped weights."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quicknet.core.card import read_card
from quicknet.core.errors import ConfigError, FormatError
from quicknet.inference.shipped import PACKAGED, Shipped, Weights, read_index
from quicknet.models.config import NetworkConfig
from quicknet.models.costs import count_costs
from quicknet.models.registry import model_from_record
from quicknet.report.comparison import Ours
from quicknet.study.records import ROOT, read_records

DATA = "cifar10"
_CIFAR = (3, 10, 32)  # channels, classes, pixels


def takes_cifar(config: NetworkConfig) -> bool:
    """Whether a network is one for CIFAR-10's images."""
    return (config.in_channels, config.num_classes, config.image_size) == _CIFAR


def default_results() -> Path | None:
    """Return the records of the checkout that this code lies in; None where it is installed without them."""
    return ROOT / "results" if (ROOT / "results").is_dir() else None


def reached(name: str, parameters: int, results: Path | None) -> tuple[Ours, ...]:
    """Return the accuracies of a network on CIFAR-10, protocol standard: float32, int8, then those of trainings alike.

    Float is the record of the highest mean, else the shipped run folder; int8 the shipped `.qnz`; alike are the
    records of `quicknet.study.alike`. Raises ConfigError for a record of another network than that of `parameters`,
    FormatError for a damaged one.
    """
    records = _records(name, parameters, results) if results else []
    weights = read_index(PACKAGED).weights.get(f"{name}.{DATA}")
    found = [max(records, key=lambda ours: ours.top1)] if records else []
    if weights is not None and weights.run is not None and not found:
        found.append(_shipped(name, weights, weights.run, "float32"))
    if weights is not None and weights.file is not None:
        found.append(_shipped(name, weights, weights.file, "int8"))
    return (*found, *(_alike(name, parameters, results) if results else ()))


def _shipped(name: str, weights: Weights, artifact: Shipped, numbers: str) -> Ours:
    return Ours(
        numbers=numbers,
        top1=artifact.top1,
        spread=None,
        protocol=weights.protocol,
        split=artifact.split,
        n=artifact.n,
        seeds=(),
        source=f"{name}.{DATA}",
    )


def _records(name: str, parameters: int, results: Path) -> list[Ours]:
    found = []
    for record_name, record in read_records(results).items():
        if record.get("kind") != "accuracy" or (record.get("network"), record.get("data")) != (name, DATA):
            continue
        folder = next(results.glob(f"[0-9][0-9][0-9][0-9]-{record_name}"))
        _require_match(folder, name, parameters)
        if record.get("protocol") == "standard":
            found.append(_ours(record_name, record, folder))
    return found


def _alike(name: str, parameters: int, results: Path) -> Iterator[Ours]:
    """Yield what a network reached in each record of several that were trained alike."""
    for record_name, record in read_records(results).items():
        if record.get("kind") != "alike" or (record.get("data"), record.get("protocol")) != (DATA, "standard"):
            continue
        folder = next(results.glob(f"[0-9][0-9][0-9][0-9]-{record_name}"))
        for row in record.get("networks", ()):
            if row.get("network") != name:
                continue
            if row.get("parameters") != parameters:
                raise _mismatch(row.get("parameters"), name, parameters, folder)
            yield _ours(record_name, {**record, "top1": row.get("test"), "epochs": row.get("epochs")}, folder)


def _ours(name: str, record: dict[str, Any], folder: Path) -> Ours:
    try:
        top1 = [float(value) for value in record["top1"]]
        return Ours(
            numbers="float32",
            top1=statistics.mean(top1),
            spread=statistics.stdev(top1) if len(top1) > 1 else None,
            protocol=record["protocol"],
            split=record["split"],
            n=int(record["n"]),
            seeds=tuple(map(int, record["seeds"])),
            source=name,
            alike=" ".join(f"{amount:g} {unit}" for unit, amount in record.get("same", {}).items()),
            epochs=record["epochs"] if "same" in record else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"the record lacks what a comparison needs: {error} ({folder}); record it again") from error


def _require_match(folder: Path, name: str, parameters: int) -> None:
    """Refuse a record whose runs had another number of parameters than the network of that name has now."""
    for path in sorted(folder.glob("seed*/card.json")):
        model = read_card(path).model
        recorded = count_costs(lambda model=model: model_from_record(model)).parameters  # type: ignore[misc]
        if recorded != parameters:
            raise _mismatch(recorded, name, parameters, path)


def _mismatch(recorded: int, name: str, parameters: int, where: Path) -> ConfigError:
    return ConfigError(
        f"the record does not match its network: {recorded:,} parameters, {name} has {parameters:,} "
        f"({where}); train and record it again"
    )
