"""One tiny model for all tests of this folder; nothing may change it."""

from pathlib import Path

import pytest

from timed import write_onnx, write_run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("timed") / "run")


@pytest.fixture(scope="session")
def tiny_onnx(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(tiny_run, tmp_path_factory.mktemp("timed") / "tiny.onnx")
