"""A parent or a teacher that has learned from what a run holds out, that is not finished, or that has moved."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import TINY, same_tensors
from interrupted import interrupt
from quicknet import training
from quicknet.cli.main import run as command
from quicknet.core.errors import CheckpointError, ConfigError
from quicknet.deploy.compress.run import compress
from quicknet.deploy.compress.settings import CompressSettings
from quicknet.training.notes import describe

CPU = torch.device("cpu")


@pytest.fixture
def start(tiny_cifar: Path, tmp_path: Path):
    """Start a run on the data that `trained` has learned from."""

    def start(name: str, *changes: str) -> Any:
        recipe = training.load_recipe("fast", [*TINY, f"data.source={json.dumps(str(tiny_cifar))}", *changes])
        return training.start(recipe, tmp_path / name, CPU)

    return start


@pytest.mark.parametrize("key", ["model.start_from", "distill.teacher"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.protocol=paper", "protocol standard there, paper here"),
        ("data.split_seed=1", "split_seed 0 there, 1 here"),
        ("data.val_share=0.2", "val_share 0.1 there, 0.2 here"),
    ],
)
def test_who_has_learned_from_images_that_are_held_out_is_refused(start, trained, tmp_path, key, change, said):
    """Its accuracy on them would be that of images of its training."""
    names = f"{key}={json.dumps(str(trained))}"
    setting = change.split("=")[0]
    with pytest.raises(
        ConfigError, match=rf"learned from images of .* holds out \({said}\).*train this run with {setting}="
    ) as error:
        start("other", names, change)
    assert ("--from" if key == "model.start_from" else "--teacher") in str(error.value)
    assert not (tmp_path / "other").exists()
    start("same", names)


@pytest.mark.parametrize("recipe", [True, False])
def test_a_file_says_by_its_receipt_what_was_held_out(start, trained, tiny_cifar, tmp_path, recipe):
    folder, file = shutil.copytree(trained, tmp_path / "teacher"), tmp_path / "teacher.onnx"
    assert command(["export", str(folder), "--format", "onnx", "--out", str(file), "--data", str(tiny_cifar)]) == 0
    if not recipe:  # a run folder as one ships it: how it was split is not known, its protocol is
        (folder / "recipe.toml").unlink()
        start("unknown", f"distill.teacher={json.dumps(str(folder))}", "data.split_seed=1")
        with pytest.raises(ConfigError, match="protocol standard there"):
            start("paper", f"distill.teacher={json.dumps(str(folder))}", "data.protocol=paper")
    with pytest.raises(ConfigError, match="split_seed 0 there"):
        start("other", f"distill.teacher={json.dumps(str(file))}", "data.split_seed=1")


def test_other_data_is_nobodys_secret(start):
    start("run", 'distill.teacher="quicknet_xs.cifar10"', "data.split_seed=1")


def test_compress_refuses_such_a_teacher_too(start, trained, tiny_cifar, tmp_path):
    run = start("run", "train.epochs=1", "data.split_seed=1")
    list(training.fit(run))
    settings = CompressSettings(density=0.5, epochs=1, teacher=str(trained))
    with pytest.raises(ConfigError, match="split_seed 0 there, 1 here"):
        compress(tmp_path / "run", run.data, tmp_path / "x.qnz", settings, source=str(tiny_cifar))


def test_a_teacher_that_was_stopped_on_the_way_is_said(start, trained, tmp_path):
    """A chain of commands whose first was killed would learn from half a teacher without a word."""
    cut = start("teacher", "train.epochs=4")
    interrupt(cut, cut.steps_per_epoch + 1)
    run = start("run", f"distill.teacher={json.dumps(str(tmp_path / 'teacher'))}")
    (note,) = [line for line in describe(run) if line.startswith("note") and "teacher" in line]
    assert "has trained 1 of its 4 epochs" in note
    assert not [
        line for line in describe(start("two", f"distill.teacher={json.dumps(str(trained))}")) if "epochs;" in line
    ]


def test_a_run_goes_on_where_its_teacher_lies_now(start, trained, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    there = shutil.copytree(trained, tmp_path / "there")
    for name, stop in (("whole", False), ("cut", True)):
        run = start(name, f"distill.teacher={json.dumps(str(there))}", "train.epochs=3")
        interrupt(run, 2) if stop else list(training.fit(run))
    there.rename("here")
    assert command(["train", "--resume", "cut", "--quiet"]) == 2
    assert command(["train", "--resume", "cut", "--teacher", "here", "--quiet"]) == 0
    for name in ("last.safetensors", "model.safetensors"):
        assert same_tensors(tmp_path / "whole" / name, tmp_path / "cut" / name), name
    assert command(["train", "--resume", "cut", "--teacher", "here", "--epochs", "9"]) == 2
    assert "--resume takes every setting from the run" in capfd.readouterr().err


def test_another_teacher_does_not_go_on(start, trained, tmp_path):
    """The same weights for images of another scale answer otherwise."""
    there = shutil.copytree(trained, tmp_path / "there")
    interrupt(start("cut", f"distill.teacher={json.dumps(str(there))}"))
    card = json.loads((there / "card.json").read_text())
    card["preprocess"]["mean"][0] += 0.1
    (there / "card.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="is not the one that"):
        training.resume(tmp_path / "cut", CPU)
    interrupt(start("alone"))
    with pytest.raises(ConfigError, match="began without a teacher"):
        training.resume(tmp_path / "alone", CPU, teachers=[str(trained)])
