"""Which images are held out: pure functions of labels and keys."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def stratified(labels: NDArray[np.int64], share: float, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Split indices into (rest, held out), `share` of every class held out at random.

    Both are sorted, disjoint and together complete. A class of n gives round(share * n),
    halves upwards.

    >>> rest, held = stratified(np.repeat([0, 1], [10, 30]), 0.1, np.random.default_rng(0))
    >>> len(rest), np.bincount(np.repeat([0, 1], [10, 30])[held]).tolist()
    (36, [1, 3])
    """
    return stratified_by_key(labels, share, rng.permutation(len(labels)), at_least=0)


def stratified_by_key(
    labels: NDArray[np.int64], share: float, keys: NDArray[np.integer], at_least: int = 1
) -> tuple[Indices, Indices]:
    """Split indices into (rest, held out): in every class those of the smallest keys are held out.

    Images of one class with equal keys stay on one side (so exact duplicates, when keys come
    from content); a class keeps at least one image in the rest. `at_least` images of a class
    are held out where that leaves one.
    """
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ordered = members[np.argsort(keys[members], kind="stable")]
        sorted_keys = keys[ordered]
        target = max(int(share * len(ordered) + 0.5), at_least)
        # cut only between unequal keys: the last such cut at or before `target`, else the first after
        cuts = np.flatnonzero(sorted_keys[1:] != sorted_keys[:-1]) + 1
        before = cuts[cuts <= target]
        if target and len(cuts):
            held[ordered[: before[-1] if len(before) else cuts[0]]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def at_random(count: int, share: float, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Split range(count) into (rest, held out), round(share * count) held out, classes ignored."""
    order = rng.permutation(count)
    cut = int(share * count + 0.5)
    return np.sort(order[cut:]), np.sort(order[:cut])


def content_keys(digests: list[str], seed: int) -> NDArray[np.uint64]:
    """Return a pseudo-random key per image that depends on its content and the seed alone.

    So renaming or moving images changes no split, adding one changes at most its neighbours,
    and copies of one image get one key.
    """
    keys = [hashlib.sha256(f"{seed}:{digest}".encode()).digest()[:8] for digest in digests]
    return np.frombuffer(b"".join(keys), dtype=np.uint64).copy()
