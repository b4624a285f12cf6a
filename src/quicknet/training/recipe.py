"""A recipe: every setting of a run, frozen, from TOML and back.

A recipe file begins with a comment that says what it reaches; `recipe.toml` in a run folder is
the same thing with every default written out.
"""

from __future__ import annotations

import importlib.resources
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quicknet.core.errors import ConfigError, nearest
from quicknet.core.files import read_bounded, sha256_bytes
from quicknet.core.settings import Settings, from_mapping, parse_change, put_settings
from quicknet.data.augment import AugmentSettings
from quicknet.data.cifar import CIFARS
from quicknet.inference.shipped import names_with_run, or_names_with_run
from quicknet.training.settings import (
    DataSettings,
    DistillSettings,
    HardestSettings,
    ModelSettings,
    OptimSettings,
    PruneSettings,
    ScheduleSettings,
    ShareSettings,
    TrainSettings,
)

_LIMIT_BYTES = 1 << 20
NO_PARENT = "none"  # as `start_from`
INHERITED = ("size", "mode", "resize")  # settings of [data] that a fine-tuned network has from its parent


class Recipe(Settings, frozen=True, kw_only=True):
    """Every setting of a run."""

    name: str = "custom"
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    augment: AugmentSettings = AugmentSettings()
    optim: OptimSettings = OptimSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    train: TrainSettings = TrainSettings()
    distill: DistillSettings = DistillSettings()
    hardest: HardestSettings = HardestSettings()
    prune: PruneSettings = PruneSettings()
    share: ShareSettings = ShareSettings()

    def __post_init__(self) -> None:
        """Refuse tables that exclude each other."""
        if self.share.bits and self.prune.density < 1:
            raise ConfigError("a run prunes or shares weights: set prune.density or share.bits, not both")

    @property
    def view_seed(self) -> int:
        """The seed of how images are augmented."""
        return self.train.seed if self.distill.seed is None else self.distill.seed

    def to_toml(self) -> str:
        """Return the recipe with every setting written out (None is left out, since TOML cannot write it)."""
        import tomli_w

        return tomli_w.dumps(_without_none(self.to_dict()))

    def sha256(self) -> str:
        """Return the digest by which a card names the recipe; it does not depend on where the data lay."""
        located = self.replace(data={**self.data.to_dict(), "source": ""})
        return sha256_bytes(json.dumps(located.to_dict(), sort_keys=True).encode())


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, (list, tuple)) else value


def list_recipes() -> list[str]:
    """Return the names of the recipes that come with QuickNet."""
    folder = importlib.resources.files("quicknet.training") / "recipes"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def default_recipe(source: str, network: str | None = None, start_from: str | None = None) -> str:
    """Return the recipe for data that names none.

    `fast` for CIFAR by name; for a folder `photos` with a parent, which is the network's own
    weights for photographs where they ship and nothing else is asked for, and `scratch` without.
    """
    if source in CIFARS:
        return "fast"
    if start_from is None:
        network = network or _shipped("photos")["model"]["name"]
        return "photos" if f"{network}.photos" in names_with_run() else "scratch"
    return "scratch" if start_from == NO_PARENT else "photos"


def _shipped(name: str) -> dict[str, Any]:
    """Return what the file of a shipped recipe says."""
    path = importlib.resources.files("quicknet.training") / "recipes" / f"{name}.toml"
    return tomllib.loads(path.read_text("utf-8"))


def lower_rate(recipe: Recipe) -> str:
    """Return `KEY=VALUE` to set after training diverged: a quarter of the learning rate.

    Where even a quarter is above what the shipped recipes use with this optimizer (the recipe of
    this name, if it is one of them), it is their value.
    """
    shipped = [load_recipe(name, ["model.start_from=none"]) for name in list_recipes()]
    alike = [one for one in shipped if one.optim.name == recipe.optim.name]
    alike = [one for one in alike if one.name == recipe.name] or alike
    keys = ("vector_lr", "lr") if recipe.optim.name == "muon" else ("lr",)
    for key in keys:
        usual = max(getattr(one.optim, key) for one in alike)
        if getattr(recipe.optim, key) / 4 > usual:
            return f"optim.{key}={usual:g}"
    return f"optim.lr={recipe.optim.lr / 4:g}"


def load_recipe(name: str, changes: Sequence[str] = (), values: Mapping[str, Any] | None = None) -> Recipe:
    """Return a shipped recipe by name, or one from a `.toml` file, with `KEY=VALUE` changes.

    Keys are dotted (`train.epochs=10`), values are TOML (bare words are taken as strings);
    `values` are keys with values that are taken as they are, such as a folder's name. `{name}` in
    `model.start_from` stands for the network's name. With a parent a shipped recipe does not
    decide how images are prepared: what `changes` and `values` leave out is the parent's. Without
    one it freezes no layers.
    Whoever asks for `train.epochs` gets them, whatever the recipe's `views`. Raises ConfigError
    naming the nearest known key or recipe.
    """
    if name.endswith(".toml") or "/" in name:
        fields, where = _read_toml(Path(name)), name
    elif name in list_recipes():
        fields, where = _shipped(name), f"recipe {name}"
    else:
        raise ConfigError(f"there is no recipe {name!r}{nearest(name, list_recipes())}, or name a .toml file")
    fields.setdefault("name", Path(name).stem)
    asked = [*map(parse_change, changes), *(values or {}).items()]
    put_settings(fields, asked)
    if any(key == "train.epochs" for key, _ in asked) and all(key != "train.views" for key, _ in asked):
        _table(fields, "train").pop("views", None)
    _name_parent(_table(fields, "model"))
    if name in list_recipes():
        _leave_out(fields)
        put_settings(fields, [(key, value) for key, value in asked if key.startswith(("data", "optim"))])
    return from_mapping(Recipe, fields, where)


def _leave_out(fields: dict[str, Any]) -> None:
    """Take out what a shipped recipe does not decide: with a parent its images, without one what of it is kept."""
    if _table(fields, "model").get("start_from") is None:
        _table(fields, "optim").pop("freeze", None)
        return
    for key in INHERITED:
        _table(fields, "data").pop(key, None)


def _name_parent(model: dict[str, Any]) -> None:
    """Put the network's name into `start_from`; take out what says that there is no parent.

    Raises ConfigError where no weights of that name ship.
    """
    start_from = model.get("start_from")
    if start_from == NO_PARENT:
        del model["start_from"]
    if not isinstance(start_from, str) or "{name}" not in start_from:
        return
    model["start_from"] = start_from.replace("{name}", str(model.get("name", ModelSettings().name)))
    if model["start_from"] not in names_with_run():
        raise ConfigError(
            f"there are no weights {model['start_from']}; train from nothing (--recipe scratch), "
            f"or name a run folder to start from (--from){or_names_with_run()}"
        )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bounded(path, _LIMIT_BYTES, "the recipe").decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"the recipe is not UTF-8 text ({path}: {error.reason}); save it as UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"the recipe is not TOML ({path}: {error}); mend that line") from error


def _table(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a table of a recipe; an empty one where there is none (`from_mapping` refuses other values)."""
    table = fields.get(name)
    return table if isinstance(table, dict) else {}
