"""What may be given as one picture, and how it becomes what can be decoded: a path, bytes, an image, an array."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quicknet.core.errors import DataError

MAX_ENCODED_BYTES = 512 << 20  # 100 MP in 4 channels, uncompressed, are 400 MB
_READ_BYTES = 1 << 20


class Readable(Protocol):
    """A file opened with mode "rb", an `io.BytesIO`, an HTTP response."""

    def read(self, size: int, /) -> Any:
        """Return at most `size` bytes, none at the end."""
        ...


class Upload(Protocol):
    """A web framework's uploaded file."""

    @property
    def file(self) -> Any:
        """The file that holds what was sent."""
        ...


class Tensor(Protocol):
    """What numpy can turn into an array: a tensor of torch, TensorFlow or JAX."""

    def __array__(self) -> NDArray[Any]:
        """Return the array."""
        ...


PlainSource = Path | bytes | Image.Image | NDArray[Any]
ImageSource = (
    Path
    | str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | Image.Image
    | NDArray[Any]
    | Readable
    | Upload
    | Tensor
)


def is_one_picture(source: object) -> bool:
    """Return whether an object is a picture by itself; an array or tensor of 4 axes is many.

    >>> is_one_picture("a.jpg"), is_one_picture(io.BytesIO()), is_one_picture(["a.jpg"])
    (True, True, False)
    """
    if _is_array(source):
        return getattr(source, "ndim", 0) < 4 and not _holds_objects(source)
    return isinstance(source, (str, os.PathLike, Image.Image)) or _is_buffer(source) or _file(source) is not None


def given_name(source: object) -> str | None:
    """Return the name that a picture brings: its path, an open file's or an upload's; None without one.

    >>> given_name(Path("a.jpg")), given_name(b"...")
    ('a.jpg', None)
    """
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    names = (getattr(source, key, None) for key in ("filename", "name")) if _file(source) is not None else ()
    return next((name for name in names if isinstance(name, str) and name), None)


def is_web_address(name: str) -> bool:
    """Return whether a name is an http or https address."""
    return name.lower().startswith(("http://", "https://"))


def described(source: object) -> str:
    """Return how messages call a picture."""
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "image in memory")
    if _is_array(source):
        kind = "array" if isinstance(source, np.ndarray) else type(source).__name__
        return f"{kind} of shape {tuple(getattr(source, 'shape', ()))}"
    if _is_buffer(source):
        return f"{memoryview(cast(Any, source)).nbytes:,} bytes in memory"
    return given_name(source) or f"an object of type {type(source).__name__}"


def plain(source: object, name: str) -> PlainSource:
    """Return a picture as a path, an encoded file's bytes, a Pillow image or an array; `name` is for messages.

    An open file is read from its beginning, where it can go back there. Raises DataError for what
    is not a picture, cannot be read or holds over MAX_ENCODED_BYTES.
    """
    if isinstance(source, (Image.Image, np.ndarray)):
        return source
    if isinstance(source, str) and is_web_address(source):
        raise DataError(f"an address where a file is expected ({name}); fetch it, then give its bytes")
    if isinstance(source, (str, os.PathLike)):
        return Path(os.fsdecode(source))
    if _is_array(source):
        return _array(source, name)
    if _is_buffer(source):
        return memoryview(cast(Any, source)).tobytes()
    file = _file(source)
    if file is None:
        raise DataError(f"not a picture ({name}); give a path, a file's bytes, an open file, an image or an array")
    return _content(file, name)


def _is_array(source: object) -> bool:
    return hasattr(source, "__array__") and not isinstance(source, Image.Image)


def _holds_objects(array: object) -> bool:
    """Return whether an array, or a column of a table, holds names or other objects and not numbers."""
    return getattr(getattr(array, "dtype", None), "kind", "") in ("O", "U", "T")


def _is_buffer(source: object) -> bool:
    try:
        memoryview(cast(Any, source)).release()
    except (TypeError, ValueError):  # ValueError: a view that was released
        return False
    return True


def _file(source: object) -> Any:
    """Return what can be read of an open file or an upload; None for anything else."""
    inner = getattr(source, "file", None)  # first: reading Starlette's upload itself returns a coroutine
    return next((file for file in (inner, source) if hasattr(file, "read")), None)


def _array(tensor: Any, name: str) -> NDArray[Any]:
    try:
        if hasattr(tensor, "detach") and hasattr(tensor, "cpu"):  # torch's, with a gradient or on a GPU
            tensor = tensor.detach().cpu()
        return np.asarray(tensor)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"cannot make an array of the picture ({name}: {reason}); give (H, W, 3) uint8") from error


def _content(file: Any, name: str) -> bytes:
    """Return what a file holds, from its beginning."""
    as_text = f'the file is opened as text ({name}); open it with mode "rb"'
    if isinstance(file, io.TextIOBase):
        raise DataError(as_text)
    try:
        if not hasattr(file, "seekable") or file.seekable():
            file.seek(0)
    except (AttributeError, io.UnsupportedOperation):
        pass  # a pipe, a connection: what is still to come counts
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the picture ({name}: {error}); give an open file") from error
    parts, size = [], 0
    while part := _part(file, name):
        if isinstance(part, str):
            raise DataError(as_text)
        parts.append(part)
        size += len(part)
        if size > MAX_ENCODED_BYTES:
            raise DataError(f"the picture is over the limit of {MAX_ENCODED_BYTES:,} bytes ({name}); scale it down")
    return b"".join(parts)


def _part(file: Any, name: str) -> bytes | str:
    """Return the file's next bytes, none at its end."""
    try:
        part = file.read(_READ_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a closed file
        raise DataError(f"cannot read the picture ({name}: {error}); give an open file") from error
    if hasattr(part, "__await__"):
        part.close()
        raise DataError(f"the file's read is asynchronous ({name}); await it, then give the bytes")
    if part is None:  # nothing there yet
        return b""
    if not isinstance(part, (bytes, bytearray, str)):
        raise DataError(f"the file's read returns {type(part).__name__} ({name}); give bytes")
    return bytes(part) if isinstance(part, bytearray) else part
