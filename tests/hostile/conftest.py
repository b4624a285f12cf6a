"""The sweep's one rule: exit code 2, one line that says what, where and how to mend it, nothing lost."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers import TINY, write_cifar
from quicknet import training
from quicknet.cli.main import run

Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs land in the test's folder, decoded images too."""
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("QUICKNET_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)


def contents(folder: Path) -> dict[str, str]:
    """Return file name → digest of everything below `folder`, but the lock, which is no content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def check_line(error: str, *words: str) -> str:
    """Check what a refused command said on stderr: one line, with all of `words`; return it."""
    lines = error.splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("quicknet: error: ")
    assert "unexpected error" not in lines[0]  # what no check foresaw
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused; `keeps` names a folder in which no byte may change."""

    def check(arguments: list, *words: str, keeps: Path | None = None) -> str:
        before = contents(keeps) if keeps else {}
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        said = capfd.readouterr()
        line = check_line(said.err, *words)
        assert code == 2
        assert said.out == ""
        assert (contents(keeps) if keeps else {}) == before
        return line

    return check


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar(tmp_path_factory.mktemp("hostile"), 40)


@pytest.fixture(scope="session")
def finished_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, to be copied before it is damaged."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    changes = [*TINY, f"data.source={json.dumps(str(tiny_data))}", "train.epochs=2"]
    one = training.start(training.load_recipe("fast", changes), folder, torch.device("cpu"))
    list(training.fit(one))
    training.finish(one)
    return folder


@pytest.fixture
def run_dir(finished_run: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))
