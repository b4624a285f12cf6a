"""The integer network in numpy: FORMAT.md's arithmetic, which every other implementation must equal.

Plain and slow. Matrix products run in float64, which is exact: by the bounds, no partial sum of
the products exceeds 2**33, and float64 holds every integer up to 2**53.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from quicknet.core.errors import DataError
from quicknet.qnz.format import FRACTION_BITS, INT16_MAX, INT16_MIN
from quicknet.qnz.network import IntegerNetwork, IntegerSeparable, IntegerStem, Requantization

Maps = NDArray[np.uint8]  # (N, side, side, channels)
Int32 = NDArray[np.int32]

_VALUES = 1 << 18  # of a feature map of the images done together: they stay in cache


def run(network: IntegerNetwork, images: Maps) -> Int32:
    """Return the logits (N, classes) int32 of images (N, side, side, channels) uint8, for any N.

    Raises DataError for images of another shape or type.
    """
    _check_images(network, images)
    logits = np.empty((len(images), len(network.weight)), np.int32)
    widest = max(len(network.stem.weight), network.channels)
    step = max(1, _VALUES // (network.side**2 * widest // network.stem.stride**2 + 1))
    for first in range(0, len(images), step):
        *_, (_, logits[first : first + step]) = _steps(network, images[first : first + step])
    return logits


def trace(network: IntegerNetwork, images: Maps) -> list[tuple[str, NDArray[Any]]]:
    """Return every tensor between image and logits, by name, in order.

    `stem` and, for block i from 1, `i.depthwise` and `i.pointwise`: (N, side, side, channels)
    uint8, after requantization; `sums` (N, F) int32; `logits` (N, classes) int32. Raises
    DataError as `run` does.
    """
    _check_images(network, images)
    return list(_steps(network, images))


def _check_images(network: IntegerNetwork, images: Maps) -> None:
    expected = (network.side, network.side, network.channels)
    if images.dtype != np.uint8 or images.shape[1:] != expected or images.ndim != 4:
        raise DataError(
            f"the network takes uint8 images (N, {expected[0]}, {expected[1]}, {expected[2]}), "
            f"not {images.dtype} {images.shape}; decode them by the card's spec"
        )


def _steps(network: IntegerNetwork, images: Maps) -> Iterator[tuple[str, NDArray[Any]]]:
    maps = _stem(network.stem, images)
    yield "stem", maps
    zero = network.stem.output.zero
    for index, block in enumerate(network.blocks, 1):
        middle = _depthwise(block, _pooled(maps) if block.pool else maps, zero)
        yield f"{index}.depthwise", middle
        maps = _requantized(_product(middle, block.weight) + block.bias, block.output)
        yield f"{index}.pointwise", maps
        zero = block.output.zero
    sums = maps.sum((1, 2), dtype=np.int32)  # (N, F)
    yield "sums", sums
    yield "logits", (_product(sums, network.weight) + network.bias).astype(np.int32)


def _stem(stem: IntegerStem, images: Maps) -> Maps:
    kernel, stride = stem.weight.shape[1], stem.stride
    side = (images.shape[1] - kernel) // stride + 1
    acc = np.zeros((len(images), side, side, len(stem.bias)))
    acc += stem.bias
    for i in range(kernel):
        rows = images[:, i : i + (side - 1) * stride + 1 : stride]  # (N, side, S, C)
        windows = sliding_window_view(rows, kernel, axis=2)[:, :, ::stride]  # (N, side, side, C, k)
        taps = windows.swapaxes(3, 4).reshape(len(images), side, side, -1)  # .. (k C)
        acc += _product(taps, stem.weight[:, i].reshape(len(stem.bias), -1))
    return _requantized(acc, stem.output)


def _pooled(maps: Maps) -> Maps:
    half = maps.shape[1] // 2
    even = maps[:, : 2 * half, : 2 * half]
    return np.maximum(
        np.maximum(even[:, 0::2, 0::2], even[:, 0::2, 1::2]), np.maximum(even[:, 1::2, 0::2], even[:, 1::2, 1::2])
    )


def _depthwise(block: IntegerSeparable, maps: Maps, zero: int) -> Maps:
    kernel, side = len(block.depthwise), maps.shape[1]
    border = (kernel // 2, kernel // 2)
    padded = np.pad(maps.astype(np.int32) - zero, ((0, 0), border, border, (0, 0)))
    acc = np.zeros(maps.shape, np.int32)
    for i in range(kernel):
        for j in range(kernel):
            acc += padded[:, i : i + side, j : j + side] * block.depthwise[i, j].astype(np.int32)
    output = _mulr(acc, block.multiplier) + block.middle_zero
    return np.clip(output, 0, block.middle_top).astype(np.uint8)


def _product(values: NDArray[Any], weight: NDArray[Any]) -> NDArray[np.float64]:
    """Return Σ values[.., k] · weight[o, k], exactly: (.., K), (O, K) → (.., O)."""
    return values.astype(np.float64) @ weight.T.astype(np.float64)


def _requantized(acc: NDArray[np.float64], output: Requantization) -> Maps:
    t = np.clip(acc.astype(np.int32) >> output.shift, INT16_MIN, INT16_MAX)
    multiplier = np.where(t >= 0, output.positive, output.negative)
    return np.clip(_mulr(t, multiplier) + output.zero, 0, output.top).astype(np.uint8)


def _mulr(t: Int32, multiplier: NDArray[np.int16]) -> Int32:
    return (t * multiplier.astype(np.int32) + (1 << FRACTION_BITS - 1)) >> FRACTION_BITS
