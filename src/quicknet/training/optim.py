"""Optimizers and schedules: which parameter gets which step, and how large it is when.

Muon takes matrices, so convolution filters are handed to it as views.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from quicknet.core.errors import CheckpointError
from quicknet.training.muon import Muon
from quicknet.training.settings import OptimSettings, ScheduleSettings
from quicknet.training.threads import one_thread


def factor(settings: ScheduleSettings, progress: float) -> float:
    """Return the learning rate at `progress` (0..1 of the run) as a share of its peak.

    >>> factor(ScheduleSettings(name="onecycle", warmup=0.5), 0.25)
    0.5
    >>> factor(ScheduleSettings(name="step", warmup=0.0), 0.6)
    0.1
    """
    if progress < settings.warmup:
        return progress / settings.warmup
    after = (progress - settings.warmup) / (1 - settings.warmup)
    match settings.name:
        case "cosine":
            return settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * after))
        case "onecycle":
            return 1 - (1 - settings.final) * after
        case "step":
            return settings.gamma ** sum(progress >= m for m in settings.milestones)


Group = dict[str, Any]
Parameters = list[tuple[str, nn.Parameter]]


def _layers(model: nn.Module) -> list[Parameters]:
    """Return the parameters layer by layer, from the image on.

    A layer is what stands at the top of the network, or in a list there (`stem`, `blocks.3`).
    """
    layers: dict[str, Parameters] = {}
    for name, parameter in model.named_parameters():
        first, second = [*name.split("."), ""][:2]
        layers.setdefault(f"{first}.{second}" if second.isdigit() else first, []).append((name, parameter))
    return list(layers.values())


def freeze(model: nn.Module, share: float) -> None:
    """Keep the first layers as they are: this share of those before the classifier, rounded down."""
    *layers, _classifier = _layers(model)
    for _, parameter in itertools.chain(*layers[: int(share * len(layers))]):
        parameter.requires_grad_(False)


def _shares(model: nn.Module, decay: float) -> list[tuple[float, Parameters]]:
    """Return the parameters that are trained, each layer's with its share of the learning rate.

    The share is `decay` for every layer behind it. Without decay all are one.
    """
    layers = [[(name, p) for name, p in layer if p.requires_grad] for layer in _layers(model)]
    if decay == 1:
        return [(1.0, list(itertools.chain(*layers)))]
    return [(decay ** (len(layers) - 1 - depth), parameters) for depth, parameters in enumerate(layers)]


class Optimizer:
    """One or two torch optimizers stepped as one; their state as named tensors."""

    def __init__(self, model: nn.Module, settings: OptimSettings) -> None:
        self._views: list[tuple[nn.Parameter, nn.Parameter]] = []
        vector_lr, decay = settings.lr, settings.weight_decay
        if settings.name == "muon":
            vector_lr, decay = settings.vector_lr, settings.vector_decay
        groups, matrices = self._groups(model, settings, vector_lr, decay)
        self.parts: list[torch.optim.Optimizer] = []
        if settings.name == "adamw":
            self.parts.append(torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True))
        elif groups:
            self.parts.append(
                torch.optim.SGD(
                    groups,
                    lr=vector_lr,
                    momentum=settings.momentum,
                    nesterov=settings.momentum > 0,
                    fused=True,
                )
            )
        if matrices:
            self.parts.append(
                Muon(matrices, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
            )

    def _groups(
        self, model: nn.Module, settings: OptimSettings, vector_lr: float, decay: float
    ) -> tuple[list[Group], list[Group]]:
        """Return the parameter groups of SGD or AdamW, and those of Muon."""
        groups: list[Group] = []
        matrices: list[Group] = []
        for share, parameters in _shares(model, settings.layer_decay):
            filters, decayed, plain = self._sort(parameters, settings)
            groups.append({"params": decayed, "weight_decay": decay, "peak_lr": share * vector_lr})
            groups.append({"params": plain, "weight_decay": 0.0, "peak_lr": share * vector_lr})
            matrices.append({"params": filters, "peak_lr": share * settings.lr})
        return [group for group in groups if group["params"]], [group for group in matrices if group["params"]]

    def _sort(self, parameters: Parameters, settings: OptimSettings) -> tuple[list[nn.Parameter], ...]:
        """Return the matrices for Muon, what decays, and what does not (PReLU, norms, biases)."""
        matrices: list[nn.Parameter] = []
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for name, parameter in parameters:
            depthwise = parameter.ndim == 4 and parameter.shape[1] == 1
            if settings.name == "muon" and parameter.ndim == 4 and not depthwise:
                view = nn.Parameter(_as_matrix(parameter.detach(), parameter))
                self._views.append((parameter, view))
                matrices.append(view)
            elif parameter.ndim < 2 or (settings.decay_on == "convs" and "classifier" in name):
                plain.append(parameter)
            else:
                decayed.append(parameter)
        return matrices, decayed, plain

    def step(self, share: float) -> None:
        """Step once at `share` of the peak learning rates."""
        for parameter, view in self._views:
            view.grad = None if parameter.grad is None else _as_matrix(parameter.grad, parameter)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["peak_lr"] * share
            with contextlib.nullcontext() if isinstance(part, Muon) else one_thread():
                part.step()

    def zero_grad(self, model: nn.Module) -> None:
        """Forget the gradients."""
        model.zero_grad(set_to_none=True)

    def _slots(self) -> Iterator[tuple[str, nn.Parameter, torch.optim.Optimizer]]:
        for number, part in enumerate(self.parts):
            index = 0
            for group in part.param_groups:
                for parameter in group["params"]:
                    yield f"{number}.{index}", parameter, part
                    index += 1

    def state(self) -> dict[str, Tensor]:
        """Return every piece of state as a named tensor."""
        return {
            f"{slot}.{key}": torch.as_tensor(value)
            for slot, parameter, part in self._slots()
            for key, value in part.state.get(parameter, {}).items()
            if value is not None
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` returned. Raises CheckpointError where it is another optimizer's."""
        states: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            slot, _, key = name.rpartition(".")
            states.setdefault(slot, {})[key] = tensor
        for slot, parameter, part in self._slots():
            if slot in states:
                fits = all(t.shape == (() if k == "step" else parameter.shape) for k, t in states[slot].items())
                if not fits or set(states[slot]) != _STATE[type(part)]:
                    raise CheckpointError(
                        "the saved optimizer is not the one of recipe.toml; restore recipe.toml and last.safetensors "
                        "from a copy, or start a new run with --from"
                    )
                part.state[parameter] = {
                    key: t.to(parameter.device) if t.ndim else t.clone() for key, t in states[slot].items()
                }


# what each optimizer keeps of a parameter
_STATE = {
    torch.optim.SGD: {"momentum_buffer"},
    Muon: {"momentum_buffer"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
}


def _as_matrix(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return (out, in * taps) of a filter or its gradient, in the parameter's memory order.

    Of the parameter itself this is a view, so that a step on it is a step on the filter.
    """
    if not parameter.is_contiguous():  # channels_last
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.view(len(tensor), -1) if tensor.is_contiguous() else tensor.reshape(len(tensor), -1)
