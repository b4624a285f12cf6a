"""Where data lies on this machine."""

from __future__ import annotations

import os
from pathlib import Path

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
