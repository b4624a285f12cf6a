"""Convolutions of one map that are only summed are one convolution: exact in real numbers, and never more work.

Source: Ding et al. 2021, RepVGG (arXiv:2101.03697) §3.3.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from quicknet.deploy.graph import Array, Conv, Node, Sum


def summed(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return the nodes with every such sum in one convolution, which stands, and is called, as the first of the two."""
    kept = {node.name: node for node in nodes}
    inside: dict[str, str] = {}  # a sum → the convolution that it went into
    takers = Counter(name for node in nodes for name in node.inputs)
    for node in nodes:
        inputs = tuple(inside.get(name, name) for name in node.inputs)
        kept[node.name] = replace(node, inputs=inputs)
        if not isinstance(node, Sum) or any(takers[name] > 1 for name in node.inputs):
            continue
        one = _one(*(kept[name] for name in inputs if name in kept))
        if one is not None:
            kept[one.name] = one
            inside[node.name] = one.name
            del kept[node.name], kept[inputs[1]]
    return tuple(kept.values())


def _one(*both: Node) -> Conv | None:
    """Return the convolution that answers with the sum of two; None where there is none."""
    if len(both) != 2 or both[0] is both[1]:
        return None
    a, b = both
    if not isinstance(a, Conv) or not isinstance(b, Conv) or a.inputs != b.inputs or a.stride != b.stride:
        return None
    channels = {conv.weight.shape[1] * conv.groups for conv in (a, b)}
    # both centred on the same pixels, none activated
    centred = all(conv.slope is None and 2 * conv.padding + 1 == conv.weight.shape[2] for conv in (a, b))
    if not centred or len(channels) > 1 or len(a.weight) != len(b.weight):
        return None
    side = max(conv.weight.shape[2] for conv in (a, b))
    groups = a.groups if a.groups == b.groups else 1
    weight = _widened(a, side, groups) + _widened(b, side, groups)
    if weight.size > a.weight.size + b.weight.size:  # a depthwise 3x3 beside a dense 1x1 would be a dense 3x3
        return None
    bias = a.bias if b.bias is None else b.bias if a.bias is None else a.bias + b.bias
    return Conv(a.name, a.inputs, weight, bias, a.stride, side // 2, groups)


def _widened(conv: Conv, side: int, groups: int) -> Array:
    """Return the weights with zeros around them, and for the channels of other groups."""
    around = (side - conv.weight.shape[2]) // 2
    weight = np.pad(conv.weight, ((0, 0), (0, 0), (around, around), (around, around)))
    if groups == conv.groups:
        return weight
    outs, each = weight.shape[:2]
    dense = np.zeros((outs, each * conv.groups, side, side))
    taken = np.arange(outs)[:, None] * conv.groups // outs * each + np.arange(each)  # (O, I / groups)
    dense[np.arange(outs)[:, None], taken] = weight
    return dense
