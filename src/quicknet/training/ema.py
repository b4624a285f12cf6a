"""Exponential moving average of weights and statistics."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from quicknet.training.threads import one_thread

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """A copy of the network that follows it: ema += (1 - decay) * (model - ema) after each step.

    The decay starts lower, min(decay, (1 + step) / (10 + step)), so that the first weights are
    forgotten quickly.
    """

    def __init__(self, model: M, decay: float) -> None:
        self.model: M = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self._averages, self._sources = [], []
        for average, source in zip(_tensors(self.model), _tensors(model), strict=True):
            if average.is_floating_point():
                self._averages.append(average)
                self._sources.append(source)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the network after step number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        with one_thread():
            torch._foreach_lerp_(self._averages, self._sources, 1 - decay)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*(p.detach() for p in model.parameters()), *model.buffers()]
