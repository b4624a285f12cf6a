"""How many bytes an integer network takes: as its arrays lie, coded, and at their entropy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from quicknet.core.settings import Settings
from quicknet.models.layers import Stem
from quicknet.models.network import Network
from quicknet.qnz.coding.encode import encode_numbers, kept_blocks, layer_bits
from quicknet.qnz.coding.model import Parts
from quicknet.qnz.file import CODINGS, Coding, QnzFile
from quicknet.qnz.format import CODE, CODED_BLOCK
from quicknet.qnz.network import IntegerNetwork, IntegerSeparable, IntegerStem
from quicknet.training.prune import separable_layers


class LayerSize(Settings, frozen=True, kw_only=True):
    """One layer of the compressed file.

    `kept` of the run's `weights` are there. A kept weight takes `bits` and its place `index_bits`, as they lie
    (8, and a bit for each block), and `coded_bits` and `coded_index_bits` as the file's coder writes them, the mean
    of the layer; zeros that are coded between single weights count with these. `bytes_coded` is what the layer takes
    in the file, its biases and multipliers included; the rest of the file is the tables of its prefix codes, shape,
    card, and table of sections. `time_share` is the layer's share of an image's time, None where that was not measured.
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


class CodeSizes(NamedTuple):
    """What all numbers of a network take: CODE by each coding, and the entropy of order 0 of every layer's arrays.

    The entropy counts no tables, as if the frequencies of each array's values were known.
    """

    contexts_bytes: int
    huffman_bytes: int
    entropy_bytes: int


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


def kept_weights(weight: NDArray[np.int8], size: int) -> NDArray[np.bool_]:
    """Return which of a pointwise layer's weights (O, K) are in blocks that hold anything but zeros."""
    return np.repeat(blocks_kept(weight, size), size, 1)[:, : weight.shape[1]]


def layer_sizes(
    network: IntegerNetwork,
    block: int,
    weights: Sequence[int] = (),
    shares: Sequence[float] = (),
    coding: Coding = "contexts",
) -> tuple[LayerSize, ...]:
    """Return every layer's size, in the order of the network; `block` input channels are kept or absent together.

    `weights` are how many each layer had before it was pruned, where channels are gone; `shares` of the
    time, where they were measured; `coding`, the file's, is not "none".
    """
    layers = tuple(_layers(network, block, iter(layer_bits(network, CODINGS[coding]))))
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


def code_sizes(file: QnzFile) -> CodeSizes:
    """Return what the numbers of a file take by each coding, whichever it has."""
    sections = {section.kind: section.size_bytes for section in file.sections}
    sizes = {
        f"{name}_bytes": sections[CODE] if name == file.coding else len(encode_numbers(file.network, number, 0))
        for name, number in CODINGS.items()  # 0: nobody reads it, so it cannot be too short for a reader
    }
    bits = sum(entropy(array) * array.size for array in _arrays(file.network))
    return CodeSizes(**sizes, entropy_bytes=round(bits / 8))


def _arrays(network: IntegerNetwork) -> Iterator[NDArray[np.generic]]:
    """Yield every array: of pointwise weights which blocks are kept, and what these hold."""
    layers: list[IntegerStem | IntegerSeparable] = [network.stem, *network.blocks]
    for layer in layers:
        if isinstance(layer, IntegerSeparable):
            yield from (layer.depthwise, layer.multiplier)
            yield kept_blocks(layer.weight)
            yield layer.weight[kept_weights(layer.weight, CODED_BLOCK)]
        else:
            yield layer.weight
        yield from (layer.bias, layer.output.positive, layer.output.negative)
    yield from (network.weight, network.bias)


def _layers(network: IntegerNetwork, size: int, parts: Iterator[Parts]) -> Iterator[LayerSize]:
    yield _dense("stem", network.stem.weight, next(parts))
    for index, layer in enumerate(network.blocks):
        yield _dense(f"blocks.{index}.depthwise", layer.depthwise, next(parts))
        kept = int(kept_weights(layer.weight, size).sum())
        places = blocks_kept(layer.weight, size).size
        yield _layer(f"blocks.{index}.pointwise", layer.weight, (kept, places), next(parts))
    yield _dense("classifier", network.weight, next(parts))


def _dense(name: str, weight: NDArray[np.generic], parts: Parts) -> LayerSize:
    return _layer(name, weight, (weight.size, 0), parts)


def _layer(name: str, weight: NDArray[np.generic], there: tuple[int, int], parts: Parts) -> LayerSize:
    """Return the size of a layer; `there`: the kept weights, and the bits of their places before coding."""
    kept, places = there
    count = max(1, kept)
    return LayerSize(
        name=name,
        weights=weight.size,
        kept=kept,
        bits=8.0 * weight.itemsize,
        index_bits=places / count,
        coded_bits=parts.values / count,
        coded_index_bits=parts.places / count,
        bytes_coded=round((parts.places + parts.values + parts.others) / 8),
    )
