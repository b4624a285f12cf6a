"""The training loop. An epoch's record leaves it by `yield`; nothing else calls back.

`fit` is the whole of it: batches → `step` (augment, forward, loss, backward, update) → record.
What it works on is built in `run.py`, what a batch looks like in `data/augment/`, what a
network is in `models/`.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Generator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quicknet.training.ask import ask_ahead
from quicknet.training.checkpoint import EpochRecord
from quicknet.training.hardest import hardest, hardest_count
from quicknet.training.head import fit_head
from quicknet.training.loss import loss_of
from quicknet.training.optim import factor
from quicknet.training.run import Run
from quicknet.training.saving import next_epoch, save, save_best, save_first, save_if_due, save_rest


class Interrupted(Exception):
    """The run was asked to stop, and is saved."""


def fit(run: Run) -> Generator[EpochRecord, None, None]:
    """Train until the recipe's last epoch or its patience, yielding a record per epoch.

    Saves at the ends of epochs, every `save_minutes`, and where it ends, is closed, or raises Interrupted.
    Raises TrainingError where the loss is no longer a number.
    """
    state = run.state
    # What lives now lives to the end; looked through by the collector it costs 150 ms a time,
    # about once in 100 steps (quicknet_s, 2 cores).
    gc.collect()
    gc.freeze()
    if run.fits_head_first and not run.steps_done():
        yield first_answer(run)
    for _ in ask_ahead(run):
        if run.stop_requested:  # of this process: others may have other answers left to ask for
            raise Interrupted
    try:
        while state.epoch < run.recipe.train.epochs and not run.out_of_patience():
            run.model.train()
            for indices in run.remaining_batches():
                started = time.perf_counter()
                loss = step(run, indices)
                state.step += 1
                state.seconds += time.perf_counter() - started
                run.add_energy()
                run.meter.show(loss, state)
                if run.wants_to_stop():
                    raise Interrupted
                save_if_due(run)
            yield finish_epoch(run)
    except (GeneratorExit, Interrupted):
        if not sys.is_finalizing():  # a loop that was left hanging until the interpreter ends
            save_rest(run)
        raise
    save_rest(run)


def step(run: Run, indices: NDArray[np.int64]) -> Tensor:
    """Learn from one batch; return its mean loss."""
    recipe, state = run.recipe, run.state
    torch.manual_seed(run.step_seed())
    run.optimizer.zero_grad(run.model)
    total, correct = torch.zeros((), device=run.device), torch.zeros_like(state.correct)
    chunks = np.array_split(indices, min(recipe.train.accumulate, len(indices)))
    parts = [part for chunk in chunks for part in np.array_split(chunk, run.world.size)]  # of all processes
    learned = sum(hardest_count(recipe.hardest, len(part)) for part in parts)
    for chunk in chunks:
        part = torch.from_numpy(run.world.part(chunk))
        batch = hardest(run, run.augmenter.batch(part, run.view(), run.image_size()).to(run.device))
        with run.autocast():
            logits, features = run.answer(batch.images)
            losses = loss_of(run, logits, batch, features)
        (losses.sum() / learned).backward()  # type: ignore[no-untyped-call]
        total += losses.detach().sum()
        correct += (logits.detach().argmax(1) == batch.labels).sum()
    run.world.sum_gradients(run.trained())
    run.world.sum(total)
    if run.device.type == "cpu" or state.step % 50 == 0:
        require_number(total, run, state.step + 1)
    if run.constraint is not None:
        run.constraint.before_step()
    if recipe.train.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), recipe.train.clip_norm)
    rate = factor(recipe.schedule, run.progress())
    run.optimizer.step(rate)
    if run.match is not None:
        run.match.step(rate)
    if run.ema is not None:
        run.ema.update(run.steps_done())
    if run.constraint is not None:
        run.constraint.after_step(run.steps_done(), run.progress(1))
    state.loss_sum += total
    state.correct += correct
    state.seen += learned
    return total / learned


def require_number(loss: Tensor, run: Run, step: int) -> None:
    """Raise TrainingError where the loss is NaN or infinite."""
    if not bool(torch.isfinite(loss)):
        raise run.diverged(f"the loss is {loss.item()}", step)


def first_answer(run: Run) -> EpochRecord:
    """Fit the classifier to the parent's features, save it; return the record of epoch 0.

    From here on the run folder holds a model that answers. It is no epoch of the log: a run that
    is resumed before its first step does it again, to the same weights.
    """
    started = time.perf_counter()
    save_first(run)
    head = run.head = fit_head(run)
    validation = run.validate()
    run.state.best_accuracy = run.score(validation)
    save_best(run, validation, 0)
    save(run)
    return EpochRecord(
        epoch=0,
        train_loss=head.loss,
        train_accuracy=head.accuracy,
        val_loss=validation.loss,
        val_accuracy=validation.accuracy,
        best=True,
        learning_rate=0.0,
        image_size=run.data.spec.size,
        images_per_second=0.0,
        seconds=time.perf_counter() - started,
        val_balanced_accuracy=validation.balanced_accuracy,
    )


def finish_epoch(run: Run) -> EpochRecord:
    """Validate, keep the best, save; return the epoch's record."""
    state, recipe = run.state, run.recipe.train
    save_first(run)
    require_number(state.loss_sum, run, state.step)
    run.require_finite_weights()
    run.world.sum(state.correct)
    number = state.epoch + 1
    last = number == recipe.epochs
    validation = run.validate() if last or number % recipe.evaluate_every == 0 else None
    best = validation is not None and run.is_best(validation)
    record = EpochRecord(
        epoch=number,
        train_loss=float(state.loss_sum) / state.seen,
        train_accuracy=float(state.correct) / state.seen,
        val_loss=None if validation is None else validation.loss,
        val_accuracy=None if validation is None else validation.accuracy,
        best=best,
        learning_rate=run.recipe.optim.lr * factor(run.recipe.schedule, run.progress()),
        image_size=run.image_size() or run.data.spec.size,
        images_per_second=state.seen / max(state.seconds, 1e-9),
        seconds=state.seconds,
        energy_joules=state.energy_joules,
        val_balanced_accuracy=None if validation is None else validation.balanced_accuracy,
    )
    if validation is not None and best:
        state.best_accuracy, state.best_epoch = run.score(validation), number
        save_best(run, validation, number)
    next_epoch(run, record.to_dict())
    return record
