"""A small learnable data set in CIFAR-10's layout."""

import json
from pathlib import Path

import pytest
import torch

from helpers import TINY, write_cifar
from quicknet import training


@pytest.fixture(scope="session")
def tiny_cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar(tmp_path_factory.mktemp("tiny"), 40)


@pytest.fixture(scope="session")
def trained(tiny_cifar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, for other runs to learn from; nobody writes to it."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    changes = [*TINY, f"data.source={json.dumps(str(tiny_cifar))}", "train.epochs=2", "train.seed=9"]
    list(training.fit(training.start(training.load_recipe("fast", changes), folder, torch.device("cpu"))))
    return folder
