"""The run folder: what is in it, written so that a kill at any moment loses nothing saved.

    recipe.toml  card.json  model.safetensors  last.safetensors  last.json  log.jsonl  report.html

`model.safetensors` and `card.json` are the classifier (the best weights by validation);
`last.*` is everything that `--resume` needs. No pickle anywhere.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quicknet.core.card import Card, card_from_dict, read_card
from quicknet.core.errors import CheckpointError, FormatError
from quicknet.core.files import (
    folder_lock,
    read_bounded,
    settle_pair,
    sha256_file,
    write_atomically,
    write_pair,
)
from quicknet.models.registry import model_from_record
from quicknet.train.recipe import Recipe, load_recipe

_LIMIT_BYTES = 4 << 30


class RunFolder:
    """One run's files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other run out of the folder while this one lasts."""
        with folder_lock(self.path):
            yield

    def exists(self) -> bool:
        """Return whether a run was ever saved here."""
        return (self.path / "last.json").exists() or (self.path / "card.json").exists()

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the resolved recipe."""
        head = f"# {recipe.name}, every setting resolved; `quicknet train --recipe` on this file re-makes the run.\n"
        write_atomically(self.path / "recipe.toml", head + recipe.to_toml())

    def read_recipe(self) -> Recipe:
        """Return the recipe of the run. Raises ConfigError or FormatError."""
        return load_recipe(str(self.path / "recipe.toml"))

    def save_last(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Save everything that resuming needs, as one step."""
        blob = safetensors.torch.save(_plain(tensors))
        write_pair(self.path / "last.json", counters, self.path / "last.safetensors", blob)

    def load_last(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what `save_last` saved. Raises CheckpointError where it is damaged or missing."""
        if not (self.path / "last.json").is_file():
            raise CheckpointError(f"{self.path} holds no last.json to resume from; name a folder that `train` wrote")
        counters = settle_pair(self.path / "last.json", self.path / "last.safetensors")
        return read_tensors(self.path / "last.safetensors"), counters

    def save_model(self, tensors: dict[str, Tensor], card: Card) -> Card:
        """Save the classifier and its card as one step; returns the card with its digest."""
        blob = safetensors.torch.save(_plain(tensors))
        fields = card.replace(weights_sha256="").to_dict()
        fields.pop("weights_sha256")
        write_pair(self.path / "card.json", fields, self.path / "model.safetensors", blob, "weights_sha256")
        return read_card(self.path / "card.json")

    def update_card(self, card: Card) -> None:
        """Replace the card; the weights stay."""
        write_atomically(self.path / "card.json", card.to_json())

    def write_log(self, records: list[dict[str, Any]]) -> None:
        """Write the whole log anew: what a resumed run does first."""
        write_atomically(self.path / "log.jsonl", "".join(json.dumps(r) + "\n" for r in records))

    def append_log(self, record: dict[str, Any]) -> None:
        """Append one epoch's record."""
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return CPU tensors that own their memory, in a fixed order, as safetensors wants them."""
    return {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file. Raises CheckpointError where it is not one."""
    try:
        return safetensors.torch.load(read_bounded(path, _LIMIT_BYTES, "the tensors"))
    except (safetensors.SafetensorError, FormatError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error})") from error


def load_weights(model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Put tensors into a network, names and shapes exactly. Raises CheckpointError."""
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors:
            raise CheckpointError(f"{where} lacks the tensor {name!r}; it belongs to another network")
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{where}: {name!r} has shape {tuple(tensors[name].shape)}, the network wants {tuple(tensor.shape)}"
            )
    if surplus := sorted(tensors.keys() - wanted.keys()):
        raise CheckpointError(f"{where} holds tensors the network has no place for, such as {surplus[0]!r}")
    model.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in tensors.items()})


def load_model(path: Path) -> tuple[nn.Module, Card]:
    """Return the network of a run folder, in eval mode, and its card.

    Raises FormatError or CheckpointError where card and weights do not belong together.
    """
    folder = Path(path)
    card_path, weights = folder / "card.json", folder / "model.safetensors"
    if not card_path.is_file():
        raise CheckpointError(f"{folder} holds no card.json; train writes it with the first finished epoch")
    card = card_from_dict(settle_pair(card_path, weights, "weights_sha256"), str(card_path))
    model = model_from_record(card.model)
    if card.model.config.get("num_classes") != len(card.classes):
        raise CheckpointError(f"{card_path} names {len(card.classes)} classes for a network of another number")
    load_weights(model, read_tensors(weights), weights)
    return model.eval(), card


class TorchClassifier:
    """A run folder as a classifier (the interface of `lite/classifier.py`)."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.source = Path(path)
        self.device = torch.device(device)
        model, self.card = load_model(self.source)
        self.model = model.to(self.device)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float logits (N, classes) of uint8 images (N, H, W, C)."""
        from quicknet.train.evaluate import predict_logits

        return predict_logits(self.model, images, self.card.preprocess, self.device)

    @property
    def file_sha256(self) -> str:
        """Digest of the weights that answer."""
        return sha256_file(self.source / "model.safetensors")


def load_classifier(path: Path) -> TorchClassifier:
    """Return the classifier of a run folder. Raises FormatError or CheckpointError."""
    return TorchClassifier(path)
