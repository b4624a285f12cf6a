"""Whether a parent or a teacher has learned from images that a run holds out: its figures would flatter."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quicknet.core.card import Card
from quicknet.core.errors import ConfigError, QuickNetError
from quicknet.data.dataset import Dataset
from quicknet.inference.artifact import open_artifact
from quicknet.inference.receipt import split_settings
from quicknet.training.checkpoint import RunFolder
from quicknet.training.teacher import Role

_SPLIT = ("split_seed", "val_share")


def require_unseen(card: Card, path: Path, data: Dataset, split: Mapping[str, Any], role: Role) -> None:
    """Raise ConfigError where a model has learned from images of this very data that are held out here.

    `path` is the run folder or the file of `card`; `split` holds the run's `split_seed` and `val_share`. The data is
    the same where its content is. Of one seed a smaller share is a part of a larger one. A file without a receipt does
    not say how its data was split.
    """
    if card.data is None or card.data.sha256 != data.sha256:
        return
    there, here = {"protocol": card.data.protocol}, {"protocol": data.protocol}
    if data.drawn:  # by a seed; splits that are folders of their own are the same for everybody
        there |= _split_of(card, path)
        here |= {key: split[key] for key in _SPLIT}
    for key in here:
        if key in there and (there[key] < here[key] if key == "val_share" else there[key] != here[key]):
            raise ConfigError(
                f"{role.what} {path} has learned from images of {data.name} that this run holds out "
                f"({key} {there[key]} there, {here[key]} here): the accuracies would flatter; "
                f"train this run with data.{key}={there[key]}, or name another with {role.option}"
            )


def _split_of(card: Card, path: Path) -> dict[str, Any]:
    """Return how a model's data was split, as far as its run folder or a receipt says: its own, or, of shipped
    weights, that of the exported file beside them.
    """
    said: Mapping[str, Any] = {}
    with contextlib.suppress(QuickNetError):  # of a newer version, say: then it is not known
        if (path / "recipe.toml").is_file():
            said = RunFolder(path).read_recipe().data.to_dict()
        elif path.is_dir() and (beside := path.with_name(f"{path.name}.qnz")).is_file():
            said = split_settings(open_artifact(beside).card)
        else:
            said = split_settings(card)
    return {key: said[key] for key in _SPLIT if said.get(key) is not None}
