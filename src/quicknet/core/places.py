"""Where this user's caches lie, and a lock for the processes that write there."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from quicknet.core.errors import ToolError
from quicknet.core.lock import lock_file

_SET = "set QUICKNET_CACHE to a folder that can be written"


def expanded(name: str | Path) -> Path:
    """Return the path with `~` resolved, or unchanged where there is no such user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def user_cache(cache_dir: str | None = None) -> Path:
    """Return the folder for files that can be made or fetched again.

    `cache_dir`, else $QUICKNET_CACHE, else `quicknet` in $XDG_CACHE_HOME or ~/.cache. Raises
    ToolError where none of them names a folder and this user has no home.
    """
    named = cache_dir or os.environ.get("QUICKNET_CACHE")
    folder = expanded(named) if named else default_cache()
    if folder is None:
        raise ToolError(f"there is no folder for the cache (this user has no home); {_SET}")
    return folder


def default_cache() -> Path | None:
    """Return the cache folder where $QUICKNET_CACHE names none; None for a user without a home."""
    named = os.environ.get("XDG_CACHE_HOME")
    home = home_folder()
    if named:
        return Path(named) / "quicknet"
    return home / ".cache" / "quicknet" if home else None


def home_folder() -> Path | None:
    """Return this user's home; None where $HOME is not set and the user id is not among the system's users."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def cache_error(folder: Path, error: OSError) -> ToolError:
    """Return the error for a cache that cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = f"free some space, or {_SET}" if full else _SET
    return ToolError(f"cannot write the cache ({folder}: {error.strerror or error}); {advice}")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` for one process at a time, waiting; the lock dies with its process.

    Raises ToolError where the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise cache_error(path.parent, error) from error
    with file:
        # Some network file systems do not have locks; two writers then do the same work twice,
        # which atomic renames keep harmless.
        with contextlib.suppress(OSError):
            lock_file(file, wait=True)
        yield
