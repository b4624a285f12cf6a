"""How much each layer's weights matter, measured: how far the answers move when one layer alone is pruned."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from quicknet.core.card import PreprocessSpec
from quicknet.core.settings import Settings
from quicknet.data.augment import normalize
from quicknet.models.layers import Separable, Stem
from quicknet.models.network import Network
from quicknet.training.prune import BLOCKS, choose_masks, scores, separable_layers, spread

DENSITIES = (0.5, 0.2)  # of the weights that a layer has
_DENSE_AT = 0.5  # of the layers that stay dense
_CHUNK = 128
# Training mends most in the large last layers, which alone are sensitive to nothing: with 1 they lose
# nearly all (2% left of the last at 30% kept), with 0 all layers' scores would count alike.
_TRUST = 0.5


class LayerSensitivity(Settings, frozen=True, kw_only=True):
    """What a layer's weights are worth, pruned alone, nothing trained.

    `divergence` from the network's own answers (nats an image, Kullback-Leibler) at each of
    `densities`; `importance` is what a unit of the layer's scores costs, None where it stays dense.
    """

    name: str
    weights: int
    densities: tuple[float, ...]
    divergence: tuple[float, ...]
    importance: float | None = None


def measure(
    network: Network, images: NDArray[np.uint8], spec: PreprocessSpec, pattern: str, advance: Callable[[int], None]
) -> list[LayerSensitivity]:
    """Return the sensitivity of every pointwise layer, first to last, then of those that stay dense.

    `advance(n)` is called after every n layers.
    """
    chunks = list(_chunks(images, spec))
    layers = separable_layers(network)
    usual = [F.log_softmax(network(chunk), 1) for chunk in chunks]
    found: list[LayerSensitivity] = []
    for index, layer in enumerate(layers):
        size = BLOCKS.get(pattern, layer.pointwise.in_channels)
        score = scores(layer, size)
        moved, removed = [], []
        kept = float((score > 0).float().mean())  # a network may be pruned already
        densities = tuple(kept * density for density in DENSITIES)
        for density in densities:
            mask = choose_masks([score], density, 0.0)[0]
            with _pruned(layer, mask, size, pattern):
                moved.append(_divergence(network, chunks, usual))
            removed.append(float(score[~mask].sum() / score.sum()))
        row = _row(f"blocks.{index}.pointwise", [layer.pointwise.weight], densities, moved)
        found.append(row.replace(importance=_importance(moved, removed) / float(score.sum())))
        advance(1)
    for name, weights in _dense(network).items():
        with contextlib.ExitStack() as halved:
            for weight in weights:
                size_of = weight.detach().abs()
                halved.enter_context(_multiplied(weight, (size_of > size_of.flatten().median()).float()))
            moved = [_divergence(network, chunks, usual)]
        found.append(_row(name, weights, (_DENSE_AT,), moved))
        advance(1)
    return found


def steps(network: Network) -> int:
    """Return how many layers `measure` tells of."""
    return len(separable_layers(network)) + len(_dense(network))


def _dense(network: Network) -> dict[str, list[Tensor]]:
    """Return the weights that stay dense, 2% of all; the depthwise filters together."""
    depthwise = [layer.depthwise.weight for layer in separable_layers(network)]
    stem = cast(Stem, network.stem).conv.weight
    return {"stem": [stem], "depthwise": depthwise, "classifier": [network.classifier.weight]}


def _row(name: str, weights: list[Tensor], densities: tuple[float, ...], moved: list[float]) -> LayerSensitivity:
    count = sum(weight.numel() for weight in weights)
    return LayerSensitivity(name=name, weights=count, densities=densities, divergence=tuple(moved))


def _importance(moved: list[float], removed: list[float]) -> float:
    """Return what removing all of a layer's scores would cost, were it so at every density: a geometric mean."""
    costs = [max(nats, 1e-6) / max(share, 1e-6) for nats, share in zip(moved, removed, strict=True)]
    return math.exp(_TRUST * sum(map(math.log, costs)) / len(costs))


@contextlib.contextmanager
def _pruned(layer: Separable, mask: Tensor, size: int, pattern: str) -> Iterator[None]:
    """Prune a layer while the block lasts; a channel that is absent answers zero, so its batch norm goes too."""
    filters = spread(mask, size, layer.pointwise.in_channels).float()[:, :, None, None]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_multiplied(layer.pointwise.weight, filters))
        if pattern == "channel":
            for vector in (layer.bn.weight, layer.bn.bias):
                stack.enter_context(_multiplied(vector, mask[:, 0].float()))
        yield


@contextlib.contextmanager
def _multiplied(weight: Tensor, factor: Tensor) -> Iterator[None]:
    """Multiply a weight while the block lasts."""
    before = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(factor)
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)


@torch.no_grad()
def _divergence(network: Network, chunks: list[Tensor], usual: list[Tensor]) -> float:
    total = 0.0
    for chunk, expected in zip(chunks, usual, strict=True):
        answers = F.log_softmax(network(chunk), 1)
        total += float(F.kl_div(answers, expected, reduction="sum", log_target=True))
    return total / sum(len(chunk) for chunk in chunks)


@torch.no_grad()
def _chunks(images: NDArray[np.uint8], spec: PreprocessSpec) -> Iterator[Tensor]:
    for first in range(0, len(images), _CHUNK):
        yield normalize(torch.from_numpy(np.array(images[first : first + _CHUNK])), spec.mean, spec.std)
