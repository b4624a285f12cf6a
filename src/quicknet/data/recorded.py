"""Which pictures a run was trained, validated and tested on, and what that says of a folder as it is now.

Splits of a folder are drawn by content, so they move when pictures are added or removed: some of
today's test pictures may be ones that the model was trained on. The run folder therefore keeps the
first 8 bytes of the SHA-256 of every picture, by split (11 bytes of JSON a picture).
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import Card
from quicknet.core.errors import DataError, FormatError
from quicknet.core.files import read_json
from quicknet.data.dataset import Dataset, Split

FILE = "split.json"
_FORMAT = 1
_LIMIT_BYTES = 1 << 28
# A convention: with fewer of the recorded test pictures, a folder is another folder, not a changed one.
_SAME_FOLDER_SHARE = 0.5

Ids = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Recorded:
    """The pictures of each split at training, by content: sorted, each once."""

    splits: dict[str, Ids]

    @property
    def everything(self) -> Ids:
        """The pictures of all splits."""
        return np.unique(np.concatenate(list(self.splits.values())))

    @property
    def tested(self) -> str:
        """The split that the run was measured on."""
        return "test" if "test" in self.splits else "val"


def record_text(data: Dataset) -> str | None:
    """Return what a run folder keeps of its data; None for CIFAR, whose splits never move."""
    ids = {name: split.content_ids for name, split in data.splits.items() if split.content_ids is not None}
    if len(ids) < len(data.splits):
        return None
    splits = {name: base64.b64encode(np.unique(part).astype("<u8").tobytes()).decode() for name, part in ids.items()}
    return json.dumps({"format": _FORMAT, "data_sha256": data.sha256, "splits": splits}, indent=1) + "\n"


def read_recorded(folder: Path, data_sha256: str) -> Recorded | None:
    """Return what a run folder keeps of the data with this digest; None where it keeps nothing of it.

    Raises FormatError for a damaged file.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    fields = read_json(path, "the record of the splits", _LIMIT_BYTES)
    try:
        if fields["format"] != _FORMAT or fields["data_sha256"] != data_sha256:
            return None
        splits = {
            str(name): np.frombuffer(base64.b64decode(text, validate=True), "<u8").astype(np.uint64)
            for name, text in fields["splits"].items()
        }
        if not {"train", "val"} <= splits.keys():
            raise ValueError("a split is missing")
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
        raise FormatError(
            f"the record of the splits is damaged ({path}: {error}); restore it from a copy, or delete it"
        ) from error
    return Recorded(splits)


def recorded_of(source: Path, card: Card) -> Recorded | None:
    """Return what is kept of the training data of a run folder, or of an exported file beside its run's files."""
    if card.data is None:
        return None
    return read_recorded(source if source.is_dir() else source.parent, card.data.sha256)


# --- the folder as it is now ---------------------------------------------------------------


def changes(data: Dataset, recorded: Recorded) -> str:
    """Return in words how many pictures of `data` are new since training, and how many are gone."""
    now, then = _ids(data), recorded.everything
    new, gone = len(np.setdiff1d(now, then)), len(np.setdiff1d(then, now))
    if not new and not gone:
        return "the pictures are the same, but not their classes, splits or copies"
    return f"{new:,} of its {len(now):,} pictures are new, and {gone:,} of the {len(then):,} at training are gone"


def change_note(data: Dataset, card: Card, recorded: Recorded | None) -> str | None:
    """Return what a user should know who takes `data`, as it is split today, for the training's; None where it is."""
    if card.data is None or card.data.sha256 == data.sha256 or recorded is None:
        return None
    return _changed(data, recorded)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The data to measure on, the split of it, and what a user should know of that choice."""

    data: Dataset
    split: str
    notes: tuple[str, ...] = ()
    other: bool = False  # it shares no picture with the training data


def _measured(data: Dataset, split: str | None, *notes: str) -> Chosen:
    """Return the choice of `split`; None is `test`, or `val` where there is none, which a note says."""
    if split is not None or "test" in data.splits:
        return Chosen(data, "test" if split is None else split, notes)
    note = (
        f"{data.name} has no test split, so val is measured; training chooses by val, so the accuracy may be too high"
    )
    return Chosen(data, "val", (*notes, note))


def choose(data: Dataset, card: Card, recorded: Recorded | None, split: str | None, as_is: bool = False) -> Chosen:
    """Return what to measure of `data`, which was read and split by the model's card.

    `split` None is `test`, `val` where the data has none, or every picture of a folder that the model
    was not trained on and that has no test/. Where the folder has changed since training, a drawn split
    is the recorded one, as far as its pictures are still there, and a split with a folder of its own is
    without the pictures that the model was trained on; `as_is` takes the splits as they are drawn today.
    Raises DataError where the pictures of the training would be split by another protocol.
    """
    if card.data is not None and card.data.sha256 == data.sha256:
        trained = card.data.counts.get("train", 0)
        note = f"the model was trained on {trained:,} of these pictures, so the accuracy is too high"
        return _measured(data, split, *((note,) if split == "all" else ()))
    if any(part.content_ids is None for part in data.splits.values()):  # CIFAR, whose test is its own
        return _measured(data, split)
    if recorded is None:
        return _unknown(data, card, split, as_is)
    if not np.isin(_ids(data), recorded.everything).any():
        return replace(_other(data, split, as_is), other=True)
    _require_protocol(data, card)
    still_there = np.isin(recorded.splits[recorded.tested], _ids(data))
    if still_there.sum() < _SAME_FOLDER_SHARE * len(still_there):
        return _overlapping(data, recorded, split, as_is)
    if as_is:
        return _measured(data, split, f"{_changed(data, recorded)}; the splits are today's (--as-is)")
    return _recorded_splits(data, recorded, split)


def _require_protocol(data: Dataset, card: Card) -> None:
    if card.data is not None and card.data.protocol != data.protocol:
        raise DataError(
            f"the model was trained on these pictures by protocol {card.data.protocol}; by {data.protocol} it "
            f"would be tested on pictures of its training: use --protocol {card.data.protocol}"
        )


def _unknown(data: Dataset, card: Card, split: str | None, as_is: bool) -> Chosen:
    """Choose where only digests say that the data is not the training's: another folder, or a changed one."""
    if card.data is None or card.data.name != data.name:
        return _other(data, split, as_is)
    text = f"{data.name} has changed since training, or is another folder of that name (its sha256 differs)"
    mend = "pictures of the training may be in it; --split all measures every picture"
    return _measured(data, split, f"{text}: {mend}")


def _other(data: Dataset, split: str | None, as_is: bool) -> Chosen:
    """Choose from a folder that the model was not trained on."""
    count = len(_unique(data))
    if split is not None or as_is:
        return _measured(data, split)
    text = f"{data.name} is not the data that the model was trained on"
    if "test" in data.splits and "test" not in data.drawn:
        n = len(data.splits["test"])
        note = f"{text}: its test/ is measured, n = {n:,}; --split all measures all {count:,} pictures"
        return Chosen(data, "test", (note,) if n < count else ())
    note = f"{text}: all {count:,} pictures are measured"
    return Chosen(data, "all", (note + ("; --split test measures a tenth of them" if "test" in data.splits else ""),))


def _overlapping(data: Dataset, recorded: Recorded, split: str | None, as_is: bool) -> Chosen:
    """Choose from another folder that holds some pictures of the training: those are left out."""
    trained, ids = recorded.splits["train"], _unique(data)
    count = int(np.isin(ids, trained).sum())
    text = f"the model was trained on {count:,} of the {len(ids):,} pictures of {data.name}"
    if as_is or split == "train":
        return _measured(data, split, *((f"{text}: they are measured too",) if count else ()))
    if count == len(ids):
        raise DataError(f"{text}, so nothing is left to measure; --split all --as-is measures them all the same")
    clean = replace(data, splits={name: _without(part, trained) for name, part in data.splits.items()})
    chosen = _other(clean, split, as_is)
    notes = (f"{text}: they are left out (--as-is keeps them)",) if count else ()
    return replace(chosen, notes=(*notes, *chosen.notes))


def _recorded_splits(data: Dataset, recorded: Recorded, split: str | None) -> Chosen:
    """Choose from the training's folder, which has changed since."""
    chosen = _measured(data, split)
    split, note = chosen.split, _changed(data, recorded)
    if split == "all":
        trained = int(np.isin(_unique(data), recorded.splits["train"]).sum())
        return Chosen(data, split, (f"{note}; the model was trained on {trained:,} of all {len(_unique(data)):,}",))
    whole = data.split("all")
    splits: dict[str, Split] = {}
    for name, part in data.splits.items():
        ids = recorded.splits.get(name)
        if name in data.drawn and ids is not None:
            splits[name] = _only(whole, ids)
        else:
            splits[name] = part if name == "train" else _without(part, _met_before(recorded, name))
    measured = splits.get(split)
    if measured is not None and split in recorded.splits and split in data.drawn:
        then = len(recorded.splits[split])
        note += f"; {split} is the recorded one, {len(measured):,} pictures of {then:,} (--as-is takes today's)"
    elif measured is not None:
        note += f"; {split} is measured without those (--as-is keeps them)"
    return replace(chosen, data=replace(data, splits=splits), notes=(note, *chosen.notes))


def _met_before(recorded: Recorded, split: str) -> Ids:
    """Return the pictures that decided something before `split` is looked at, and are not of it."""
    met = recorded.splits["train"]
    return np.union1d(met, recorded.splits["val"]) if split == "test" else met


def _changed(data: Dataset, recorded: Recorded) -> str:
    """Say how the folder has changed, and what that does to today's splits."""
    text = f"{data.name} has changed since training: {changes(data, recorded)}"
    parts = []
    for name in ("val", "test"):
        part = data.splits.get(name)
        if part is None or part.content_ids is None:
            continue
        trained = int(np.isin(part.content_ids, recorded.splits["train"]).sum())
        words = f"{trained:,} of today's {len(part):,} {name} pictures were trained on"
        if name == "test" and part is not data.splits.get("val"):
            words += f" and {int(np.isin(part.content_ids, recorded.splits['val']).sum()):,} were val"
        parts.append(words)
    return f"{text}; {', '.join(parts)}" if parts else text


# --- pictures by content -------------------------------------------------------------------


def _ids(data: Dataset) -> Ids:
    """Return the contents of all splits, each once."""
    return np.unique(_unique(data))


def _unique(data: Dataset) -> Ids:
    """Return the content of every picture of the folder: copies count as often as they are there."""
    splits = {id(split): split for split in data.splits.values()}.values()
    return np.concatenate([np.empty(0, np.uint64), *(s.content_ids for s in splits if s.content_ids is not None)])


def _only(split: Split, ids: Ids) -> Split:
    assert split.content_ids is not None
    return split.rows(np.flatnonzero(np.isin(split.content_ids, ids)))


def _without(split: Split, ids: Ids) -> Split:
    assert split.content_ids is not None
    return split.rows(np.flatnonzero(~np.isin(split.content_ids, ids)))
