"""Every family of the zoo trains and is described; one with chance or buffers of its own is resumed bit for bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import same_tensors
from interrupted import interrupt
from narrowed import narrow
from quicknet import training
from quicknet.cli.main import run
from quicknet.core.card import read_card
from quicknet.models.registry import MODELS
from quicknet.training.checkpoint import TorchClassifier

CPU = torch.device("cpu")
# one of each family; those with a kind of layer, head or start of their own in every run of the tests
FAMILIES = {path.partition(":")[0]: name for name, path in MODELS.items() if ".zoo." in path}.values()
OFTEN = ("resnet_50", "lenet_5", "alexnet_cifar", "vgg_16", "maxout", "repvgg_a0_folded")


def recipe(name: str, data: Path) -> Any:
    settings = narrow(name)
    size = settings.pop("image_size")
    overrides = ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    where = f"data.source={json.dumps(str(data))}"
    model = [f"model.name={name}", f"model.overrides={{{overrides}}}", "model.start_from=none"]
    return training.load_recipe(
        "fast",
        [*model, where, f"data.size={size}", "train.epochs=1", "train.batch_size=90"],
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in FAMILIES]
)
def test_it_trains_and_is_described(
    name: str, tiny_cifar: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    started = training.start(recipe(name, tiny_cifar), tmp_path / "run", CPU)
    (record,) = training.fit(started)
    training.finish(started)
    assert np.isfinite(record.train_loss)
    capfd.readouterr()
    assert run(["inspect", str(tmp_path / "run"), "--json"]) == 0
    described = json.loads(capfd.readouterr().out)
    card = read_card(tmp_path / "run" / "card.json")
    assert card.costs is not None
    assert sum(layer["macs"] for layer in described["layers"]) == card.costs.macs > 0
    size = card.preprocess.size
    assert np.isfinite(TorchClassifier(tmp_path / "run").logits(np.zeros((1, size, size, 3), np.uint8))).all()


@pytest.mark.parametrize("name", ["fractional_s", "lenet_5"])
def test_it_is_resumed_bit_for_bit(name: str, tiny_cifar: Path, tmp_path: Path) -> None:
    whole = training.start(recipe(name, tiny_cifar), tmp_path / "whole", CPU)
    list(training.fit(whole))
    started: Any = training.start(recipe(name, tiny_cifar), tmp_path / "cut", CPU)
    interrupt(started)
    list(training.fit(training.resume(tmp_path / "cut", CPU)))
    assert same_tensors(tmp_path / "whole" / "last.safetensors", tmp_path / "cut" / "last.safetensors")
