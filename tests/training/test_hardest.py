"""Learning from the hardest images of a batch: the right ones, resumed bit for bit, refused where it makes no sense."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from exported import write_pictures
from helpers import TINY, same_tensors
from interrupted import interrupt
from quicknet import training
from quicknet.cli.main import run as command
from quicknet.core.errors import CheckpointError, ConfigError
from quicknet.training.hardest import hardest, hardest_count
from quicknet.training.loop import step
from quicknet.training.loss import label_losses
from quicknet.training.settings import HardestSettings

CPU = torch.device("cpu")
MIXED = ("augment.mixup=0.3", "augment.cutmix=1.0")


@pytest.fixture
def start(tiny_cifar: Path, trained: Path, tmp_path: Path):
    """Start a run that learns from the half of each batch which the judge finds hardest."""

    def start(name: str, *changes: str) -> Any:
        asked = [f"data.source={json.dumps(str(tiny_cifar))}", f"hardest.by={json.dumps(str(trained))}"]
        recipe = training.load_recipe("fast", [*TINY, *asked, "hardest.share=0.5", *changes])
        return training.start(recipe, tmp_path / name, CPU)

    return start


@pytest.mark.parametrize("mixing", [(), MIXED])
def test_the_images_with_the_largest_losses_are_learned_from(start, mixing):
    run = start("run", *mixing)
    whole = run.augmenter.batch(torch.arange(31), 0)
    half = hardest(run, whole)
    with torch.no_grad(), run.autocast():
        losses = label_losses(run, run.judge(whole.images).float(), whole)
    chosen = torch.isin(whole.indices, half.indices)
    assert len(half.indices) == hardest_count(run.recipe.hardest, 31) == 16
    assert losses[chosen].min() >= losses[~chosen].max()
    assert torch.equal(half.images, whole.images[chosen])
    assert torch.equal(half.labels, whole.labels[chosen])
    assert (half.mix_labels is not None) == bool(mixing)
    for a, b in ((half.mix_labels, whole.mix_labels), (half.mix_weight, whole.mix_weight)):
        assert a is b is None or (a is not None and b is not None and torch.equal(a, b[chosen]))


def test_the_log_counts_what_was_learned_from(start):
    """A mean over all 180 images would halve the loss."""
    run = start("all", "train.batch_size=180", "optim.lr=1e-9", "optim.vector_lr=1e-9")
    half = hardest(run, run.augmenter.batch(torch.arange(180), 0))
    record = next(training.fit(run))
    run.model.train()
    with torch.no_grad():
        losses = label_losses(run, run.forward(half.images).float(), half)
    assert len(losses) == 90
    assert record.train_loss == pytest.approx(float(losses.mean()), rel=0.02)


@pytest.mark.parametrize("changes", [(), ("train.accumulate=3",)])
def test_a_run_is_resumed_bit_for_bit(start, tmp_path, changes):
    list(training.fit(start("whole", *MIXED, *changes)))
    interrupt(start("cut", *MIXED, *changes), 4)
    list(training.fit(training.resume(tmp_path / "cut", CPU)))
    for name in ("last.safetensors", "model.safetensors"):
        assert same_tensors(tmp_path / "whole" / name, tmp_path / "cut" / name), name


def test_a_share_and_a_judge_belong_together():
    with pytest.raises(ConfigError, match="belong together"):
        HardestSettings(share=0.5)
    with pytest.raises(ConfigError, match="belong together"):
        HardestSettings(by="quicknet_xs.cifar10")
    for share in (0, 1.5, -1, float("nan")):
        with pytest.raises(ConfigError, match=r"0 < x <= 1"):
            HardestSettings(by="quicknet_xs.cifar10", share=share)


def test_a_judge_that_is_not_there_is_one_line(tiny_cifar, tmp_path, capsys):
    words = [
        "--set",
        "hardest.by=nowhere",
        "--set",
        "hardest.share=0.5",
        "--recipe",
        "fast",
        "--run",
        str(tmp_path / "run"),
    ]
    assert command(["train", str(tiny_cifar), *(w for c in TINY for w in ("--set", c)), *words]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_judge_in_the_runs_own_folder_is_refused(start, tmp_path):
    with pytest.raises(ConfigError, match=r"hard, .* lies in the folder that this run writes"):
        start("own", f"hardest.by={json.dumps(str(tmp_path / 'own'))}")


def test_a_judge_that_has_learned_on_since_is_noticed(start, trained, tmp_path):
    interrupt(start("cut", f"hardest.by={json.dumps(str(shutil.copytree(trained, tmp_path / 'judge')))}"), 4)
    changes = [*TINY, f"data.source={json.dumps(start('other').recipe.data.source)}", "train.epochs=1", "train.seed=4"]
    list(training.fit(training.start(training.load_recipe("fast", changes), tmp_path / "new", CPU)))
    shutil.rmtree(tmp_path / "judge")
    shutil.copytree(tmp_path / "new", tmp_path / "judge")
    with pytest.raises(CheckpointError, match="would choose other images"):
        training.resume(tmp_path / "cut", CPU)


def test_a_judge_of_other_classes_is_refused_by_its_own_option(start, tmp_path):
    pictures = write_pictures(tmp_path / "parts", 20) / "train"
    with pytest.raises(ConfigError, match=r"finds images hard, .* other classes .* --set hardest.by"):
        start("run", "hardest.by=quicknet_xs.cifar10", f"data.source={json.dumps(str(pictures))}", "data.size=32")


def test_every_image_that_is_learned_from_is_counted(start):
    """Parts of odd sizes round on their own."""
    run = start("run", "train.batch_size=50", "train.accumulate=4")
    counted: list[int] = []
    real = run.answer

    def answer(images):
        counted.append(len(images))
        return real(images)

    run.answer = answer
    run.model.train()
    step(run, next(run.remaining_batches()))
    assert run.state.seen == sum(counted)
    assert len(counted) == 4
