"""Many images through what takes a few at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Out = TypeVar("Out", bound=NDArray[Any])


def in_batches(
    run: Callable[[NDArray[np.uint8]], NDArray[Any]],
    images: NDArray[np.uint8],
    size: int,
    out: Out,
    advance: Callable[[int], None] | None = None,
) -> Out:
    """Fill `out` (N, …) with the answers of `run` to images (N, H, W, C), `size` at a time, and return it.

    `run` is given contiguous images, never none; `advance(n)` is called after every n of them.

    >>> images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    >>> in_batches(lambda rows: rows.sum((1, 2, 3)) + 10 * len(rows), images, 2, np.empty(5, np.int64))
    array([20, 21, 22, 23, 14])
    """
    for start in range(0, len(images), size):
        rows = np.ascontiguousarray(images[start : start + size])
        out[start : start + len(rows)] = run(rows)
        if advance is not None:
            advance(len(rows))
    return out


def classes_in_batches(
    run: Callable[[NDArray[np.uint8]], NDArray[Any]],
    images: NDArray[np.uint8],
    size: int = 256,
    advance: Callable[[int], None] | None = None,
) -> NDArray[np.int64]:
    """Return the class (N,) in which the logits of `run` are the largest, as `in_batches` does."""
    return in_batches(lambda rows: run(rows).argmax(1), images, size, np.empty(len(images), np.int64), advance)
