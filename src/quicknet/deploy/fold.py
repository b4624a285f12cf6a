"""A trained network as a plain list of layers: batch norm and, where exact, mean and std folded.

Everything is computed in float64 and left there, so that the code that builds a file rounds once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import ConfigError
from quicknet.models.darknet import Darknet
from quicknet.models.quicknet import QuickNet

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution, then the activation max(x, 0) + slope * min(x, 0).

    `weight` (O, I / groups, k, k); `bias` (O,) or None; `slope` (O,), (1,) where all channels
    share one, or None for no activation.
    """

    name: str
    weight: Array
    bias: Array | None
    stride: int
    padding: int
    groups: int
    slope: Array | None


@dataclass(frozen=True, slots=True)
class Pool:
    """Max pool 2x2, stride 2."""

    name: str


@dataclass(frozen=True, slots=True)
class Folded:
    """A network from raw pixels to logits: scale and shift, layers, global average, linear.

    `scale`, `shift` (C,) turn a pixel 0..255 into what the first layer takes, None where they
    are folded into it; `weight` (classes, features), `bias` (classes,) are of the classifier.
    """

    scale: Array | None
    shift: Array | None
    layers: tuple[Conv | Pool, ...]
    weight: Array
    bias: Array


def fold(model: nn.Module, spec: PreprocessSpec) -> Folded:
    """Return `model`, as it answers in eval mode to pixels normalized by `spec`, folded.

    Mean and std go into a first layer without padding, where that is exact; with padding, whose
    zeros are after normalization, they stay apart. Raises ConfigError for a network with layers
    that this does not know, or of other channels than the spec.
    """
    channels = cast(Any, model).config.in_channels
    if channels != spec.channels:
        raise ConfigError(f"the network takes {channels} channels, the card's mode {spec.mode} gives {spec.channels}")
    if isinstance(model, QuickNet):
        layers = list(_quicknet(model))
    elif isinstance(model, Darknet):
        layers = list(_darknet(model))
    else:
        raise ConfigError(f"networks of type {type(model).__name__} cannot be exported; QuickNet and Darknet can")
    scale = 1 / (255 * np.array(spec.std, np.float64))
    shift = -np.array(spec.mean, np.float64) / np.array(spec.std, np.float64)
    weight, bias = _array(model.classifier.weight), _array(model.classifier.bias)
    first = cast(Conv, layers[0])
    if first.padding:
        return Folded(scale, shift, tuple(layers), weight, bias)
    return Folded(None, None, (normalized_inside(first, scale, shift), *layers[1:]), weight, bias)


def normalized_inside(conv: Conv, scale: Array, shift: Array) -> Conv:
    """Return a convolution without padding that answers to x as `conv` to scale * x + shift."""
    weight = conv.weight * scale[None, :, None, None]
    products = conv.weight * shift[None, :, None, None]  # (O, C, k, k)
    # fsum rounds once, in any order: numpy's own sum depends on the CPU's vectors, and the
    # exported bytes must not
    added = np.array([math.fsum(row.ravel().tolist()) for row in products])
    bias = added if conv.bias is None else conv.bias + added
    return Conv(conv.name, weight, bias, conv.stride, conv.padding, conv.groups, conv.slope)


def _quicknet(model: QuickNet) -> Iterator[Conv | Pool]:
    _only(model, ("stem", "blocks", "drop", "classifier"))
    stem = model.stem
    _only(stem, ("conv", "bn", "act"))
    yield _joined("stem", stem.conv, stem.bn, stem.act)
    for index, block in enumerate(cast(Iterable[Any], model.blocks)):
        _only(block, ("depthwise", "pointwise", "bn", "act"))
        if block.pool:
            yield Pool(f"block{index}.pool")
        yield _plain(f"block{index}.depthwise", block.depthwise)
        yield _joined(f"block{index}.pointwise", block.pointwise, block.bn, block.act)


def _darknet(model: Darknet) -> Iterator[Conv | Pool]:
    _only(model, ("features", "drop", "classifier"))
    modules = list(model.features)
    for index, module in enumerate(modules):
        if isinstance(module, nn.Conv2d):
            bn, act = modules[index + 1], modules[index + 2]
            yield _joined(f"conv{index}", module, cast(nn.BatchNorm2d, bn), act)
        elif isinstance(module, nn.MaxPool2d):
            yield Pool(f"pool{index}")


def _only(module: nn.Module, names: tuple[str, ...]) -> None:
    """Refuse a module with parts that would be left out."""
    children = {name for name, _ in module.named_children()}
    if children != set(names):
        odd = sorted(children ^ set(names))
        raise ConfigError(f"{type(module).__name__} with {', '.join(odd)} cannot be exported: no rule folds it")


def _plain(name: str, conv: nn.Conv2d) -> Conv:
    """Return a convolution as it is. Raises ConfigError where the list cannot express it."""
    (stride, other_stride), (padding, other_padding) = conv.stride, cast(tuple[int, int], conv.padding)
    usual = stride == other_stride and padding == other_padding and tuple(conv.dilation) == (1, 1)
    if type(conv) is not nn.Conv2d or not usual or conv.padding_mode != "zeros":
        raise ConfigError(f"the convolution {name} ({conv}) cannot be exported: no rule folds it")
    bias = None if conv.bias is None else _array(conv.bias)
    return Conv(name, _array(conv.weight), bias, stride, padding, conv.groups, None)


def _joined(name: str, conv: nn.Conv2d, bn: nn.BatchNorm2d, act: nn.Module) -> Conv:
    """Return convolution, batch norm and activation as one: w' = w g / s, b' = b - m g / s."""
    plain = _plain(name, conv)
    if not isinstance(bn, nn.BatchNorm2d) or bn.running_mean is None or bn.running_var is None:
        raise ConfigError(f"the normalization after {name} keeps no statistics and cannot be folded")
    factor = _array(bn.weight) / np.sqrt(_array(bn.running_var) + bn.eps)
    start = 0.0 if plain.bias is None else plain.bias
    bias = _array(bn.bias) + (start - _array(bn.running_mean)) * factor
    weight = plain.weight * factor[:, None, None, None]
    return Conv(name, weight, bias, plain.stride, plain.padding, plain.groups, _slope(name, act))


def _slope(name: str, act: nn.Module) -> Array:
    match act:
        case nn.PReLU():
            return _array(act.weight)
        case nn.LeakyReLU():
            return np.array([act.negative_slope], np.float64)
        case nn.ReLU():
            return np.zeros(1)
    raise ConfigError(f"the activation {type(act).__name__} after {name} cannot be exported; PReLU and ReLUs can")


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().double().numpy().copy()
