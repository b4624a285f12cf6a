"""The compiled kernels as Python functions over tensors: checks sizes, passes pointers."""

from __future__ import annotations

import ctypes
import functools
from typing import NamedTuple

import torch
from torch import Tensor

from quicknet.core.errors import ToolError
from quicknet.models.fused.build import Built, ensure_built

_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
# name → number of pointers after the array of sizes and epsilon
_POINTERS = {
    "separable_forward": 11,
    "separable_backward": 17,
    "stem_forward": 5,
    "stem_backward": 7,
    "output_forward": 7,
    "output_backward": 9,
}
# glibc's mallopt parameters
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


class Norm(NamedTuple):
    """Per-channel vectors (C,) of batch norm and activation.

    n = (z - mean) / sqrt(variance + epsilon) * weight + bias; y = n if n > 0 else n * slope.
    """

    mean: Tensor
    variance: Tensor
    weight: Tensor
    bias: Tensor
    slope: Tensor
    epsilon: float


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, Built]:
    built = ensure_built()
    if built.library is None:
        return None, built
    try:
        library = ctypes.CDLL(str(built.library))
        for name, pointers in _POINTERS.items():
            for suffix in _SUFFIX.values():
                function = getattr(library, f"quicknet_{name}_{suffix}")
                function.argtypes = [ctypes.c_void_p, ctypes.c_double, *[ctypes.c_void_p] * pointers]
    except (OSError, AttributeError) as error:
        return None, Built(None, f"fused kernels: not loaded, the plain path is used ({error})")
    _keep_freed_memory()
    return library, built


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed: each step allocates the same tens of megabytes a layer.

    Handed back to the system and mapped anew, their pages are zeroed at every step: without
    that, plain torch (quicknet_s, channels_last, 2 threads) went from 160 to 212 images/s.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 64 << 20)


def available() -> bool:
    """Return whether the kernels can be called; builds them at the first call."""
    return _loaded()[0] is not None


@functools.cache
def has_bf16() -> bool:
    """Return whether the kernels' matrix products can run in bfloat16 (AVX512-BF16)."""
    library = _loaded()[0]
    return library is not None and bool(library.quicknet_bf16())


def status() -> str:
    """Return one line: which path is used, and why."""
    return _loaded()[1].status


@functools.cache
def channel_unit(dtype: torch.dtype) -> int:
    """Return the multiple to which stored channels are padded."""
    library = _loaded()[0]
    return int(getattr(library, f"quicknet_channel_unit_{_SUFFIX[dtype]}")())


def padded(channels: int, dtype: torch.dtype) -> int:
    """Return the number of channels that a kept output of `channels` has."""
    unit = channel_unit(dtype)
    return -(-channels // unit) * unit


def call(name: str, sizes: tuple[int, ...], epsilon: float, *tensors: Tensor | None) -> None:
    """Call a kernel of csrc/kernels.cpp; None is a null pointer.

    Every tensor must be contiguous, of one dtype and of the shape that the kernel's comment
    says. Raises ToolError where memory runs out.
    """
    first = next(t for t in tensors if t is not None)
    function = getattr(_loaded()[0], f"quicknet_{name}_{_SUFFIX[first.dtype]}")
    array = (ctypes.c_int64 * len(sizes))(*sizes)
    for tensor in tensors:
        if tensor is not None and not (tensor.is_contiguous() and tensor.dtype == first.dtype):
            raise AssertionError(f"{name}: tensors must be contiguous {first.dtype}")
    code = function(array, epsilon, *(None if t is None else t.data_ptr() for t in tensors))
    if code:
        raise ToolError(f"the fused kernels ran out of memory ({name}); use a smaller batch or QUICKNET_FUSED=0")
