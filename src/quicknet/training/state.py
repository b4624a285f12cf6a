"""How far a run is, and what was measured on the way: plain records."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(slots=True)
class State:
    """How far a run is. `correct` and `loss_sum` stay on the device until an epoch ends."""

    correct: Tensor
    loss_sum: Tensor
    epoch: int = 0  # finished ones
    step: int = 0  # steps done of the epoch in progress
    seen: int = 0
    seconds: float = 0.0  # of the epoch in progress
    energy_joules: float | None = None  # of the epoch in progress, where the machine measures it
    best_accuracy: float = -1.0
    best_epoch: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def close_epoch(self, record: dict[str, Any]) -> None:
        """Take note of an epoch's record; what counts within an epoch begins anew."""
        self.history.append(record)
        self.epoch, self.step, self.seen, self.seconds, self.energy_joules = self.epoch + 1, 0, 0, 0.0, None
        self.correct, self.loss_sum = torch.zeros_like(self.correct), torch.zeros_like(self.loss_sum)


@dataclasses.dataclass(slots=True)
class LastSave:
    """When a run was saved last (`time.monotonic`), how long that took, and how far the run was then."""

    at: float
    seconds: float = 0.0
    done: tuple[int, int] = (0, 0)  # epochs, and steps of the next


@dataclasses.dataclass(frozen=True, slots=True)
class Validation:
    """Loss and accuracy of the weights to use, on the validation split."""

    loss: float
    accuracy: float
    balanced_accuracy: float
    n: int


@dataclasses.dataclass(frozen=True, slots=True)
class HeadFit:
    """How a classifier fitted to the parent's features does on training images that it has not seen.

    Loss (nats) and accuracy: means over `folds`; `spread`: the accuracy's standard deviation.
    """

    loss: float
    accuracy: float
    spread: float
    folds: int

    def describe(self) -> str:
        """Return accuracy and spread in words.

        >>> HeadFit(loss=0.9, accuracy=0.685, spread=0.035, folds=5).describe()
        '68.5 ± 3.5% over 5 folds of train'
        """
        return f"{100 * self.accuracy:.1f} ± {100 * self.spread:.1f}% over {self.folds} folds of train"


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """How far a teacher is with answers that are kept: `done` of `images`, over `epochs` epochs."""

    epochs: int
    images: int
    done: int = 0


class Meter:
    """What the live line reads while the loop goes on: written by `fit`, read by anyone."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.steps_done = 0  # since the process started
        self.state: State | None = None
        self.asked: Asked | None = None  # while a teacher answers ahead

    def show(self, loss: Tensor, state: State) -> None:
        """Take note of a step."""
        if loss.device.type == "cpu":
            self.loss = float(loss)
        self.steps_done += 1
        self.state = state
