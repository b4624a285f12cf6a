"""Fetching one file over HTTP: resumable, bounded, and kept only with the right checksum."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from quicknet.core.errors import DataError, ToolError
from quicknet.lite.progress import progress

_CHUNK = 1 << 18
_TIMEOUT_S = 30.0
_TRIES_WITHOUT_PROGRESS = 4
# A connection that dies after less has brought nothing: else a server could send a byte at a time for ever.
_PROGRESS_BYTES = 256
# Slower is taken for a server that stands still: 4 MB would take an hour and more.
_SLOWEST_BYTES_PER_S = 1000
_PACE_WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Download:
    """What is fetched: its address, its checksum (hex), the most bytes it may have.

    `what` names it in messages ("official archive"); `otherwise` says what else a user can do
    where its address does not answer, `wrong` where what it sends has another checksum.
    """

    url: str
    algorithm: Literal["md5", "sha256"]
    checksum: str
    limit_bytes: int
    what: str
    otherwise: str
    wrong: str


def check_download(wanted: Download, path: Path) -> None:
    """Raise DataError where a file does not have the checksum of what is wanted."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(wanted.algorithm, usedforsecurity=False)).hexdigest()
    if found != wanted.checksum:
        raise DataError(
            f"{path} is not the {wanted.what} ({wanted.algorithm.upper()} {found}, not {wanted.checksum}); "
            "delete it, then run the same command again"
        )


def fetch(
    wanted: Download,
    part: Path,
    quiet: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Download into `part`, going on from what is there, until its checksum is right.

    A dropped connection is tried again as long as bytes arrive. A resumed file with the wrong
    checksum is fetched once more from the start, since its beginning may be of another version.
    Raises ToolError where the address, the server or the disk refuses, DataError where the
    checksum stays wrong; `part` is then removed.
    """
    if urllib.parse.urlsplit(wanted.url).scheme not in ("http", "https"):
        raise ToolError(f"cannot download {wanted.url} (it is no http address); {wanted.otherwise}")
    resumed = part.is_file() and part.stat().st_size > 0
    _download_all(wanted, part, quiet, sleep, clock)
    try:
        check_download(wanted, part)
    except DataError as error:
        part.unlink(missing_ok=True)
        if resumed:
            fetch(wanted, part, quiet, sleep, clock)
            return
        raise DataError(
            f"what {wanted.url} sent has the wrong checksum (not {wanted.checksum}) and was deleted; try again "
            f"later, or {wanted.wrong}"
        ) from error


def _download_all(
    wanted: Download, part: Path, quiet: bool, sleep: Callable[[float], None], clock: Callable[[], float]
) -> None:
    """Append to `part` until the server says that all is there."""
    tries = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            if _download_on(wanted, part, before, quiet, clock):
                return
            reason = "the connection ended early"
        except (http.client.InvalidURL, ValueError) as error:
            raise _unreachable(wanted, str(error)) from error
        except (http.client.HTTPException, OSError) as error:  # the disk's own have become ToolError
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                raise _unreachable(wanted, f"HTTP {error.code} {error.reason}") from error
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        grew = part.is_file() and part.stat().st_size >= before + _PROGRESS_BYTES
        tries = 0 if grew else tries + 1
        if tries >= _TRIES_WITHOUT_PROGRESS:
            raise _unreachable(wanted, reason)
        sleep(2.0**tries - 1)


def _unreachable(wanted: Download, reason: str) -> ToolError:
    return ToolError(
        f"cannot download {wanted.url} ({reason}); run the same command again to go on where it stopped, or "
        f"{wanted.otherwise}"
    )


def _download_on(wanted: Download, part: Path, start: int, quiet: bool, clock: Callable[[], float]) -> bool:
    """Ask for the bytes from `start` on; return whether the file is whole afterwards."""
    request = urllib.request.Request(wanted.url, headers={"User-Agent": "quicknet"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # nothing after `start`: whole, or too long, which the checksum tells
                return True
            raise
    with response:
        going_on = start > 0 and response.status == 206
        offset = start if going_on else 0
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length is not None and length.isdecimal() else 0
        if total > wanted.limit_bytes:
            raise _unreachable(wanted, f"it is {total:,} bytes, the {wanted.what} has at most {wanted.limit_bytes:,}")
        with _written(part, offset) as file, progress(f"downloading {part.stem}", total, "bytes", quiet) as advance:
            advance(offset)
            written = offset
            for chunk in _chunks(response, wanted, clock):
                written += len(chunk)
                if written > wanted.limit_bytes:
                    raise _unreachable(wanted, f"it goes on past {wanted.limit_bytes:,} bytes")
                with _telling(part):
                    file.write(chunk)
                advance(len(chunk))
    return written >= total


def _chunks(response: http.client.HTTPResponse, wanted: Download, clock: Callable[[], float]) -> Iterator[bytes]:
    """Yield what arrives, as it arrives. Raises ToolError for a server that all but stands still."""
    since, received = clock(), 0
    while chunk := response.read1(_CHUNK):
        received += len(chunk)
        seconds = clock() - since
        if seconds >= _PACE_WINDOW_S:
            if received < _SLOWEST_BYTES_PER_S * seconds:
                raise _unreachable(wanted, f"it sends {received / seconds:,.0f} bytes a second")
            since, received = clock(), 0
        yield chunk


@contextlib.contextmanager
def _written(part: Path, offset: int) -> Iterator[IO[bytes]]:
    """Open `part` for what comes from `offset` on; whatever happens, what was written is kept."""
    with _telling(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("r+b" if offset else "wb")
    try:
        file.seek(offset)
        yield file
        with _telling(part):
            file.flush()
            os.fsync(file.fileno())
    finally:
        with _telling(part):  # closing writes what is still in memory
            file.close()


@contextlib.contextmanager
def _telling(part: Path) -> Iterator[None]:
    """Make what the disk refuses a ToolError, so that it is not taken for the network's."""
    try:
        yield
    except OSError as error:
        raise ToolError(
            f"cannot write {part} ({error.strerror or error}); free some space, then run the same "
            "command again: it goes on where it stopped"
        ) from error
