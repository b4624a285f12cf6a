"""Shipping a run: half the bytes where no class changes, digests that fit, and a name to train from."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import safetensors.torch
import torch

from exported import make_run, write_pictures
from integers import data_for, receipted
from networks import Block, Shape, network_card, random_network
from quicknet import training
from quicknet.cli.main import run as command
from quicknet.core.card import Card, read_card
from quicknet.core.errors import CheckpointError, ToolError
from quicknet.core.files import sha256_file
from quicknet.core.lineage import DistillStep, FineTuneStep, Fp16Step
from quicknet.data import Dataset
from quicknet.deploy.export import load_run_data
from quicknet.inference import shipped
from quicknet.inference.evaluate import top1_metric
from quicknet.inference.shipped import locate, read_index
from quicknet.qnz.file import assemble_qnz
from quicknet.training.checkpoint import RunFolder, TorchClassifier, load_model, read_tensors

NAME = "quicknet_xs.bars"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an accuracy on test, as `train` leaves it."""
    torch.set_num_threads(1)
    folder = make_run(tmp_path_factory.mktemp("runs") / "run", pictures)
    card = read_card(folder / "card.json")
    RunFolder(folder).update_card(
        card.replace(metrics=(top1_metric(0.9, 30, "test", "standard", card.weights_sha256),))
    )
    return folder


@pytest.fixture(scope="module")
def data(run: Path, pictures: Path) -> Dataset:
    return load_run_data(run, str(pictures), quiet=True)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package folder."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "index.json").write_text('{"format": 1, "weights": {}}')
    monkeypatch.setattr(shipped, "PACKAGED", tmp_path / "package")
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "package"


@pytest.fixture
def ship(package: Path) -> ModuleType:
    """`quicknet.study.ship`, which writes into that folder."""
    return importlib.import_module("quicknet.study.ship")


def qnz_of(card: Card, path: Path, measured: bool = True) -> Path:
    """Write a small `.qnz` with the run's own classes, images and network in its card."""
    spec = card.preprocess
    shape = Shape(side=spec.size, classes=len(card.classes), stem=8, stride=2, blocks=(Block(16, pool=True),))
    network = random_network(np.random.default_rng(0), shape)
    theirs = replace(data_for(network), classes=card.classes)
    kept_card = receipted(network, theirs) if measured else network_card(network)
    path.write_bytes(
        assemble_qnz(network, kept_card.replace(model=card.model, classes=card.classes, preprocess=card.preprocess))
    )
    return path


def test_a_run_ships_with_its_matrices_in_fp16_and_answers_alike(
    ship: ModuleType, package: Path, run: Path, data: Dataset
):
    assert ship.ship(run, NAME, None, data, None) == 0
    folder, parent = locate(NAME, "run"), read_card(run / "card.json")
    assert folder == package / NAME
    before, after = (place / "model.safetensors" for place in (run, folder))
    matrices = sum(tensor.numel() for tensor in read_tensors(before).values() if tensor.ndim > 1)
    assert before.stat().st_size - after.stat().st_size == pytest.approx(2 * matrices, abs=500)  # headers differ
    images = data.split("val").images
    expected, actual = (TorchClassifier(place).logits(images) for place in (run, folder))
    assert (expected.argmax(1) == actual.argmax(1)).all() and 0 < np.abs(expected - actual).max() < 0.1
    card = read_card(folder / "card.json")
    assert card.weights_sha256 == sha256_file(after) != parent.weights_sha256
    assert isinstance(card.lineage[-1], Fp16Step) and card.lineage[-1].n == len(images)
    assert card.lineage[-1].parent_weights_sha256 == parent.weights_sha256
    by_split = {metric.split: metric.file_sha256 for metric in card.metrics}
    assert by_split == {"test": parent.weights_sha256, "val": card.weights_sha256}
    weights = read_index(package).weights[NAME]
    assert (weights.network, weights.data, weights.file) == ("quicknet_xs", data.name, None)
    assert (weights.run.top1, weights.run.n, weights.run.split) == (0.9, 30, "test")
    for part in weights.run.parts:
        path = package / part.file
        assert (part.sha256, part.size_bytes, part.url) == (sha256_file(path), path.stat().st_size, None)


def close_run(run: Path, tmp_path: Path) -> RunFolder:
    """Two classes whose weights differ by less than fp16 can tell: the second wins by that only."""
    tensors = read_tensors(run / "model.safetensors")
    weight, bias = tensors["classifier.weight"], tensors["classifier.bias"]
    weight[1], bias[0] = weight[0] * (1 + 1e-5), bias[0].abs()
    bias[1] = bias[0]
    bias[2] = -100
    close = RunFolder(tmp_path / "close")
    close.save_model(tensors, read_card(run / "card.json"))
    return close


def test_where_a_class_changes_the_weights_stay_as_they_are(
    ship: ModuleType, package: Path, run: Path, data: Dataset, tmp_path: Path
):
    close = close_run(run, tmp_path)
    changed = ship.ship(close.path, NAME, None, data, None)
    assert changed > 0
    tensors = read_tensors(close.path / "model.safetensors")
    kept = read_tensors(package / NAME / "model.safetensors")
    assert all(torch.equal(kept[name], tensors[name]) for name in tensors)
    card = read_card(package / NAME / "card.json")
    assert not card.lineage and card.metrics[-1].split == "val"


def test_weights_to_start_from_may_change_a_few_classes_and_say_so(
    ship: ModuleType, package: Path, run: Path, data: Dataset, tmp_path: Path
):
    close = close_run(run, tmp_path)
    said = ship.Said(tolerated=1.0, licence="research use", notes="to start from")
    changed = ship.ship(close.path, NAME, None, data, None, said)
    assert changed > 0
    assert read_tensors(package / NAME / "model.safetensors")["classifier.weight"].dtype == torch.float16
    card = read_card(package / NAME / "card.json")
    assert (card.lineage[-1].changed, card.lineage[-1].n) == (changed, 30)
    assert (card.licence, card.notes) == ("research use", "to start from")


def test_for_the_release_page_the_package_gets_digests_only(
    ship: ModuleType, package: Path, run: Path, data: Dataset, tmp_path: Path
):
    file = qnz_of(read_card(run / "card.json"), tmp_path / "model.qnz")
    qnz = ship.checked_qnz(file, read_card(run / "card.json"))
    ship.ship(run, NAME, qnz, data, tmp_path / "release")
    assert [path.name for path in package.iterdir()] == ["index.json"]
    weights = read_index(package).weights[NAME]
    assert weights.file.top1 == 0.75 and weights.file.n == 60
    for part in (*weights.file.parts, *weights.run.parts):
        assert sha256_file(tmp_path / "release" / part.url) == part.sha256
    assert len(list((tmp_path / "release").iterdir())) == 3


def test_a_file_and_a_run_ship_together(ship: ModuleType, package: Path, run: Path, pictures: Path, tmp_path: Path):
    file = qnz_of(read_card(run / "card.json"), tmp_path / "model.qnz")
    arguments = ["ship.py", str(run), NAME, "--qnz", str(file), "--data", str(pictures)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        assert ship.main() == 0
    assert locate(NAME, "file").read_bytes() == file.read_bytes()
    assert command(["verify", NAME, "--quiet"]) == 0


def test_a_file_that_was_never_measured_or_is_of_another_task_does_not_ship(
    ship: ModuleType, package: Path, run: Path, data: Dataset, tmp_path: Path
):
    card = read_card(run / "card.json")
    file = qnz_of(card, tmp_path / "model.qnz", measured=False)
    with pytest.raises(ToolError, match="was never measured"):
        ship.ship(run, NAME, ship.checked_qnz(file, card), data, None)
    other = qnz_of(card.replace(classes=card.classes[::-1]), tmp_path / "other.qnz")
    with pytest.raises(ToolError, match="other classes"):
        ship.checked_qnz(other, card)
    assert json.loads((package / "index.json").read_text())["weights"] == {}
    assert [path.name for path in package.iterdir()] == ["index.json"]


def test_a_name_that_is_none_does_not_ship(ship: ModuleType, package: Path, run: Path, data: Dataset):
    for name in ("quicknet_xs", "../quicknet.bars", "a/b.c"):
        with pytest.raises(ToolError, match="not a name for weights"):
            ship.ship(run, name, None, data, None)
    assert [path.name for path in package.iterdir()] == ["index.json"]


def test_fp16_becomes_float32_and_other_types_are_refused(run: Path, tmp_path: Path):
    tensors = read_tensors(run / "model.safetensors")
    folder = RunFolder(tmp_path / "fp16")
    halved = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    folder.save_model(halved, read_card(run / "card.json"))
    model, _ = load_model(folder.path)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == tensors[name].dtype and torch.equal(tensor, halved[name].to(tensor.dtype))
    for odd in (torch.float64, torch.bfloat16):
        folder.save_model(
            {**halved, "classifier.bias": tensors["classifier.bias"].to(odd)}, read_card(run / "card.json")
        )
        with pytest.raises(CheckpointError, match="it belongs to another network"):
            load_model(folder.path)
    infinite = {**halved, "classifier.bias": torch.full_like(halved["classifier.bias"], torch.inf)}
    folder.save_model(infinite, read_card(run / "card.json"))
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        load_model(folder.path)
    assert safetensors.torch.load_file(folder.path / "model.safetensors")["classifier.bias"].dtype == torch.float16


def test_a_name_trains_and_teaches(ship: ModuleType, package: Path, run: Path, data: Dataset, pictures: Path):
    ship.ship(run, NAME, None, data, None)
    changes = [
        f"data.source={json.dumps(str(pictures))}",
        f"model.start_from={json.dumps(NAME)}",
        f"distill.teacher={json.dumps(NAME)}",
        "train.epochs=1",
        "train.batch_size=30",
        "optim.lr=1e-9",
    ]
    started = training.start(training.load_recipe("fast", changes), package.parent / "tuned", torch.device("cpu"))
    list(training.fit(started))
    card = read_card(package.parent / "tuned" / "card.json")
    shipped = read_card(package / NAME / "card.json").weights_sha256
    assert [type(step) for step in card.lineage] == [Fp16Step, FineTuneStep, DistillStep]
    assert [step.weights_sha256 for step in card.lineage[1:]] == [shipped, shipped]
    assert f'start_from = "{NAME}"' in (package.parent / "tuned" / "recipe.toml").read_text()
