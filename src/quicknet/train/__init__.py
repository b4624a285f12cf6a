"""Training, as one function and as its parts.

`train` is what `quicknet train` does, without the printing: `start` (or `resume`) builds a
`Run`, `fit` yields a record per epoch, `finish` measures and reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from quicknet.train.checkpoint import EpochRecord, RunFolder
from quicknet.train.distributed import leave
from quicknet.train.finish import finish
from quicknet.train.loop import Interrupted, fit
from quicknet.train.recipe import Recipe, list_recipes, load_recipe
from quicknet.train.run import Run
from quicknet.train.setup import choose_device, describe, resume, start

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
    "resume",
    "start",
    "train",
]


def train(
    source: str, run: str | Path, recipe: str = "fast", changes: Sequence[str] = (), device: str = "auto"
) -> Iterator[EpochRecord]:
    """Train on `source` into the folder `run`, or go on where that was left; yields each epoch.

    `recipe` is a shipped name or a .toml file, `changes` are `KEY=VALUE` settings. When the
    iterator ends, the folder holds the finished classifier. Raises QuickNetError.
    """
    folder = RunFolder(Path(run))
    chosen = choose_device(device)
    with folder.lock():
        if (folder.path / "last.json").exists():
            current = resume(folder.path, chosen, source)
        else:
            settings = load_recipe(recipe, changes)
            located = settings.replace(data={**settings.data.to_dict(), "source": source})
            current = start(located, folder.path, chosen)
        yield from fit(current)
        finish(current)
