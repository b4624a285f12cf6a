"""From where each layer of a network takes its input: layers, and joins of several maps in one, as a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quicknet.core.card import LayerCosts

IMAGE = -1  # the number of what the first layer takes


@dataclass(frozen=True, slots=True)
class Join:
    """One map made of several: their sum, concatenation, maximum or another operation, which `kind` names."""

    kind: str
    channels: int
    side: int


@dataclass(frozen=True, slots=True)
class Node:
    """A layer or a join, and the nodes whose maps it takes, each once, by number.

    Norms, activations, pools, selections and views lie between nodes and are none. A layer without `inputs` is one of
    which nobody knows what it takes.
    """

    what: LayerCosts | Join
    inputs: tuple[int, ...]
    taken: tuple[int, ...]  # channels of each input as they arrive: fewer than its map has where only a part is taken

    @property
    def channels(self) -> int:
        """Channels of its output."""
        return self.what.channels if isinstance(self.what, Join) else self.what.out_channels

    @property
    def side(self) -> int:
        """Side of its output, in pixels."""
        return self.what.side


Flow = tuple[Node, ...]  # in the order in which an image passes them, numbered from 0


def chain(layers: Sequence[LayerCosts]) -> Flow:
    """Return layers of which each takes the output of the one before it, the first the image."""
    return tuple(Node(layer, (index - 1,), (layer.in_channels,)) for index, layer in enumerate(layers))


def unconnected(layers: Sequence[LayerCosts]) -> Flow:
    """Return layers of which it is not known what they take."""
    return tuple(Node(layer, (), ()) for layer in layers)
