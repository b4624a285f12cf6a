"""A trained network as a graph of plain layers: batch norm and, where exact, mean and std folded.

The graph is that of what its forward does (`models/topology`), whatever its class is called. Each
step has one rule (`deploy/rules`); what has none is refused by name. Everything is computed in float64.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from torch import nn

from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import ConfigError
from quicknet.deploy.graph import (
    IMAGE,
    Activation,
    Array,
    Average,
    Conv,
    Flatten,
    Folded,
    Node,
    Pool,
    ranks,
    unused_name,
)
from quicknet.deploy.parallel import summed
from quicknet.deploy.rules import Draft, Norm, ruled
from quicknet.models.network import Network
from quicknet.models.predicates import require_exported
from quicknet.models.topology import Step, topology


def fold(model: Network, spec: PreprocessSpec) -> Folded:
    """Return `model`, as it answers in eval mode to pixels normalized by `spec`, folded.

    Mean and std go into a first layer without padding, where that is exact; with padding, whose
    zeros are after normalization, or where several layers take the image, they stay apart. Raises
    ConfigError, naming the step, for a network with a step that no rule folds, or of other
    channels than the spec.
    """
    channels = model.config.in_channels
    if channels != spec.channels:
        raise ConfigError(f"the network takes {channels} channels, the card's mode {spec.mode} gives {spec.channels}")
    require_exported(getattr(model, "plan", ()))  # what is not a Network is refused by its steps
    nodes = _needed(_joined(summed(_joined(_drafted(model)))))
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


def _drafted(model: Network) -> list[Draft]:
    """Return a node for each step that does something in eval mode, in order."""
    steps = topology(model)
    names, drafts, in_place = {-1: IMAGE}, list[Draft](), list[Draft]()
    for index, step in enumerate(steps):
        draft = ruled(model, step)
        if draft is None:
            names[index] = names[step.inputs[0]]
            continue
        names[index] = unused_name(_name(draft, step, steps[index:]), names.values())
        drafts.append(replace(draft, name=names[index], inputs=tuple(names[taken] for taken in step.inputs)))
        if _works_in_place(step, drafts[-1]):
            in_place.append(drafts[-1])
    _require_alone(model, drafts, in_place)
    return drafts


def _works_in_place(step: Step, draft: Draft) -> bool:
    given = (getattr(step.what, "inplace", False), *step.options.values(), *step.arguments)
    return step.what is operator.iadd or (isinstance(draft, Activation) and any(value is True for value in given))


def _require_alone(model: nn.Module, drafts: list[Draft], in_place: list[Draft]) -> None:
    """Refuse a step that changes in place what another step takes too: a graph has no such order."""
    by_name = {draft.name: draft for draft in drafts}
    takers = Counter(name for draft in drafts for name in draft.inputs)
    for draft in in_place:
        changed: Draft | None = draft
        while changed is not None:
            if takers[changed.inputs[0]] > 1:
                raise ConfigError(
                    f"{type(model).__name__} cannot be exported: {draft.name} changes in place what another step takes"
                )
            before = by_name.get(changed.inputs[0])
            changed = before if isinstance(before, Flatten) else None  # which shares its input's memory


# --- names ---------------------------------------------------------------------------------


def _name(draft: Draft, step: Step, later: tuple[Step, ...]) -> str:
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


# --- what goes into the layer before it -----------------------------------------------------


def _joined(drafts: Iterable[Draft]) -> tuple[Node, ...]:
    """Return the nodes, each norm and activation in the convolution before it where nothing else takes its output."""
    drafts = [*drafts]
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
            node = _standing(draft) if isinstance(draft, Norm) else draft
            nodes[draft.name] = replace(node, inputs=inputs)
    return tuple(nodes.values())


def _both(before: Node, draft: Draft) -> Node | None:
    """Return a node and the one that takes its output as one; None where they stay two."""
    if isinstance(before, Conv) and before.slope is None:
        if isinstance(draft, Norm):
            return _normed(before, draft)
        if isinstance(draft, Activation) and draft.slope is not None:
            return replace(before, slope=draft.slope)
    if isinstance(before, Average) and isinstance(draft, Flatten):
        return replace(before, sides=False)
    return None


def _normed(conv: Conv, norm: Norm) -> Conv:
    """Return convolution and norm as one: w' = w g / s, b' = b - m g / s."""
    start = 0.0 if conv.bias is None else conv.bias
    bias = norm.bias + (start - norm.mean) * norm.scale
    return replace(conv, weight=conv.weight * norm.scale[:, None, None, None], bias=bias)


def _standing(norm: Norm) -> Conv:
    """Return a norm as a layer of its own, a depthwise 1x1 convolution: runtimes join those with what follows."""
    channels = len(norm.mean)
    return _normed(Conv(norm.name, norm.inputs, np.ones((channels, 1, 1, 1)), None, 1, 0, channels), norm)


def _needed(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return the nodes that the last one needs."""
    needed = {node.name for node in nodes[-1:]}
    for node in reversed(nodes):
        needed |= {*node.inputs} if node.name in needed else set()
    return tuple(node for node in nodes if node.name in needed)
