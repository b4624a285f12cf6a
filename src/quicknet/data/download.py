"""Fetching CIFAR's archives: resumable, checked against their checksum, unpacked with care."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from quicknet.core.errors import DataError, ToolError
from quicknet.core.places import locked, user_cache
from quicknet.data.cifar import Cifar
from quicknet.data.places import search_places
from quicknet.data.progress import progress

BASE_URL = "https://www.cs.toronto.edu/~kriz"

_CHUNK = 1 << 18
_TIMEOUT_S = 30.0
_MAX_ARCHIVE_BYTES = 1 << 30  # the largest official one is 170 MB
_MAX_MEMBERS = 100
_MAX_MEMBER_BYTES = 200 << 20
_TRIES_WITHOUT_PROGRESS = 4


def fetch_cifar(kind: Cifar, cache_dir: str | None = None, quiet: bool = False) -> Path:
    """Return the unpacked binary folder of `kind`, downloaded into the cache where it is not there.

    An official archive that already lies in one of the usual places is used instead. One
    process downloads, others wait. $QUICKNET_CIFAR_URL replaces the address of the folder
    with the archives. Raises ToolError (network, disk), DataError (wrong checksum).
    """
    folder = user_cache(cache_dir) / kind.name
    target = folder / kind.binary_folder
    with locked(folder / ".download.lock"):
        if target.is_dir():  # another process was first
            return target
        here = next((p / kind.archive for p in search_places(kind.name) if (p / kind.archive).is_file()), None)
        if here is not None:
            check_md5(here, kind.md5)
            return unpack(here, kind, target)
        part = folder / f"{kind.archive}.part"
        url = f"{os.environ.get('QUICKNET_CIFAR_URL', BASE_URL).rstrip('/')}/{kind.archive}"
        download(url, part, kind.md5, quiet)
        unpack(part, kind, target)
        part.unlink(missing_ok=True)
    return target


def check_md5(path: Path, md5: str) -> None:
    """Raise DataError where a file does not have the official checksum."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != md5:
        raise DataError(
            f"{path} is not the official archive (MD5 {digest.hexdigest()}, not {md5}); "
            "delete it, then run the same command again"
        )


def download(url: str, part: Path, md5: str, quiet: bool = False, sleep: Callable[[float], None] = time.sleep) -> None:
    """Download `url` into `part`, going on from what is there, until its checksum is right.

    A dropped connection is tried again as long as bytes arrive. A resumed file with the wrong
    checksum is fetched once more from the start, since its beginning may be of another version.
    Raises ToolError where the server or the disk refuses, DataError where the checksum stays wrong.
    """
    resumed = part.is_file() and part.stat().st_size > 0
    _download_all(url, part, quiet, sleep)
    try:
        check_md5(part, md5)
    except DataError as error:
        part.unlink(missing_ok=True)
        if resumed:
            download(url, part, md5, quiet, sleep)
            return
        raise DataError(
            f"what {url} sent has the wrong checksum (not {md5}) and was deleted; try again later, or put "
            "the official archive into the folder named by QUICKNET_DATA"
        ) from error


def _download_all(url: str, part: Path, quiet: bool, sleep: Callable[[float], None]) -> None:
    """Append to `part` until the server says that all is there."""
    tries = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            if _download_on(url, part, before, quiet):
                return
            reason = "the connection ended early"
        except (http.client.HTTPException, urllib.error.URLError, TimeoutError, ConnectionError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                raise _unreachable(url, f"HTTP {error.code} {error.reason}") from error
            reason = str(getattr(error, "reason", error))
        except OSError as error:
            raise ToolError(
                f"cannot write {part} ({error.strerror or error}); free some space, then run the same "
                "command again: it goes on where it stopped"
            ) from error
        grew = part.is_file() and part.stat().st_size > before
        tries = 0 if grew else tries + 1
        if tries >= _TRIES_WITHOUT_PROGRESS:
            raise _unreachable(url, reason)
        sleep(2.0**tries - 1)


def _unreachable(url: str, reason: str) -> ToolError:
    return ToolError(
        f"cannot download {url} ({reason}); run the same command again to go on where it stopped, or unpack "
        "the archive by hand and name its folder"
    )


def _download_on(url: str, part: Path, start: int, quiet: bool) -> bool:
    """Ask for the bytes from `start` on; return whether the file is whole afterwards."""
    request = urllib.request.Request(url, headers={"User-Agent": "quicknet"})
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
        total = offset + int(length) if length is not None and length.isdigit() else 0
        if total > _MAX_ARCHIVE_BYTES:
            raise _unreachable(url, f"it is {total:,} bytes, which no official archive is")
        return _receive(response, part, offset, total, quiet)


def _receive(response: IO[bytes], part: Path, offset: int, total: int, quiet: bool) -> bool:
    """Write what arrives from `offset` on; return whether `total` (0: unknown) was reached."""
    part.parent.mkdir(parents=True, exist_ok=True)
    written = offset
    with (
        part.open("r+b" if offset else "wb") as file,
        progress(f"downloading {part.stem}", total, "bytes", quiet) as advance,
    ):
        file.seek(offset)
        advance(offset)
        while chunk := response.read(_CHUNK):
            written += len(chunk)
            if written > _MAX_ARCHIVE_BYTES:
                raise _unreachable(part.stem, "it does not end")
            file.write(chunk)
            advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    return written >= total


def unpack(archive: Path, kind: Cifar, target: Path) -> Path:
    """Unpack the batch files of an official archive as the folder `target`, whole or not at all.

    Only the files that the format names are written, under their own bare names, so no path in
    the archive decides where anything goes. Raises DataError for a damaged archive, one that
    lacks files, or members that are links, outside the folder or too large; ToolError for the disk.
    """
    wanted = {*kind.files("train"), *kind.files("test"), kind.names_file}
    target.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with tarfile.open(archive, "r:gz") as tar:
            found = _extract(tar, wanted, room, archive)
        if wanted - found:
            raise DataError(f"{archive} lacks {sorted(wanted - found)[0]}; get the official archive")
        room.chmod(0o755)
        room.rename(target)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ToolError(
                f"cannot unpack {archive} into {target.parent} ({error.strerror}); free some space, "
                "then run the same command again"
            ) from error
        raise DataError(f"{archive} is damaged ({error}); delete it and run the same command again") from error
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return target


def _extract(tar: tarfile.TarFile, wanted: set[str], room: Path, archive: Path) -> set[str]:
    found: set[str] = set()
    for count, member in enumerate(tar):
        parts = Path(member.name).parts
        outside = member.name.startswith(("/", "\\")) or ".." in parts or len(parts) > 2
        odd = not (member.isfile() or member.isdir()) or member.size > _MAX_MEMBER_BYTES
        if outside or odd or count >= _MAX_MEMBERS:
            raise DataError(f"{archive} holds {member.name!r}, which no official archive does; delete it")
        if member.isfile() and parts[-1] in wanted:
            source = tar.extractfile(member)
            if source is not None:
                with contextlib.closing(source), (room / parts[-1]).open("wb") as file:
                    shutil.copyfileobj(source, file, _CHUNK)
                    file.flush()
                    os.fsync(file.fileno())
                found.add(parts[-1])
    return found
