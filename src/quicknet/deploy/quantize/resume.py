"""The state of a fine-tuning in a folder, so that one that was interrupted goes on bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import safetensors.torch
import torch
from torch import Tensor

from quicknet.core.errors import CheckpointError
from quicknet.core.files import read_pair, write_pair
from quicknet.core.settings import Settings
from quicknet.deploy.quantize.student import Student

_LIMIT_BYTES = 4 << 30
_EVERY_S = 60.0

_Count = Annotated[int, msgspec.Meta(ge=0)]


class Progress(Settings, frozen=True, kw_only=True):
    """How far a fine-tuning is: steps done, `val` top-1 before and at each check, which step's network is best.

    `start_sha256` is over what it began from, and how.
    """

    start_sha256: str = ""
    step: _Count = 0
    before: float
    checks: tuple[float, ...] = ()
    kept: float
    best_step: _Count = 0


class Tuning:
    """A student, its optimizer, and the student's numbers at the best check (None: as it began)."""

    def __init__(self, student: Student, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        self.student, self.optimizer, self.progress = student, optimizer, progress
        self.best: dict[str, Tensor] | None = None

    def take_best(self) -> None:
        """Keep the student as it is now."""
        self.best = {name: tensor.clone() for name, tensor in self.student.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return everything but `progress`, by name."""
        parts = {"student": self.student.state_dict(), "best": self.best or {}}
        for name, parameter in self.student.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            parts[f"adam.{name}"] = {key: torch.as_tensor(value) for key, value in state.items()}
        named = {f"{part}:{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
        return {name: tensor.detach().contiguous().clone() for name, tensor in named.items()}

    def load(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        """Take back what `tensors` returned. Raises KeyError or RuntimeError where it is another network's."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(":")
            parts.setdefault(part, {})[rest] = tensor
        self.student.load_state_dict(parts["student"])
        self.best, self.progress = parts.get("best"), progress
        for name, parameter in self.student.named_parameters():
            if f"adam.{name}" in parts:
                self.optimizer.state[parameter] = parts[f"adam.{name}"]


class Saver:
    """Saves a tuning to a folder, every minute and when it is told to; without a folder nothing."""

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock, self._at = folder, clock, clock()

    def restore(self, tuning: Tuning) -> None:
        """Bring a fresh tuning to where it was saved, if it was, and began from the same.

        Raises CheckpointError for damaged files.
        """
        if self._folder is None or not (self._folder / "tuning.json").is_file():
            return
        fields, blob = read_pair(*self._paths(), "sha256", _LIMIT_BYTES)
        fields.pop("sha256")
        try:
            progress = msgspec.convert(fields, Progress)
            if progress.start_sha256 == tuning.progress.start_sha256:
                tuning.load(safetensors.torch.load(blob), progress)
        except (msgspec.ValidationError, KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{self._folder / 'tuning.json'} is of another network or damaged ({type(error).__name__}); "
                "remove it to fine-tune anew"
            ) from error

    def save(self, tuning: Tuning, now: bool = False) -> None:
        """Save if the last save is a minute ago, or `now`."""
        if self._folder is None or not (now or self._clock() - self._at > _EVERY_S):
            return
        record, blob = self._paths()
        write_pair(record, tuning.progress.to_dict(), blob, safetensors.torch.save(tuning.tensors()))
        self._at = self._clock()

    def _paths(self) -> tuple[Path, Path]:
        assert self._folder is not None
        return self._folder / "tuning.json", self._folder / "tuning.safetensors"
