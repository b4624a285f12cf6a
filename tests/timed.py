"""A tiny model to be timed: a run folder with random weights, and the same as an exported file."""

from pathlib import Path
from typing import Any

import pytest
import torch

from quicknet.core.card import Card, PreprocessSpec
from quicknet.models.registry import create_model, model_record
from quicknet.training.checkpoint import RunFolder

TINY = {"stem_width": 8, "widths": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "num_classes": 3}


def write_run(folder: Path, name: str = "quicknet_xs", **config: Any) -> Path:
    """Write a run folder as training leaves it, its weights untrained."""
    torch.manual_seed(0)
    model: Any = create_model(name, **{**(TINY if name.startswith("quicknet") else {}), **config})
    spec = PreprocessSpec(size=model.config.image_size)
    classes = tuple(f"class {i}" for i in range(model.config.num_classes))
    card = Card(model=model_record(name, model), classes=classes, preprocess=spec)
    RunFolder(folder).save_model(dict(model.state_dict()), card)
    return folder


def write_onnx(run: Path, out: Path) -> Path:
    """Export a run folder."""
    pytest.importorskip("onnx", reason="exporting needs the package onnx")
    from quicknet.deploy.export import export

    export(run, out)
    return out
