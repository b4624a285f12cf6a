"""Which layer's output a layer takes, found by following tensors from operation to operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from quicknet.core.card import LayerCosts
from quicknet.core.flow import IMAGE, Flow, Join, Node

_WORDS = {
    "add": "sum",
    "sub": "difference",
    "mul": "product",
    "cat": "concat",
    "grid_sampler_2d": "sampling",
}
# joins even where both operands come from one layer: x + norm(x), the levels of a pyramid. Others, such as the maximum
# of shifted maps in a fractional pool, are then one operation on that layer's output.
_ALWAYS = frozenset({"sum", "concat"})


@dataclass(slots=True)
class _Step:
    """A node as it was met."""

    what: int | Join  # a layer by its number
    inputs: dict[int, int]  # step → channels that are taken of it
    open: set[int] = field(default_factory=set)  # those of `inputs` that are bare joins of the same kind


class FlowRecorder:
    """Takes every operation of a pass in turn and knows of each tensor the layer or join that it comes from.

    The tensors must stay alive until `flow` is asked, so that no id is used twice.
    """

    def __init__(self, image: Tensor) -> None:
        self._source: dict[int, int] = {id(image): IMAGE}  # tensor → step
        self._bare: dict[int, int] = {}  # a join's own output → its step
        self._steps: list[_Step] = []

    def follow(self, operation: Any, taken: Sequence[Tensor], given: Sequence[Tensor], layer: int | None) -> None:
        """Follow an operation; `layer` is the number of the layer that it begins, None where it begins none."""
        operands = [(tensor, self._source[id(tensor)]) for tensor in taken if id(tensor) in self._source]
        if not operands and layer is None:  # on parameters alone
            return
        name = str(operation.overloadpacket.__name__).strip("_")
        kind = _WORDS.get(name, name.replace("_", " "))
        inputs = _inputs(operands, kind)
        joins = layer is None and (len(inputs) > 1 or (len(operands) > 1 and kind in _ALWAYS))
        if layer is not None:
            self._steps.append(_Step(layer, inputs))
        elif joins:
            self._steps.append(_Step(_join(kind, given[0]), inputs, self._same(operands, kind)))
        made = len(self._steps) - 1 if joins or layer is not None else operands[0][1]
        for tensor in given:
            self._source[id(tensor)] = made
            self._bare.pop(id(tensor), None)  # worked on in place
            if joins:
                self._bare[id(tensor)] = made

    def _same(self, operands: Sequence[tuple[Tensor, int]], kind: str) -> set[int]:
        """Return which operands are joins of that kind as they are, and come once: a + b in (a + b) + c."""
        count = Counter(source for _, source in operands)
        bare = {self._bare[id(tensor)] for tensor, _ in operands if id(tensor) in self._bare}
        whats = {step: self._steps[step].what for step in bare if count[step] == 1}
        return {step for step, what in whats.items() if isinstance(what, Join) and what.kind == kind}

    def flow(self, layers: Sequence[LayerCosts], logits: Tensor) -> Flow:
        """Return the nodes; a join within one of its kind that alone takes it, as in a + b + c, is one with it."""
        uses = Counter(source for step in self._steps for source in step.inputs)
        uses[self._source[id(logits)]] += 1
        inputs: list[dict[int, int]] = []
        merged: set[int] = set()
        for step in self._steps:
            inner = {source for source in step.open if uses[source] == 1}
            parts = (inputs[source] if source in inner else {source: n} for source, n in step.inputs.items())
            inputs.append({source: channels for part in parts for source, channels in part.items()})
            merged |= inner
        kept = [number for number in range(len(self._steps)) if number not in merged]
        place = {IMAGE: IMAGE, **{number: index for index, number in enumerate(kept)}}
        nodes = []
        for number in kept:
            what, taken = self._steps[number].what, inputs[number]
            node = what if isinstance(what, Join) else layers[what]
            nodes.append(Node(node, tuple(place[source] for source in taken), tuple(taken.values())))
        return tuple(nodes)


def _inputs(operands: Sequence[tuple[Tensor, int]], kind: str) -> dict[int, int]:
    """Return where an operation's operands come from, and how many channels arrive from there."""
    inputs: dict[int, int] = {}
    for tensor, source in operands:
        channels = tensor.shape[1] if tensor.dim() > 1 else 1
        inputs[source] = inputs.get(source, 0) + channels if kind == "concat" else channels
    return inputs


def _join(kind: str, made: Tensor) -> Join:
    channels, *sides = made.shape[1:]
    return Join(kind, channels, sides[-1] if sides else 1)
