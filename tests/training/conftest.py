"""A small learnable data set in CIFAR-10's layout."""

from pathlib import Path

import pytest

from helpers import write_cifar


@pytest.fixture(scope="session")
def tiny_cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar(tmp_path_factory.mktemp("tiny"), 40)
