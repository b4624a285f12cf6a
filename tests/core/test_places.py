"""Where the cache lies, for users who have a home, none, or one that they cannot write."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quicknet.core.choice import remembered
from quicknet.core.compile import Part, ensure_built
from quicknet.core.errors import ToolError
from quicknet.core.places import default_cache, home_folder, user_cache
from quicknet.data import DataRequest, load_data
from quicknet.data.places import search_places


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id that the system does not know, and no HOME: as in many containers."""

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "QUICKNET_CACHE", "QUICKNET_DATA"):
        monkeypatch.delenv(name, raising=False)


def pictures(folder: Path) -> Path:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            noise = np.random.default_rng((number, len(name))).integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(noise).save(folder / name / f"{number}.png")
    return folder


def test_the_places_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_CACHE_HOME", "QUICKNET_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert user_cache() == default_cache() == Path("/home/someone/.cache/quicknet")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert user_cache() == Path("/x/quicknet")
    monkeypatch.setenv("QUICKNET_CACHE", "~/y")
    assert user_cache() == Path("/home/someone/y") and default_cache() == Path("/x/quicknet")
    assert user_cache("/z") == Path("/z")


@pytest.mark.usefixtures("homeless")
def test_without_a_home_what_needs_a_cache_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home_folder() is None and default_cache() is None
    with pytest.raises(ToolError, match="set QUICKNET_CACHE to a folder that can be written"):
        load_data(pictures(tmp_path / "pets"), DataRequest(quiet=True, size=16))
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    assert len(load_data(tmp_path / "pets", DataRequest(quiet=True, size=16)).split("all")) == 6


@pytest.mark.usefixtures("homeless")
def test_without_a_home_everything_else_works(tmp_path: Path) -> None:
    assert Path("data") in search_places("cifar10")
    assert remembered("question", ("a", "b"), lambda: "b") == "b"
    part = Part("kernels", "the plain path is used", "kernels", (), (), "C", "CC", ("cc", "gcc"), (), ((),), "")
    built = ensure_built(part)
    assert built.library is None and "this user has no home; set XDG_CACHE_HOME" in built.status


_USE = """
import sys
from quicknet.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that other users can enter, which pytest's are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("home", [None, "/"])
def test_a_user_without_a_home_of_their_own(home: str | None, shared_folder: Path) -> None:
    """A process of a user id that has no entry: predicting works, what needs the cache names the variable."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can become another user")
    root = Path(__file__).resolve().parents[2]
    data = pictures(shared_folder / "pets")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root / "src")} | ({"HOME": home} if home else {})

    def use(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        stranger = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--"]
        command = [*stranger, sys.executable, "-c", _USE, *words]
        return subprocess.run(command, env=environment | more, capture_output=True, text=True, cwd="/", timeout=200)

    done = use("predict", "quicknet_xs.cifar10", str(data / "cat" / "0.png"))
    if done.returncode and "quicknet: error" not in done.stderr:
        pytest.skip("another user cannot read this checkout")
    assert done.returncode == 0 and "0.png" in done.stdout and "error" not in done.stderr
    done = use("doctor", str(data), "--quiet")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "set QUICKNET_CACHE to a folder that can be written" in done.stderr
    done = use("doctor", str(data), "--quiet", QUICKNET_CACHE=str(shared_folder / "cache"))
    assert done.returncode == 1 and "too small to learn" in done.stdout and not done.stderr
