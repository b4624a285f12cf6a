"""Training, as one function and as its parts.

`train` is what `quicknet train` does, without the printing: `start` (or `resume`) builds a
`Run`, `fit` yields a record per epoch, `finish` measures and reports.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

from quicknet.training.checkpoint import EpochRecord, RunFolder
from quicknet.training.distributed import leave
from quicknet.training.finish import finish
from quicknet.training.loop import Interrupted, fit
from quicknet.training.notes import describe
from quicknet.training.recipe import Recipe, default_recipe, list_recipes, load_recipe
from quicknet.training.run import Run
from quicknet.training.setup import choose_device, require_outside, resume, start

__all__ = [
    "EpochRecord",
    "Interrupted",
    "Recipe",
    "Run",
    "RunFolder",
    "choose_device",
    "describe",
    "finish",
    "fit",
    "leave",
    "list_recipes",
    "load_recipe",
    "require_outside",
    "resume",
    "start",
    "train",
]


def train(
    source: str | Path, run: str | Path, recipe: str | None = None, changes: Sequence[str] = (), device: str = "auto"
) -> Generator[EpochRecord, None, None]:
    """Train on `source` into the folder `run`, or go on where that was left; yields each epoch.

    `recipe` is a shipped name or a .toml file (None: `fast` for CIFAR, `photos` for a folder, which
    starts from weights that have seen photographs; `scratch` starts from nothing),
    `changes` are `KEY=VALUE` settings; a run that goes on keeps its own. When the iterator ends,
    the folder holds the finished classifier. Raises QuickNetError.
    """
    source, folder = str(source), RunFolder(Path(run))
    chosen = choose_device(device)
    if not folder.is_saved():
        require_outside(source, folder.path)  # before the lock makes it
    with folder.lock():
        if folder.is_saved():
            current = resume(folder.path, chosen, source)
        else:
            settings = load_recipe(recipe or default_recipe(source), changes, {"data.source": source})
            current = start(settings, folder.path, chosen)
        yield from fit(current)
        finish(current)
