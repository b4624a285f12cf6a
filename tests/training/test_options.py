"""Networks with each of the family's options train, and are resumed bit for bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import same_tensors
from interrupted import interrupt
from optional import OPTIONS, SMALL, TOGETHER, Option
from quicknet import training
from quicknet.core.card import read_card
from quicknet.core.errors import ConfigError
from quicknet.models.registry import create_model
from quicknet.training.checkpoint import TorchClassifier

CPU = torch.device("cpu")


def recipe(options: dict[str, Any], data: Path, *more: str) -> Any:
    small = [f"model.overrides.{key}={json.dumps(value)}" for key, value in SMALL.items()]
    chosen = [f"model.overrides.options.{key}={json.dumps(value)}" for key, value in options.items()]
    where = f"data.source={json.dumps(str(data))}"
    settings = ["model.name=quicknet_xs", *small, *chosen, "model.start_from=none", where]
    return training.load_recipe("fast", [*settings, "train.epochs=1", "train.batch_size=90", *more])


@pytest.mark.parametrize("options", [*OPTIONS.values(), TOGETHER[1]])
def test_it_trains_and_is_resumed_bit_for_bit(options: dict[str, Any], tiny_cifar: Path, tmp_path: Path) -> None:
    whole = training.start(recipe(options, tiny_cifar), tmp_path / "whole", CPU)
    before = {name: parameter.detach().clone() for name, parameter in whole.model.named_parameters()}
    (record,) = training.fit(whole)
    assert np.isfinite(record.train_loss)
    still = [name for name, parameter in whole.model.named_parameters() if torch.equal(before[name], parameter)]
    # zeros stand behind the transformer's first layers, and the first step of a run is none
    assert all(name.startswith("transformer.") and "affine" not in name for name in still)
    cut: Any = training.start(recipe(options, tiny_cifar), tmp_path / "cut", CPU)
    interrupt(cut)
    list(training.fit(training.resume(tmp_path / "cut", CPU)))
    assert same_tensors(tmp_path / "whole" / "last.safetensors", tmp_path / "cut" / "last.safetensors")
    card = read_card(tmp_path / "whole" / "card.json")
    assert card.model.config["options"] == options
    assert np.isfinite(TorchClassifier(tmp_path / "whole").logits(np.zeros((1, 32, 32, 3), np.uint8))).all()


@pytest.mark.parametrize("option", OPTIONS)
def test_it_is_not_pruned_and_says_so(option: Option, tiny_cifar: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"option {option} \(options.{option}\), and its layers cannot be pruned"):
        training.start(recipe(OPTIONS[option], tiny_cifar, "prune.density=0.5"), tmp_path / "run", CPU)


def test_regions_that_are_drawn_anew_are_not_compiled(tiny_cifar: Path, tmp_path: Path) -> None:
    asked = recipe(OPTIONS["pool_ratio"], tiny_cifar, "train.compile=true")
    with pytest.raises(ConfigError, match=r"option pool_ratio is not compiled; set train.compile=false"):
        training.start(asked, tmp_path / "run", CPU)


def test_an_unknown_option_names_the_nearest(tiny_cifar: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"options.weight_nrom.*did you mean 'weight_norm'"):
        training.start(recipe({"weight_nrom": True}, tiny_cifar), tmp_path / "run", CPU)
    assert create_model("quicknet_xs").plan[0].name == "stem"
