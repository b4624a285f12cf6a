"""Writing that survives a kill at any instant, hashing, and the lock of a run folder.

All of QuickNet writes by these functions: a temporary file beside the target, flush, fsync,
rename. A reader sees the old file or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from quicknet.core.errors import CheckpointError, FormatError, ToolError
from quicknet.core.lock import lock_file

_CHUNK = 1 << 20
_HEAD_BYTES = 16
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LIMIT_JSON_BYTES = 16 << 20
# A value takes up to 110 bytes once parsed (an entry of an object with its key), so these 29 MB. A card of
# 7,000 classes has 231,000, nearly all of them its test vectors' logits.
_LIMIT_JSON_VALUES = 1 << 18


def sha256_bytes(blob: bytes) -> str:
    """Return the hex SHA-256 of `blob`."""
    return hashlib.sha256(blob).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's content, read in pieces. Raises FormatError."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise FormatError(f"cannot read {path} ({error.strerror or error}); check its rights and the disk") from error
    return digest.hexdigest()


def write_atomically(path: Path, blob: bytes | str) -> None:
    """Write `blob` as the whole content of `path`, or leave `path` as it was.

    Raises ToolError (with the reason of the operating system, such as a full disk).
    """
    data = blob.encode() if isinstance(blob, str) else blob
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise ToolError(
            f"cannot write {path} ({error.strerror or error}); what was there before is untouched: "
            f"{write_advice(error)}, then run the same command again"
        ) from error


def reserve_space(handle: int, size_bytes: int) -> None:
    """Take the room for a file of this size: a full disk is an error (OSError) now and not after an hour of work.

    Does nothing where the system or the file system cannot.
    """
    try:
        os.posix_fallocate(handle, 0, size_bytes)
    except (AttributeError, NotImplementedError):  # macOS and Windows
        return
    except OSError as error:
        if error.errno in _FULL:
            raise


def write_advice(error: OSError) -> str:
    """Return what to do where a file or folder could not be written, in half a sentence."""
    if error.errno == errno.EROFS:
        return "it is on a read-only medium, so copy the folder to one that can be written or name another folder"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "make it writable for this user or name another folder"
    if error.errno in _FULL:
        return "free some space or choose another folder"
    return "check the disk or choose another folder"


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; some file systems cannot, which is not a failure."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_bounded(path: Path, limit_bytes: int, what: str) -> bytes:
    """Return a file's content, refusing one over `limit_bytes` before reading it.

    Raises FormatError where the file is missing, unreadable, too large or not a regular file (reading
    a pipe or device would never end).
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(f"{what} is not a regular file ({path}); name a file")
        if status.st_size > limit_bytes:
            raise FormatError(
                f"{what} is {status.st_size:,} bytes ({path}), over the limit of {limit_bytes:,}; "
                "it was not written by QuickNet"
            )
        return path.read_bytes()
    except OSError as error:
        raise FormatError(
            f"cannot read {what} ({path}: {error.strerror or error}); check its name and rights"
        ) from error
    except ValueError as error:  # a NUL in the name
        raise FormatError(f"cannot read {what} ({path}: {error}); check its name") from error


def read_head(path: Path, what: str) -> bytes:
    """Return a file's first bytes, by which its kind is known; b"" for what is not a regular file, such as a pipe.

    Raises FormatError for one that cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise FormatError(f"cannot read {what} ({path}: {error.strerror or error}); check its rights") from error


def read_json(
    path: Path, what: str, limit_bytes: int = _LIMIT_JSON_BYTES, limit_values: int | None = _LIMIT_JSON_VALUES
) -> Any:
    """Return the content of a JSON file.

    Raises FormatError where it is not JSON, which has no NaN or Infinity (Python's own reader takes them),
    and where it is larger or has more values than the limits. `limit_values` None is for files
    that this user's own processes wrote.
    """
    return parse_json(read_bounded(path, limit_bytes, what), what, path, limit_values)


def parse_json(text: bytes, what: str, path: Path, limit_values: int | None = _LIMIT_JSON_VALUES) -> Any:
    """Return the content of JSON text that lies in the file `path`. Raises FormatError as `read_json`.

    Values are counted before they are parsed: one of 3 bytes, `[],`, takes 64 in memory.
    """
    if limit_values is not None and sum(map(text.count, (b",", b"[", b"{"))) >= limit_values:
        raise FormatError(
            f"{what} has over {limit_values:,} values, which is the limit ({path}); restore it from a copy"
        )
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not JSON ({path}: {error}); restore it from a copy") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


# --- a JSON file and the tensors whose digest it holds -----------------------------------


def write_pair(record_path: Path, record: dict[str, Any], blob_path: Path, blob: bytes, key: str = "sha256") -> None:
    """Replace a blob and the JSON record that carries its SHA-256 under `key`, as one step.

    The new blob is written to `.pending`, the record is renamed into place, then the blob.
    A kill between the two renames leaves a record that matches the pending blob, which
    `settle_pair` moves into place; a kill before leaves the old pair whole.
    """
    pending = blob_path.with_name(blob_path.name + ".pending")
    write_atomically(pending, blob)
    record = {**record, key: sha256_bytes(blob)}
    write_atomically(record_path, json.dumps(record, indent=1))
    _move_into_place(pending, blob_path)


def _move_into_place(pending: Path, blob_path: Path) -> None:
    """Finish a pair. Raises ToolError; nothing is lost then, and a later reader finishes the pair."""
    try:
        os.replace(pending, blob_path)
    except OSError as error:
        raise ToolError(f"cannot write {blob_path} ({error.strerror or error}); {write_advice(error)}") from error
    _sync_folder(blob_path.parent)


def settle_pair(record_path: Path, blob_path: Path, key: str = "sha256") -> dict[str, Any]:
    """Return the record after checking that its blob is the one that it was written with.

    Finishes an interrupted `write_pair`. Raises CheckpointError where the two do not belong
    together, FormatError where the record is not JSON.
    """
    return _settled(record_path, blob_path, key, sha256_file)


def read_pair(record_path: Path, blob_path: Path, key: str, limit_bytes: int) -> tuple[dict[str, Any], bytes]:
    """Do as `settle_pair` and return the blob too, read once: the bytes that were checked.

    Raises FormatError for a blob over `limit_bytes` as well.
    """
    blob = b""

    def digest(path: Path) -> str:
        nonlocal blob
        blob = read_bounded(path, limit_bytes, blob_path.name)
        return sha256_bytes(blob)

    return _settled(record_path, blob_path, key, digest), blob


def _settled(record_path: Path, blob_path: Path, key: str, digest: Callable[[Path], str]) -> dict[str, Any]:
    record = read_json(record_path, record_path.name)
    expected = record.get(key) if isinstance(record, dict) else None
    if not isinstance(expected, str):
        raise CheckpointError(f"{record_path} does not name a {key}; it was not written by QuickNet")
    pending = blob_path.with_name(blob_path.name + ".pending")
    if blob_path.is_file() and digest(blob_path) == expected:
        return dict(record)
    if pending.is_file() and digest(pending) == expected:
        _move_into_place(pending, blob_path)
        return dict(record)
    raise CheckpointError(
        f"{blob_path} is damaged or belongs to another run (its sha256 is not the one in {record_path.name}); "
        "restore both files together from a copy"
    )


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock dies with the process, however it dies.

    A folder that did not exist before is removed again where a failure leaves it empty.
    Raises CheckpointError where another process holds it, ToolError where it cannot be written.
    """
    try:
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise ToolError(f"cannot write into {folder} ({error.strerror or error}); {write_advice(error)}") from error
    with file:
        try:
            lock_file(file, wait=False)
            # the process that held it may have removed the folder since this one opened the file
            taken = not _is_at(file.fileno(), folder / ".lock")
        except BlockingIOError:
            taken = True
        if taken:
            file.seek(0)
            holder = file.read(100).strip() or "unknown"
            raise CheckpointError(
                f"another run is using {folder} (process {holder}); wait for it or name another folder with --run"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        except BaseException:
            if is_new:
                _remove_unused(folder)
            raise


def _is_at(handle: int, path: Path) -> bool:
    """Return whether an open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _remove_unused(folder: Path) -> None:
    """Remove a folder that holds nothing but the lock, which is held."""
    with contextlib.suppress(OSError):
        if [entry.name for entry in folder.iterdir()] == [".lock"]:
            (folder / ".lock").unlink()
            folder.rmdir()
