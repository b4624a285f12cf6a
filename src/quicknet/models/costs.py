"""What a network costs before it runs, counted on shapes alone: parameters, multiply-adds, activation memory.

A multiply-add (MAC) counts as one. Batch norm, activations, pooling and the average are not
counted, as in the field's tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _python_dispatch as dispatch
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import flop_registry

from quicknet.core.card import Costs
from quicknet.models.network import Network

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
    with torch.device("meta"):
        model = make().eval()
        config = model.config
        image = torch.empty(1, config.in_channels, config.image_size, config.image_size)
    counter = _Counter(image)
    with counter, torch.no_grad():
        model(image)
    return Costs(
        parameters=sum(p.numel() for p in model.parameters()),
        macs=counter.flops // 2,
        activation_bytes=_FLOAT_BYTES * sum(counter.values[1:]),
        peak_activation_bytes=_FLOAT_BYTES * counter.peak(),
    )


class _Counter(dispatch.TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and the feature maps between them.

    A map is what a convolution makes: what follows channel by channel or in place (norm,
    activation, pooling, sum) makes no new one, and a convolution that takes another's output as
    it is, a pointwise one a depthwise one's, has one map with it.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.values = [image.numel()]  # of each map, the image first
        self._born, self._last_use = [0], [0]
        self._steps = 0
        self._held: dict[int, frozenset[int]] = {id(image): frozenset({0})}  # tensor → maps it is made of
        self._bare: dict[int, int] = {}  # convolution's own output → its map
        self._alive: list[Any] = [image]  # so that no id is used twice

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        taken = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        given = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]
        self._alive += given
        if func is _CONVOLUTION:
            self._convolved(args[0], out)
        else:
            held = frozenset[int]().union(*(self._held.get(id(tensor), frozenset()) for tensor in taken))
            self._use(held)
            self._held.update({id(tensor): self._covering(held, tensor.numel()) for tensor in given})
        return out

    def _convolved(self, image: Tensor, out: Tensor) -> None:
        held = self._held.get(id(image), frozenset())
        self._steps += 1
        self._use(held)
        behind = self._bare.get(id(image))
        if behind is None:
            behind = len(self.values)
            self.values.append(out.numel())
            self._born.append(self._steps)
            self._last_use.append(self._steps)
        else:  # one map with the convolution before, which is at work until now
            self.values[behind] = out.numel()
            self._last_use[behind] = self._steps
        self._bare[id(out)] = behind
        self._held[id(out)] = frozenset({behind})

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
