"""QuickNet: a folder of pictures becomes one small, fast, verified image classifier.

Importing this module imports nothing heavy; each public name loads its module at first use.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# PyTorch's threads (GNU OpenMP reads this when torch is loaded) wait for work by spinning for 5 ms,
# on a core that another process could use, or that the thread waited for could run on. Short
# waits leave undisturbed speed as it is, and training beside one busy process on one of two cores
# keeps 0.69 of its speed, not 0.59 (benchmarks/bench_busy.py). Whoever has set a policy keeps it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")

# The same names for type checkers (`X as X` is how a package says that a name is public).
if TYPE_CHECKING:
    from quicknet.core.card import Card as Card
    from quicknet.core.card import PreprocessSpec as PreprocessSpec
    from quicknet.core.errors import QuickNetError as QuickNetError
    from quicknet.data import DataRequest as DataRequest
    from quicknet.data import load_data as load_data
    from quicknet.data.doctor import examine
    from quicknet.deploy.compress.run import compress as compress
    from quicknet.deploy.compress.settings import CompressSettings as CompressSettings
    from quicknet.deploy.export import export as export
    from quicknet.deploy.qnz import QnzSettings as QnzSettings
    from quicknet.deploy.qnz import export_qnz as export_qnz
    from quicknet.inference.artifact import load as load
    from quicknet.inference.evaluate import evaluate as evaluate
    from quicknet.inference.predict import PredictSettings as PredictSettings
    from quicknet.inference.predict import predict as predict
    from quicknet.inference.shipped import list_weights as list_weights
    from quicknet.inference.verify import verify as verify
    from quicknet.inference.video import VideoSettings as VideoSettings
    from quicknet.inference.video import classify_video as classify_video
    from quicknet.inference.watch import watch as watch
    from quicknet.measure.benchmark import BenchmarkSettings as BenchmarkSettings
    from quicknet.measure.benchmark import benchmark as benchmark
    from quicknet.models.config import QuickNetConfig as QuickNetConfig
    from quicknet.models.registry import create_model as create_model
    from quicknet.models.registry import list_models as list_models
    from quicknet.study.compare import CompareSettings as CompareSettings
    from quicknet.study.compare import compare as compare
    from quicknet.training import train as train
    from quicknet.training.recipe import load_recipe as load_recipe

    doctor = examine

# public name → "module:attribute"; a test holds the block above to it
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
    "compress": "quicknet.deploy.compress.run:compress",
    "CompressSettings": "quicknet.deploy.compress.settings:CompressSettings",
    "verify": "quicknet.inference.verify:verify",
    "PredictSettings": "quicknet.inference.predict:PredictSettings",
    "VideoSettings": "quicknet.inference.video:VideoSettings",
    "benchmark": "quicknet.measure.benchmark:benchmark",
    "BenchmarkSettings": "quicknet.measure.benchmark:BenchmarkSettings",
    "compare": "quicknet.study.compare:compare",
    "CompareSettings": "quicknet.study.compare:CompareSettings",
    "doctor": "quicknet.data.doctor:examine",
}

__all__ = ["__version__", *_PUBLIC]


def _public(name: str) -> Any:
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


# Type checkers, which would take any name for Any, see the block above instead.
if not TYPE_CHECKING:
    __getattr__ = _public


def __dir__() -> list[str]:
    return sorted(__all__)
