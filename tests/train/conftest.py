"""Training tests run on one thread, on a small learnable data set in CIFAR-10's layout."""

from pathlib import Path

import pytest
import torch

from helpers import write_cifar


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The networks here are tiny; a second thread would only slow them down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar(tmp_path_factory.mktemp("tiny"), 40)
