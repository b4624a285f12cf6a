"""What a run writes to its folder, and how it is read back: its weights, and everything that resuming needs."""

from __future__ import annotations

import dataclasses
import shlex
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quicknet import __version__
from quicknet.core.card import Card, TrainingRecord
from quicknet.core.errors import CheckpointError
from quicknet.data.recorded import changes, read_recorded
from quicknet.inference.evaluate import top1_metric
from quicknet.models.registry import model_record
from quicknet.training.checkpoint import Counters, load_weights
from quicknet.training.evaluate import drawn_vectors
from quicknet.training.run import Run
from quicknet.training.state import LastSave, Validation

_SAVING_SHARE = 0.05  # of the time, at the ends of epochs
# of State, what last.json holds as it is
_COUNTERS = ("epoch", "step", "seen", "seconds", "energy_joules", "best_accuracy", "best_epoch")


def save_best(run: Run, validation: Validation, epochs: int) -> None:
    """Write the weights to use after so many epochs, and their card."""
    if run.world.main:
        run.folder.save_model(dict(run.best_model.state_dict()), _card(run, validation, epochs))


def _card(run: Run, validation: Validation, epochs: int) -> Card:
    """Return the card of the weights to use as they are now, after so many epochs."""
    state, recipe = run.state, run.recipe
    return Card(
        model=model_record(recipe.model.name, run.model),
        costs=run.costs,
        classes=run.data.classes,
        preprocess=run.data.spec,
        data=run.data.record(),
        training=TrainingRecord(
            recipe_sha256=recipe.sha256(),
            recipe_name=recipe.name,
            seed=recipe.train.seed,
            epochs=epochs,
            seconds=sum(r["seconds"] for r in state.history) + state.seconds,
            best_epoch=state.best_epoch,
        ),
        metrics=(top1_metric(validation.accuracy, validation.n, "val", run.data.protocol, ""),),
        vectors=drawn_vectors(run.best_model, run.data.spec, run.device),
        lineage=run.lineage,
        versions={"quicknet": __version__, "torch": str(torch.__version__), "numpy": np.__version__},
    )


def next_epoch(run: Run, record: dict[str, Any]) -> None:
    """Close the epoch: counters, a line of the log, and a save, if saving stays a small share of the time.

    An epoch of a hundred pictures takes a tenth of a second, a save 40 ms.
    """
    run.state.close_epoch(record)
    if _SAVING_SHARE * (time.monotonic() - run.last_save.at) >= run.last_save.seconds:
        save(run)
    if run.world.main:
        run.folder.append_log(record)


def save_if_due(run: Run) -> None:
    """Save if the last save is `save_minutes` ago."""
    if time.monotonic() - run.last_save.at > 60 * run.recipe.train.save_minutes:
        save(run)


def save(run: Run) -> None:
    """Save everything that resuming needs. Raises TrainingError rather than save NaN."""
    run.require_finite_weights()
    started = time.monotonic()
    if run.world.main:
        _save(run)
    now = time.monotonic()
    run.last_save = LastSave(now, now - started, (run.state.epoch, run.state.step))


def save_first(run: Run) -> None:
    """Save if nothing is saved yet: weights to use without what resuming needs would be a run that cannot go on.

    The next save is due as if this one had not been.
    """
    if run.world.main and not run.folder.is_saved():
        run.require_finite_weights()
        _save(run)


def save_rest(run: Run) -> None:
    """Save what was trained after the last save."""
    if (run.state.epoch, run.state.step) != run.last_save.done:
        save(run)


def _save(run: Run) -> None:
    state = run.state
    tensors = {
        **{f"model.{name}": t for name, t in run.model.state_dict().items()},
        **{f"optimizer.{name}": t for name, t in run.optimizer.state().items()},
        "state.correct": state.correct,
        "state.loss_sum": state.loss_sum,
    }
    if run.match is not None:
        tensors |= {f"match.{name}": t for name, t in run.match.state().items()}
    if run.ema is not None:
        tensors |= {f"ema.{name}": t for name, t in run.ema.model.state_dict().items()}
    counters: dict[str, Any] = {name: getattr(state, name) for name in _COUNTERS}
    counters |= {
        "history": state.history,
        "head": None if run.head is None else dataclasses.asdict(run.head),
        "format": 1,
        "data_sha256": run.data.sha256,
        "threads": torch.get_num_threads(),
        "model": model_record(run.recipe.model.name, run.model).to_dict(),
        "classes": run.data.classes,
        "preprocess": run.data.spec.to_dict(),
        "lineage": [step.to_dict() for step in run.lineage],
        "teachers_sha256": [teacher.sha256 for teacher in run.teachers],
        "judge_sha256": None if run.judge is None else run.judge.sha256,
    }
    run.folder.save_last(tensors, counters)


def restore(run: Run) -> None:
    """Go on from where the run was saved.

    Raises CheckpointError where the folder is damaged or the data is not the same.
    """
    counters, tensors = run.folder.load_counters(), run.folder.load_tensors()
    _require_same(run, counters)
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = tensor
    where = run.folder.path / "last.safetensors"
    load_weights(run.model, groups.get("model", {}), where)
    if run.ema is not None:
        load_weights(run.ema.model, groups.get("ema", {}), where)
    if run.constraint is not None:
        run.constraint.read()
    run.optimizer.load_state(groups.get("optimizer", {}))
    if run.match is not None:
        run.match.load_state(groups.get("match", {}))
    try:
        run.state.correct = groups["state"]["correct"].to(run.device)
        run.state.loss_sum = groups["state"]["loss_sum"].to(run.device)
    except KeyError as error:
        raise CheckpointError(f"{where} lacks {error}; it was written by another version") from error
    for name in _COUNTERS:
        setattr(run.state, name, getattr(counters, name))
    run.last_save.done = (run.state.epoch, run.state.step)
    run.state.history = [record.to_dict() for record in counters.history]
    run.head = counters.head
    run.saved_threads = counters.threads
    if run.world.main:
        run.folder.write_split(run.data)  # run folders of older versions have no record
        run.folder.write_log(run.state.history)


def _require_same(run: Run, counters: Counters) -> None:
    """Raise CheckpointError where data, or the judge of hard images, is not what the run began with."""
    if counters.data_sha256 != run.data.sha256:
        recorded = read_recorded(run.folder.path, counters.data_sha256)
        how = "the sha256 over content differs" if recorded is None else changes(run.data, recorded)
        advice = (
            f"name the folder where its data lies now, or train on this one from its weights: "
            f"--from {shlex.quote(str(run.folder.path))}"
        )
        if run.data.unread:
            advice = f"{run.data.unread} of its images cannot be read now: quicknet doctor says why"
        raise CheckpointError(f"{run.folder.path} was trained on other data than {run.data.name} ({how}); {advice}")
    if run.judge is not None and run.judge.sha256 != counters.judge_sha256:
        raise CheckpointError(
            f"{run.recipe.hardest.by} has other weights than when {run.folder.path} began (its sha256 differs), "
            "and would choose other images; put the old ones back, or start a new run with --from"
        )
