"""Whether a parent or a teacher has learned from images that a run holds out: its figures would flatter."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quicknet.core.card import Card
from quicknet.core.errors import ConfigError, QuickNetError
from quicknet.core.lineage import ExportStep
from quicknet.data.dataset import Dataset
from quicknet.inference.shipped import locate
from quicknet.training.checkpoint import RunFolder
from quicknet.training.teacher import Role

_SPLIT = ("split_seed", "val_share")


def require_unseen(card: Card, name: str, data: Dataset, split: Mapping[str, Any], role: Role) -> None:
    """Raise ConfigError where a model has learned from images of this very data that are held out here.

    `name` is the run folder, the file or the shipped weights of `card`; `split` holds the run's
    `split_seed` and `val_share`. The data is the same where its content is; a file without a receipt
    does not say how its data was split.
    """
    if card.data is None or card.data.sha256 != data.sha256:
        return
    there, here = {"protocol": card.data.protocol}, {"protocol": data.protocol}
    if data.drawn:  # by a seed; splits that are folders of their own are the same for everybody
        there |= _split_of(card, locate(name, "any"))
        here |= {key: split[key] for key in _SPLIT}
    for key in here:
        if key in there and there[key] != here[key]:
            raise ConfigError(
                f"{role.what} {name} has learned from images of {data.name} that this run holds out "
                f"({key} {there[key]} there, {here[key]} here): the accuracies would flatter; "
                f"set data.{key}={there[key]}, "
                f"or name another with {role.option}"
            )


def _split_of(card: Card, path: Path) -> dict[str, Any]:
    """Return how a model's data was split, as far as its run folder or its receipt says."""
    if (path / "recipe.toml").is_file():
        with contextlib.suppress(QuickNetError):  # of a newer version, say: then it is not known
            settings = RunFolder(path).read_recipe().data
            return {key: getattr(settings, key) for key in _SPLIT}
    for step in card.lineage:
        if isinstance(step, ExportStep):
            said = {key: getattr(step, key) for key in _SPLIT}
            return {key: value for key, value in said.items() if value is not None}
    return {}
