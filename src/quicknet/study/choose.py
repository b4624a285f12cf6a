"""Which pictures stay out and which are held out: pure functions of contents and pairs of like pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quicknet.data.similar import groups_of
from quicknet.data.splits import content_keys, stratified_by_key

Pairs = NDArray[np.int64]  # (m, 2), the smaller index first
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Judged:
    """The pictures of a folder that a set is compared with: rows `start` to `stop` of thumbnails, and contents."""

    name: str
    commit: str  # empty for a folder that is not read from git
    start: int
    stop: int
    digests: frozenset[str]
    undecodable: int

    def describe(self) -> dict[str, Any]:
        """Return what a manifest says of them."""
        return {
            "folder": self.name,
            "commit": self.commit,
            "pictures": self.stop - self.start,
            "undecodable": self.undecodable,
            "sha256": hashlib.sha256("\n".join(sorted(self.digests)).encode()).hexdigest(),  # over contents
        }


def overlap(digests: Sequence[str], pairs: Pairs, judged: Judged) -> Mask:
    """Return (n,) which pictures of the set, rows 0 to n, are equal or nearly equal to one of `judged`."""
    hit = np.array([digest in judged.digests for digest in digests], np.bool_)
    one, other = pairs.T
    hit[one[(one < len(digests)) & (other >= judged.start) & (other < judged.stop)]] = True
    return hit


def hold_out(digests: Sequence[str], labels: NDArray[np.int64], twins: Pairs, share: float, seed: int) -> Mask:
    """Return (n,) which pictures are held out: `share` of every class, by content and seed.

    Of pictures that are nearly equal (`twins`, pairs of rows) none is held out while another is learned from.
    """
    group = np.arange(len(digests))
    for members in groups_of(twins):
        group[members] = members[0]
    # One key for a group, so that its pictures of one class fall on one side together.
    keys = content_keys([digests[first] for first in group.tolist()], seed)
    _, rows = stratified_by_key(labels, share, keys)
    held = np.zeros(len(digests), np.bool_)
    held[rows] = True
    # by first member: groups with a picture that is not held out (one of another class, then)
    learned = np.zeros(len(digests), np.bool_)
    learned[group[~held]] = True
    return held & ~learned[group]
