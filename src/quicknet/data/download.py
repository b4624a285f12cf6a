"""Fetches CIFAR's archives: resumable, checked against their checksum, unpacked with care."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from quicknet.core.download import Download, check_download, fetch
from quicknet.core.errors import DataError, ToolError
from quicknet.core.files import write_advice
from quicknet.core.places import locked, user_cache
from quicknet.data.cifar import Cifar
from quicknet.data.places import search_places

BASE_URL = "https://www.cs.toronto.edu/~kriz"

_CHUNK = 1 << 18
_MAX_ARCHIVE_BYTES = 1 << 30  # the largest official one is 170 MB
_MAX_MEMBERS = 100
_MAX_MEMBER_BYTES = 200 << 20


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
        present = next((p / kind.archive for p in search_places(kind.name) if (p / kind.archive).is_file()), None)
        if present is not None:
            check_md5(present, kind.md5)
            return unpack(present, kind, target)
        part = folder / f"{kind.archive}.part"
        url = f"{os.environ.get('QUICKNET_CIFAR_URL', BASE_URL).rstrip('/')}/{kind.archive}"
        download(url, part, kind.md5, quiet)
        unpack(part, kind, target)
        part.unlink(missing_ok=True)
    return target


def check_md5(path: Path, md5: str) -> None:
    """Raise DataError where a file does not have the official checksum."""
    check_download(_official(str(path), md5), path)


def download(url: str, part: Path, md5: str, quiet: bool = False, sleep: Callable[[float], None] = time.sleep) -> None:
    """Download an official archive into `part`, as `quicknet.core.download.fetch`. Raises ToolError, DataError."""
    fetch(_official(url, md5), part, quiet, sleep)


def _official(url: str, md5: str) -> Download:
    return Download(
        url=url,
        algorithm="md5",
        checksum=md5,
        limit_bytes=_MAX_ARCHIVE_BYTES,
        what="official archive",
        otherwise="unpack the archive by hand and name its folder",
        wrong="put the official archive into the folder named by QUICKNET_DATA",
    )


def unpack(archive: Path, kind: Cifar, target: Path) -> Path:
    """Unpack the batch files of an official archive as the folder `target`, whole or not at all.

    Only the files that the format names are written, by name without folders, so that a path in
    the archive cannot decide where anything goes. Raises DataError for a damaged archive, one that
    lacks files, or members that are links, outside the folder or too large; ToolError for the disk.
    """
    expected = {*kind.files("train"), *kind.files("test"), kind.names_file}
    target.parent.mkdir(parents=True, exist_ok=True)
    workdir = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with tarfile.open(archive, "r:gz") as tar:
            unpacked = _extract(tar, expected, workdir, archive)
        if expected - unpacked:
            raise DataError(f"{archive} lacks {sorted(expected - unpacked)[0]}; get the official archive")
        workdir.chmod(0o755)
        workdir.rename(target)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ToolError(
                f"cannot unpack {archive} into {target.parent} ({error.strerror}); {write_advice(error)}, "
                "then run the same command again"
            ) from error
        raise DataError(f"{archive} is damaged ({error}); delete it and run the same command again") from error
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    return target


def _extract(tar: tarfile.TarFile, expected: set[str], workdir: Path, archive: Path) -> set[str]:
    """Write the `expected` files of an archive into `workdir`; return the names of those that it holds."""
    unpacked: set[str] = set()
    for count, member in enumerate(tar):
        parts = Path(member.name).parts
        outside = member.name.startswith(("/", "\\")) or ".." in parts or len(parts) > 2
        unusual = not (member.isfile() or member.isdir()) or member.size > _MAX_MEMBER_BYTES
        if outside or unusual or count >= _MAX_MEMBERS:
            raise DataError(f"{archive} holds {member.name!r}, which no official archive does; delete it")
        if member.isfile() and parts[-1] in expected:
            source = tar.extractfile(member)
            if source is not None:
                with contextlib.closing(source), (workdir / parts[-1]).open("wb") as file:
                    shutil.copyfileobj(source, file, _CHUNK)
                    file.flush()
                    os.fsync(file.fileno())
                unpacked.add(parts[-1])
    return unpacked
