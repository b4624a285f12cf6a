"""A cache and a home of the test's own, so that no real data set or cache is found or touched."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quicknet.data.cifar import CIFAR10, CIFAR100, Cifar


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("QUICKNET_CACHE", str(folder / "cache"))
    for name in ("XDG_CACHE_HOME", "QUICKNET_DATA", "QUICKNET_CIFAR_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    return folder


Pictures = Callable[..., list[Path]]


@pytest.fixture
def pictures() -> Pictures:
    """Write `count` random pictures, no two alike, into a folder; return their paths."""
    seeds = iter(range(10**9))

    def make(folder: Path, count: int, suffix: str = ".png") -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number in range(count):
            noise = np.random.default_rng(next(seeds)).integers(0, 256, (40, 48, 3), np.uint8)
            paths.append(folder / f"{number}{suffix}")
            Image.fromarray(noise).save(paths[-1])
        return paths

    return make


def binary_batches(folder: Path, kind: Cifar = CIFAR10, per_file: int = 20, seed: int = 0) -> Path:
    """Write a small binary version: labels in turn, random pixels. Returns the batches' folder."""
    target = folder / kind.binary_folder
    target.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for name in (*kind.files("train"), *kind.files("test")):
        records = rng.integers(0, 256, (per_file, kind.record_bytes), np.uint8)
        records[:, 0] = np.arange(per_file) % 20
        records[:, kind.label_bytes - 1] = np.arange(per_file) % len(kind.classes)
        (target / name).write_bytes(records.tobytes())
    (target / kind.names_file).write_text("\n".join(kind.classes) + "\n")
    return target


@pytest.fixture
def cifar10_small(tmp_path: Path) -> Path:
    return binary_batches(tmp_path / "made", CIFAR10)


@pytest.fixture
def cifar100_small(tmp_path: Path) -> Path:
    return binary_batches(tmp_path / "made", CIFAR100, per_file=200)
