"""What a user should know of a run before its first epoch."""

from __future__ import annotations

import contextlib

import torch

from quicknet.core.errors import QuickNetError
from quicknet.core.files import read_json
from quicknet.inference.shipped import locate
from quicknet.models import fused
from quicknet.training.checkpoint import RunFolder
from quicknet.training.kept import uses_bf16
from quicknet.training.run import Run


def describe(run: Run) -> list[str]:
    """Return what a user should know before the first epoch, a line each."""
    data, recipe = run.data, run.recipe
    counts = ", ".join(f"{name} {len(split):,}" for name, split in data.splits.items())
    size = sum(p.numel() for p in run.model.parameters())
    lines = [
        f"data     {data.name}: {len(data.classes)} classes, {counts}, "
        f"{data.spec.size}x{data.spec.size} {data.spec.mode}, protocol {data.protocol}",
        *(f"note     {note}" for note in (*data.notes, *_imbalance(run), *_kept_epoch(run), *_other_threads(run))),
        f"model    {recipe.model.name}: {size:,} parameters{_start(run)}",
        f"recipe   {recipe.name}: {recipe.train.epochs} epochs of {run.steps_per_epoch} steps, "
        f"{recipe.optim.name} {recipe.optim.lr:g}, {recipe.schedule.name}, seed {recipe.train.seed}",
    ]
    lines += [f"note     {note}" for note in _unfinished_teacher(run)] + _kept_answers(run)
    if run.device.type == "cpu":
        precision = "bfloat16" if uses_bf16(recipe.train, run.device) else "float32"
        lines.append(f"device   cpu, threads: {torch.get_num_threads()}, {precision}; {fused.status()}")
    else:
        lines.append(f"device   {torch.cuda.get_device_name(run.device)}")
    if run.world.size > 1:
        lines.append(f"world    {run.world.size} processes")
    return lines


def _imbalance(run: Run) -> list[str]:
    """Return what to say of classes that differ by 5 to 1 or more."""
    if not run.unbalanced("train"):
        return []
    counts = run.class_counts("train")
    most, least = int(counts.argmax()), int(counts.argmin())
    return [
        f"of {run.train_size:,} images to train on {counts[most]:,} are {run.data.classes[most]!r}, "
        f"{counts[least]:,} {run.data.classes[least]!r}: compare the accuracy with "
        f"{100 * counts[most] / run.train_size:.2f}%, which always answering {run.data.classes[most]!r} would score"
    ]


def _start(run: Run) -> str:
    """Return what the weights start from, where it is not random numbers."""
    start_from = run.recipe.model.start_from
    return f", from {start_from} (--from none starts from nothing)" if start_from else ""


def _unfinished_teacher(run: Run) -> list[str]:
    """Say where a teacher is a run that has not come to its end: a crash looks like a finished one otherwise."""
    notes = []
    for name in run.recipe.distill.teachers:
        path = locate(name, "any")
        with contextlib.suppress(QuickNetError):  # a run that cannot go on teaches all the same
            counters, settings = read_json(path / "last.json", "the counters"), RunFolder(path).read_recipe().train
            done = counters.get("epoch", settings.epochs)
            if done < settings.epochs and settings.patience is None:  # patience may have ended it
                text = f"the teacher {name} has trained {done} of its {settings.epochs} epochs"
                notes.append(f"{text}; its best weights so far answer")
    return notes


def _kept_answers(run: Run) -> list[str]:
    """Return what to say of the teachers' kept answers."""
    if run.kept is None:
        return []
    lines, notes, kept = list[str](), list[str](), run.recipe.distill.kept
    views = run.kept.views(run.state.epoch, run.recipe.train.epochs)
    for name, file in zip(run.recipe.distill.teachers, run.kept.files, strict=True):
        missing, note = file.missing(views)
        there = 100 - 100 * sum(len(file.rows(part)) for part in missing) / max(1, len(views) * file.images)
        lines.append(
            f"teacher  {name}: its answers to {len(views)} epochs of views are kept "
            f"({file.path}, {file.size_bytes(len(views)) / 1e6:,.1f} MB), {there:.0f}% are there"
        )
        notes += [] if note is None else [note]
    if run.recipe.augment.flip == "alternating" and kept % 2 and kept < run.recipe.train.epochs:
        again = "where the views begin again, each image is flipped as in the epoch before"
        notes.append(f"distill.kept={kept} is odd: {again}; {kept + 1} alternates")
    return [*lines, *(f"note     {note}" for note in notes)]


def _kept_epoch(run: Run) -> list[str]:
    """Say where no epoch is chosen by `val`, since it has too few images."""
    if not run.keeps_last or run.recipe.train.keep == "last":
        return []
    images = len(run.data.split("val"))
    return [f"val has {images:,} images, too few to choose the best epoch by: the last epoch's weights are kept"]


def _other_threads(run: Run) -> list[str]:
    """Say where a resumed run adds up in another order than before."""
    before, now = run.saved_threads, torch.get_num_threads()
    if before in (None, now) or run.device.type != "cpu":
        return []
    return [
        f"this run had {before} CPU threads and now has {now}, so its weights will not be bit for bit those of an "
        f"uninterrupted run; --threads {before} keeps them so"
    ]
