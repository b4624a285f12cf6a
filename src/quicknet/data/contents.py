"""The SHA-256 of every file, remembered by size and times so that the next start reads no images."""

from __future__ import annotations

import json
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from quicknet.core.errors import FormatError, ToolError
from quicknet.core.files import read_json, sha256_bytes, sha256_file, write_atomically
from quicknet.core.places import cache_error
from quicknet.core.progress import progress

_LIMIT_BYTES = 1 << 30
# A file changed again within the file system's time resolution looks unchanged; git calls such
# entries racy. Files younger than this are not remembered.
_SETTLED_NS = 2_000_000_000
MAX_THREADS = 8
_AHEAD = 64  # items that wait for a thread or for the reader; of 32 MB each they are 2 GB

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Content:
    """The SHA-256 of a file, or the reason why it could not be read."""

    sha256: str
    error: str = ""


def in_threads(work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yield work(item) in order, a few at a time ahead; hashing and Pillow run beside each other."""
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) == _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def index_path(cache: Path, root: Path) -> Path:
    """Return the path of the index of the files below `root`."""
    name = sha256_bytes(os.fsencode(root.resolve()))[:40]
    return cache / "index" / f"{name}.json"


def read_index(path: Path) -> dict[str, Any]:
    """Return the index, empty where it is missing or damaged: it only saves time."""
    try:
        index = read_json(path, "the index", _LIMIT_BYTES, limit_values=None)
        if isinstance(index, dict) and isinstance(index["files"], dict) and isinstance(index["packs"], dict):
            return index
    except (FormatError, KeyError):
        pass
    return {"files": {}, "packs": {}}


def write_index(path: Path, index: dict[str, Any]) -> None:
    """Replace the index. Raises ToolError where the disk refuses."""
    try:
        write_atomically(path, json.dumps(index))
    except ToolError as error:
        if isinstance(error.__cause__, OSError):
            raise cache_error(path.parent, error.__cause__) from error
        raise


def hash_files(root: Path, paths: list[Path], known: dict[str, Any], quiet: bool) -> list[Content]:
    """Return the content of every path, and bring `known` up to date with those that were read.

    A file is read again when its size, modification time or change time differs from what
    `known` has (the change time catches edits that put the old modification time back).
    """
    stamps: dict[str, list[int]] = {}
    results: dict[Path, Content] = {}
    unread: list[Path] = []
    for path in paths:
        stamp = _stamp(path)
        if isinstance(stamp, str):
            results[path] = Content("", stamp)
            continue
        name = os.path.relpath(path, root)
        stamps[name] = stamp
        before = known.get(name)
        if isinstance(before, list) and before[:3] == stamp and isinstance(before[-1], str):
            results[path] = Content(before[-1])
        else:
            unread.append(path)
    with progress("reading images", len(unread), "images", quiet) as advance:
        for path, content in zip(unread, in_threads(_content, unread), strict=True):
            results[path] = content
            advance(1)
    _remember(root, unread, results, stamps, known)
    for gone in known.keys() - stamps.keys():
        del known[gone]
    return [results[path] for path in paths]


def _remember(
    root: Path,
    read: list[Path],
    results: dict[Path, Content],
    stamps: dict[str, list[int]],
    known: dict[str, Any],
) -> None:
    now_ns = time.time_ns()
    for path in read:
        name = os.path.relpath(path, root)
        stamp = stamps[name]
        known.pop(name, None)
        if not results[path].error and now_ns - max(stamp[1:]) > _SETTLED_NS:
            known[name] = [*stamp, results[path].sha256]


def _stamp(path: Path) -> list[int] | str:
    """Return size, modification and change time, or why it is not a file that can be read."""
    try:
        status = path.stat()
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(status.st_mode):  # a named pipe would wait for ever
        return "not a regular file"
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _content(path: Path) -> Content:
    try:
        return Content(sha256_file(path))
    except FormatError as error:  # the message that shows it names the file, so the system's reason is enough
        return Content("", getattr(error.__cause__, "strerror", None) or str(error))
