"""Learning another network's features: a linear layer from the student's to the teacher's, dropped in the end.

The teacher may have learned anything: its features are what it knows, whatever classes it names.
Source: Romero et al. 2015 (arXiv:1412.6550) §2.2, at the last layer.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from quicknet.core.errors import CheckpointError
from quicknet.training.kept import KeptAnswers
from quicknet.training.optim import Optimizer
from quicknet.training.settings import OptimSettings

_OPTIM = OptimSettings(name="adamw", lr=2e-3, weight_decay=0.01)
_LEAST_STD = 0.02  # a feature that hardly varies says nothing, and would be all noise at scale 1
_CHUNK = 4096
_SCALE = ("scale.mean", "scale.std")


class FeatureMatch:
    """Predicts a teacher's features (B, T) from a student's (B, S); has an optimizer of its own.

    Each of the teacher's features counts alike: it is compared at mean 0 and deviation 1, over the
    views of the first epoch.
    """

    def __init__(self, student: int, teacher: int, device: torch.device) -> None:
        self.layer = nn.Linear(student, teacher).to(device)
        self.optimizer = Optimizer(self.layer, _OPTIM)
        self._scale: tuple[Tensor, Tensor] | None = None

    def error(self, features: Tensor, answers: Tensor, kept: KeptAnswers) -> Tensor:
        """Return each image's mean squared error (B,), 1 for a student that knows the mean alone."""
        if self._scale is None:
            mean, std = _moments(kept.files[0].epoch(0))
            self._scale = (mean.to(answers.device), std.to(answers.device))
        mean, std = self._scale
        difference: Tensor = self.layer(features).float() - (answers - mean) / std
        return difference.square().mean(1)

    def step(self, share: float) -> None:
        """Step at a share of the peak learning rate, and forget the gradients."""
        self.optimizer.step(share)
        self.optimizer.zero_grad(self.layer)

    def state(self) -> dict[str, Tensor]:
        """Return everything that `load_state` needs, as named tensors."""
        layer = {f"layer.{name}": tensor for name, tensor in self.layer.state_dict().items()}
        if self._scale is not None:  # kept answers may be gone, and only those to come are asked for again
            layer |= dict(zip(_SCALE, self._scale, strict=True))
        return layer | {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state().items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` returned. Raises CheckpointError where it is of other features."""
        layer = {name: tensors.get(f"layer.{name}") for name in ("weight", "bias")}
        expected = self.layer.state_dict()
        if any(tensor is None or tensor.shape != expected[name].shape for name, tensor in layer.items()):
            raise CheckpointError(
                "the saved state lacks the layer that learns the teacher's features, or has another; restore "
                "recipe.toml and last.safetensors from a copy, or start a new run with --from"
            )
        self.layer.load_state_dict(layer)
        mean, std = (tensors.get(name) for name in _SCALE)
        if mean is not None and std is not None and mean.shape == std.shape == self.layer.bias.shape:
            self._scale = (mean.to(self.layer.bias.device), std.to(self.layer.bias.device))
        # runs of older versions have none: it is measured again
        prefix = "optimizer."
        self.optimizer.load_state(
            {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        )


def _moments(answers: np.typing.NDArray[np.float16]) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (T,) float32 of answers (N, T); the order of the sums is fixed."""
    total = np.zeros(answers.shape[1])
    squares = np.zeros(answers.shape[1])
    for start in range(0, len(answers), _CHUNK):
        chunk = answers[start : start + _CHUNK].astype(np.float64)
        total += chunk.sum(0)
        squares += np.square(chunk).sum(0)
    mean = total / len(answers)
    std = np.sqrt(np.maximum(squares / len(answers) - mean**2, _LEAST_STD**2))
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(std.astype(np.float32))
