"""The training of a compression: one run that grows sparser, or for a loss a search along such a run.

`training/loop.py` is the loop, its `prune` settings what goes when; this module says which runs there
are and what was measured at the end of their epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from quicknet import engine
from quicknet.core.errors import CheckFailed
from quicknet.deploy.compress.listener import Watch
from quicknet.deploy.compress.paper import BITS, PaperSizes
from quicknet.deploy.compress.predict import LEAST_DENSITY, density_of, size_at
from quicknet.deploy.compress.prepare import LEAST, Prepared, shape_at
from quicknet.deploy.compress.settings import CompressSettings, Plan, Point
from quicknet.deploy.compress.speed import Speedometer
from quicknet.deploy.compress.steps import Tried, needs_no_training
from quicknet.models.network import Network
from quicknet.training import fit, resume, start
from quicknet.training.channels import ChannelPruner, quicknet_config
from quicknet.training.checkpoint import EpochRecord, RunFolder, load_model
from quicknet.training.prune import density_at
from quicknet.training.recipe import Recipe
from quicknet.training.run import Run

_CPU = torch.device("cpu")
_BEYOND = 1.0  # points over the loss that is allowed at which the descent ends: training mends about that
_TRIES = 3  # half of the epochs each
_FAR = 1.2  # times the density of the next sparser point: between them a fifth of the bytes, or more, is to be gained
_EXACT = 0.002  # of a density: blocks are whole
_ROUNDING = 1e-9  # of an accuracy
_RAMP = 0.3  # of a run that goes half the way down to the next density: the rest is to win back what that cost
_SHARED_RATE = 1e-4  # a shared weight's gradient is that of hundreds


class Trained(NamedTuple):
    """A pruned network, the density of its pointwise weights, the points on the way, the folder of its run, the
    publication's sizes, and the integers that were chosen without training.
    """

    network: Network
    density: float
    points: tuple[Point, ...]
    folder: Path | None = None
    paper: PaperSizes | None = None
    tried: Tried | None = None


def plan_for(prepared: Prepared, density: float, classes: int, settings: CompressSettings, work: Path) -> Plan:
    """Return what pruning to a density is to come to."""
    parent = load_model(work / "parent")[0]
    shape = shape_at(parent, prepared.importance, density, settings.pattern)
    speed = Speedometer(quicknet_config(parent), settings.bits).of(shape) if engine.available() else None
    if settings.pattern != "channel":
        density = _reached(density, density_of(shape))
    needless = settings.can_do_without_training() and needs_no_training(parent, classes, settings.target_size)
    return Plan(density=density, size_bytes=size_at(shape, classes, settings.grid), speed=speed, needless=needless)


def train_to(
    prepared: Prepared, density: float, recipe: Recipe, settings: CompressSettings, work: Path, watch: Watch
) -> Trained:
    """Return the network pruned to a density, by one run in WORK/run that goes on where it was left."""
    recipe = pruned_recipe(recipe, prepared, settings, density=density)
    if settings.target_speed is not None and settings.pattern == "block":
        # left to themselves, layers came out at other shares than those that the speed was measured for: 1.72
        # times for 1.79 (`quicknet`, 14% of the blocks; the third last layer kept 16% for 6)
        planned = shape_at(load_model(work / "parent")[0], prepared.importance, density, settings.pattern)
        recipe = recipe.replace(prune={**recipe.prune.to_dict(), "shares": planned.densities})
    run = _open(recipe, work / "run")
    _finish(run, watch, lambda record: False)
    return _trained(run, density, prepared, settings)


def pruned_recipe(recipe: Recipe, prepared: Prepared, settings: CompressSettings, **prune: float) -> Recipe:
    """Return the recipe with how it prunes."""
    fields = {"pattern": settings.pattern, "importance": prepared.importance}
    least = min(LEAST, prune["density"])
    return recipe.replace(prune={**fields, **prune, "least": least})


def share(trained: Trained, recipe: Recipe, watch: Watch) -> Network:
    """Return the pruned network with shared weights, after an epoch of training them, in a folder of its run's."""
    assert trained.folder is not None
    pruned, shared = trained.folder / "pruned", trained.folder / "shared"
    if not (pruned / "card.json").is_file():
        RunFolder(pruned).save_model(dict(trained.network.state_dict()), load_model(trained.folder)[1])
    run = _open(
        recipe.replace(
            model={**recipe.model.to_dict(), "start_from": str(pruned)},
            train={**recipe.train.to_dict(), "epochs": 1},
            optim={**recipe.optim.to_dict(), "name": "sgd", "lr": _SHARED_RATE, "weight_decay": 0.0},
            share={"bits": BITS},
        ),
        shared,
    )
    _finish(run, watch, lambda record: False)
    return load_model(shared)[0]


def _open(recipe: Recipe, folder: Path) -> Run:
    """Return a run as it was left, or a fresh one."""
    if (folder / "last.json").is_file():
        return resume(folder, _CPU, recipe.data.source or None)
    return start(recipe, folder, _CPU)


def _finish(run: Run, watch: Watch, enough: Callable[[EpochRecord], bool]) -> None:
    """Train until the last epoch, or until one is `enough`."""
    with run.folder.lock(), watch(run) as tell:
        for record in fit(run):
            tell(record)
            if enough(record):
                break


def _trained(run: Run, density: float, prepared: Prepared, settings: CompressSettings) -> Trained:
    """Return what a run came to. Channels seldom come out at the density exactly; a run that is pruned already may
    have fewer weights.
    """
    assert run.constraint is not None
    there = run.constraint.density()
    density = round(there, 4) if isinstance(run.constraint, ChannelPruner) else _reached(density, there)
    return Trained(load_model(run.folder.path)[0], density, _points(run, prepared, settings), run.folder.path)


def _reached(density: float, there: float) -> float:
    """Return the density that was asked for, or what is there where that is less."""
    return round(there, 4) if there < density - _EXACT else density


def _points(run: Run, prepared: Prepared, settings: CompressSettings) -> tuple[Point, ...]:
    """Return the points at the ends of a run's epochs."""
    prune, epochs = run.recipe.prune, run.recipe.train.epochs
    parent = load_model(run.folder.path.parent / "parent")[0]
    speed = Speedometer(quicknet_config(parent), settings.bits)
    points = []
    for row in run.state.history:
        density = density_at(prune, row["epoch"] / epochs)
        shape = shape_at(parent, prepared.importance, density, prune.pattern)
        points.append(
            Point(
                epoch=row["epoch"],
                density=round(density, 4),
                size_bytes=size_at(shape, len(run.data.classes), settings.grid),
                speed=speed.of(shape) if engine.available() else None,
                val_accuracy=row["val_accuracy"],
            )
        )
    return tuple(points)


# --- the search for a loss -------------------------------------------------------------------


def search_loss(
    prepared: Prepared, usual: float, recipe: Recipe, settings: CompressSettings, work: Path, watch: Watch
) -> Iterator[Trained]:
    """Yield networks that lose at most `max_loss` points on `val` to `usual`, the run's top-1, the sparsest first.

    Take the next one where the integers of one lose too much. A run in WORK/descent goes down to the least density;
    the state at each epoch's end is kept. From the sparsest that has lost little more than is allowed a second run
    trains on at its density; where that loses too much, another begins one epoch higher, and from the first that does
    not a third goes half the way back down. The last one goes from the run half the way to the first of the descent.
    Raises CheckFailed naming the nearest point where none is yielded.
    """
    assert settings.max_loss is not None
    half = max(1, recipe.train.epochs // 2)
    recipe = recipe.replace(train={**recipe.train.to_dict(), "epochs": half})
    points = _descend(prepared, usual - (settings.max_loss + _BEYOND) / 100, recipe, settings, work, watch)
    allowed = usual - settings.max_loss / 100 - _ROUNDING
    lost: list[tuple[float, float]] = []

    def settle(point: Point, density: float) -> Trained | None:
        settled = _settle(prepared, point, density, recipe, settings, work, watch)
        accuracy = settled.points[-1].val_accuracy
        if accuracy < allowed:
            lost.append((accuracy, density))
            return None
        later = (row.replace(epoch=point.epoch + row.epoch) for row in settled.points)
        return settled._replace(points=(*points[: point.epoch], *later))

    candidates = [point for point in points if point.val_accuracy >= allowed - _BEYOND / 100] or list(points[:1])
    sparser = next((point.density for point in points[len(candidates) :]), LEAST_DENSITY)
    found = False
    for point in list(reversed(candidates))[:_TRIES]:
        settled = settle(point, point.density)
        if settled is not None:
            between = None
            if not found and point.density > _FAR * sparser:
                between = settle(point, math.sqrt(point.density * sparser))
            found = True
            yield from (one for one in (between, settled) if one is not None)
        sparser = point.density
    # with few epochs the first of the descent may be too sparse already
    settled = settle(points[0].replace(epoch=0, density=1.0), math.sqrt(points[0].density))
    if settled is not None:
        yield settled
    elif not found:
        raise _missed(max(lost), usual, settings)


def _missed(best: tuple[float, float], usual: float, settings: CompressSettings) -> CheckFailed:
    assert settings.max_loss is not None
    return CheckFailed(
        f"no pruned network loses at most {settings.max_loss:g} points on val after {settings.epochs} epochs; the "
        f"nearest keeps {best[1]:.0%} of the weights and loses {100 * (usual - best[0]):.2f}; "
        "use more --epochs, or allow more"
    )


def _descend(
    prepared: Prepared, least: float, recipe: Recipe, settings: CompressSettings, work: Path, watch: Watch
) -> tuple[Point, ...]:
    """Return the points of a run that grows sparser until `val` is below `least`; each one's weights are kept."""
    fields = {"density": LEAST_DENSITY, "ramp": 1.0}
    recipe = pruned_recipe(recipe, prepared, settings, **fields)
    constant = {**recipe.schedule.to_dict(), "final": 0.5}  # it is not to come to rest on the way
    run = _open(recipe.replace(schedule=constant), work / "descent")
    done = [row["val_accuracy"] for row in run.state.history]

    def keep(epoch: int) -> None:
        card = load_model(run.folder.path)[1]
        RunFolder(work / f"point{epoch}").save_model(dict(run.best_model.state_dict()), card)

    def enough(record: EpochRecord) -> bool:
        keep(record.epoch)
        return (record.val_accuracy or 0.0) < least

    if done and not run.state.step:
        keep(run.state.epoch)  # it may have been stopped between saving the epoch and keeping its weights
    if not any(accuracy < least for accuracy in done):
        _finish(run, watch, enough)
    return _points(run, prepared, settings)


def _settle(
    prepared: Prepared,
    point: Point,
    density: float,
    recipe: Recipe,
    settings: CompressSettings,
    work: Path,
    watch: Watch,
) -> Trained:
    """Return the network of a point after training on at its density, or at a lower one."""
    source, lower = work / (f"point{point.epoch}" if point.epoch else "parent"), density < point.density
    recipe = recipe.replace(model={**recipe.model.to_dict(), "start_from": str(source)})
    fields = {"density": density, "start": point.density, "ramp": _RAMP if lower else 0.0}
    run = _open(pruned_recipe(recipe, prepared, settings, **fields), work / f"settle{point.epoch}{'b' * lower}")
    _finish(run, watch, lambda record: False)
    return _trained(run, density, prepared, settings)
