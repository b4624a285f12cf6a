"""The dense network trains, is resumed bit for bit and exported like every other; what cannot hold it says so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import quicknet
from helpers import same_tensors
from interrupted import interrupt
from quicknet import training
from quicknet.cli.main import run
from quicknet.image.vectors import draw_vectors
from quicknet.training.checkpoint import TorchClassifier

CPU = torch.device("cpu")
SMALL = (
    "model.name=speedy",
    "model.overrides={stem_width = 8, widths = [8, 16, 24]}",
    "model.start_from=none",
    "data.size=32",
    "train.epochs=1",
    "train.batch_size=45",
)


def small(data: Path, *changes: str, recipe: str = "teacher"):
    return training.load_recipe(recipe, [*SMALL, f"data.source={json.dumps(str(data))}", *changes])


@pytest.fixture(scope="module")
def trained(tiny_cifar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    started = training.start(small(tiny_cifar), folder, CPU)
    list(training.fit(started))
    training.finish(started)
    return folder


@pytest.mark.parametrize("name", training.list_recipes())
def test_it_trains_with_every_recipe(name: str, tiny_cifar: Path, tmp_path: Path):
    started = training.start(small(tiny_cifar, "train.views=180", recipe=name), tmp_path / "run", CPU)
    assert started.recipe.optim.name == training.load_recipe(name, ["model.start_from=none"]).optim.name
    (record,) = training.fit(started)
    assert np.isfinite(record.train_loss)


def test_it_is_resumed_bit_for_bit(trained: Path, tiny_cifar: Path, tmp_path: Path):
    started: Any = training.start(small(tiny_cifar), tmp_path / "cut", CPU)
    interrupt(started, 2)
    list(training.fit(training.resume(tmp_path / "cut", CPU)))
    assert same_tensors(trained / "last.safetensors", tmp_path / "cut" / "last.safetensors")


def test_it_is_exported(trained: Path, tmp_path: Path):
    assert run(["export", str(trained), "--format", "onnx", "--out", str(tmp_path / "m.onnx")]) == 0
    images = draw_vectors(32, 3, 9)
    answers = quicknet.load(tmp_path / "m.onnx").logits(images)
    assert np.abs(answers - TorchClassifier(trained).logits(images)).max() <= 1e-4


@pytest.mark.parametrize("options", [["--format", "qnz"], ["--format", "onnx", "--int8"]])
def test_integers_cannot_hold_it(options: list[str], trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    name = "m.onnx" if "--int8" in options else "m.qnz"
    assert run(["export", str(trained), *options, "--out", str(tmp_path / name), "--quiet"]) == 2
    assert "is a GELU activation" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
