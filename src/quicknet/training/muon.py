"""Muon, for many small matrices at once: steps in the direction of the nearest orthogonal matrix.

Source: K. Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the
arithmetic and the state are those of `torch.optim.Muon`. Two things differ, for CPUs: matrices of
one shape go through the iteration as one batch, and it runs in float32 where the processor has no
bfloat16 products. There torch's own took 4.7 times as long as the rest of a step (quicknet_s, batch
256, two AVX2 cores), and this one takes 0.14 times as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from quicknet.training.threads import one_thread

# Of the quintic a·X + b·(X Xᵀ) X + c·(X Xᵀ)² X, whose slope at zero is as large as five steps allow.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_EPSILON = 1e-7


def working_dtype(device: torch.device) -> torch.dtype:
    """Return the type that the iteration runs in: bfloat16 where the device multiplies it fast."""
    if device.type != "cpu":
        return torch.bfloat16
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bf16 else torch.float32


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Return matrices (K, m, n) with their singular values moved to 0.7..1.2, of `dtype`; wide ones on CPU of float32.

    There products take 0.8 of the time of bfloat16's steps (the matrices of `speedy`, two Zen 4 cores), and rounding
    to bfloat16 would leave too little of their small eigenvalues.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    wide = x.shape[2] > 2 * x.shape[1]
    if wide and dtype is torch.bfloat16 and x.device.type == "cpu":
        dtype = torch.float32
    x = x.to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_EPSILON)
    x = _by_products(x) if wide and dtype is not torch.bfloat16 else _by_steps(x)
    return x.mT if tall else x


def _by_steps(x: Tensor) -> Tensor:
    """Return matrices (K, m, n) behind the steps of the iteration."""
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.mT  # (K, m, m), m <= n
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_products(x: Tensor) -> Tensor:
    """Return the same: each step multiplies X by a polynomial of X Xᵀ, so m x m matrices alone go through them.

    Source: J. Zhang, N. Amsel, B. Chen, T. Dao 2026, "Gram Newton-Schulz" (dao-lab.ai). Half precision needs the
    restarts described there; float32 is within 7e-5 of float64 without (by steps 1e-5). At 512 x 4,608 it takes
    0.37 of the time.
    """
    a, b, c = _COEFFICIENTS
    gram = x @ x.mT
    one = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    total = a * one + torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor = total
    for _ in range(_STEPS - 1):
        gram = factor @ gram @ factor
        factor = a * one + torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        total = factor @ total
    return total @ x


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` with Nesterov momentum and decoupled decay, in batches of equal shapes.

    Takes parameters that are matrices. A step is lr · sqrt(max(1, rows / columns)) long.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step once; parameters without a gradient stay."""
        assert closure is None
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for parameters in shapes.values():
                self._step_alike(parameters, group["lr"], group["momentum"], group["weight_decay"])

    def _step_alike(self, parameters: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        """Step matrices of one shape."""
        with one_thread():
            updates = torch.stack([self._update(parameter, momentum) for parameter in parameters])
        directions = orthogonalize(updates, working_dtype(updates.device))
        rows, columns = parameters[0].shape
        with one_thread():
            for parameter, direction in zip(parameters, directions.to(updates.dtype), strict=True):
                parameter.mul_(1 - lr * weight_decay)
                parameter.add_(direction, alpha=-lr * math.sqrt(max(1, rows / columns)))

    def _update(self, parameter: Tensor, momentum: float) -> Tensor:
        """Return the gradient behind Nesterov's momentum, whose average it moves on."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)
