"""From a recipe to those that a run asks: its teachers, and the judge of hard images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from quicknet.core.card import Card
from quicknet.core.errors import CheckpointError, ConfigError
from quicknet.core.lineage import DistillStep, Step
from quicknet.data.dataset import Dataset
from quicknet.inference.shipped import locate
from quicknet.training.checkpoint import Counters
from quicknet.training.recipe import Recipe
from quicknet.training.seen import require_unseen
from quicknet.training.teacher import JUDGE, TEACHER, MirroredTeacher, Teacher, open_teacher


def open_teachers(recipe: Recipe, data: Dataset, device: torch.device) -> tuple[Teacher, ...]:
    """Return the recipe's teachers, in its order. Raises ConfigError where one does not fit the data."""
    settings = recipe.distill
    opened = (open_teacher(locate(name, "any"), data, device, settings.on == "logits") for name in settings.teachers)
    return tuple(MirroredTeacher(teacher) if settings.mirror else teacher for teacher in opened)


def require_unseen_by(teachers: Sequence[Teacher], recipe: Recipe, data: Dataset) -> None:
    """Raise ConfigError where a teacher has learned from images that the run holds out."""
    for name, teacher in zip(recipe.distill.teachers, teachers, strict=True):
        require_unseen(teacher.card, locate(name, "any"), data, recipe.data.to_dict(), TEACHER)


def open_judge(recipe: Recipe, data: Dataset, device: torch.device) -> Teacher | None:
    """Return the network that finds images hard, if the recipe names one. Raises ConfigError where it does not fit."""
    by = recipe.hardest.by
    return None if by is None else open_teacher(locate(by, "any"), data, device, role=JUDGE)


def origin(card: Card) -> dict[str, Any]:
    """Return how a step of lineage names the network that was learned from."""
    return {"source": card.model.name, "weights_sha256": card.weights_sha256}


def distilled(teachers: Sequence[Teacher]) -> tuple[Step, ...]:
    """Return the steps of lineage that name the teachers."""
    return tuple(DistillStep(**origin(teacher.card)) for teacher in teachers)


def require_other_folder(recipe: Recipe, folder: Path) -> None:
    """Raise ConfigError where a teacher, or the judge of hard images, lies in the folder of the run itself."""
    asked = [*((TEACHER, name) for name in recipe.distill.teachers), (JUDGE, recipe.hardest.by)]
    for role, path in asked:
        if path is not None and lies_in(path, folder):
            raise ConfigError(
                f"{role.what} {path} lies in the folder that this run writes ({folder}); "
                f"name another with {role.option}, or another folder with --run"
            )


def lies_in(path: str, folder: Path) -> bool:
    """Return whether a path is a folder or something in it."""
    try:
        found, own = Path(path).resolve(), folder.resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links, a NUL: whoever opens it says so
        return False
    return own in (found, *found.parents)


def with_teachers(recipe: Recipe, names: Sequence[str], folder: Path) -> Recipe:
    """Return the recipe with other places of its teachers. Raises ConfigError where it has another number of them."""
    had = recipe.distill.teachers
    if not had:
        raise ConfigError(f"{folder} began without a teacher; leave --teacher out, or start a new run with --from")
    if len(names) != len(had):
        raise ConfigError(f"{folder} learns from {len(had)} of them; give --teacher {len(had)} times, in their order")
    return recipe.replace(distill={**recipe.distill.to_dict(), "teacher": one_or_several(names)})


def one_or_several(names: Sequence[str]) -> str | list[str]:
    """Return `distill.teacher`, as a recipe has it, for one name or more."""
    return names[0] if len(names) == 1 else list(names)


def require_same_teachers(
    teachers: Sequence[Teacher], saved: Counters, lineage: tuple[Step, ...], recipe: Recipe, folder: Path
) -> None:
    """Raise CheckpointError where a teacher is no longer the one that the run has learned from."""
    began = lineage[len(lineage) - len(teachers) :]
    for number, (name, teacher) in enumerate(zip(recipe.distill.teachers, teachers, strict=True)):
        step = began[number] if number < len(began) else None
        same = not isinstance(step, DistillStep) or step.weights_sha256 == teacher.card.weights_sha256
        if saved.teachers_sha256:  # older versions saved its weights' digest alone
            same = saved.teachers_sha256[number : number + 1] == (teacher.sha256,)
        if not same:
            raise CheckpointError(
                f"the teacher {name} is not the one that {folder} began with (its sha256 differs); "
                "put the old one back, name where it lies now with --teacher, or start a new run with --from"
            )
