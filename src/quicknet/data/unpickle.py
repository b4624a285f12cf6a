"""Reads CIFAR's Python version without executing anything from its files.

The only pickle that QuickNet reads. Dicts, lists, numbers, byte and text strings are read, and
numpy arrays of integers, which are rebuilt here and not by numpy; everything else is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from quicknet.core.errors import DataError, FormatError

# Opcodes that numbers, strings, lists, tuples, dicts and arrays need, in protocols 0 to 4.
_OPCODES = frozenset(
    {"PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE"}
    | {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
    | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
    | {"EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
    | {"GET", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"}
)
# The unpickler's memo is an array: a claimed index of 2^32 would allocate 64 GB.
_MAX_MEMO = 4_000_000
_DTYPES = {"u1": "u1", "i4": "<i4", "i8": "<i8"}


def load_plain(blob: bytes, where: str) -> Any:
    """Return the object in a pickle of plain data.

    Raises DataError naming `where` for anything but numbers, strings, bytes, lists, tuples,
    dicts and integer arrays of the size that they claim.
    """
    try:
        _check_opcodes(blob)
        return _finish(_Restricted(io.BytesIO(blob), encoding="bytes").load())
    except FormatError as error:
        raise DataError(f"refused to unpickle {error} ({where}); get the official archive") from error
    except Exception as error:  # pickle raises nearly anything on damaged input
        raise DataError(f"not a whole pickle ({where}: {error}); get the official archive") from error


def _check_opcodes(blob: bytes) -> None:
    """Refuse, before anything is built, opcodes that are not needed and lengths past the end."""
    for opcode, argument, _ in pickletools.genops(blob):
        if opcode.name not in _OPCODES:
            raise FormatError(f"the operation {opcode.name}")
        if opcode.name.endswith("PUT") and int(argument or 0) > _MAX_MEMO:
            raise FormatError(f"a memo of {argument} entries")


class _Dtype:
    """Stands in for numpy.dtype: only integers of 1, 4 and 8 bytes."""

    def __init__(self, code: Any, *_: Any) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if text not in _DTYPES:
            raise FormatError(f"an array of type {code!r}")
        self.name = _DTYPES[text]

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or state[1] not in ("<", "|", b"<", b"|"):
            raise FormatError("an array in the other byte order")


class _Array:
    """Stands in for numpy.ndarray: its shape is checked against the number of bytes."""

    value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes) or not isinstance(shape, tuple):
            raise FormatError("an array of objects")
        if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 4:
            raise FormatError(f"an array of shape {shape}")
        if math.prod(shape) * np.dtype(dtype.name).itemsize != len(data):
            raise FormatError(f"an array that claims shape {shape} over {len(data):,} bytes")
        self.value = np.frombuffer(data, dtype.name).reshape(shape, order="F" if fortran else "C")


class _Marker:
    """The name numpy.ndarray, which array pickles pass as an argument; it can do nothing."""


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _Marker:
        raise FormatError("an array of another class")
    return _Array()


def _encode(text: Any, encoding: Any) -> bytes:
    """Stand in for _codecs.encode, by which protocol 2 of Python 3 writes bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise FormatError("an encoded string")
    return text.encode("latin1")


def _empty() -> bytes:
    """Stand in for bytes(), by which protocols 0 to 2 of Python 3 write empty bytes."""
    return b""


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Marker,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Callable[..., Any]:
        if (module, name) not in _ALLOWED:
            raise FormatError(f"the name {module}.{name}")
        allowed: Callable[..., Any] = _ALLOWED[module, name]
        return allowed


def _finish(value: Any) -> Any:
    """Replace the stand-ins at the top and in a top-level dict by their arrays."""
    if isinstance(value, dict):
        return {key: _array_of(item) for key, item in value.items()}
    return _array_of(value)


def _array_of(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value
