"""Learning from a network that knows other things: its features, through a layer that is dropped in the end."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import TINY, same_tensors
from interrupted import interrupt
from onnx import TensorProto
from quicknet import training
from quicknet.cli.main import run as command
from quicknet.core.card import Card, DataRecord, ModelRecord, PreprocessSpec, read_card
from quicknet.core.errors import CheckpointError
from quicknet.core.lineage import DistillStep
from quicknet.deploy.onnx import Nodes, assemble
from quicknet.inference.artifact import load

CPU = torch.device("cpu")
FEATURES = 7


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose outputs are seven mixtures of an image's mean colours: easy to learn, and no classes."""
    made = Nodes()
    x = made.node("Transpose", ["images"], "planes", perm=[0, 3, 1, 2])
    x = made.node("Cast", [x], "pixels", to=TensorProto.FLOAT)
    x = made.node("Flatten", [made.node("GlobalAveragePool", [x], "average")], "flat", axis=1)
    weight = np.random.default_rng(0).normal(size=(FEATURES, 3)) / 50
    made.node("Gemm", [x, made.constant("weight", weight)], "logits", transB=1)
    card = Card(
        model=ModelRecord(family="colours", name="colours", config={}),
        classes=tuple(f"feature {number}" for number in range(FEATURES)),
        preprocess=PreprocessSpec(size=16),
        data=DataRecord(name="none", protocol="standard", counts={}, sha256=""),
    )
    path = tmp_path_factory.mktemp("teacher") / "colours.onnx"
    path.write_bytes(assemble(made.serialized(16, 3, FEATURES), card))
    return path


@pytest.fixture
def student(tiny_cifar: Path, teacher: Path, tmp_path: Path):
    def start(name: str, *changes: str) -> Any:
        settings = [*TINY, f"data.source={json.dumps(str(tiny_cifar))}", f"distill.teacher={json.dumps(str(teacher))}"]
        recipe = training.load_recipe("fast", [*settings, "distill.kept=1", "distill.on=features", *changes])
        return training.start(recipe, tmp_path / name, CPU)

    return start


def fit(run: Any) -> list[Any]:
    return list(training.fit(run))


def explained(run: Any) -> float:
    """Return which share of the features' variance the student predicts for the views that it was shown."""
    run.model.eval()
    rows = torch.arange(run.train_size)
    with torch.no_grad():
        maps = run.model.forward_features(run.augmenter.batch(rows, 0).images)
        features = run.model.forward_head(maps, pre_logits=True)
        return 1 - run.match.error(features, run.kept.logits(0, rows), run.kept).mean().item()


def test_a_student_learns_what_the_teacher_knows(student):
    run = student("run", "distill.weight=1.0", "train.epochs=25")
    fit(run)
    assert explained(run) > 0.5
    assert run.lineage[-1] == DistillStep(source="colours", weights_sha256=run.teachers[0].card.weights_sha256)


def test_the_layer_is_dropped_in_the_end(student, tmp_path):
    fit(student("run"))
    assert read_card(tmp_path / "run" / "card.json").model.name == "quicknet_xs"
    assert load(tmp_path / "run").logits(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 10)


@pytest.mark.parametrize("steps", [1, 8])
def test_it_is_resumed_bit_for_bit(student, tmp_path, steps):
    fit(student("whole"))
    run = student("cut")
    interrupt(run, steps)
    fit(training.resume(tmp_path / "cut", CPU))
    for name in ("last.safetensors", "model.safetensors"):
        assert same_tensors(tmp_path / "whole" / name, tmp_path / "cut" / name), name


def test_it_goes_on_without_the_kept_answers_of_the_first_epoch(student, tmp_path):
    """What the features' scale was is saved: only the answers of epochs to come are asked for again."""
    changes = ("distill.kept=2", "train.epochs=4")
    whole = student("whole", *changes)
    fit(whole)
    run = student("cut", *changes)
    interrupt(run, 3 * run.steps_per_epoch + 1)
    run.kept.files[0].path.unlink()
    fit(training.resume(tmp_path / "cut", CPU))
    assert same_tensors(tmp_path / "whole" / "last.safetensors", tmp_path / "cut" / "last.safetensors")


def test_a_state_without_the_layer_is_refused(student):
    run = student("run")
    state = run.match.state()
    with pytest.raises(CheckpointError, match="lacks the layer"):
        run.match.load_state({name: t for name, t in state.items() if name != "layer.bias"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((), "a file of features (distill.on=features)"),
        (("--set", "distill.on=features"), "set distill.kept=1"),
    ],
)
def test_what_is_missing_is_named(tiny_cifar, teacher, tmp_path, capsys, settings, message):
    arguments = ["train", str(tiny_cifar), "--teacher", str(teacher), "--run", str(tmp_path / "run"), *settings]
    assert command(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*"))
