"""What a network costs before it runs, counted on shapes alone: parameters, multiply-adds, activation memory.

A multiply-add (MAC) counts as one. Batch norm, activations, pooling and the average are not
counted, as in the field's tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _python_dispatch as dispatch
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import flop_registry

from quicknet.core.card import Costs, LayerCosts, ModelRecord
from quicknet.core.flow import Flow
from quicknet.core.settings import parse_change, put_settings
from quicknet.models.flow import FlowRecorder
from quicknet.models.network import Network
from quicknet.models.registry import base_config, create_model, model_from_record, model_record

_FLOAT_BYTES = 4
_CONVOLUTION = torch.ops.aten.convolution.default


def count_costs(make: Callable[[], Network]) -> Costs:
    """Return what the network that `make` returns costs, at its config's image size.

    It is made and run on torch's meta device: no weight and no map is allocated. Raises what
    `make` raises.

    >>> from quicknet.models.registry import create_model
    >>> count_costs(lambda: create_model("quicknet")).macs
    127863040
    """
    model, counter, _ = _pass(make)
    return Costs(
        parameters=sum(p.numel() for p in model.parameters()),
        macs=sum(layer.flops for layer in counter.layers) // 2,
        activation_bytes=_FLOAT_BYTES * sum(counter.values[1:]),
        peak_activation_bytes=_FLOAT_BYTES * counter.peak(),
        layers=tuple(layer.costs(model) for layer in counter.layers),
    )


def trace_flow(make: Callable[[], Network]) -> Flow:
    """Return the layers that `count_costs` counts, with the layers, or joins of their maps, that each one takes.

    Raises what `make` raises.

    >>> from quicknet.models.registry import create_model
    >>> flow = trace_flow(lambda: create_model("resnet_20"))
    >>> flow[2].what.name, flow[2].inputs, flow[3].what, flow[3].inputs
    ('block0.conv2', (1,), Join(kind='sum', channels=16, side=32), (2, 0))
    """
    model, counter, logits = _pass(make)
    return counter.flow.flow([layer.costs(model) for layer in counter.layers], logits)


def _pass(make: Callable[[], Network]) -> tuple[Network, _Counter, Tensor]:
    """Return a network, what was counted while an image passed it on the meta device, and its logits."""
    with torch.device("meta"):
        model = make().eval()
        config = model.config
        image = torch.empty(1, config.in_channels, config.image_size, config.image_size)
    counter = _Counter(image, model)
    with counter, torch.no_grad():
        logits = model(image)
    return model, counter, logits


class NetworkFacts(NamedTuple):
    """A network of the registry: its family and whole config, and what an image costs it."""

    record: ModelRecord
    costs: Costs


def describe_network(name: str, changes: Sequence[str] = ()) -> NetworkFacts:
    """Return what a registered network is, its config changed by `KEY=VALUE`. Raises ConfigError for either.

    >>> facts = describe_network("quicknet_s", ["image_size=64", "num_classes=3"])
    >>> facts.record.config["stem_width"], f"{facts.costs.macs:,}"
    (32, '36,849,856')
    """
    fields = base_config(name).to_dict()
    put_settings(fields, map(parse_change, changes))
    with torch.device("meta"):
        record = model_record(name, create_model(name, **fields))
    return NetworkFacts(record, count_costs(lambda: model_from_record(record)))


@dataclass(slots=True, eq=False)
class _Layer:
    """A map, or the product that makes features: what works on it, as far as the pass has come."""

    first: str  # path of its first convolution or linear layer
    kind: str
    kernel: int
    in_channels: int
    out_channels: int = 0
    side: int = 1
    flops: int = 0
    values: int = 0  # of its map
    paths: list[str] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)

    def costs(self, model: Network) -> LayerCosts:
        return LayerCosts(
            name=model.layer_name(self._path(model)),
            kind=self.kind,
            kernel=self.kernel,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            side=self.side,
            parameters=sum(self.parameters.values()),
            macs=self.flops // 2,
            activation_bytes=_FLOAT_BYTES * self.values,
        )

    def _path(self, model: Network) -> str:
        """Return the path of the block that all its convolutions, and no others, are in; else of the first."""
        blocks = {path.rpartition(".")[0] for path in self.paths}
        block = f"{blocks.pop()}."
        inside = {p for p, m in model.named_modules() if isinstance(m, nn.Conv2d) and p.startswith(block)}
        one = len(self.paths) > 1 and not blocks and inside == {*self.paths}
        return block[:-1] if one else self.first


class _Counter(dispatch.TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and the feature maps between them.

    A map is what a convolution makes: what follows channel by channel or in place (norm,
    activation, pooling, sum) makes no new one, and a convolution that takes another's output as
    it is, a pointwise one a depthwise one's, has one map with it.
    """

    def __init__(self, image: Tensor, model: Network) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values = [image.numel()]  # of each map, the image first
        self._born, self._last_use = [0], [0]
        self._steps = 0
        self._held: dict[int, frozenset[int]] = {id(image): frozenset({0})}  # tensor → maps it is made of
        self._bare: dict[int, int] = {}  # convolution's own output → its map
        self._alive: list[Any] = [image]  # so that no id is used twice
        self.layers: list[_Layer] = []
        self.flow = FlowRecorder(image)
        self._of: dict[int, _Layer] = {}  # tensor → the layer that it leaves, with what worked on it since
        self._behind: dict[int, _Layer] = {}  # map → its layer
        self._counted: set[str] = set()  # a parameter that is used twice is there once
        self._early: dict[str, int] = {}  # parameters that work on the image itself
        # parameter, or what is computed from parameters alone → their names and sizes
        self._parameters: dict[int, tuple[tuple[str, int], ...]] = {
            id(p): ((name, p.numel()),) for name, p in model.named_parameters()
        }

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        flops = 0 if count is None else count(*args, **(kwargs or {}), out_val=out)
        taken = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        given = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]
        self._alive += given
        before = len(self.layers)
        if func is _CONVOLUTION:
            self._convolved(args[0], args[1], out)
        else:
            held = frozenset[int]().union(*(self._held.get(id(tensor), frozenset()) for tensor in taken))
            self._use(held)
            self._held.update({id(tensor): self._covering(held, tensor.numel()) for tensor in given})
        self._assign(taken, given, flops)
        self.flow.follow(func, taken, given, before if len(self.layers) > before else None)
        return out

    def _convolved(self, image: Tensor, weight: Tensor, out: Tensor) -> None:
        held = self._held.get(id(image), frozenset())
        self._steps += 1
        self._use(held)
        behind = self._bare.get(id(image))
        if behind is None:
            behind = len(self.values)
            self.values.append(out.numel())
            self._born.append(self._steps)
            self._last_use.append(self._steps)
            self._begin("stem" if held == {0} else _kind(weight, image), weight.shape[-1], image.shape[1])
            self._behind[behind] = self.layers[-1]
        else:  # one map with the convolution before, which is at work until now
            self.values[behind] = out.numel()
            self._last_use[behind] = self._steps
            if self._behind[behind].kind == "depthwise" and weight.shape[-1] == 1:
                self._behind[behind].kind = "separable"
        self._bare[id(out)] = behind
        self._held[id(out)] = frozenset({behind})
        layer = self._of[id(out)] = self._behind[behind]
        layer.out_channels, layer.side, layer.values = out.shape[1], out.shape[-1], out.numel()

    def _begin(self, kind: str, kernel: int, in_channels: int) -> None:
        self.layers.append(_Layer("", kind, kernel, in_channels, parameters=self._early))
        self._early = {}

    def _assign(self, taken: list[Tensor], given: list[Tensor], flops: int) -> None:
        """Give an operation's work and parameters to the layer of what it takes, or to a new one for a product."""
        known = [self._parameters[id(tensor)] for tensor in taken if id(tensor) in self._parameters]
        used = tuple(dict.fromkeys(itertools.chain.from_iterable(known)))
        if used and len(known) == len(taken):  # a view of a parameter, or a filter of that length
            self._parameters.update({id(tensor): used for tensor in given})
            return
        behind = [self._of[id(tensor)] for tensor in given if id(tensor) in self._of]
        behind = behind or [self._of[id(tensor)] for tensor in taken if id(tensor) in self._of]
        layer = max(behind, key=self.layers.index, default=None)  # of a sum, the newest
        if flops and id(given[0]) not in self._of:
            features = next(tensor for tensor in taken if id(tensor) not in self._parameters)
            self._begin("linear", 1, features.shape[-1])
            layer = self.layers[-1]
            layer.out_channels = given[0].shape[-1]
        parameters = self._early if layer is None else layer.parameters
        parameters.update({name: size for name, size in used if name not in self._counted})
        self._counted.update(name for name, _ in used)
        if layer is None:
            return
        layer.flops += flops
        if flops and used:
            path = next((name for name, _ in used if name.endswith("weight")), used[0][0]).rpartition(".")[0]
            layer.first = layer.first or path
            layer.paths.append(path)
        self._of.update({id(tensor): layer for tensor in given})

    def _covering(self, maps: frozenset[int], values: int) -> frozenset[int]:
        """Return the newest of `maps` that have room for `values`: one for a sum, all for a concatenation."""
        kept: set[int] = set()
        for index in sorted(maps, reverse=True):
            if sum(self.values[i] for i in kept) < values:
                kept.add(index)
        return frozenset(kept)

    def _use(self, maps: frozenset[int]) -> None:
        for index in maps:
            self._last_use[index] = self._steps

    def peak(self) -> int:
        """Return the values of the maps that are needed at one time, at most."""
        spans = list(zip(self.values, self._born, self._last_use, strict=True))
        return max(sum(n for n, born, last in spans if born <= step <= last) for step in range(1, self._steps + 1))


def _kind(weight: Tensor, image: Tensor) -> str:
    """Return what a convolution of that weight (O, I / groups, k, k) is called."""
    return "depthwise" if weight.shape[1] == 1 and len(weight) == image.shape[1] else "conv"
