"""The compiled form of `ops.py`'s operations on photographs: the same bits, in a fifth of the time.

`csrc/augment.c` is compiled at first use, once per user (`core/compile.py`); where that cannot be, where
images lie on another device, and with QUICKNET_FUSED=0, `ops.py` computes with torch.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import torch
from torch import Tensor

from quicknet.core.compile import Part, ensure_built
from quicknet.core.limits import MAX_IMAGE_SIZE

_SOURCE = Path(__file__).resolve().parent / "csrc" / "augment.c"

PART = Part(
    what="augmentation",
    fallback="torch's operations are used",
    folder="augment",
    sources=(_SOURCE,),
    headers=(),
    language="C",
    variable="CC",
    compilers=("cc", "gcc", "clang"),
    # Integers only, which are the same whatever the instructions; wrapping, as torch's do.
    common=("-std=c11", "-O3", "-fwrapv", "-fPIC", "-shared", "-w"),
    flags=(("-fopenmp",), ()),
    check="import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).quicknet_check())",
)
# name → how many arrays and how many numbers it takes
_FUNCTIONS = {"crop_and_flip": (6, 4), "warp": (3, 4), "blend": (2, 4)}


@functools.cache
def _library() -> ctypes.CDLL | None:
    built = ensure_built(PART)
    if built.library is None:
        return None
    try:
        library = ctypes.CDLL(str(built.library))
        for name, (arrays, numbers) in _FUNCTIONS.items():
            function = getattr(library, f"quicknet_{name}")
            function.argtypes = [ctypes.c_void_p] * arrays + [ctypes.c_int64] * numbers
            function.restype = None
    except (OSError, AttributeError):
        return None
    return library


def usable(images: Tensor) -> bool:
    """Return whether the library takes `images` (N, S, S, C) uint8."""
    return (
        images.device.type == "cpu"
        and images.shape[1] <= MAX_IMAGE_SIZE
        and os.environ.get("QUICKNET_FUSED") != "0"
        and _library() is not None
    )


def crop_and_flip(images: Tensor, indices: Tensor, dy: Tensor, dx: Tensor, flip: Tensor) -> Tensor:
    """Do as `ops.crop_and_flip` does; the tensors of the batch are int64, `flip` bool."""
    out = images.new_empty(len(indices), *images.shape[1:])
    _call("crop_and_flip", out, images, indices, dy, dx, flip, out)
    return out


def warp(images: Tensor, fixed: Tensor) -> Tensor:
    """Do as `ops.warp` does, whose matrices `fixed` (B, 2, 3) int32 are already in its units."""
    out = torch.empty_like(images)
    _call("warp", out, images, fixed, out)
    return out


def blend(images: Tensor, factors: Tensor) -> Tensor:
    """Do as `ops.blend` does to images (B, S, S, C), which are overwritten, by `factors` (3, B) int32."""
    _call("blend", images, images, factors)
    return images


def _call(name: str, shaped: Tensor, *arrays: Tensor) -> None:
    """Call a function with arrays, which must be contiguous, and with the sizes of a batch of images."""
    for array in arrays:
        if not array.is_contiguous():
            raise AssertionError(f"{name}: arrays must be contiguous")
    count, side, _, channels = shaped.shape
    function = getattr(_library(), f"quicknet_{name}")
    function(*(array.data_ptr() for array in arrays), count, side, channels, torch.get_num_threads())
