"""The run folder: what is in it, written so that a kill at any moment loses nothing saved.

    recipe.toml  split.json  card.json  model.safetensors  last.safetensors  last.json  log.jsonl  report.html

`model.safetensors` and `card.json` are the classifier (the best weights by validation);
`last.*` is everything that `--resume` needs. No pickle anywhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quicknet.core.card import Card, ModelRecord, PreprocessSpec, card_from_dict, read_card
from quicknet.core.errors import CheckpointError, FormatError, ToolError
from quicknet.core.files import (
    folder_lock,
    read_bounded,
    read_pair,
    settle_pair,
    write_advice,
    write_atomically,
    write_pair,
)
from quicknet.core.settings import Settings
from quicknet.data.dataset import Dataset
from quicknet.data.recorded import FILE as RECORD
from quicknet.data.recorded import record_text
from quicknet.image.preprocess import check_images
from quicknet.inference.shipped import did_you_mean, names_with_run, or_names_with_run
from quicknet.models.network import Network
from quicknet.models.registry import model_from_record
from quicknet.training.recipe import Recipe, load_recipe
from quicknet.training.state import HeadFit

_LIMIT_BYTES = 4 << 30


class EpochRecord(Settings, frozen=True, kw_only=True):
    """One line of `log.jsonl`. Losses in nats, accuracies as shares (`val_balanced_accuracy`:
    the mean over classes; None in logs of older versions), `seconds` of this epoch;
    `energy_joules` of the processors, where the machine measures it (`core/energy.py`).
    Epoch 0, which is not logged, is the classifier fitted to the parent's features; its
    `train_loss` and `train_accuracy` are of training images that were left out of the fit.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    best: bool
    learning_rate: float
    image_size: int
    images_per_second: float
    seconds: float
    energy_joules: float | None = None
    val_balanced_accuracy: float | None = None


_Count = Annotated[int, msgspec.Meta(ge=0)]


class Counters(Settings, frozen=True, kw_only=True):
    """What `last.json` holds beside the digest of its tensors; see `run.State` for the counters."""

    format: Literal[1]
    data_sha256: str
    threads: _Count
    model: ModelRecord
    classes: tuple[str, ...]
    preprocess: PreprocessSpec
    lineage: tuple[dict[str, Any], ...]
    epoch: _Count
    step: _Count
    seen: _Count
    seconds: float
    energy_joules: float | None = None
    best_accuracy: float
    best_epoch: _Count
    history: tuple[EpochRecord, ...]
    head: HeadFit | None = None
    teachers_sha256: tuple[str, ...] = ()  # of each, over all that its answers depend on
    judge_sha256: str | None = None  # of the network that finds images hard


class RunFolder:
    """One run's files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other run out of the folder while this one lasts.

        Of several processes of one run (`torchrun`) the first holds it, since it alone writes.
        """
        if os.environ.get("RANK", "0") != "0":
            yield
            return
        with folder_lock(self.path):
            yield

    def exists(self) -> bool:
        """Return whether a run was ever saved here."""
        return (self.path / "last.json").exists() or (self.path / "card.json").exists()

    def is_saved(self) -> bool:
        """Return whether there is something to resume."""
        return (self.path / "last.json").is_file()

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the resolved recipe."""
        head = f"# {recipe.name}, every setting resolved; `quicknet train --recipe` on this file re-makes the run.\n"
        write_atomically(self.path / "recipe.toml", head + recipe.to_toml())

    def write_split(self, data: Dataset) -> None:
        """Write which pictures of a folder are train, val and test."""
        text = record_text(data)
        if text is not None:
            write_atomically(self.path / RECORD, text)

    def read_recipe(self) -> Recipe:
        """Return the recipe of the run. Raises ConfigError or FormatError."""
        return load_recipe(str(self.path / "recipe.toml"))

    def save_last(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Save everything that resuming needs, as one step."""
        blob = safetensors.torch.save(_plain(tensors))
        write_pair(self.path / "last.json", counters, self.path / "last.safetensors", blob)

    def require_saved(self) -> None:
        """Raise CheckpointError where there is nothing to resume."""
        if self.is_saved():
            return
        if self.path.is_file():
            raise _is_file(self.path, "--resume needs a run folder")
        if (self.path / "card.json").is_file() or str(self.path) in names_with_run():
            raise CheckpointError(
                f"{self.path} has finished weights, but no last.json to resume from; "
                f"start a new run from them: --from {shlex.quote(str(self.path))}"
            )
        what = "holds no last.json to resume from" if self.path.exists() else "does not exist"
        raise CheckpointError(f"{self.path} {what}; name a folder that `quicknet train` wrote")

    def load_counters(self) -> Counters:
        """Return the counters that `save_last` saved. Raises CheckpointError or FormatError."""
        self.require_saved()
        path = self.path / "last.json"
        fields = settle_pair(path, self.path / "last.safetensors")
        try:
            counters = msgspec.convert(fields, Counters)
        except msgspec.ValidationError as error:
            raise CheckpointError(
                f"{path} does not hold: {error}; it is damaged or of another version: restore it from a copy"
            ) from error
        best = counters.best_epoch
        if best and (best > len(counters.history) or counters.history[best - 1].val_loss is None):
            raise CheckpointError(f"{path} has no validation of its best epoch {best}; restore it from a copy")
        return counters

    def load_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that `save_last` saved. Raises CheckpointError."""
        return read_tensors(self.path / "last.safetensors")

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
        """Append one epoch's record. Raises ToolError; `last.json` has the record all the same."""
        try:
            with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise ToolError(
                f"cannot write {self.path / 'log.jsonl'} ({error.strerror or error}); the epoch is saved: "
                f"{write_advice(error)}, then go on with --resume {self.path}"
            ) from error


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return CPU tensors that own their memory, in a fixed order, as safetensors needs them."""
    return {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file. Raises CheckpointError where it is not one."""
    try:
        blob = read_bounded(path, _LIMIT_BYTES, "the tensors")
    except FormatError as error:
        raise _not_whole(path, error) from error
    return _parse_tensors(blob, path)


def _parse_tensors(blob: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(blob)
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: an element type that PyTorch does not have
        raise _not_whole(path, error) from error


def _not_whole(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is not a whole safetensors file ({error}); restore it from a copy")


def load_weights(model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Put tensors into a network: names, shapes and types exactly, finite numbers only.

    Raises CheckpointError.
    """
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{where} lacks the tensor {name!r}; it belongs to another network")
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{where}: {name!r} has shape {tuple(tensors[name].shape)}, the network's is {tuple(tensor.shape)}; "
                "it belongs to another network"
            )
        if tensors[name].dtype != tensor.dtype:
            raise CheckpointError(
                f"{where}: {name!r} is {tensors[name].dtype}, the network's is {tensor.dtype}; "
                "it belongs to another network"
            )
        if not bool(torch.isfinite(tensors[name]).all()):
            raise CheckpointError(
                f"{where}: {name!r} holds values that are NaN or infinite; restore the file from a copy"
            )
    if surplus := sorted(tensors.keys() - expected.keys()):
        raise CheckpointError(
            f"{where} holds a tensor {surplus[0]!r} that the network does not have; it belongs to another network"
        )
    model.load_state_dict(tensors)


def require_fit(model: Network, classes: tuple[str, ...], spec: PreprocessSpec, where: Path) -> None:
    """Raise CheckpointError where a network is of other classes or images than its file says."""
    config = model.config
    if config.num_classes != len(classes):
        raise CheckpointError(
            f"{where} names {len(classes)} classes, its network has {config.num_classes}; restore it from a copy"
        )
    if (config.in_channels, config.image_size) != (spec.channels, spec.size):
        raise CheckpointError(
            f"{where} prepares {spec.size}x{spec.size} {spec.mode} images for a network of {config.in_channels} "
            f"channels at {config.image_size}x{config.image_size}; restore it from a copy"
        )


def _is_file(path: Path, needs: str, otherwise: str = "") -> CheckpointError:
    """Return the error for a file where a run folder is needed; `otherwise` is a second way out."""
    if (path.parent / "card.json").is_file():
        return CheckpointError(f"{path} is a file, and {needs}; name its folder, {path.parent}")
    return CheckpointError(f"{path} is a file, and {needs}; name the run folder that it was exported from{otherwise}")


def load_model(path: Path) -> tuple[Network, Card]:
    """Return the network of a run folder, in eval mode, and its card; weights kept in fp16 become float32.

    Raises FormatError or CheckpointError where card and weights do not belong together.
    """
    folder = Path(path)
    card_path, weights = folder / "card.json", folder / "model.safetensors"
    if folder.is_file():
        raise _is_file(folder, "training starts from a run folder", or_names_with_run(folder.stem))
    if not folder.exists():
        raise CheckpointError(f"{folder} does not exist{did_you_mean(path)}; name a run folder or shipped weights")
    if not card_path.is_file():
        raise CheckpointError(
            f"{folder} holds no card.json{did_you_mean(path)}; train writes it with the first finished epoch"
        )
    fields, blob = read_pair(card_path, weights, "weights_sha256", _LIMIT_BYTES)
    card = card_from_dict(fields, str(card_path))
    model = model_from_record(card.model)
    require_fit(model, card.classes, card.preprocess, card_path)
    load_weights(model, _widened(_parse_tensors(blob, weights)), weights)
    return model.eval(), card


def _widened(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return fp16 tensors, as shipped weights have them, as float32, which holds the same numbers."""
    return {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in tensors.items()}


class TorchClassifier:
    """A run folder as a classifier (the interface of `inference/classifier.py`)."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.source = Path(path)
        self.device = torch.device(device)
        model, self.card = load_model(self.source)
        self.file_sha256 = self.card.weights_sha256  # `load_model` has compared it with the weights
        self.model = model.to(self.device)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (N, classes) float32 for (N, size, size, channels) uint8. Raises DataError for other images."""
        from quicknet.training.evaluate import predict_logits

        check_images(images, self.card.preprocess)
        return predict_logits(self.model, images, self.card.preprocess, self.device)
