"""Where this user's caches lie, and a lock for those who write there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from quicknet.core.errors import ToolError
from quicknet.core.lock import lock_file


def expanded(name: str | Path) -> Path:
    """Return the path with `~` resolved; as it is where there is no such user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def user_cache(cache_dir: str | None = None) -> Path:
    """Return the folder for what can be made or fetched again.

    `cache_dir`, else $QUICKNET_CACHE, else `quicknet` in $XDG_CACHE_HOME or ~/.cache.
    """
    named = cache_dir or os.environ.get("QUICKNET_CACHE")
    return expanded(named) if named else default_cache()


def default_cache() -> Path:
    """Return the cache folder where $QUICKNET_CACHE names none."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "quicknet"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` for one process at a time, waiting; the lock dies with its process.

    Raises ToolError where the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise ToolError(
            f"cannot write the cache ({path.parent}: {error.strerror or error}); "
            "set QUICKNET_CACHE to a folder that can be written"
        ) from error
    with file:
        # Some network file systems have no locks; two writers then do the same work twice,
        # which atomic renames keep harmless.
        with contextlib.suppress(OSError):
            lock_file(file, wait=True)
        yield
