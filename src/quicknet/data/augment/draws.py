"""Random numbers that depend on (seed, epoch, index, stream) and on nothing else.

A counter-based generator: no state to save, no order to keep, the same number for an image
whatever batch, process or resumed run asks for it. Source: the generator and the finalizer of
SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"),
started once per (seed, epoch, stream) and then indexed.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BITS = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


class Stream(IntEnum):
    """What a random number decides. A changed number changes every run: only append."""

    FLIP = 0
    CROP_Y = 1
    CROP_X = 2
    SCALE = 3
    SHIFT_Y = 4
    SHIFT_X = 5
    ROTATE = 6
    BRIGHTNESS = 7
    CONTRAST = 8
    SATURATION = 9
    TRIVIAL_OPERATION = 10
    TRIVIAL_LEVEL = 11
    TRIVIAL_SIGN = 12
    CUTOUT_Y = 13
    CUTOUT_X = 14
    MIX_COIN = 15
    MIX_KIND = 16
    MIX_PARTNER = 17
    MIX_WEIGHT = 18
    BOX_Y = 19
    BOX_X = 20


def sample(seed: int, epoch: int, indices: Tensor, stream: int) -> Tensor:
    """Return a uniform number in [0, 1) for each index, the same on every device.

    `indices` int64 of any shape → float64 of that shape, a multiple of 2^-53.
    """
    return _uniform(indices, _key(seed, epoch, stream))


class Draws:
    """The random decisions of a batch: every stream's number for each of its images, on CPU.

    `indices` (B,) int64. All streams are hashed at once, since B is small and each torch call
    has a fixed price.
    """

    def __init__(self, seed: int, epoch: int, indices: Tensor) -> None:
        keys = torch.tensor([[_key(seed, epoch, stream)] for stream in Stream])
        self._numbers = _uniform(indices, keys)  # (streams, B)

    def uniform(self, stream: Stream, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return (B,) float64 in low..high."""
        return self._numbers[stream] * (high - low) + low

    def below(self, stream: Stream, count: int) -> Tensor:
        """Return (B,) int64, uniform over 0..count - 1."""
        # (1 - 2^-53) * count rounds to a number below count for every count under 2^53.
        return (self._numbers[stream] * count).long()

    def coin(self, stream: Stream, probability: float = 0.5) -> Tensor:
        """Return (B,) bool, true with `probability`."""
        return self._numbers[stream] < probability


def beta_quantile(u: Tensor, alpha: float, points: int = 1 << 14) -> Tensor:
    """Return the quantiles of Beta(alpha, alpha) at `u` (B,) float64, by numerical integration.

    Up to alpha = 1 it steps evenly in t = x^alpha, where the density, infinite at x = 0, becomes
    (1 - x)^(alpha - 1); above in x itself. The upper half follows by symmetry.
    """
    power = min(alpha, 1.0)
    x = np.linspace(0.0, 0.5**power, points) ** (1 / power)
    density = x ** (alpha - power) * (1 - x) ** (alpha - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    numbers: NDArray[np.float64] = u.numpy()
    half = np.interp(np.minimum(numbers, 1 - numbers), mass / mass[-1] / 2, x)
    return torch.from_numpy(np.where(numbers < 0.5, half, 1 - half))


def _key(seed: int, epoch: int, stream: int) -> int:
    """Return where the stream of (seed, epoch) starts, as a signed 64-bit number."""
    key = 0
    for part in (seed, epoch, stream):
        key = (key ^ part) + _GOLDEN & _BITS
        key = (key ^ key >> 30) * _MIX_1 & _BITS
        key = (key ^ key >> 27) * _MIX_2 & _BITS
        key ^= key >> 31
    return _signed(key)


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits


def _uniform(indices: Tensor, key: int | Tensor) -> Tensor:
    x = indices * _signed(_GOLDEN) + key  # int64 arithmetic wraps
    x = (x ^ _shift_right(x, 30)) * _signed(_MIX_1)
    x = (x ^ _shift_right(x, 27)) * _signed(_MIX_2)
    x = x ^ _shift_right(x, 31)
    return _shift_right(x, 11).double() * 2.0**-53


def _shift_right(x: Tensor, count: int) -> Tensor:
    """Shift as if unsigned: torch repeats the sign bit, the mask takes it off."""
    return (x >> count) & ((1 << (64 - count)) - 1)
