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


def _numbers(*names: str) -> list[tuple[str, type[ctypes.c_int64]]]:
    return [(name, ctypes.c_int64) for name in names]


def _pointers(*names: str) -> list[tuple[str, type[ctypes.c_void_p]]]:
    return [(name, ctypes.c_void_p) for name in names]


# The kernels' arguments: the structs of csrc, by the same names (a test compiles the comparison).
# There each struct's comment says what shapes its arrays have.


class Separable(ctypes.Structure):
    """Sizes of a separable layer's call."""

    _fields_ = _numbers(
        "images", "in_height", "in_width", "in_channels", "out_channels", "kernel", "pool", "bf16", "threads"
    )


class Stem(ctypes.Structure):
    """Sizes of a stem's call."""

    _fields_ = _numbers(
        "images", "in_height", "in_width", "in_channels", "out_channels", "kernel", "stride", "bf16", "threads"
    )


class Output(ctypes.Structure):
    """Sizes of the last activation's call."""

    _fields_ = _numbers("pixels", "channels", "threads")


class Dense(ctypes.Structure):
    """Sizes of a dense 3x3 convolution's call."""

    _fields_ = _numbers("images", "height", "width", "in_channels", "out_channels", "bf16", "threads")


class NormInput(ctypes.Structure):
    """`Norm` as the kernels take it."""

    _fields_ = [*_pointers("mean", "variance", "weight", "bias", "slope"), ("epsilon", ctypes.c_double)]


class SeparableInput(ctypes.Structure):
    """The previous layer's kept output and what normalizes it; weights."""

    _fields_ = [*_pointers("z"), ("norm", NormInput), *_pointers("depthwise", "pointwise")]


class StemInput(ctypes.Structure):
    """Image and weight."""

    _fields_ = _pointers("x", "weight")


class OutputInput(ctypes.Structure):
    """The last kept output and what normalizes it."""

    _fields_ = [*_pointers("z"), ("norm", NormInput)]


class LayerOutput(ctypes.Structure):
    """What a layer's forward writes; null moments are not wanted."""

    _fields_ = _pointers("z", "mean", "variance")


class LayerKept(ctypes.Structure):
    """What a layer's backward gets: the kept output, gradients of it and of its moments."""

    _fields_ = _pointers("g", "z", "mean", "d_mean", "d_variance")


class SeparableGradients(ctypes.Structure):
    """What it writes; null is not wanted."""

    _fields_ = _pointers("z", "norm", "depthwise", "pointwise")


class StemGradients(ctypes.Structure):
    """What it writes for a stem."""

    _fields_ = _pointers("weight")


class OutputResult(ctypes.Structure):
    """The activated features."""

    _fields_ = _pointers("y")


class OutputGradients(ctypes.Structure):
    """Their gradient; and what is written, gradients of `OutputInput`."""

    _fields_ = _pointers("dy", "z", "norm")


class DenseInput(ctypes.Structure):
    """Input and weight."""

    _fields_ = _pointers("x", "weight")


class DenseOutput(ctypes.Structure):
    """The convolution's output."""

    _fields_ = _pointers("y")


class DenseKept(ctypes.Structure):
    """Input and the output's gradient."""

    _fields_ = _pointers("x", "dy")


class DenseGradients(ctypes.Structure):
    """What is written."""

    _fields_ = _pointers("weight")


class Requantize(ctypes.Structure):
    """Sizes of a call for an integer layer's output, its shift and ends."""

    _fields_ = _numbers("pixels", "channels", "shift", "low", "high", "threads")


class RequantizeInput(ctypes.Structure):
    """Sums and multipliers."""

    _fields_ = _pointers("sums", "positive", "negative")


class RequantizeResult(ctypes.Structure):
    """Shifted sums and the output."""

    _fields_ = _pointers("t", "y")


class RequantizeGradients(ctypes.Structure):
    """The output's gradient, what the forward wrote; and what is written, gradients of `RequantizeInput`."""

    _fields_ = _pointers("dy", "t", "y", "sums", "positive", "negative")


# name → the structs that it takes
FUNCTIONS: dict[str, tuple[type[ctypes.Structure], ...]] = {
    "separable_forward": (Separable, SeparableInput, LayerOutput),
    "separable_backward": (Separable, SeparableInput, LayerKept, SeparableGradients),
    "stem_forward": (Stem, StemInput, LayerOutput),
    "stem_backward": (Stem, StemInput, LayerKept, StemGradients),
    "output_forward": (Output, OutputInput, OutputResult),
    "output_backward": (Output, OutputInput, OutputGradients),
    "dense_forward": (Dense, DenseInput, DenseOutput),
    "dense_weight_gradient": (Dense, DenseKept, DenseGradients),
    "requantize_forward": (Requantize, RequantizeInput, RequantizeResult),
    "requantize_backward": (Requantize, RequantizeInput, RequantizeGradients),
}


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, Built]:
    built = ensure_built()
    if built.library is None:
        return None, built
    try:
        library = ctypes.CDLL(str(built.library))
        for name, structs in FUNCTIONS.items():
            for suffix in _SUFFIX.values():
                function = getattr(library, f"quicknet_{name}_{suffix}")
                function.argtypes = [ctypes.POINTER(struct) for struct in structs]
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
        mallopt(_M_TRIM_THRESHOLD, -1)  # no limit: steps of `speedy` free more than 2 GB, an int's largest number
        mallopt(_M_TOP_PAD, 64 << 20)


def available() -> bool:
    """Return whether the kernels can be called; builds them at the first call."""
    return _loaded()[0] is not None


@functools.cache
def has_bf16() -> bool:
    """Return whether the kernels' matrix products can run in bfloat16 (AVX512-BF16)."""
    library = _loaded()[0]
    return library is not None and bool(library.quicknet_bf16())


def prefers_bf16() -> bool:
    """Return whether the kernels are faster with products in bfloat16: by tiles (AMX), and on AMD's CPUs."""
    library = _loaded()[0]
    return library is not None and bool(library.quicknet_bf16_pays())


def autocast_to_bf16(dtype: torch.dtype) -> bool:
    """Return whether autocast asks for products in bfloat16, which the kernels have for inputs of `dtype`."""
    asked = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
    return asked and dtype is torch.float32 and has_bf16()


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


def pointers(dtype: torch.dtype, **tensors: Tensor | None) -> dict[str, int | None]:
    """Return the fields of a struct; None is a null pointer. The tensors must outlive the struct."""
    for name, tensor in tensors.items():
        if tensor is not None and not (tensor.is_contiguous() and tensor.dtype == dtype):
            raise AssertionError(f"{name}: must be contiguous {dtype}")
    return {name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()}


def norm_input(dtype: torch.dtype, norm: Norm) -> NormInput:
    """Return `norm`, which must outlive it, as the kernels take it."""
    *vectors, epsilon = norm
    return NormInput(**pointers(dtype, **dict(zip(norm._fields, vectors, strict=False))), epsilon=epsilon)


def call(name: str, dtype: torch.dtype, *structs: ctypes.Structure) -> None:
    """Call a kernel of csrc/kernels.cpp with its structs of `FUNCTIONS`. Raises ToolError where memory runs out."""
    function = getattr(_loaded()[0], f"quicknet_{name}_{_SUFFIX[dtype]}")
    code = function(*structs)
    if code:
        raise ToolError(f"the fused kernels ran out of memory ({name}); use a smaller batch or QUICKNET_FUSED=0")
