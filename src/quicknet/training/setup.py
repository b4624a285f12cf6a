"""From a recipe, or from a saved run, to a `Run`: data, network, teacher, device, world."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from quicknet.core.card import Card
from quicknet.core.errors import CheckpointError, ConfigError, ToolError
from quicknet.core.limits import MAX_IMAGE_SIZE
from quicknet.core.lineage import FineTuneStep, Step, step_from_dict
from quicknet.data import DataRequest, load_data
from quicknet.data.cifar import CIFARS
from quicknet.data.dataset import Dataset
from quicknet.data.load import require_models_source
from quicknet.data.request import FOLDER_SIZE
from quicknet.inference.shipped import locate
from quicknet.models.network import Network
from quicknet.models.registry import base_config, create_model, model_from_record
from quicknet.training.checkpoint import RunFolder, load_model, load_weights, require_fit
from quicknet.training.distributed import join
from quicknet.training.recipe import Recipe
from quicknet.training.run import Parts, Run
from quicknet.training.saving import restore
from quicknet.training.seen import require_unseen
from quicknet.training.teacher import PARENT
from quicknet.training.teachers import (
    distilled,
    lies_in,
    open_judge,
    open_teachers,
    origin,
    require_other_folder,
    require_same_teachers,
    require_unseen_by,
    with_teachers,
)

_USUAL_SIZES = (32, FOLDER_SIZE, MAX_IMAGE_SIZE)  # some networks cannot be small, others not large


def choose_device(name: str = "auto") -> torch.device:
    """Return the device by name; `auto` is CUDA where there is one. Raises ToolError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ToolError(f"cannot train on a device {name!r}; use cpu, cuda or cuda:1")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ToolError("this PyTorch does not see a CUDA device; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ToolError(f"there is no {name}; this PyTorch sees {torch.cuda.device_count()} CUDA devices")
    return device


def start(recipe: Recipe, folder: Path, device: torch.device) -> Run:
    """Return a fresh run. Raises QuickNetError for data, model or folder that cannot be used."""
    run_folder = RunFolder(folder)
    require_other_folder(recipe, folder)
    if run_folder.exists():
        raise CheckpointError(
            f"{folder} holds a run already; go on with --resume {folder}, or name another folder with --run"
        )
    _check_overrides(recipe)
    world = join(device)
    parent = load_model(locate(recipe.model.start_from, "run")) if recipe.model.start_from else None
    if parent is not None:  # its network replaces the one that the recipe names
        recipe = recipe.replace(model={**recipe.model.to_dict(), "name": parent[1].model.name})
        _config_at(parent[0].config, recipe.data.size or parent[1].preprocess.size)  # before images are decoded
    else:
        _check_model(recipe)
    data = load_data(recipe.data.source, _request(recipe, parent))
    recipe = with_epochs(recipe, len(data.split("train")))
    torch.manual_seed(recipe.train.seed)
    model = _fresh_model(recipe, data) if parent is None else _inherited_model(parent, recipe, data)
    for _, size in recipe.train.sizes:
        _config_at(model.config, size)
    if parent is not None:
        require_unseen(parent[1], locate(str(recipe.model.start_from), "run"), data, recipe.data.to_dict(), PARENT)
    teachers = open_teachers(recipe, data, device)
    require_unseen_by(teachers, recipe, data)
    lineage: tuple[Step, ...] = () if parent is None else (*parent[1].lineage, FineTuneStep(**origin(parent[1])))
    lineage = (*lineage, *distilled(teachers))
    fresh = parent is not None and data.classes != parent[1].classes
    judge = open_judge(recipe, data, device)
    run = Run(Parts(recipe, run_folder, data, model, teachers, judge, device, world, lineage, fresh))
    if world.main:
        run_folder.write_recipe(recipe)
        run_folder.write_split(data)
        run_folder.write_log([])
    return run


def resume(folder: Path, device: torch.device, source: str | None = None, teachers: Sequence[str] = ()) -> Run:
    """Return a saved run as it was; its data (`source`) and its `teachers` may lie elsewhere now.

    Raises CheckpointError where the folder is damaged, or data or teachers are not the same.
    """
    run_folder = RunFolder(folder)
    saved = run_folder.load_counters()
    recipe = run_folder.read_recipe()
    if teachers:
        recipe = with_teachers(recipe, teachers, folder)
    require_other_folder(recipe, folder)
    if source is not None:
        recipe = recipe.replace(data={**recipe.data.to_dict(), "source": source})
    else:
        require_models_source(recipe.data.source, folder)
    model = model_from_record(saved.model)
    require_fit(model, saved.classes, saved.preprocess, folder / "last.json")
    request = recipe.data.request().replace(spec=saved.preprocess.to_dict(), classes=saved.classes)
    data = load_data(recipe.data.source, request)
    lineage = tuple(step_from_dict(step) for step in saved.lineage)
    teaching = open_teachers(recipe, data, device)
    require_same_teachers(teaching, saved, lineage, recipe, folder)
    judge = open_judge(recipe, data, device)
    run = Run(Parts(recipe, run_folder, data, model, teaching, judge, device, join(device), lineage))
    restore(run)
    if (teachers or source) and run.world.main:  # where they lie now: the next --resume need not be told
        run_folder.write_recipe(recipe)
    return run


def with_epochs(recipe: Recipe, images: int) -> Recipe:
    """Return the recipe with as many epochs as show `train.views` of so many images, `epochs` at most."""
    train = recipe.train
    if train.views is None:
        return recipe
    epochs = min(train.epochs, max(1, round(train.views / images)))
    return recipe.replace(train={**train.to_dict(), "epochs": epochs, "views": None})


def _request(recipe: Recipe, parent: tuple[Network, Card] | None) -> DataRequest:
    """Return what to ask of the data: the parent's preprocessing, except for a size that was asked for.

    Raises ConfigError for another mode or way to resize than the parent has learned with.
    """
    request = recipe.data.request()
    if parent is None:
        return request
    spec = parent[1].preprocess
    for key in ("mode", "resize"):
        asked, learned = getattr(recipe.data, key), getattr(spec, key)
        if asked not in (None, learned):
            raise ConfigError(
                f"data.{key} is {asked}, but {recipe.model.start_from} was trained with {learned}; leave it out, "
                "or start from nothing (--from none)"
            )
    if recipe.data.size is not None:
        spec = spec.replace(size=recipe.data.size)
    return request.replace(spec=spec.to_dict())


# what the data decides of a network → how to have another
_BY_DATA = {
    "num_classes": "leave it out",
    "image_size": "set data.size",
    "in_channels": "set data.mode to L, RGB or RGBA",
}


def _check_overrides(recipe: Recipe) -> None:
    """Raise ConfigError for an override that the data decides."""
    decided = sorted(_BY_DATA.keys() & recipe.model.overrides.keys())
    if decided:
        raise ConfigError(f"model.overrides.{decided[0]} follows from the data; {_BY_DATA[decided[0]]}")


def _check_model(recipe: Recipe) -> None:
    """Raise ConfigError for a network that is impossible at every usual size now, before the images are decoded."""
    if recipe.optim.freeze:
        raise ConfigError(
            f"optim.freeze {recipe.optim.freeze} would keep random weights, since there is no parent; "
            "name one with --from, or set it to 0"
        )
    sizes = (recipe.data.size,) if recipe.data.size else _USUAL_SIZES  # that of the data is not known yet
    config, errors = base_config(recipe.model.name), list[ConfigError]()
    for size in sizes:
        try:
            config.replace(**{**recipe.model.overrides, "image_size": size})
        except ConfigError as error:
            errors.append(error)
    if len(errors) == len(sizes):
        raise errors[-1]


def _config_at(config: Any, size: int) -> Any:
    """Return the config of a network at another image size. Raises ConfigError for a size that it cannot have.

    The stride stays the one that the weights are learned with, whatever the size would suggest.
    """
    stride = {"stem_stride": config.stride} if hasattr(config, "stride") else {}
    return config.replace(image_size=size, **stride)


def _fresh_model(recipe: Recipe, data: Dataset) -> Network:
    decided = {"num_classes": len(data.classes), "image_size": data.spec.size, "in_channels": data.spec.channels}
    return create_model(recipe.model.name, **recipe.model.overrides, **decided)


def _inherited_model(parent: tuple[Network, Card], recipe: Recipe, data: Dataset) -> Network:
    """Return the parent's network at the data's size, with the recipe's overrides (its dropout,
    say); a fresh classifier for other classes.

    Raises CheckpointError for an override that the parent's weights do not fit.
    """
    model, card = parent
    config = _config_at(model.config, data.spec.size)
    changed = {**config.to_dict(), **recipe.model.overrides}
    resized = model_from_record(card.model.replace(config=changed))
    try:
        load_weights(resized, model.state_dict(), Path(str(recipe.model.start_from)))
    except CheckpointError as error:
        mend = "leave model.overrides out, or start from nothing (--from none)"
        raise CheckpointError(f"{error}; {mend}") from error
    if data.classes != card.classes:
        resized.reset_classifier(len(data.classes))
    return resized


def require_outside(source: str, folder: Path) -> None:
    """Raise ConfigError where a run's folder lies in its data: it would be taken for a class."""
    if source not in CIFARS and lies_in(str(folder), Path(source)):
        raise ConfigError(
            f"the run folder {folder} would lie in the data ({source}); name one outside of it with --run, "
            "or train from another folder"
        )
