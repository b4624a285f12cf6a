"""Deep Compression to the letter, for figures beside the publication's: float codebooks, Huffman, relative indices.

Source: Han, Mao, Dally 2016 (arXiv:1510.00149): pruning §2 (indices relative to the weight before, of a
fixed width, with a filler zero where a gap is longer), trained quantization §3 (`training/share.py`),
Huffman coding §4.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from quicknet.core.settings import Settings
from quicknet.models.network import Network
from quicknet.training.prune import separable_layers

BITS = 5  # of a code: 32 shared weights a layer
INDEX_BITS = 5  # of a relative index; the publication's for fully connected layers, which a pointwise layer is
_FLOAT_BITS = 32


class PaperLayer(Settings, frozen=True, kw_only=True):
    """A pointwise layer: weights `kept`, with `fillers` more where a gap exceeds the index, `values` in the codebook;
    bits of a value and of an index by Huffman codes, and the layer's bytes pruned, quantized, coded.
    """

    name: str
    weights: int
    kept: int
    fillers: int
    values: int
    value_bits: float
    index_bits: float
    bytes_pruned: int
    bytes_quantized: int
    bytes_coded: int


class PaperSizes(Settings, frozen=True, kw_only=True):
    """The steps of the publication's tables. Everything that is not a pointwise weight counts as fp32."""

    bytes_dense: int
    bytes_pruned: int
    bytes_quantized: int
    bytes_coded: int
    layers: tuple[PaperLayer, ...]


def huffman_bits(counts: Iterable[int]) -> float:
    """Return the mean length of a Huffman code of symbols with these counts; a single symbol takes 1 bit.

    >>> huffman_bits([2, 1, 1])
    1.5
    """
    heap = sorted(count for count in counts if count)
    total, bits = sum(heap), 0
    if len(heap) < 2:
        return float(len(heap))
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        bits += joined
        heapq.heappush(heap, joined)
    return bits / total


def relative_indices(there: NDArray[np.bool_], width: int) -> NDArray[np.int64]:
    """Return the gaps before each weight that is there, in row-major order, fillers among them; each below 2^width.

    >>> relative_indices(np.array([0, 1, 1, 0, 0, 0, 0, 1], bool), 2).tolist()
    [1, 0, 3, 0]
    """
    places = np.flatnonzero(there)
    gaps = np.diff(places, prepend=-1) - 1
    longest = (1 << width) - 1
    parts = [[longest] * int(gap // (longest + 1)) + [int(gap % (longest + 1))] for gap in gaps]
    return np.array([index for part in parts for index in part], np.int64)


def paper_sizes(network: Network) -> PaperSizes:
    """Return what a network whose weights are shared takes."""
    rows = [
        _layer(f"blocks.{index}.pointwise", layer.pointwise.weight.detach().cpu().numpy()[:, :, 0, 0])
        for index, layer in enumerate(separable_layers(network))
    ]
    dense = 4 * sum(parameter.numel() for parameter in network.parameters())
    others = dense - 4 * sum(row.weights for row in rows)
    return PaperSizes(
        bytes_dense=dense,
        bytes_pruned=others + sum(row.bytes_pruned for row in rows),
        bytes_quantized=others + sum(row.bytes_quantized for row in rows),
        bytes_coded=others + sum(row.bytes_coded for row in rows),
        layers=tuple(rows),
    )


def _layer(name: str, weight: NDArray[np.float32]) -> PaperLayer:
    there = weight != 0
    indices = relative_indices(there, INDEX_BITS)
    kept, count = int(there.sum()), len(indices)
    values, counts = np.unique(weight[there], return_counts=True)
    fillers = count - kept
    value_bits = huffman_bits([*counts.tolist(), fillers])
    index_bits = huffman_bits(np.bincount(indices).tolist())
    codebook = _FLOAT_BITS * len(values)
    return PaperLayer(
        name=name,
        weights=weight.size,
        kept=kept,
        fillers=fillers,
        values=len(values),
        value_bits=value_bits,
        index_bits=index_bits,
        bytes_pruned=-(-count * (_FLOAT_BITS + INDEX_BITS) // 8),
        bytes_quantized=-(-(count * (BITS + INDEX_BITS) + codebook) // 8),
        bytes_coded=-(-round(count * (value_bits + index_bits) + codebook) // 8),
    )
