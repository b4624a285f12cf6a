"""A trained network as a plain list of layers: batch norm and, where exact, mean and std folded.

Everything is computed in float64 and left there, so that the code that builds a file rounds once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import ConfigError
from quicknet.models.dropout import Dropout
from quicknet.models.network import Network
from quicknet.models.norm import BatchNorm2d
from quicknet.models.topology import Step, require_chain, topology

Array = NDArray[np.float64]

_NORMS = (BatchNorm2d, nn.BatchNorm2d)
_NOTHING = (Dropout, nn.Dropout, nn.Identity)  # in eval mode


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


def fold(model: Network, spec: PreprocessSpec) -> Folded:
    """Return `model`, as it answers in eval mode to pixels normalized by `spec`, folded.

    Mean and std go into a first layer without padding, where that is exact; with padding, whose
    zeros are after normalization, they stay apart. The layers are those that its forward runs
    through, whatever its class. Raises ConfigError for a network that is not one chain of
    convolutions, norms, activations and poolings, or of other channels than the spec.
    """
    channels = model.config.in_channels
    if channels != spec.channels:
        raise ConfigError(f"the network takes {channels} channels, the card's mode {spec.mode} gives {spec.channels}")
    layers, head = _folded(model)
    scale = 1 / (255 * np.array(spec.std, np.float64))
    shift = -np.array(spec.mean, np.float64) / np.array(spec.std, np.float64)
    weight, bias = _array(head.weight), _array(head.bias)
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


@dataclass(slots=True)
class _Group:
    """A convolution with the norm and the activation behind it, as far as the walk has come."""

    name: str
    conv: nn.Conv2d
    bn: nn.BatchNorm2d | None = None
    act: nn.Module | None = None

    def layer(self) -> Conv:
        if self.bn is not None:
            return _joined(self.name, self.conv, self.bn, self.act)
        plain = _plain(self.name, self.conv)
        return plain if self.act is None else replace(plain, slope=_slope(self.name, self.act))


def _folded(model: Network) -> tuple[list[Conv | Pool], nn.Linear]:
    """Return the layers before the average, in order, and the classifier behind it."""
    steps = topology(model)
    require_chain(model, steps)
    ends = [index for index, step in enumerate(steps) if step.what == "mean"]
    if len(ends) != 1 or steps[ends[0]].arguments != ((2, 3),):
        raise ConfigError(f"{type(model).__name__} cannot be exported: no global average stands behind its layers")
    body, tail = steps[: ends[0]], steps[ends[0] + 1 :]
    if not body or type(body[0].what) is not nn.Conv2d:
        raise _refused(model, body[0] if body else steps[0])
    *before, last = [step for step in tail if type(step.what) not in _NOTHING] or [steps[ends[0]]]
    if before or type(last.what) is not nn.Linear or last.what.bias is None:
        raise _refused(model, (*before, last)[0])
    return _layers(model, body), last.what


def _layers(model: Network, body: tuple[Step, ...]) -> list[Conv | Pool]:
    """Return each convolution with what is folded into it, and the poolings between."""
    layers: list[_Group | Pool] = []
    for index, step in enumerate(body):
        group, module = layers[-1] if layers else None, step.what
        if type(module) is nn.Conv2d:
            layers.append(_Group(_name(step.path), module))
        elif _pools(step):
            # in a function of a block: called after the block, whose first convolution follows
            after = next((later.path for later in body[index:] if later.path), step.path)
            layers.append(Pool(f"{_scope(after)}.pool" if not step.path else _name(step.path, "pool")))
        elif type(module) in _NOTHING:
            continue
        elif type(module) in _NORMS and isinstance(group, _Group) and group.bn is None and group.act is None:
            group.bn = cast(nn.BatchNorm2d, module)
        elif isinstance(module, nn.Module) and isinstance(group, _Group) and group.act is None:
            group.act = module  # which `_slope` knows or refuses
        else:
            raise _refused(model, step)
    return [layer.layer() if isinstance(layer, _Group) else layer for layer in layers]


def _refused(model: nn.Module, step: Step) -> ConfigError:
    where = f" ({step.path})" if step.path else ""
    return ConfigError(f"{type(model).__name__} cannot be exported: no rule folds {step.name}{where} where it stands")


def _pools(step: Step) -> bool:
    """Return whether a step is a max pool 2x2 of stride 2, without padding."""
    if step.what is F.max_pool2d:
        return step.arguments in ((2, None, 0, 1, False, False), (2, 2, 0, 1, False, False))
    if type(step.what) is not nn.MaxPool2d:
        return False
    pool = step.what
    return (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode) == (2, 2, 0, 1, False)


def _scope(path: str) -> str:
    """Return what a block is called in a file.

    >>> _scope("blocks.3.depthwise"), _scope("stem.conv")
    ('block3', 'stem')
    """
    return path.rpartition(".")[0].replace("blocks.", "block")


def _name(path: str, numbered: str = "conv") -> str:
    """Return what a layer is called in a file.

    >>> _name("stem.conv"), _name("blocks.3.depthwise"), _name("features.4"), _name("features.7", "pool")
    ('stem', 'block3.depthwise', 'conv4', 'pool7')
    """
    leaf = path.rpartition(".")[2]
    if leaf == "conv":
        return _scope(path)
    return f"{numbered}{leaf}" if leaf.isdigit() else path.replace("blocks.", "block")


def _plain(name: str, conv: nn.Conv2d) -> Conv:
    """Return a convolution as it is. Raises ConfigError where the list cannot express it."""
    (stride, other_stride), (padding, other_padding) = conv.stride, cast(tuple[int, int], conv.padding)
    usual = stride == other_stride and padding == other_padding and tuple(conv.dilation) == (1, 1)
    if not usual or conv.padding_mode != "zeros":
        raise ConfigError(f"the convolution {name} ({conv}) cannot be exported: no rule folds it")
    bias = None if conv.bias is None else _array(conv.bias)
    return Conv(name, _array(conv.weight), bias, stride, padding, conv.groups, None)


def _joined(name: str, conv: nn.Conv2d, bn: nn.BatchNorm2d, act: nn.Module | None) -> Conv:
    """Return convolution, batch norm and activation as one: w' = w g / s, b' = b - m g / s."""
    plain = _plain(name, conv)
    if bn.running_mean is None or bn.running_var is None:
        raise ConfigError(f"the normalization after {name} keeps no statistics and cannot be folded")
    factor = _array(bn.weight) / np.sqrt(_array(bn.running_var) + bn.eps)
    start = 0.0 if plain.bias is None else plain.bias
    bias = _array(bn.bias) + (start - _array(bn.running_mean)) * factor
    weight = plain.weight * factor[:, None, None, None]
    return replace(plain, weight=weight, bias=bias, slope=None if act is None else _slope(name, act))


def _slope(name: str, act: nn.Module) -> Array:
    if type(act) is nn.PReLU:
        return _array(act.weight)
    if type(act) is nn.LeakyReLU:
        return np.array([act.negative_slope], np.float64)
    if type(act) is nn.ReLU:
        return np.zeros(1)
    raise ConfigError(f"the activation {type(act).__name__} after {name} cannot be exported; PReLU and ReLUs can")


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().double().numpy().copy()
