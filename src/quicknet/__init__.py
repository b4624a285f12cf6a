"""QuickNet: a folder of pictures becomes one small, fast, verified image classifier.

Importing this module imports nothing heavy; each public name loads its module at first use.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# PyTorch's threads (GNU OpenMP reads this when torch is loaded) wait for work by spinning for 5 ms,
# on a core that another process could use, or that the thread waited for could run on. Short
# waits leave undisturbed speed as it is, and training beside one busy process on one of two cores
# keeps 0.69 of its speed, not 0.59 (benchmarks/bench_busy.py). Whoever has set a policy keeps it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")

# public name → "module:attribute"; the only list of what is public
_PUBLIC = {
    "QuickNetError": "quicknet.core.errors:QuickNetError",
    "QuickNetConfig": "quicknet.models.config:QuickNetConfig",
    "Card": "quicknet.core.card:Card",
    "PreprocessSpec": "quicknet.core.card:PreprocessSpec",
    "create_model": "quicknet.models.registry:create_model",
    "list_models": "quicknet.models.registry:list_models",
    "load": "quicknet.inference.artifact:load",
    "list_weights": "quicknet.inference.shipped:list_weights",
    "load_data": "quicknet.data:load_data",
    "DataRequest": "quicknet.data:DataRequest",
    "load_recipe": "quicknet.training.recipe:load_recipe",
    "train": "quicknet.training:train",
    "evaluate": "quicknet.inference.evaluate:evaluate",
    "predict": "quicknet.inference.predict:predict",
    "classify_video": "quicknet.inference.video:classify_video",
    "watch": "quicknet.inference.watch:watch",
    "export": "quicknet.deploy.export:export",
    "export_qnz": "quicknet.deploy.qnz:export_qnz",
    "QnzSettings": "quicknet.deploy.qnz:QnzSettings",
    "verify": "quicknet.inference.verify:verify",
    "PredictSettings": "quicknet.inference.predict:PredictSettings",
    "VideoSettings": "quicknet.inference.video:VideoSettings",
    "benchmark": "quicknet.measure.benchmark:benchmark",
    "BenchmarkSettings": "quicknet.measure.benchmark:BenchmarkSettings",
    "doctor": "quicknet.data.doctor:examine",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'quicknet' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        from quicknet.core.errors import missing_extra

        missing = missing_extra(error)
        if missing is None:
            raise
        raise missing from error


def __dir__() -> list[str]:
    return sorted(__all__)
