"""A trained network as a graph of plain layers: batch norm and, where exact, mean and std folded.

The graph is that of what its forward does (`models/topology`), whatever its class is called. Each
step has one rule here; what has none is refused by name. Everything is computed in float64.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import ConfigError
from quicknet.deploy.graph import (
    IMAGE,
    Activation,
    Array,
    Average,
    Concat,
    Conv,
    Flatten,
    Folded,
    Linear,
    Node,
    Pool,
    Sum,
    ranks,
    unused_name,
)
from quicknet.models.dropout import Dropout
from quicknet.models.network import Network
from quicknet.models.norm import BatchNorm2d
from quicknet.models.topology import Step, topology


def fold(model: Network, spec: PreprocessSpec) -> Folded:
    """Return `model`, as it answers in eval mode to pixels normalized by `spec`, folded.

    Mean and std go into a first layer without padding, where that is exact; with padding, whose
    zeros are after normalization, or where several layers take the image, they stay apart. Raises
    ConfigError, naming the step, for a network with a step that no rule here folds, or of other
    channels than the spec.
    """
    channels = model.config.in_channels
    if channels != spec.channels:
        raise ConfigError(f"the network takes {channels} channels, the card's mode {spec.mode} gives {spec.channels}")
    nodes = _needed(_joined(_drafted(model)))
    if not nodes or ranks(nodes)[nodes[-1].name] != 2:
        raise ConfigError(f"{type(model).__name__} cannot be exported: it does not end in logits (N, classes)")
    scale = 1 / (255 * np.array(spec.std, np.float64))
    shift = -np.array(spec.mean, np.float64) / np.array(spec.std, np.float64)
    first, takers = nodes[0], [node for node in nodes if IMAGE in node.inputs]
    if len(takers) > 1 or not isinstance(first, Conv) or first.padding:
        return Folded(channels, model.config.num_classes, scale, shift, nodes)
    inside = _normalized_inside(first, scale, shift)
    return Folded(channels, model.config.num_classes, None, None, (inside, *nodes[1:]))


def _normalized_inside(conv: Conv, scale: Array, shift: Array) -> Conv:
    """Return a convolution without padding that answers to x as `conv` to scale * x + shift."""
    inputs = conv.weight.shape[1]
    by_output = np.arange(len(conv.weight)) * conv.groups // len(conv.weight) * inputs  # its group's first channel
    taken = by_output[:, None] + np.arange(inputs)  # (O, I / groups)
    weight = conv.weight * scale[taken][:, :, None, None]
    products = conv.weight * shift[taken][:, :, None, None]
    # fsum rounds once, in any order: numpy's own sum depends on the CPU's vectors, and the
    # exported bytes must not
    added = np.array([math.fsum(row.ravel().tolist()) for row in products])
    return replace(conv, weight=weight, bias=added if conv.bias is None else conv.bias + added)


# --- from steps to nodes -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Norm:
    """A batch norm that may still go into the convolution before it."""

    name: str
    inputs: tuple[str, ...]
    bn: nn.BatchNorm2d


_Draft = Node | _Norm


class _NoRule(Exception):
    """A step of a known kind that no rule folds as it is; says why."""


def _drafted(model: Network) -> list[_Draft]:
    """Return a node for each step that does something in eval mode, in order."""
    steps = topology(model)
    names, drafts, in_place = {-1: IMAGE}, list[_Draft](), list[_Draft]()
    for index, step in enumerate(steps):
        draft = _ruled(model, step)
        if draft is None:
            names[index] = names[step.inputs[0]]
            continue
        names[index] = unused_name(_name(draft, step, steps[index:]), names.values())
        drafts.append(replace(draft, name=names[index], inputs=tuple(names[taken] for taken in step.inputs)))
        if _works_in_place(step, drafts[-1]):
            in_place.append(drafts[-1])
    _require_alone(model, drafts, in_place)
    return drafts


def _ruled(model: nn.Module, step: Step) -> _Draft | None:
    """Return what a step becomes, without name and inputs; None for nothing. Raises ConfigError where no rule fits."""
    reason = " where it stands"
    try:
        if isinstance(step.what, nn.Module):
            if type(step.what) in _MODULES and len(step.inputs) == 1 and not step.arguments and not step.options:
                return _MODULES[type(step.what)](step.what)
        elif step.what in _FUNCTIONS and len(step.inputs) in _FUNCTIONS[step.what][1]:
            return _called(_FUNCTIONS[step.what][0], step)
    except _NoRule as error:
        reason = f": {error}"
    where = f" ({step.path})" if step.path else ""
    raise ConfigError(f"{type(model).__name__} cannot be exported: no rule folds {step.name}{where}{reason}")


def _called(rule: Callable[..., _Draft | None], step: Step) -> _Draft | None:
    try:
        bound = inspect.signature(rule).bind(*step.arguments, **step.options)
    except TypeError as error:
        raise _NoRule(str(error)) from error
    return rule(*bound.args, **bound.kwargs)


def _works_in_place(step: Step, draft: _Draft) -> bool:
    given = (getattr(step.what, "inplace", False), *step.options.values(), *step.arguments)
    return step.what is operator.iadd or (isinstance(draft, Activation) and any(value is True for value in given))


def _require_alone(model: nn.Module, drafts: list[_Draft], in_place: list[_Draft]) -> None:
    """Refuse a step that changes in place what another step takes too: a graph has no such order."""
    by_name = {draft.name: draft for draft in drafts}
    takers = Counter(name for draft in drafts for name in draft.inputs)
    for draft in in_place:
        changed: _Draft | None = draft
        while changed is not None:
            if takers[changed.inputs[0]] > 1:
                raise ConfigError(
                    f"{type(model).__name__} cannot be exported: {draft.name} changes in place what another step takes"
                )
            before = by_name.get(changed.inputs[0])
            changed = before if isinstance(before, Flatten) else None  # which shares its input's memory


# --- names ---------------------------------------------------------------------------------


def _name(draft: _Draft, step: Step, later: tuple[Step, ...]) -> str:
    """Return what a step's node is called in a file."""
    if isinstance(draft, Average):
        return "average"
    if step.path:
        kind = "pool" if isinstance(draft, Pool) else "conv" if isinstance(draft, Conv) else step.name.lower()
        return _module_name(step.path, kind)
    # a pool in a function of a block: called after the block, whose first layer follows
    after = next((_scope(other.path) for other in later if other.path), "")
    return f"{after}.pool" if isinstance(draft, Pool) and after else step.name


def _scope(path: str) -> str:
    """Return what a block is called in a file.

    >>> _scope("blocks.3.depthwise"), _scope("stem.conv")
    ('block3', 'stem')
    """
    return path.rpartition(".")[0].replace("blocks.", "block")


def _module_name(path: str, kind: str) -> str:
    """Return what a layer is called in a file.

    >>> _module_name("stem.conv", "conv"), _module_name("blocks.3.depthwise", "conv")
    ('stem', 'block3.depthwise')
    >>> _module_name("features.4", "conv"), _module_name("features.7", "pool")
    ('conv4', 'pool7')
    """
    scope, _, leaf = path.rpartition(".")
    if leaf == "conv" and scope:
        return _scope(path)
    return f"{kind}{leaf}" if leaf.isdigit() else path.replace("blocks.", "block")


# --- rules: what each known step becomes, its name and inputs to follow ---------------------


def _convolution(conv: nn.Conv2d) -> Conv:
    sides, strides, padding = conv.kernel_size, conv.stride, conv.padding
    if padding == "same":
        padding = tuple(side // 2 if side % 2 else -1 for side in sides)
    pads = (0, 0) if isinstance(padding, str) else padding
    uneven = len({*sides}) > 1 or len({*strides}) > 1 or len({*pads}) > 1 or pads[0] < 0
    if uneven or conv.dilation != (1, 1) or conv.padding_mode != "zeros":
        raise _NoRule(f"{conv}")
    bias = None if conv.bias is None else _array(conv.bias)
    return Conv("", (), _array(conv.weight), bias, strides[0], pads[0], conv.groups)


def _norm(bn: nn.BatchNorm2d) -> _Norm:
    if bn.running_mean is None or bn.running_var is None:
        raise _NoRule("it keeps no statistics")
    return _Norm("", (), bn)


def _linear(linear: nn.Linear) -> Linear:
    return Linear("", (), _array(linear.weight), None if linear.bias is None else _array(linear.bias))


def _leaky_relu(negative_slope: float = 0.01, inplace: bool = False) -> Activation:
    return Activation("", (), np.array([negative_slope], np.float64))


def _relu(inplace: bool = False) -> Activation:
    return Activation("", (), np.zeros(1))


def _silu(inplace: bool = False) -> Activation:
    return Activation("", (), None, "silu")


def _gelu(approximate: str = "none") -> Activation:
    if approximate != "none":
        raise _NoRule(f"approximate={approximate}")
    return Activation("", (), None, "gelu")


def _max_pool(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Pool:
    if _side(dilation) != 1 or ceil_mode or return_indices:
        raise _NoRule("dilation, ceil_mode or return_indices")
    kernel = _side(kernel_size)
    return Pool("", (), kernel, kernel if not stride else _side(stride), _side(padding))


def _average_pool(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Pool:
    if ceil_mode or divisor_override is not None:
        raise _NoRule("ceil_mode or divisor_override")
    kernel = _side(kernel_size)
    stride = kernel if not stride else _side(stride)
    return Pool("", (), kernel, stride, _side(padding), "average", count_include_pad)


def _side(size: Any) -> int:
    """Return the one number of a size that is the same both ways."""
    sides = {*size} if isinstance(size, tuple | list) else {size}
    if len(sides) != 1 or not all(type(side) is int for side in sides):
        raise _NoRule(f"a size of {size}")
    return int(sides.pop())


def _adaptive_average(output_size: Any) -> Average:
    if _side(output_size) != 1:
        raise _NoRule(f"an output of {output_size}; 1 folds")
    return Average("", (), True)


def _mean(dim: Any = None, keepdim: bool = False) -> Average:
    dims = dim if isinstance(dim, tuple | list) else (dim,)
    if {*dims} not in ({2, 3}, {-2, -1}, {2, -1}, {-2, 3}):
        raise _NoRule(f"a mean over {dim}; one over height and width folds")
    return Average("", (), keepdim)


def _sum() -> Sum:
    return Sum("", ())


def _concat(dim: int = 0) -> Concat:
    if dim != 1:
        raise _NoRule(f"along dimension {dim}; 1, the channels, folds")
    return Concat("", ())


def _flatten(start_dim: int = 0, end_dim: int = -1) -> Flatten:
    if (start_dim, end_dim) != (1, -1):
        raise _NoRule(f"from dimension {start_dim} to {end_dim}; 1 to -1 folds")
    return Flatten("", ())


def _nothing(*_: Any, **__: Any) -> None:
    """Does nothing in eval mode."""


def _dropout(p: float = 0.5, training: bool = True, inplace: bool = False) -> None:
    if training:
        raise _NoRule("it drops in eval mode too")


_MODULES: dict[type, Callable[[Any], _Draft | None]] = {
    nn.Conv2d: _convolution,
    BatchNorm2d: _norm,
    nn.BatchNorm2d: _norm,
    nn.Linear: _linear,
    nn.PReLU: lambda act: Activation("", (), _array(act.weight)),
    nn.LeakyReLU: lambda act: _leaky_relu(act.negative_slope),
    nn.ReLU: lambda _: _relu(),
    nn.SiLU: lambda _: _silu(),
    nn.GELU: lambda act: _gelu(act.approximate),
    nn.MaxPool2d: lambda pool: _max_pool(
        pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode, pool.return_indices
    ),
    nn.AvgPool2d: lambda pool: _average_pool(
        pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, pool.count_include_pad, pool.divisor_override
    ),
    nn.AdaptiveAvgPool2d: lambda pool: _adaptive_average(pool.output_size),
    nn.Flatten: lambda flatten: _flatten(flatten.start_dim, flatten.end_dim),
    Dropout: _nothing,
    nn.Dropout: _nothing,
    nn.Dropout2d: _nothing,
    nn.Identity: _nothing,
}

_ONE, _TWO, _SOME = range(1, 2), range(2, 3), range(1, 1 << 16)
# function, or name of a tensor's method → its rule, and how many steps' outputs it takes
_FUNCTIONS: dict[Any, tuple[Callable[..., _Draft | None], range]] = {
    **dict.fromkeys((F.relu, torch.relu, "relu"), (_relu, _ONE)),
    F.leaky_relu: (_leaky_relu, _ONE),
    F.silu: (_silu, _ONE),
    F.gelu: (_gelu, _ONE),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), (_max_pool, _ONE)),
    F.avg_pool2d: (_average_pool, _ONE),
    F.adaptive_avg_pool2d: (_adaptive_average, _ONE),
    **dict.fromkeys((torch.mean, "mean"), (_mean, _ONE)),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add"), (_sum, _TWO)),
    **dict.fromkeys((torch.cat, torch.concat), (_concat, _SOME)),
    **dict.fromkeys((torch.flatten, "flatten"), (_flatten, _ONE)),
    F.dropout: (_dropout, _ONE),
}


# --- what goes into the layer before it -----------------------------------------------------


def _joined(drafts: list[_Draft]) -> tuple[Node, ...]:
    """Return the nodes, each norm and activation in the convolution before it where nothing else takes its output."""
    takers = Counter(name for draft in drafts for name in draft.inputs)
    nodes: dict[str, Node] = {}
    inside: dict[str, str] = {}  # what went into another node → that node
    for draft in drafts:
        inputs = tuple(inside.get(name, name) for name in draft.inputs)
        before = nodes.get(inputs[0]) if takers[draft.inputs[0]] == 1 else None
        both = None if before is None else _both(before, draft)
        if both is not None:
            nodes[both.name], inside[draft.name] = both, both.name
        else:
            node = _standing(draft) if isinstance(draft, _Norm) else draft
            nodes[draft.name] = replace(node, inputs=inputs)
    return tuple(nodes.values())


def _both(before: Node, draft: _Draft) -> Node | None:
    """Return a node and the one that takes its output as one; None where they stay two."""
    if isinstance(before, Conv) and before.slope is None:
        if isinstance(draft, _Norm):
            return _normed(before, draft.bn)
        if isinstance(draft, Activation) and draft.slope is not None:
            return replace(before, slope=draft.slope)
    if isinstance(before, Average) and isinstance(draft, Flatten):
        return replace(before, sides=False)
    return None


def _normed(conv: Conv, bn: nn.BatchNorm2d) -> Conv:
    """Return convolution and batch norm as one: w' = w g / s, b' = b - m g / s."""
    factor, start = _scale(bn), 0.0 if conv.bias is None else conv.bias
    bias = _array_or(bn.bias, 0.0, bn) + (start - _array(cast(Tensor, bn.running_mean))) * factor
    return replace(conv, weight=conv.weight * factor[:, None, None, None], bias=bias)


def _standing(norm: _Norm) -> Conv:
    """Return a batch norm as a layer of its own, a depthwise 1x1 convolution: runtimes join those with what follows."""
    one = np.ones((norm.bn.num_features, 1, 1, 1))
    return _normed(Conv(norm.name, norm.inputs, one, None, 1, 0, norm.bn.num_features), norm.bn)


def _scale(bn: nn.BatchNorm2d) -> Array:
    scale: Array = _array_or(bn.weight, 1.0, bn) / np.sqrt(_array(cast(Tensor, bn.running_var)) + bn.eps)
    return scale


def _array_or(tensor: Tensor | None, value: float, bn: nn.BatchNorm2d) -> Array:
    return np.full(bn.num_features, value) if tensor is None else _array(tensor)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().double().numpy().copy()


def _needed(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return the nodes that the last one needs."""
    needed = {node.name for node in nodes[-1:]}
    for node in reversed(nodes):
        needed |= {*node.inputs} if node.name in needed else set()
    return tuple(node for node in nodes if node.name in needed)
