"""Pictures of one scene that differ in compression, colours, scale or a shift of a few pixels.

Two steps. Candidates: a difference hash of 112 bits (Krawetz's dHash, both directions, on an
8x8 grid), and in many random orders of its bits, sorted, each image meets its next few
neighbours (Charikar 2002): n log n, not n². Verification: correlation of coarse colours,
then of fine detail.

On CIFAR-10 (59,980 images, 24,000 candidates, 6 s of one core) this finds a near-duplicate in train
for 320 of the 9,980 test images, 3.2%; all pairs found have the same label. Of a sample of
150 of the pairs that ciFAIR lists (Barz and Denzler 2020), 63% are found: the others are shifted or
scaled by more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 32  # pixels of the thumbnails that are compared

_TABLES = 32  # recall of candidates 0.63, 0.75, 0.80, 0.81 for 8, 16, 32, 48 on the ciFAIR sample
_NEIGHBOURS = 8
_MAX_BITS = 24  # of 112 that may differ
_BITS = 112
_SHIFT = 3  # pixels
# Detail at 0.5, 0.6, 0.7: 99.1, 99.8, 100% same labels; 70, 65, 57% of the ciFAIR sample.
DETAIL = 0.6
# Colours at 0, 0.7, 0.8, 0.85: 331, 323, 320, 309 test images; 99.8% then 100% same labels. Among
# 6,500 drawn scenes, in which like shapes recur, 37, 8, 0, 0 pairs are taken for one image.
COLOURS = 0.8
_CHUNK = 512


def near_duplicates(thumbnails: NDArray[np.uint8], seed: int = 0) -> NDArray[np.int64]:
    """Return pairs (m, 2) of near-duplicates among (n, 32, 32, 3) thumbnails, the smaller index first.

    Equal images are among them only where they have detail; find those by content.
    """
    pairs = _candidates(_difference_bits(thumbnails), np.random.default_rng(seed))
    verified = [pairs[:0]]
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        # Colours first: a third of the price of detail, and 384 of 4,928 candidates among 20,000 photographs pass.
        chunk = chunk[_colour_correlation(thumbnails, chunk) >= COLOURS]
        verified.append(chunk[_detail_correlation(thumbnails, chunk) >= DETAIL])
    return np.concatenate(verified)


def groups_of(pairs: NDArray[np.int64]) -> list[list[int]]:
    """Return the connected groups of a list of pairs, each sorted, ordered by their first.

    >>> groups_of(np.array([[1, 2], [5, 9], [2, 3]]))
    [[1, 2, 3], [5, 9]]
    """
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for one, other in pairs.tolist():
        first, second = sorted((root(one), root(other)))
        parent[second] = first
    groups: dict[int, list[int]] = {}
    for node in sorted(parent):
        groups.setdefault(root(node), []).append(node)
    return sorted(groups.values())


def _grey(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    grey: NDArray[np.float32] = thumbnails.mean(axis=-1, dtype=np.float32)
    return grey


def _difference_bits(thumbnails: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return (n, 112) bits: is a cell of the 8x8 grid brighter than its left neighbour, than its upper one."""
    bits = np.empty((len(thumbnails), _BITS), np.bool_)
    cell = SIDE // 8
    for start in range(0, len(thumbnails), _CHUNK):
        grey = _grey(thumbnails[start : start + _CHUNK])
        grid = grey.reshape(-1, 8, cell, 8, cell).mean(axis=(2, 4))
        across = (grid[:, :, 1:] > grid[:, :, :-1]).reshape(len(grid), -1)
        down = (grid[:, 1:] > grid[:, :-1]).reshape(len(grid), -1)
        bits[start : start + len(grid)] = np.concatenate([across, down], axis=1)
    return bits


def _candidates(bits: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return most of the pairs (m, 2) whose bits differ in at most _MAX_BITS places."""
    n = len(bits)
    words = _words(np.pad(bits, ((0, 0), (0, 128 - _BITS))))  # (n, 2)
    codes_by_table = [np.empty(0, np.int64)]
    for _ in range(_TABLES):
        order = np.argsort(_words(bits[:, rng.permutation(_BITS)[:64]])[:, 0], kind="stable")
        ordered = words[order]
        for step in range(1, min(_NEIGHBOURS, n - 1) + 1):
            different = np.bitwise_count(ordered[step:] ^ ordered[:-step]).sum(axis=1)
            near = np.flatnonzero(different <= _MAX_BITS)
            one, other = order[near], order[near + step]
            codes_by_table.append(np.minimum(one, other) * n + np.maximum(one, other))
    codes = np.unique(np.concatenate(codes_by_table))
    return np.stack([codes // max(n, 1), codes % max(n, 1)], axis=1)


def _words(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Pack rows of a multiple of 64 bits into 64-bit words."""
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint64)


def _detail_correlation(thumbnails: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the correlation of fine detail of every pair, at the best shift of up to 3 pixels.

    Coarse structure (sky above, sea below) is subtracted: it is what unlike pictures share.
    """
    first, second = (_detail(_grey(thumbnails[column])) for column in pairs.T)
    inner = slice(_SHIFT, SIDE - _SHIFT)
    still = _normalized(first[:, inner, inner])
    best = np.full(len(pairs), -1, np.float32)
    span = SIDE - 2 * _SHIFT
    for top in range(2 * _SHIFT + 1):
        for left in range(2 * _SHIFT + 1):
            shifted = _normalized(second[:, top : top + span, left : left + span])
            np.maximum(best, np.einsum("ij,ij->i", still, shifted), out=best)
    return best


def _colour_correlation(thumbnails: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the correlation of every pair on an 8x8 grid in colour, without each channel's brightness."""
    cell = SIDE // 8
    first, second = (
        thumbnails[column].reshape(-1, 8, cell, 8, cell, 3).mean(axis=(2, 4), dtype=np.float32) for column in pairs.T
    )
    first, second = (grid - grid.mean(axis=(1, 2), keepdims=True) for grid in (first, second))
    product: NDArray[np.float32] = np.einsum("ijkc,ijkc->i", _unit(first), _unit(second))
    return product


def _unit(grid: NDArray[np.float32]) -> NDArray[np.float32]:
    norm = np.sqrt((grid**2).sum(axis=(1, 2, 3), keepdims=True))
    unit: NDArray[np.float32] = grid / (norm + 1e-3)
    return unit


def _detail(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Subtract from each pixel the mean of the 5x5 pixels around it."""
    total = np.pad(grey, ((0, 0), (2, 2), (2, 2)), mode="edge").cumsum(axis=1).cumsum(axis=2)
    total = np.pad(total, ((0, 0), (1, 0), (1, 0)))
    box = total[:, 5:, 5:] - total[:, :-5, 5:] - total[:, 5:, :-5] + total[:, :-5, :-5]
    detail: NDArray[np.float32] = grey - box / 25
    return detail


def _normalized(patch: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = patch.reshape(len(patch), patch.shape[1] * patch.shape[2])  # not -1: there may be none
    flat = flat - flat.mean(axis=1, keepdims=True)
    # +1: rounding noise alone has a small norm, which must not count as detail
    unit: NDArray[np.float32] = flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1)
    return unit
