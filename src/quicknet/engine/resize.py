"""`csrc/resize.c` for Python: a decoded picture to the network's input, bit for bit `image/preprocess.py`."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import DataError
from quicknet.engine.binding import loaded_library

# As resize.h numbers them.
_RESIZES = {"shorter": 0, "stretch": 1, "pad": 2}
_FILTERS = {"nearest": 0, "bilinear": 1, "bicubic": 2, "lanczos": 3}


class _Picture(ctypes.Structure):
    _fields_ = [
        ("pixels", ctypes.c_void_p),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("channels", ctypes.c_int32),
    ]


def prepare(pixels: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Return what the network takes, (size, size, channels) uint8, of pixels (H, W, 1, 3 or 4) uint8.

    The EXIF orientation is the decoder's to undo. Raises DataError for another shape or type and over 100
    million pixels, ToolError without an engine.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise DataError(f"a picture is uint8 (H, W, 1, 3 or 4), not {pixels.dtype} {pixels.shape}; decode it first")
    pixels = np.ascontiguousarray(pixels)
    return prepare_at(pixels.ctypes.data, pixels.shape, spec)


def prepare_at(address: int, shape: tuple[int, ...], spec: PreprocessSpec) -> NDArray[np.uint8]:
    """As `prepare`, of pixels of `shape` in memory; -4 channels: RGB and a byte that does not count."""
    library = loaded_library()
    height, width, channels = (min(side, (1 << 31) - 1) for side in shape)
    picture = ctypes.byref(_Picture(address, width, height, channels))
    numbers = (spec.size, spec.channels, _RESIZES[spec.resize], _FILTERS[spec.filter], spec.antialias, spec.fill)
    fields = (ctypes.c_int32 * 6)(*numbers)
    size = library.qn_prepare_memory(picture, fields)
    if size == 0:
        raise DataError(f"not the shape of a picture ({shape}); give (H, W, 1, 3 or 4), at most 100 megapixels")
    memory, out = np.empty(-(-size // 8), np.uint64), np.empty((spec.size, spec.size, spec.channels), np.uint8)
    library.qn_prepare(picture, fields, memory.ctypes.data, size, out.ctypes.data)
    return out
