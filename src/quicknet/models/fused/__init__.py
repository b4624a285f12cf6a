"""QuickNet's feature layers on CPU through one compiled kernel per separable layer.

Between a layer's pointwise output and the next one's nothing is kept: batch norm, activation,
pooling and depthwise convolution happen on the way, while a few rows of pixels are in cache, and
backward makes them again. Parameters and state dict stay those of the plain modules. Where the
kernels cannot be built or do not apply, the network runs its plain path.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from quicknet.models.config import Layer
from quicknet.models.fused import autograd
from quicknet.models.fused.autograd import Kept
from quicknet.models.fused.dense import convolve
from quicknet.models.fused.native import Norm, autocast_to_bf16, available, has_bf16, prefers_bf16, status
from quicknet.models.fused.switch import disabled, observed, switched_off
from quicknet.models.layers import Separable, Stem
from quicknet.models.norm import BatchNorm2d
from quicknet.models.predicates import runs_fused

__all__ = [
    "SeparableLayer",
    "StemLayer",
    "available",
    "convolve",
    "disabled",
    "forward_features",
    "has_bf16",
    "prefers_bf16",
    "status",
    "usable",
]

_ACTIVATIONS = (nn.PReLU, nn.LeakyReLU, nn.ReLU)
_PARTS: dict[type[nn.Module], set[str]] = {
    Stem: {"conv", "bn", "act"},
    Separable: {"depthwise", "pointwise", "bn", "act"},
}


class StemLayer(Protocol):
    """What the kernels read of the first layer: convolution without padding, batch norm, activation."""

    conv: nn.Conv2d
    bn: BatchNorm2d
    act: nn.Module


class SeparableLayer(Protocol):
    """What they read of every other: 2x2 max pool or none, depthwise, pointwise, batch norm, activation."""

    pool: bool
    depthwise: nn.Conv2d
    pointwise: nn.Conv2d
    bn: BatchNorm2d
    act: nn.Module


def usable(layers: Sequence[Layer], modules: Iterable[nn.Module], x: Tensor) -> bool:
    """Return whether `forward_features` may stand in for the `modules` of a plan's layers.

    So it is where that plan `runs_fused`, on CPU in float32 or float64, outside tracing, compiling,
    function transforms and dispatch modes (a FLOP counter must see the operations), as long as every
    module is of the very class that the kernels stand for, no inner module has a hook or was replaced
    by another kind, and the image needs no gradient. Under autocast it is where the kernels can do
    what that asks for: bfloat16 products.
    """
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.ndim == 4
        and x.shape[0] > 0
        and not (x.requires_grad and torch.is_grad_enabled())
        and not observed()
        and (not torch.is_autocast_enabled("cpu") or autocast_to_bf16(x.dtype))
        and not switched_off()
        and runs_fused(layers)
        and all(_plain(module, x.dtype, Separable if i else Stem) for i, module in enumerate(modules))
        and available()
    )


def _plain(layer: nn.Module, dtype: torch.dtype, kind: type[nn.Module]) -> bool:
    """Return whether a layer is of that kind and consists of the modules that it was made with, in one dtype."""
    children = layer._modules
    return (
        type(layer) is kind
        and children.keys() == _PARTS[kind]
        and not observed(layer, *(module for module in children.values() if module is not None))
        and all(type(children[name]) is nn.Conv2d for name in children if name not in ("bn", "act"))
        and all(_usual(name, conv) for name, conv in children.items() if isinstance(conv, nn.Conv2d))
        and type(children["bn"]) is BatchNorm2d
        and children["bn"].affine
        and type(children["act"]) in _ACTIVATIONS
        and all(p.dtype == dtype and p.device.type == "cpu" for p in _tensors(children.values()))
    )


def _usual(name: str, conv: nn.Conv2d) -> bool:
    """Return whether a convolution is the one that the kernels compute."""
    side, depthwise = conv.kernel_size[0], name == "depthwise"
    return (
        conv.kernel_size == ((1, 1) if name == "pointwise" else (side, side))
        and conv.padding == ((side // 2,) * 2 if depthwise else (0, 0))
        and conv.padding_mode == "zeros"
        and conv.dilation == (1, 1)
        and conv.groups == (conv.in_channels if depthwise else 1)
        and (not depthwise or conv.in_channels == conv.out_channels)
        and conv.stride == ((conv.stride[0],) * 2 if name == "conv" else (1, 1))
        and conv.bias is None
    )


def _tensors(modules: Iterable[nn.Module | None]) -> Iterator[Tensor]:
    for module in modules:
        if module is not None:
            yield from (t for t in module._parameters.values() if t is not None)


def _slope(activation: Any, channels: int, like: Tensor) -> Tensor:
    """Return what the activation multiplies negative values by, per channel (C,)."""
    if isinstance(activation, nn.PReLU):
        weight = activation.weight
        return weight if weight.numel() == channels else weight.expand(channels)
    slope = activation.negative_slope if isinstance(activation, nn.LeakyReLU) else 0.0
    return torch.full((channels,), slope, dtype=like.dtype)


def _norm(layer: StemLayer | SeparableLayer, kept: Kept, updates: list[Callable[[], None]]) -> Norm:
    """Return what normalizes a layer's kept output; adds the update of its running statistics."""
    bn = layer.bn
    z, mean, variance = kept
    if mean is None or variance is None:
        mean, variance = bn.running_mean, bn.running_var
        assert mean is not None and variance is not None  # `uses_batch` is true without running ones
    else:
        mean, variance, count = bn.batch_statistics(mean, variance, z.numel() // z.shape[-1])
        updates.append(functools.partial(bn.update_running, mean, variance, count))
    return Norm(mean, variance, bn.weight, bn.bias, _slope(layer.act, mean.numel(), z), bn.eps)


def forward_features(stem: StemLayer, blocks: Iterable[SeparableLayer], x: Tensor) -> Tensor:
    """Return the last feature map (N, C, h, w), activated, as the plain path does to rounding.

    Only where `usable`. Gradients reach every parameter; x gets none. The same input and
    number of threads give the same bits. Under autocast to bfloat16 the products of stem and
    pointwise layers round what they multiply, add up in float32 and give float32.
    """
    bf16 = autocast_to_bf16(x.dtype)
    kept = autograd.stem(x, stem.conv.weight, stem.conv.stride[0], bf16, stem.bn.uses_batch)
    updates: list[Callable[[], None]] = []
    norm = _norm(stem, kept, updates)
    for block in blocks:
        weights = (block.depthwise.weight, block.pointwise.weight)
        kept = autograd.separable(kept.z, norm, weights, block.pool, bf16, block.bn.uses_batch)
        norm = _norm(block, kept, updates)
    # All at once: among the kernels, which empty the caches, they took 1.4 ms a step, not 0.5.
    for update in updates:
        update()
    return autograd.output(kept.z, norm)
