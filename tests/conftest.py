"""What several test modules share: where real data lies, if it does."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported, here and in every process that a test starts: the networks of tests
# are tiny, and threads that wait for each other by spinning make a busy machine ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ROOT = Path(__file__).resolve().parent.parent


_LONGEST = ("test_kill.py",)  # 160 s: begun last, it kept one of two cores idle for two minutes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin the longest files first, so that workers end together."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)


def _real_data(variable: str, *places: Path) -> Path | None:
    """Return the first place that exists; an environment variable wins."""
    named = os.environ.get(variable)
    candidates = (Path(named),) if named else places
    return next((place for place in candidates if place.is_dir()), None)


@pytest.fixture(scope="session", autouse=True)
def chosen_runtime() -> None:
    """Measuring which runtime is the faster takes seconds and leaves its answer in the user's cache."""
    os.environ.setdefault("QUICKNET_RUNTIME", "onnxruntime")


@pytest.fixture(scope="session")
def cifar10_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real CIFAR-10 in its official binary layout (a `cifar-10-batches-bin` folder)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quicknet"
    folder = _real_data(
        "QUICKNET_TEST_CIFAR10",
        cache / "cifar10" / "cifar-10-batches-bin",
        ROOT / "data" / "cifar-10-batches-bin",
    )
    if folder is not None:
        return folder
    sheets = ROOT.parent / "shared" / "cifar10" / "unpack.py"
    if not sheets.is_file():
        pytest.skip("the real CIFAR-10 is not here; set QUICKNET_TEST_CIFAR10 to its cifar-10-batches-bin")
    import subprocess
    import sys

    target = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, str(sheets), str(target)], check=True, capture_output=True)
    return target / "cifar-10-batches-bin"


@pytest.fixture
def without_heic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if pillow_heif, which reads HEIC, were not installed."""
    from quicknet.image import formats

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "pillow_heif" else real(name))
    formats.reads_heif.cache_clear()
    yield
    formats.reads_heif.cache_clear()


@pytest.fixture(scope="session")
def photos_dir() -> Path:
    """A folder of real photographs with train/ and val/, two classes."""
    folder = _real_data("QUICKNET_TEST_PHOTOS", ROOT.parent / "shared" / "photos")
    if folder is None:
        pytest.skip("no real photographs here; set QUICKNET_TEST_PHOTOS to a folder with train/ and val/")
    return folder
