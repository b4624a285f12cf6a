"""Asking a run's teacher: in every step, or ahead of training, where its answers are kept."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quicknet.data.augment import Batch
from quicknet.training.kept import answers_in_bf16
from quicknet.training.run import Run
from quicknet.training.state import Asked


def teacher_logits(run: Run, batch: Batch) -> Tensor:
    """Return the teacher's logits (B, classes) float32 for a batch of the epoch in progress: kept, or given now."""
    assert run.teacher is not None
    if run.kept is not None:
        return run.kept.logits(run.state.epoch, batch.indices)
    return run.teacher(batch.images).float()


def ask_ahead(run: Run) -> Iterator[None]:
    """Have the teacher answer what the rest of the run needs and nobody has asked yet; yields after each question."""
    if run.kept is None:
        return
    file, views = run.kept.file, run.kept.views(run.state.epoch, run.recipe.train.epochs)
    missing, _ = file.missing(views)
    asked = Asked(len(views), len(views) * file.images)
    done = asked.images - sum(len(file.rows(part)) for part in missing)
    for count in file.complete(missing, functools.partial(_ask, run)):
        done += count
        run.meter.asked = dataclasses.replace(asked, done=done)
        yield
    run.meter.asked = None


def _ask(run: Run, indices: NDArray[np.int64], view: int) -> NDArray[np.float32]:
    """Return the teacher's logits (B, classes) for the views of images in an epoch, at the data's size."""
    assert run.teacher is not None
    batch = run.augmenter.batch(torch.from_numpy(indices), view).to(run.device)
    with torch.no_grad(), run.autocast(answers_in_bf16(run.recipe.train, run.device)):
        logits: NDArray[np.float32] = run.teacher(batch.images).float().cpu().numpy()
    return logits
