"""Data sets: CIFAR and folders of pictures become uint8 arrays with labels and named classes.

Each public name loads its module at first use, so that `--help` stays free of numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quicknet.data.dataset import Dataset, Split
    from quicknet.data.doctor import Finding, examine
    from quicknet.data.load import load_data
    from quicknet.data.request import DataRequest
    from quicknet.data.scenes import draw_scenes

__all__ = ["DataRequest", "Dataset", "Finding", "Split", "draw_scenes", "examine", "load_data"]

_MODULES = {
    "DataRequest": "quicknet.data.request",
    "Dataset": "quicknet.data.dataset",
    "Finding": "quicknet.data.doctor",
    "Split": "quicknet.data.dataset",
    "draw_scenes": "quicknet.data.scenes",
    "examine": "quicknet.data.doctor",
    "load_data": "quicknet.data.load",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'quicknet.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
