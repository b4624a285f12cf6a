"""Images decoded once, in memory-mapped files keyed by content.

A pack holds the decoded rows of one ordered list of image contents by one way of decoding. Its
name is the SHA-256 over the contents' SHA-256 and all that decoding depends on, so a changed,
added or removed picture makes another pack, whose unchanged rows are copied from the last one.

Layout: a head of 4,096 bytes (JSON, padded by spaces), the rows, then a JSON tail with the
content hash of every row and the reason for every image that could not be decoded. The head's
SHA-256 covers rows and tail; a pack that does not match it is built again. Where a failure is
not proven by the image's bytes (memory, disk, rights), the next start decodes that image again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import ToolError
from quicknet.core.files import reserve_space
from quicknet.core.places import cache_error, locked

_FORMAT = 2
_HEAD_BYTES = 4096
_CHUNK = 1 << 22
_MAX_TAIL_BYTES = 2 << 30
# of the spec, what changes decoded pixels (mean and std do not)
_DECODING = ("size", "mode", "exif", "resize", "filter", "antialias", "fill")

Row = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an image could not be decoded, and whether its bytes prove that it never can be."""

    reason: str
    proven: bool


Decoded = Row | Failure


@dataclass(frozen=True, slots=True)
class Pack:
    """Decoded images (n, size, size, C), read-only and memory-mapped; row i is of content `sources[i]`.

    `bad` gives the reason for contents that could not be decoded and have no row; `unread` are
    those of them whose bytes do not prove it: they are worth another try.
    """

    images: NDArray[np.uint8]
    sources: tuple[str, ...]
    bad: dict[str, str]
    unread: frozenset[str]


def decoding_digest(spec: PreprocessSpec) -> str:
    """Return the SHA-256 over what decoded pixels depend on, except the images.

    The decoder's own code and the versions of Pillow and pillow-heif count: others may round differently.
    """
    import PIL

    from quicknet.image import formats, preprocess

    code = hashlib.sha256(b"".join(Path(str(part.__file__)).read_bytes() for part in (formats, preprocess)))
    fields = spec.to_dict()
    how = [_FORMAT, PIL.__version__, formats.heif_version(), code.hexdigest(), *(fields[name] for name in _DECODING)]
    return hashlib.sha256(json.dumps(how).encode()).hexdigest()


def pack_path(folder: Path, contents: Iterable[str], spec: PreprocessSpec) -> Path:
    """Return where the pack of these contents (SHA-256 each, in order) belongs."""
    digest = hashlib.sha256(decoding_digest(spec).encode())
    for content in contents:
        digest.update(content.encode())
    return folder / f"{digest.hexdigest()[:40]}.pack"


def open_pack(path: Path) -> Pack | None:
    """Return a pack, or None where it is missing, cut short or altered."""
    try:
        with path.open("rb") as file:
            head = json.loads(file.read(_HEAD_BYTES))
            shape = (int(head["rows"]), int(head["size"]), int(head["size"]), int(head["channels"]))
            row_bytes, tail_bytes = int(np.prod(shape, dtype=object)), int(head["tail_bytes"])
            expected = _HEAD_BYTES + row_bytes + tail_bytes
            if min(*shape, tail_bytes) < 0 or tail_bytes > _MAX_TAIL_BYTES:
                return None
            if head["format"] != _FORMAT or os.fstat(file.fileno()).st_size != expected:
                return None
            if _digest_of_rest(file) != head["sha256"]:
                return None
            file.seek(_HEAD_BYTES + row_bytes)
            tail = json.loads(file.read(tail_bytes))
        sources, bad, unread = tuple(tail["sources"]), dict(tail["bad"]), frozenset(tail["unread"])
        if len(sources) != shape[0]:
            return None
        images = _mapped(path, shape)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Pack(images, sources, bad, unread)


def _digest_of_rest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    file.seek(_HEAD_BYTES)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if not shape[0]:
        return np.empty(shape, np.uint8)
    return np.memmap(path, np.uint8, "r", _HEAD_BYTES, shape)


def build_pack(
    path: Path,
    contents: list[str],
    decode: Callable[[list[int]], Iterable[Decoded]],
    spec: PreprocessSpec,
    previous: Path | None = None,
) -> Pack:
    """Return the pack at `path`, decoding what is in neither it nor `previous`, and what is unread in it.

    `decode` takes positions in `contents` and yields, in their order, an image or the reason
    why there is none. One process builds, others wait for it; after a kill, nothing that
    it left is read; where two build at once (file systems without locks), their files are equal
    and the last one stays. Raises ToolError where the disk is full or cannot be written.
    """
    with locked(path.with_suffix(".lock")):
        whole = open_pack(path)
        if whole is not None and not whole.unread:
            return whole
        for stale in path.parent.glob(f".{path.name}.*.tmp"):  # of a killed build: we hold its lock
            stale.unlink(missing_ok=True)
        old = whole or (open_pack(previous) if previous is not None else None)
        rows = _rows(contents, decode, old)
        try:
            _write(path, contents, rows, spec)
        except OSError as error:
            raise cache_error(path.parent, error) from error
        if old is not None and previous is not None and previous != path:
            previous.unlink(missing_ok=True)
        built = open_pack(path)
    if built is None:
        raise ToolError(f"decoded images read back differ from those written ({path}); check the disk")
    return built


def _rows(contents: list[str], decode: Callable[[list[int]], Iterable[Decoded]], old: Pack | None) -> Iterator[Decoded]:
    """Yield a result for every content in order, from the old pack where it has it."""
    known = {} if old is None else {source: row for row, source in enumerate(old.sources)}
    fresh = iter(decode([i for i, content in enumerate(contents) if content not in known]))
    for content in contents:
        if old is not None and content in known:
            yield old.images[known[content]]
        else:
            yield next(fresh)


def _write(path: Path, contents: list[str], rows: Iterator[Decoded], spec: PreprocessSpec) -> None:
    """Write the pack beside `path`, then rename it there."""
    row_bytes = spec.size * spec.size * spec.channels
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            reserve_space(file.fileno(), _HEAD_BYTES + row_bytes * len(contents))
            file.seek(_HEAD_BYTES)
            digest, rows_written, tail = _write_rows(file, contents, rows, row_bytes)
            digest.update(tail)
            file.write(tail)
            file.truncate()
            file.seek(0)
            file.write(_head(rows_written, spec, len(tail), digest.hexdigest()))
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _write_rows(
    file: IO[bytes], contents: list[str], rows: Iterator[Decoded], row_bytes: int
) -> tuple[hashlib._Hash, int, bytes]:
    """Write the rows from where `file` stands; return their digest, their number, and the tail.

    Copies of one content all have a row or all have none, even where one file was read and another
    was not: the readers of a pack rely on it.
    """
    begin, digest = file.tell(), hashlib.sha256()
    sources: dict[str, int] = {}  # content → its first row
    placed: list[str] = []
    failures: dict[str, Failure] = {}
    for content, row in zip(contents, rows, strict=True):
        if content in failures:
            continue
        if not isinstance(row, Failure):
            blob = row.tobytes()
        elif content not in sources:
            failures[content] = row
            continue
        else:
            file.seek(begin + sources[content] * row_bytes)
            blob = file.read(row_bytes)
            file.seek(begin + len(placed) * row_bytes)
        digest.update(blob)
        file.write(blob)
        sources.setdefault(content, len(placed))
        placed.append(content)
    bad = {content: failure.reason for content, failure in failures.items()}
    unread = [content for content, failure in failures.items() if not failure.proven]
    return digest, len(placed), json.dumps({"sources": placed, "bad": bad, "unread": unread}).encode()


def _head(rows: int, spec: PreprocessSpec, tail_bytes: int, sha256: str) -> bytes:
    head: dict[str, Any] = {"format": _FORMAT, "rows": rows, "size": spec.size, "channels": spec.channels}
    text = json.dumps({**head, "tail_bytes": tail_bytes, "sha256": sha256})
    return text.ljust(_HEAD_BYTES).encode()
