"""Run folders to export, on one thread: the networks are tiny."""

from pathlib import Path

import pytest

from exported import make_run, write_pictures
from quicknet.data import DataRequest, Dataset
from quicknet.deploy.export import load_run_data


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def run_dir(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that nothing may change."""
    request = DataRequest(size=32, quiet=True)
    return make_run(tmp_path_factory.mktemp("runs") / "left-right", pictures, request=request)


@pytest.fixture(scope="session")
def data(run_dir: Path, pictures: Path) -> Dataset:
    """The data that it was trained on."""
    return load_run_data(run_dir, str(pictures), True)
