"""Fetching one file over HTTP: resumable, bounded, and kept only with the right checksum."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from quicknet.core.errors import DataError, ToolError
from quicknet.core.files import write_advice
from quicknet.core.progress import progress

_CHUNK = 1 << 18
_TIMEOUT_S = 30.0
_TRIES_WITHOUT_PROGRESS = 4
# A connection that ends after fewer bytes made no progress: else a server could send a byte at a time without end.
_PROGRESS_BYTES = 256
# A slower server counts as stopped: 4 MB would take over an hour.
_SLOWEST_BYTES_PER_S = 1000
_PACE_WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Download:
    """What is fetched: its address, its checksum (hex), its maximum size.

    `what` names it in messages ("official archive"). `otherwise` says what else a user can do if
    the address does not answer, `wrong` what to do if the content has another checksum.
    """

    url: str
    algorithm: Literal["md5", "sha256"]
    checksum: str
    limit_bytes: int
    what: str
    otherwise: str
    wrong: str


def check_download(download: Download, path: Path) -> None:
    """Raise DataError if a file does not have the expected checksum."""
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, lambda: hashlib.new(download.algorithm, usedforsecurity=False)).hexdigest()
    if checksum != download.checksum:
        raise DataError(
            f"{path} is not the {download.what} ({download.algorithm.upper()} {checksum}, not {download.checksum}); "
            "delete it, then run the same command again"
        )


def copy(download: Download, part: Path) -> None:
    """Copy a file whose `url` is a path to `part`. Raises ToolError where it cannot be, DataError for another file."""
    source = Path(download.url)
    try:
        if source.stat().st_size > download.limit_bytes:
            raise DataError(f"{source} is not the {download.what} (over {download.limit_bytes:,} bytes); restore it")
        check_download(download, source)
        shutil.copyfile(source, part)
    except OSError as error:
        raise ToolError(
            f"cannot copy {source} to {part} ({error.strerror or error}); restore it, or {download.otherwise}"
        ) from error


def fetch(
    download: Download,
    part: Path,
    quiet: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Download into `part`, continuing from what is there, until its checksum is right.

    A dropped connection is opened again as long as bytes arrive. A resumed file with the wrong
    checksum is fetched once more from the start, since its beginning may be of another version.
    Raises ToolError if the address, the server or the disk fails, DataError if the checksum stays
    wrong; `part` is then removed.
    """
    if urllib.parse.urlsplit(download.url).scheme not in ("http", "https"):
        raise ToolError(f"cannot download {download.url} (it is not an http address); {download.otherwise}")
    resumed = part.is_file() and part.stat().st_size > 0
    _download_all(download, part, quiet, sleep, clock)
    try:
        check_download(download, part)
    except DataError as error:
        part.unlink(missing_ok=True)
        if resumed:
            fetch(download, part, quiet, sleep, clock)
            return
        raise DataError(
            f"what {download.url} sent has the wrong checksum (not {download.checksum}) and was deleted; try again "
            f"later, or {download.wrong}"
        ) from error


def _download_all(
    download: Download, part: Path, quiet: bool, sleep: Callable[[float], None], clock: Callable[[], float]
) -> None:
    """Append to `part` until the file is complete."""
    tries = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            if _download_on(download, part, before, quiet, clock):
                return
            reason = "the connection ended early"
        except (http.client.InvalidURL, ValueError) as error:
            raise _unreachable(download, str(error)) from error
        except (http.client.HTTPException, OSError) as error:  # errors of the disk are ToolError by now
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                raise _unreachable(download, f"HTTP {error.code} {error.reason}") from error
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        grew = part.is_file() and part.stat().st_size >= before + _PROGRESS_BYTES
        tries = 0 if grew else tries + 1
        if tries >= _TRIES_WITHOUT_PROGRESS:
            raise _unreachable(download, reason)
        sleep(2.0**tries - 1)


def _unreachable(download: Download, reason: str) -> ToolError:
    return ToolError(
        f"cannot download {download.url} ({reason}); run the same command again to continue where it stopped, or "
        f"{download.otherwise}"
    )


def _download_on(download: Download, part: Path, start: int, quiet: bool, clock: Callable[[], float]) -> bool:
    """Fetch the bytes from `start` on; return whether the file is complete afterwards."""
    request = urllib.request.Request(download.url, headers={"User-Agent": "quicknet"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # nothing after `start`: complete, or too long, which the checksum shows
                return True
            raise
    with response:
        going_on = start > 0 and response.status == 206
        offset = start if going_on else 0
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length is not None and length.isdecimal() else 0
        if total > download.limit_bytes:
            raise _unreachable(
                download, f"it is {total:,} bytes, the {download.what} has at most {download.limit_bytes:,}"
            )
        with _written(part, offset) as file, progress(f"downloading {part.stem}", total, "bytes", quiet) as advance:
            advance(offset)
            written = offset
            for chunk in _chunks(response, download, clock):
                written += len(chunk)
                if written > download.limit_bytes:
                    raise _unreachable(download, f"it goes on past {download.limit_bytes:,} bytes")
                with _disk_errors(part):
                    file.write(chunk)
                advance(len(chunk))
    return written >= total


def _chunks(response: http.client.HTTPResponse, download: Download, clock: Callable[[], float]) -> Iterator[bytes]:
    """Yield bytes as they arrive. Raises ToolError for a server that is too slow."""
    since, received = clock(), 0
    while chunk := response.read1(_CHUNK):
        received += len(chunk)
        seconds = clock() - since
        if seconds >= _PACE_WINDOW_S:
            if received < _SLOWEST_BYTES_PER_S * seconds:
                raise _unreachable(download, f"it sends {received / seconds:,.0f} bytes a second")
            since, received = clock(), 0
        yield chunk


@contextlib.contextmanager
def _written(part: Path, offset: int) -> Iterator[IO[bytes]]:
    """Open `part` for writing from `offset` on; what was written is kept, whatever happens."""
    with _disk_errors(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("r+b" if offset else "wb")
    try:
        file.seek(offset)
        yield file
        with _disk_errors(part):
            file.flush()
            os.fsync(file.fileno())
    finally:
        with _disk_errors(part):  # closing writes the rest from memory
            file.close()


@contextlib.contextmanager
def _disk_errors(part: Path) -> Iterator[None]:
    """Turn an error of the disk into ToolError, so that it is not taken for one of the network."""
    try:
        yield
    except OSError as error:
        raise ToolError(
            f"cannot write {part} ({error.strerror or error}); {write_advice(error)}, then run the same "
            "command again: it continues where it stopped"
        ) from error
