"""Test vectors: images that every machine draws alike, so that a card need not hold them.

Generator version 1. Integer arithmetic only, so nothing depends on a library's random numbers,
a CPU's rounding or a decoder. The images may change only with a new version.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quicknet.core.errors import ConfigError
from quicknet.core.files import sha256_bytes

GENERATOR = 1
COUNT = 16

_GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(seed: int, count: int) -> NDArray[np.uint64]:
    """Return `count` 64-bit numbers of the SplitMix64 sequence that `seed` starts.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.

    >>> [hex(int(value)) for value in splitmix64(0, 2)]
    ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4']
    """
    z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def draw_vectors(size: int, channels: int, n: int = COUNT) -> NDArray[np.uint8]:
    """Return the first `n` test images (n, size, size, channels) uint8, always the same.

    In turn noise, a gradient, discs, stripes, and blends: flat and busy, dark and light, all
    256 levels. Raises ConfigError for a size outside 1..4096 or channels outside 1..16.
    """
    if not (1 <= size <= 4096 and 1 <= channels <= 16 and 1 <= n <= 1024):
        raise ConfigError(f"cannot draw {n} test images of {size} pixels and {channels} channels")
    return np.stack([_draw(index, size, channels) for index in range(n)])


def vectors_sha256(vectors: NDArray[np.uint8]) -> str:
    """Return the hex SHA-256 of the images' bytes in C order."""
    return sha256_bytes(vectors.tobytes())


def _draw(index: int, size: int, channels: int) -> NDArray[np.uint8]:
    kind, round_ = index % 4, index // 4
    if kind == 0:
        raw = splitmix64(index, size * size * channels) >> np.uint64(56)
        return raw.astype(np.uint8).reshape(size, size, channels)
    shape = _shape(kind, index, size, channels)
    if round_ % 2:  # every second round blends in another kind
        other = _shape(kind % 3 + 1, index + 1000, size, channels)
        shape = (shape * 5 + other * 3) >> 3
    return shape.astype(np.uint8)


def _shape(kind: int, seed: int, size: int, channels: int) -> NDArray[np.int64]:
    """Return one drawing (size, size, channels) of values 0..255; coordinates run 0..1023."""
    numbers = (splitmix64(seed, 64) >> np.uint64(40)).astype(np.int64)  # 24 bits each
    line = np.arange(size, dtype=np.int64) * 1024 // size
    y, x = line[:, None, None], line[None, :, None]
    low, high = numbers[:channels] % 256, numbers[16 : 16 + channels] % 256  # (channels,)
    if kind == 1:
        dx, dy = numbers[32] % 7 - 3, numbers[33] % 7 + 1
        level = (x * dx + y * dy) % 1024  # (size, size, 1)
        return np.asarray(low + (high - low) * level // 1023)
    if kind == 2:
        image = np.broadcast_to(low, (size, size, channels)).copy()
        for disc in range(5):
            cx, cy, radius = numbers[34 + 3 * disc] % 1024, numbers[35 + 3 * disc] % 1024, 96 + 48 * disc
            inside = (x - cx) ** 2 + (y - cy) ** 2 < radius * radius
            image = np.where(inside, (high + 37 * disc) % 256, image)
        return image
    period, slope = 64 + numbers[34] % 256, numbers[35] % 5 - 2
    bright = (x + y * slope) % period * 2 < period
    return np.where(bright, high, low)
