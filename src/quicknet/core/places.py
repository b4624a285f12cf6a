"""Where this user's caches lie."""

from __future__ import annotations

import os
from pathlib import Path


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
