"""Where data lies on this machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from quicknet.core.errors import ToolError
from quicknet.core.places import default_cache, expanded, home_folder, user_cache


def search_places(name: str, cache_dir: str | None = None) -> list[Path]:
    """Return the folders in which an unpacked data set called `name` is looked for, in order.

    $QUICKNET_DATA and ./data (where torchvision's examples put it), our cache, ~/data, and
    Keras's ~/.keras/datasets (Keras 3 unpacks into a folder of the archive's name).
    """
    named, home = os.environ.get("QUICKNET_DATA"), home_folder()
    places = [expanded(named)] if named else []
    places.append(Path("data"))
    with contextlib.suppress(ToolError):  # nowhere to keep a cache: nothing can lie there
        places.append(user_cache(cache_dir))
    places += [folder for folder in (default_cache(), home and home / "data") if folder]
    keras = home / ".keras" / "datasets" if home else None
    places += [keras] if keras else []
    inside = [place / name for place in places]
    keras_3 = sorted(keras.glob("cifar-10*-target*")) if keras and keras.is_dir() else []
    return [*places, *inside, *keras_3]
