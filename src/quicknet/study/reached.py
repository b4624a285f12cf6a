"""Which accuracy a network has reached here: by a record under results/, else by the shipped weights."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from quicknet.core.card import Card, ModelRecord, read_card
from quicknet.core.errors import ConfigError, FormatError
from quicknet.inference.artifact import open_artifact
from quicknet.inference.shipped import PACKAGED, Shipped, Weights, read_index
from quicknet.models.config import NetworkConfig
from quicknet.models.costs import count_costs
from quicknet.models.registry import base_config, model_from_record
from quicknet.report.comparison import Ours, Untrained
from quicknet.study.records import ROOT, read_records, teacher_sha256

DATA = "cifar10"
USUAL_RECIPE = "fast"  # of networks that are trained alike: another one is named
# Trained with branches, of which export makes one convolution a layer: the network that answers.
FOLDED = {"repvgg_a0": "repvgg_a0_folded"}
_CIFAR = (3, 10, 32)  # channels, classes, pixels

_Record = Mapping[str, Any]


class Reached(NamedTuple):
    """What a network reached, where it was left out, and `notes` on records that do not count."""

    ours: tuple[Ours, ...] = ()
    untrained: tuple[Untrained, ...] = ()
    notes: tuple[str, ...] = ()


def takes_cifar(config: NetworkConfig) -> bool:
    """Whether a network is one for CIFAR-10's images."""
    return (config.in_channels, config.num_classes, config.image_size) == _CIFAR


def default_results() -> Path | None:
    """Return the records of the checkout that this code lies in; None where it is installed without them."""
    return ROOT / "results" if (ROOT / "results").is_dir() else None


def reached(name: str, parameters: int, results: Path | None) -> Reached:
    """Return the accuracies of a network on CIFAR-10, protocol standard: float32, int8, then those of trainings alike.

    Float is the record of the training that ships, else that with the most seeds, the newest of these, else the
    shipped run folder; int8 the shipped `.qnz`; alike are the records of `quicknet.study.alike`. No accuracy decides
    which record counts: it was measured on the test images. A record of the network with other settings, such as an
    option or another image size, does not count. Raises ConfigError for a record of another network than that of
    `parameters`, FormatError for a damaged one.
    """
    records = read_records(results) if results else {}
    found, notes = _records(name, parameters, results, records) if results else ([], [])
    weights = read_index(PACKAGED).weights.get(f"{name}.{DATA}")
    rank = rank_of(name)
    ours = [max(reversed(found), key=lambda one: rank(records[one.source]))] if found else []  # of equals the newest
    if weights is not None and weights.run is not None and not ours:
        ours.append(_shipped(name, weights, weights.run, "float32", records))
    if weights is not None and weights.file is not None:
        ours.append(_shipped(name, weights, weights.file, "int8", records))
    if results is not None:
        ours += _alike(name, parameters, results, records)
    return Reached(tuple(ours), tuple(_untrained(name, records)), tuple(notes))


def rank_of(name: str) -> Callable[[_Record], tuple[bool, int]]:
    """Return what ranks a network's records: first that of the weights that ship, then by the number of seeds."""
    weights = read_index(PACKAGED).weights.get(f"{name}.{DATA}")
    ships = set[str]() if weights is None else _trainings(weights.run or weights.file)

    def rank(record: _Record) -> tuple[bool, int]:
        return not ships.isdisjoint(record.get("weights_sha256", ())), len(record.get("seeds", ()))

    return rank


# --- shipped weights -----------------------------------------------------------------------


def _shipped(name: str, weights: Weights, artifact: Shipped, numbers: str, records: Mapping[str, _Record]) -> Ours:
    return Ours(
        numbers=numbers,
        top1=artifact.top1,
        spread=None,
        protocol=weights.protocol,
        split=artifact.split,
        n=artifact.n,
        seeds=(),
        source=f"{name}.{DATA}",
        teacher=_had_teacher(artifact, records),
    )


def _had_teacher(artifact: Shipped, records: Mapping[str, _Record]) -> bool:
    """Return whether shipped weights learned from a teacher: by their card, or by the record of that training.

    Cards of older versions do not say it.
    """
    card, parents = _card(artifact), _trainings(artifact)
    taught = (
        record for record in records.values() if record.get("kind") == "accuracy" and record.get("teacher_sha256")
    )
    of_record = (parents & {*record.get("weights_sha256", ())} for record in taught)
    return (card is not None and teacher_sha256(card) is not None) or any(of_record)


def _card(artifact: Shipped) -> Card | None:
    """Return the card of what ships; None of a file of the release that is not in the package."""
    path = PACKAGED / artifact.parts[0].file
    if not path.is_file():
        return None
    return read_card(path) if path.suffix == ".json" else open_artifact(path).card


def _trainings(artifact: Shipped | None) -> set[str]:
    """Return the digests of the weights that what ships was made from."""
    card = None if artifact is None else _card(artifact)
    steps = () if card is None else card.lineage
    return {str(step.parent_weights_sha256) for step in steps if hasattr(step, "parent_weights_sha256")}


# --- records -------------------------------------------------------------------------------


def _records(name: str, parameters: int, results: Path, records: Mapping[str, _Record]) -> tuple[list[Ours], list[str]]:
    """Return the accuracies of a network's own trainings, oldest record first, and why others do not count."""
    found, notes = [], []
    for record_name, record in records.items():
        if record.get("kind") != "accuracy" or (record.get("network"), record.get("data")) != (name, DATA):
            continue
        folder = _folder(results, record_name)
        settings = _other_settings(folder, name, parameters)
        if record.get("protocol") == "standard" and settings:
            notes.append(f"accuracy: the record {record_name} has another {', '.join(settings)}")
        elif record.get("protocol") == "standard":
            found.append(_ours(record_name, record, folder))
    return found, notes


def _folder(results: Path, record_name: str) -> Path:
    return next(results.glob(f"[0-9][0-9][0-9][0-9]-{record_name}"))


def _alike(name: str, parameters: int, results: Path, records: Mapping[str, _Record]) -> Iterator[Ours]:
    """Yield what a network reached in each record of several that were trained alike."""
    for record_name, record in _trained_alike(records):
        for row in record.get("networks", ()):
            if row.get("network") != name:
                continue
            folder = _folder(results, record_name)
            if row.get("parameters") != parameters:
                raise _mismatch(row.get("parameters"), name, parameters, folder)
            of_row = {"top1": row.get("test"), "epochs": row.get("epochs"), "seconds": row.get("seconds")}
            yield _ours(record_name, {**record, **of_row}, folder)


def _untrained(name: str, records: Mapping[str, _Record]) -> Iterator[Untrained]:
    for record_name, record in _trained_alike(records):
        why = record.get("not_trained", {}).get(name)
        if why is not None:
            yield Untrained(alike=_same(record), source=record_name, why=str(why))


def _trained_alike(records: Mapping[str, _Record]) -> Iterator[tuple[str, _Record]]:
    for record_name, record in records.items():
        kind = (record.get("kind"), record.get("data"), record.get("protocol"))
        if kind == ("alike", DATA, "standard"):
            yield record_name, record


def _same(record: _Record) -> str:
    """Return what networks were given the same of, such as "8 epochs by recipe teacher"; "" for a record of one."""
    about = {"minutes": "about "}  # epochs are whole
    amount = " ".join(f"{about.get(unit, '')}{amount:g} {unit}" for unit, amount in record.get("same", {}).items())
    recipe = record.get("recipe", USUAL_RECIPE)
    return f"{amount} by recipe {recipe}" if amount and recipe != USUAL_RECIPE else amount


def _ours(name: str, record: _Record, folder: Path) -> Ours:
    alike = "same" in record
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
            alike=_same(record),
            epochs=record["epochs"] if alike else None,
            minutes=statistics.mean(map(float, record["seconds"])) / 60 if alike else None,
            teacher=record.get("teacher_sha256") is not None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"the record lacks what a comparison needs: {error} ({folder}); record it again") from error


# --- of which network a record is ----------------------------------------------------------


def _other_settings(folder: Path, name: str, parameters: int) -> list[str]:
    """Return which settings of the network a record's runs changed, as far as their cards are kept.

    Refuses a record whose runs are of another network than the one of that name now.
    """
    for path in sorted(folder.glob("seed*/card.json")):
        model = read_card(path).model
        changed = _changed(model, base_config(name)) if model.name == name else []
        if changed:
            return changed
        recorded = count_costs(lambda model=model: model_from_record(model)).parameters  # type: ignore[misc]
        if recorded != parameters:
            raise _mismatch(recorded, name, parameters, path)
    return []


def _changed(model: ModelRecord, base: NetworkConfig) -> list[str]:
    """Return which settings differ from the registry's network; dropout is one of the training, not of the network."""
    with torch.device("meta"):
        own = model_from_record(model).config.to_dict()  # an older card lacks settings that came later
    plain = base.to_dict()  # without settings that are as they are by default
    keys = sorted({*own, *plain})
    return [key for key in keys if own.get(key) != plain.get(key) and not key.endswith("dropout")]


def _mismatch(recorded: int, name: str, parameters: int, where: Path) -> ConfigError:
    return ConfigError(
        f"the record does not match its network: {recorded:,} parameters, {name} has {parameters:,} "
        f"({where}); train and record it again"
    )
