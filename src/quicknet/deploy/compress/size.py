"""How many bytes an integer network takes: as its arrays lie, and at their entropy, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from quicknet.core.settings import Settings
from quicknet.models.layers import Stem
from quicknet.models.network import Network
from quicknet.qnz.network import IntegerNetwork, Requantization
from quicknet.training.prune import separable_layers


class LayerSize(Settings, frozen=True, kw_only=True):
    """One layer of the compressed file.

    `kept` of the run's `weights` are there. A kept weight takes `bits` and its place `index_bits`, as they lie
    (8, and a bit for each block) and coded (`coded_bits`, `coded_index_bits`: entropy of order 0 within
    the layer). `bytes_coded` is the layer's share of the file, its biases and multipliers included;
    `time_share` its share of an image's time, None where that was not measured.
    """

    name: str
    weights: int
    kept: int
    bits: float
    index_bits: float
    coded_bits: float
    coded_index_bits: float
    bytes_coded: int
    time_share: float | None = None


def entropy(values: NDArray[np.generic]) -> float:
    """Return the entropy of order 0 of an array's values, in bits a value; 0 for an empty one.

    >>> entropy(np.array([1, 2, 3, 3]))
    1.5
    """
    counts = np.unique(values, return_counts=True)[1]
    share = counts / max(1, counts.sum())
    return float(-(share * np.log2(share)).sum()) if len(share) > 1 else 0.0


def blocks_kept(weight: NDArray[np.int8], size: int) -> NDArray[np.bool_]:
    """Return which blocks (O, K / size) of a pointwise layer's weights (O, K) hold anything but zeros."""
    padded = np.pad(weight, ((0, 0), (0, -weight.shape[1] % size)))
    kept: NDArray[np.bool_] = (padded.reshape(len(weight), -1, size) != 0).any(2)
    return kept


def layer_sizes(
    network: IntegerNetwork, block: int, weights: Sequence[int] = (), shares: Sequence[float] = ()
) -> tuple[LayerSize, ...]:
    """Return every layer's size, in the order of the network; `block` input channels are kept or absent together.

    `weights` are how many each layer had before it was pruned, where channels are gone; `shares` of the
    time, where they were measured.
    """
    layers = tuple(_layers(network, block))
    if weights:
        layers = tuple(layer.replace(weights=count) for layer, count in zip(layers, weights, strict=True))
    if shares:
        layers = tuple(layer.replace(time_share=share) for layer, share in zip(layers, shares, strict=True))
    return layers


def layer_weights(network: Network) -> tuple[int, ...]:
    """Return how many weights each layer of a QuickNet has, as `layer_sizes` lists them."""
    pairs = [(layer.depthwise.weight, layer.pointwise.weight) for layer in separable_layers(network)]
    weights = [cast(Stem, network.stem).conv.weight, *(weight for pair in pairs for weight in pair)]
    return (*(weight.numel() for weight in weights), network.classifier.weight.numel())


def _layers(network: IntegerNetwork, size: int) -> Iterator[LayerSize]:
    stem = network.stem
    yield _dense("stem", stem.weight, stem.bias, *_multipliers(stem.output))
    for index, layer in enumerate(network.blocks):
        yield _dense(f"blocks.{index}.depthwise", layer.depthwise, layer.multiplier)
        kept = blocks_kept(layer.weight, size)
        yield _pointwise(f"blocks.{index}.pointwise", layer.weight, kept, layer.bias, *_multipliers(layer.output))
    yield _dense("classifier", network.weight, network.bias)


def _multipliers(output: Requantization) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    return output.positive, output.negative


def _dense(name: str, weight: NDArray[np.generic], *others: NDArray[np.generic]) -> LayerSize:
    coded = min(entropy(weight), 8.0 * weight.itemsize)
    extra = sum(array.nbytes for array in others)
    return LayerSize(
        name=name,
        weights=weight.size,
        kept=weight.size,
        bits=8.0 * weight.itemsize,
        index_bits=0.0,
        coded_bits=coded,
        coded_index_bits=0.0,
        bytes_coded=round(coded * weight.size / 8) + extra,
    )


def _pointwise(
    name: str, weight: NDArray[np.int8], blocks: NDArray[np.bool_], *others: NDArray[np.generic]
) -> LayerSize:
    kept = np.repeat(blocks, -(-weight.shape[1] // blocks.shape[1]), 1)[:, : weight.shape[1]]
    values = weight[kept]
    count, places = max(1, len(values)), blocks.size
    coded, index = entropy(values), entropy(blocks) * places / count
    extra = sum(array.nbytes for array in others)
    return LayerSize(
        name=name,
        weights=weight.size,
        kept=len(values),
        bits=8.0,
        index_bits=places / count,
        coded_bits=coded,
        coded_index_bits=index,
        bytes_coded=round((coded + index) * len(values) / 8) + extra,
    )
