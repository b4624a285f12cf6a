"""What each known step of a network becomes in a graph; what is not known is refused by name."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.core.errors import ConfigError
from quicknet.deploy.graph import (
    Activation,
    Array,
    Average,
    Concat,
    Conv,
    Flatten,
    Linear,
    Maximum,
    Node,
    Pool,
    Regions,
    ResponseNorm,
    Scale,
    Select,
    Sum,
)
from quicknet.models.dropout import Dropout
from quicknet.models.layers import Shuffle
from quicknet.models.norm import BatchNorm2d
from quicknet.models.options.fractional_pool import FractionalPool
from quicknet.models.options.pyramid import Level
from quicknet.models.options.weight_norm import MeanOnlyNorm2d, WeightNormConv2d
from quicknet.models.pooling import Bounds, fractional_max_pool
from quicknet.models.topology import Step
from quicknet.models.zoo import blocks


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm that may still go into the convolution before it: (x - mean) * scale + bias, each (C,)."""

    name: str
    inputs: tuple[str, ...]
    mean: Array
    scale: Array
    bias: Array


Draft = Node | Norm


class _NoRule(Exception):
    """A step of a known kind that no rule folds as it is; says why."""


def ruled(model: nn.Module, step: Step) -> Draft | None:
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


def _called(rule: Callable[..., Draft | None], step: Step) -> Draft | None:
    try:
        bound = inspect.signature(rule).bind(*step.arguments, **step.options)
    except TypeError as error:
        raise _NoRule(str(error)) from error
    return rule(*bound.args, **bound.kwargs)


def array(tensor: Tensor) -> Array:
    """Return a tensor's numbers as float64."""
    return tensor.detach().cpu().double().numpy().copy()


# --- rules: what each known step becomes, its name and inputs to follow ---------------------


def _convolution(conv: nn.Conv2d) -> Conv:
    sides, strides, padding = conv.kernel_size, conv.stride, conv.padding
    if padding == "same":
        padding = tuple(side // 2 if side % 2 else -1 for side in sides)
    pads = (0, 0) if isinstance(padding, str) else padding
    uneven = len({*sides}) > 1 or len({*strides}) > 1 or len({*pads}) > 1 or pads[0] < 0
    if uneven or conv.dilation != (1, 1) or conv.padding_mode != "zeros":
        raise _NoRule(f"{conv}")
    bias = None if conv.bias is None else array(conv.bias)
    return Conv("", (), array(conv.weight), bias, strides[0], pads[0], conv.groups)


def _weight_normed(conv: WeightNormConv2d) -> Conv:
    # fsum, for bytes that do not depend on the CPU: see `fold`
    lengths = np.array([math.sqrt(math.fsum((row * row).ravel().tolist())) for row in array(conv.weight)])
    weight = array(conv.weight) * (array(conv.gain) / lengths)[:, None, None, None]
    return replace(_convolution(conv), weight=weight)


def _norm(bn: nn.BatchNorm2d) -> Norm:
    if bn.running_mean is None or bn.running_var is None:
        raise _NoRule("it keeps no statistics")
    scale = _array_or(bn.weight, 1.0, bn) / np.sqrt(array(bn.running_var) + bn.eps)
    return Norm("", (), array(bn.running_mean), scale, _array_or(bn.bias, 0.0, bn))


def _array_or(tensor: Tensor | None, value: float, bn: nn.BatchNorm2d) -> Array:
    return np.full(bn.num_features, value) if tensor is None else array(tensor)


def _mean_only_norm(norm: MeanOnlyNorm2d) -> Norm:
    mean = array(norm.running_mean)
    return Norm("", (), mean, np.ones_like(mean), array(norm.bias))


def _linear(linear: nn.Linear) -> Linear:
    return Linear("", (), array(linear.weight), None if linear.bias is None else array(linear.bias))


def _leaky_relu(negative_slope: float = 0.01, inplace: bool = False) -> Activation:
    return Activation("", (), np.array([negative_slope], np.float64))


def _relu(inplace: bool = False) -> Activation:
    return Activation("", (), np.zeros(1))


def _silu(inplace: bool = False) -> Activation:
    return Activation("", (), None, "silu")


def _relu6(inplace: bool = False) -> Activation:
    return Activation("", (), None, "relu6")


def _tanh() -> Activation:
    return Activation("", (), None, "tanh")


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
    if _side(dilation) != 1 or return_indices or (ceil_mode and _side(padding)):
        raise _NoRule("dilation, ceil_mode with padding, or return_indices")
    kernel = _side(kernel_size)
    return Pool("", (), kernel, kernel if not stride else _side(stride), _side(padding), ceil=ceil_mode)


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


def _maximum() -> Maximum:
    return Maximum("", ())


def _product(factor: Any) -> Scale:
    if type(factor) not in (int, float):
        raise _NoRule(f"times {factor}; a number folds")
    return Scale("", (), float(factor))


def _channels(index: Any) -> Select:
    """Of `x[:, first:end]`, with both ends."""
    every, part = index if isinstance(index, tuple) and len(index) == 2 else (None, None)
    if every != slice(None) or not isinstance(part, slice) or part.step is not None:
        raise _NoRule(f"[{index}]; [:, first:end] folds")
    if type(part.start) is not int or type(part.stop) is not int or not 0 <= part.start < part.stop:
        raise _NoRule(f"[{index}]; [:, first:end] folds")
    return Select("", (), tuple(range(part.start, part.stop)))


def _regions(rows: Bounds, columns: Bounds) -> Regions:
    return Regions("", (), rows, columns)


def _response_norm(norm: nn.LocalResponseNorm) -> ResponseNorm:
    if norm.size % 2 == 0:
        raise _NoRule(f"over {norm.size} channels; an odd number folds")
    return ResponseNorm("", (), norm.size, norm.alpha, norm.beta, norm.k, "channels")


def _within_norm(norm: blocks.WithinNorm) -> ResponseNorm:
    return ResponseNorm("", (), norm.size, norm.alpha, norm.beta, 1.0, "pixels")


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


_MODULES: dict[type, Callable[[Any], Draft | None]] = {
    nn.Conv2d: _convolution,
    WeightNormConv2d: _weight_normed,
    BatchNorm2d: _norm,
    MeanOnlyNorm2d: _mean_only_norm,
    nn.BatchNorm2d: _norm,
    nn.Linear: _linear,
    nn.PReLU: lambda act: Activation("", (), array(act.weight)),
    nn.LeakyReLU: lambda act: _leaky_relu(act.negative_slope),
    nn.ReLU: lambda _: _relu(),
    nn.SiLU: lambda _: _silu(),
    nn.ReLU6: lambda _: _relu6(),
    nn.Tanh: lambda _: _tanh(),
    nn.GELU: lambda act: _gelu(act.approximate),
    nn.MaxPool2d: lambda pool: _max_pool(
        pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode, pool.return_indices
    ),
    Level: lambda level: _max_pool(*level.window(level.side)),
    FractionalPool: lambda pool: _regions(*pool.regions(pool.side)),
    nn.AvgPool2d: lambda pool: _average_pool(
        pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, pool.count_include_pad, pool.divisor_override
    ),
    nn.AdaptiveAvgPool2d: lambda pool: _adaptive_average(pool.output_size),
    nn.LocalResponseNorm: _response_norm,
    blocks.WithinNorm: _within_norm,
    **dict.fromkeys((blocks.Select, Shuffle), lambda part: Select("", (), part.indices)),
    nn.Flatten: lambda flatten: _flatten(flatten.start_dim, flatten.end_dim),
    Dropout: _nothing,
    nn.Dropout: _nothing,
    nn.Dropout2d: _nothing,
    nn.Identity: _nothing,
}

_ONE, _TWO, _SOME = range(1, 2), range(2, 3), range(1, 1 << 16)
# function, or name of a tensor's method → its rule, and how many steps' outputs it takes
_FUNCTIONS: dict[Any, tuple[Callable[..., Draft | None], range]] = {
    **dict.fromkeys((F.relu, torch.relu, "relu"), (_relu, _ONE)),
    F.leaky_relu: (_leaky_relu, _ONE),
    F.silu: (_silu, _ONE),
    F.gelu: (_gelu, _ONE),
    F.relu6: (_relu6, _ONE),
    **dict.fromkeys((torch.tanh, "tanh"), (_tanh, _ONE)),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), (_max_pool, _ONE)),
    F.avg_pool2d: (_average_pool, _ONE),
    F.adaptive_avg_pool2d: (_adaptive_average, _ONE),
    **dict.fromkeys((torch.mean, "mean"), (_mean, _ONE)),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add"), (_sum, _TWO)),
    torch.maximum: (_maximum, _TWO),
    operator.mul: (_product, _ONE),
    operator.getitem: (_channels, _ONE),
    fractional_max_pool: (_regions, _ONE),
    **dict.fromkeys((torch.cat, torch.concat), (_concat, _SOME)),
    **dict.fromkeys((torch.flatten, "flatten"), (_flatten, _ONE)),
    F.dropout: (_dropout, _ONE),
}
