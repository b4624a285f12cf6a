"""Where data lies on this machine, and a lock for those who write there."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from quicknet.core.errors import ToolError
from quicknet.core.places import default_cache, expanded, user_cache


def search_places(name: str, cache_dir: str | None = None) -> list[Path]:
    """Return the folders in which an unpacked data set called `name` is looked for, in order.

    $QUICKNET_DATA and ./data (where torchvision's examples put it), our cache, ~/data, and
    Keras's ~/.keras/datasets (Keras 3 unpacks into a folder of the archive's name).
    """
    keras = Path.home() / ".keras" / "datasets"
    named = os.environ.get("QUICKNET_DATA")
    places = [expanded(named)] if named else []
    places += [Path("data"), user_cache(cache_dir), default_cache(), Path.home() / "data", keras]
    inside = [place / name for place in places]
    keras_3 = sorted(keras.glob("cifar-10*-target*")) if keras.is_dir() else []
    return [*places, *inside, *keras_3]


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
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
