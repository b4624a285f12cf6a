"""A folded network: nodes in order, each with its inputs by name. A chain of layers is the special case.

Numbers are float64, so that the code that builds a file rounds once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quicknet.core.errors import ConfigError

Array = NDArray[np.float64]

IMAGE = "image"  # what the first nodes take: the normalized image (N, C, H, W)


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution, then the activation max(x, 0) + slope * min(x, 0).

    `weight` (O, I / groups, k, k); `bias` (O,) or None; `slope` (O,), (1,) where all channels
    share one, or None for no activation.
    """

    name: str
    inputs: tuple[str, ...]
    weight: Array
    bias: Array | None
    stride: int
    padding: int
    groups: int
    slope: Array | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """The largest value, or the average, of windows, in which zeros of the padding count where `counts_padding`.

    The last window may hang over the edge where it is `ceil`.
    """

    name: str
    inputs: tuple[str, ...]
    kernel: int = 2
    stride: int = 2
    padding: int = 0
    kind: Literal["max", "average"] = "max"
    counts_padding: bool = True
    ceil: bool = False


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation that stands alone: as in `Conv`, or another by its name."""

    name: str
    inputs: tuple[str, ...]
    slope: Array | None
    kind: Literal["slope", "silu", "gelu", "relu6", "tanh"] = "slope"


@dataclass(frozen=True, slots=True)
class Average:
    """The mean over a map's pixels: (N, C, H, W) → (N, C), or (N, C, 1, 1) where it keeps `sides`."""

    name: str
    inputs: tuple[str, ...]
    sides: bool


@dataclass(frozen=True, slots=True)
class Flatten:
    """(N, C, H, W) → (N, C H W)."""

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sum:
    """Two values added."""

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Maximum:
    """The larger of two values."""

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """A value times a number."""

    name: str
    inputs: tuple[str, ...]
    factor: float


@dataclass(frozen=True, slots=True)
class Select:
    """A map's channels by their indices, in that order."""

    name: str
    inputs: tuple[str, ...]
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Regions:
    """The largest value of each region: of rows, then columns, the bounds; both ends of a region count."""

    name: str
    inputs: tuple[str, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ResponseNorm:
    """x / (k + alpha * mean of squares) ** beta, the mean over `size` channels, or `size` x `size` pixels."""

    name: str
    inputs: tuple[str, ...]
    size: int
    alpha: float
    beta: float
    k: float
    over: Literal["channels", "pixels"]


@dataclass(frozen=True, slots=True)
class Concat:
    """Maps side by side, channel after channel."""

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Linear:
    """(N, features) → (N, outputs): `weight` (outputs, features), `bias` (outputs,) or None."""

    name: str
    inputs: tuple[str, ...]
    weight: Array
    bias: Array | None


Node = (
    Conv
    | Pool
    | Activation
    | Average
    | Flatten
    | Sum
    | Maximum
    | Scale
    | Select
    | Regions
    | ResponseNorm
    | Concat
    | Linear
)
_OF_MAPS = (Conv, Pool, Average, Select, Regions, ResponseNorm)


@dataclass(frozen=True, slots=True)
class Folded:
    """A network from raw pixels to logits: scale and shift, then the nodes, of which the last gives the logits.

    `scale`, `shift` (C,) turn a pixel 0..255 into what the nodes take as `IMAGE`, None where they
    are folded into the first layer.
    """

    channels: int
    classes: int
    scale: Array | None
    shift: Array | None
    nodes: tuple[Node, ...]


def unused_name(name: str, used: Iterable[str]) -> str:
    """Return `name`, with a number behind it where it is used already.

    >>> unused_name("relu", ["relu", "relu_2"])
    'relu_3'
    """
    taken, numbered = {*used}, (f"{name}_{number}" for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([name], numbered) if candidate not in taken)


def ranks(nodes: tuple[Node, ...]) -> dict[str, int]:
    """Return how many dimensions each value has: 4 for a map, 2 for features. Raises ConfigError, naming the node."""
    rank = {IMAGE: 4}
    for node in nodes:
        taken = [rank[name] for name in node.inputs]
        expected = {2} if isinstance(node, Linear) else {4} if isinstance(node, _OF_MAPS) else {2, 4}
        if not set(taken) <= expected or (isinstance(node, Concat | Sum | Maximum) and len(set(taken)) > 1):
            raise ConfigError(f"{node.name} cannot be exported: no rule folds it for inputs of {taken} dimensions")
        flat = isinstance(node, Flatten) or (isinstance(node, Average) and not node.sides)
        rank[node.name] = 2 if flat else taken[0]
    return rank


@dataclass(frozen=True, slots=True)
class Chain:
    """Convolutions and 2x2 max pools one after the other, global average, classifier.

    `weight` (classes, features), `bias` (classes,) are of the classifier.
    """

    layers: tuple[Conv | Pool, ...]
    weight: Array
    bias: Array


def chain(net: Folded) -> Chain:
    """Return a folded network as a chain. Raises ConfigError, naming the node, where it is none."""
    before = IMAGE
    for node in net.nodes:
        if isinstance(node, Activation) and node.kind != "slope":
            raise _unchained(f"{node.name} is a {node.kind.upper()} activation")
        if node.inputs != (before,):
            of = "an earlier layer's output" if len(node.inputs) == 1 else f"{len(node.inputs)} inputs"
            raise _unchained(f"{node.name} takes {of}")
        before = node.name
    *layers, average, last = (None, None, *net.nodes)[-max(2, len(net.nodes)) :]
    if not isinstance(average, Average) or average.sides or not isinstance(last, Linear) or last.bias is None:
        raise _unchained("no global average with a classifier stands behind its layers")
    kept: list[Conv | Pool] = []
    for layer in layers:
        if isinstance(layer, Conv) or (isinstance(layer, Pool) and _halves(layer)):
            kept.append(layer)
        elif layer is not None:
            raise _unchained(f"{layer.name} is neither a convolution nor a 2x2 max pool of whole windows")
    return Chain(tuple(kept), last.weight, last.bias)


def _halves(pool: Pool) -> bool:
    return (pool.kind, pool.kernel, pool.stride, pool.padding, pool.ceil) == ("max", 2, 2, 0, False)


def _unchained(reason: str) -> ConfigError:
    return ConfigError(f"{reason}, and a .qnz holds a chain of layers only; use --format onnx")
