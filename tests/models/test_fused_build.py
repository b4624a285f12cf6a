"""Building the kernels: once, by one process, safely killed; and the plain path where it fails."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from quicknet.models import fused
from quicknet.models.fused import build
from quicknet.models.fused.build import Built, ensure_built

# The module alone: what is above it imports torch, which takes seconds.
BUILD = [sys.executable, "-c", "import build; print(build.ensure_built().status)"]
# Reads the environment at its first import of the kernels, so it is a process of its own.
USE = """
import torch
from quicknet.models import fused
from quicknet.models.registry import create_model
torch.manual_seed(0)
net = create_model("quicknet_xs").eval()
x = torch.ones(1, 3, 32, 32)
print(fused.usable(net.plan, (net.stem, *net.blocks), x))
print(*net(x)[0].tolist())
"""


@pytest.fixture
def library() -> Path:
    built = ensure_built()
    if built.library is None:
        pytest.skip(built.status)
    return built.library


class Place:
    """An empty cache, and a compiler that delivers the library built before, noting its calls."""

    def __init__(self, folder: Path, library: Path, first: str = "") -> None:
        self.cache = folder / "cache"
        self.calls = folder / "calls"
        self.compiler = folder / "c++"
        self.compiler.write_text(
            f'#!/bin/sh\necho "$*" >> {self.calls}\n{first}\nfor last; do :; done\ncp {library} "$last"\n'
        )
        self.compiler.chmod(0o755)

    def environment(self) -> dict[str, str]:
        return {"XDG_CACHE_HOME": str(self.cache), "CXX": str(self.compiler)}

    def build(self) -> Built:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment().items():
                patch.setenv(name, value)
            return ensure_built()

    def start(self) -> subprocess.Popen[str]:
        folder = str(Path(build.__file__).parent)
        environment = {**os.environ, **self.environment(), "PYTHONPATH": folder}
        return subprocess.Popen(BUILD, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def libraries(self) -> list[Path]:
        return list(self.cache.rglob("*.so"))


def run_use(**environment: str) -> tuple[str, list[float]]:
    done = subprocess.run(
        [sys.executable, "-c", USE], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    usable, logits = done.stdout.strip().split("\n")
    return usable, [float(v) for v in logits.split()]


def test_a_library_is_built_once_and_then_found(tmp_path: Path, library: Path) -> None:
    place = Place(tmp_path, library)
    first, second = place.build(), place.build()
    assert "built with" in first.status
    assert "in use" in second.status
    assert [first.library] == [second.library] == place.libraries()
    assert len(place.calls.read_text().splitlines()) == 1


def test_another_c_library_has_a_library_of_its_own(
    tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that two systems share: what the newer one linked, the older one cannot load."""
    place = Place(tmp_path, library)
    place.build()
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.17")
    assert "built with" in place.build().status
    assert len(place.libraries()) == 2


def test_flags_that_a_compiler_refuses_are_left_out(tmp_path: Path, library: Path) -> None:
    place = Place(tmp_path, library, 'case "$*" in *-march*) echo "bad -march" >&2; exit 1;; esac')
    assert "built with c++ -fopenmp " in place.build().status
    assert len(place.calls.read_text().splitlines()) == 2


def test_two_processes_build_once(tmp_path: Path, library: Path) -> None:
    place = Place(tmp_path, library, "sleep 1")
    outputs = [process.communicate(timeout=120)[0] for process in [place.start(), place.start()]]
    assert sorted("built with" in out for out in outputs) == [False, True]
    assert len(place.calls.read_text().splitlines()) == 1


def test_a_killed_build_does_not_stand_in_the_way(tmp_path: Path, library: Path) -> None:
    marker = tmp_path / "slow"
    marker.touch()
    place = Place(tmp_path, library, f"if [ -e {marker} ]; then sleep 100; fi")
    process = place.start()
    deadline = time.monotonic() + 60
    while not place.calls.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert place.libraries() == []
    marker.unlink()
    assert "built with" in place.build().status
    assert len(list((place.cache / "quicknet" / "fused").glob("build-*"))) == 0


@pytest.mark.parametrize("first", ["echo 'fatal error: no such header' >&2; exit 1", "exit 1"])
def test_a_compiler_that_fails_leaves_the_plain_path_and_the_reason(tmp_path: Path, library: Path, first: str) -> None:
    built = Place(tmp_path, library, first).build()
    assert built.library is None
    assert "the plain path is used" in built.status
    assert "\n" not in built.status
    assert ("no such header" in built.status) == ("header" in first)


def test_a_library_that_does_not_run_here_is_not_used(tmp_path: Path, library: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"not a library")
    place = Place(tmp_path, garbage)
    assert "do not run here" in place.build().status
    assert place.libraries() == []


def test_without_a_compiler_set_up_goes_on_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    clean = {k: v for k, v in os.environ.items() if k != "CXX"}
    environment = {**clean, "PATH": str(tmp_path / "bin"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "quicknet.models.fused"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "no C++ compiler found, the plain path is used" in done.stdout
    assert done.stdout.count("\n") == 1


def test_the_environment_switches_the_kernels_off() -> None:
    usable, plain = run_use(QUICKNET_FUSED="0")
    assert usable == "False"
    usable, default = run_use()
    assert usable == str(fused.available())
    assert torch.allclose(torch.tensor(default), torch.tensor(plain), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["-mavx2 -mfma -fopenmp", "-msse2 -fopenmp", "-O1"])
def test_other_instruction_sets_compute_the_same(tmp_path: Path, flags: str) -> None:
    """The layer tests again, on kernels compiled as for another machine."""
    if os.uname().machine != "x86_64" or ("avx2" in flags and "avx2" not in Path("/proc/cpuinfo").read_text()):
        pytest.skip("these flags are for x86-64 with AVX2")
    compiler = tmp_path / "c++"
    compiler.write_text(
        f'#!/bin/sh\nset -- $(echo "$@" | sed "s/-march=native//; s/-fopenmp//")\nexec c++ {flags} "$@"\n'
    )
    compiler.chmod(0o755)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "CXX": str(compiler)}
    tests = Path(__file__).with_name("test_fused.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " skipped" not in done.stdout.splitlines()[-1]
