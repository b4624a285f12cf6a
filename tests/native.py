"""Compiles the engine's C for tests, and `.qnz` files whose card nobody reads."""

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from networks import pruned, random_images, random_network
from quicknet.qnz import reference
from quicknet.qnz.container import pack_sections
from quicknet.qnz.encoding import encode_coded, encode_network
from quicknet.qnz.network import IntegerNetwork

ENGINE = Path(__file__).resolve().parent.parent / "src" / "quicknet" / "engine"
CSRC = ENGINE / "csrc"
WARNINGS = ("-Wall", "-Wextra", "-Werror")
STRICT = ("-std=c11", "-pedantic", *WARNINGS)


def tool(*names: str) -> str:
    """Return the first program of `names` that is here; skip the test where none is."""
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(names)} is installed")
    return program


def run(*command: str | Path, timeout_s: float = 120, **options: Any) -> str:
    """Run a command that must succeed; return its stdout."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=timeout_s, check=False, **options
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def compile_c(target: Path, sources: Sequence[str | Path], *flags: str, compiler: str | None = None) -> Path:
    """Compile sources (names in csrc, or paths) with warnings as errors; return `target`."""
    compiler = compiler or tool("cc", "gcc", "clang")
    run(compiler, *STRICT, "-I", CSRC, *(CSRC / source for source in sources), *flags, "-o", target)
    return target


def bare_file(network: IntegerNetwork, coding: int = 0) -> bytes:
    """Return a `.qnz` of any network, also of those that no card describes (2 channels); `coding` as in CODE."""
    if coding:
        netw, code = encode_coded(network, coding)
        return pack_sections({"CARD": b"{}", "NETW": netw, "CODE": code})
    netw, tens = encode_network(network)
    return pack_sections({"CARD": b"{}", "NETW": netw, "TENS": tens})


def engine_sources() -> list[Path]:
    """Return the engine's sources: all of csrc but the fuzzer."""
    return [path for path in sorted(CSRC.glob("*.c")) if path.name != "fuzz.c"]


def write_cases(folder: Path, seeds: Iterable[int], images: int = 2) -> tuple[list[Path], list[list[int]]]:
    """Write random networks and images; return the files and the reference's logits.

    Every second network is an extreme one, half lack some blocks, two of three are coded.
    """
    files, logits = [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        network = random_network(rng, extreme=seed % 2 == 1)
        network = pruned(network, rng) if seed % 4 < 2 else network
        pictures = random_images(rng, network, images)
        model, raw = folder / f"{seed}.qnz", folder / f"{seed}.raw"
        model.write_bytes(bare_file(network, coding=seed % 3))
        raw.write_bytes(pictures.tobytes())
        files += [model, raw]
        logits.append(reference.run(network, pictures).ravel().tolist())
    return files, logits


def run_all(command: Sequence[str | Path], files: Sequence[Path], timeout_s: float = 250) -> dict[str, list[list[int]]]:
    """Run tests/engine/run_all.c as compiled; return each instruction set's logits of every pair of files, which must
    be the same by sparse kernels."""
    actual: dict[str, list[list[int]]] = {}
    lines: list[list[int]] = []
    for line in run(*command, *files, timeout_s=timeout_s).splitlines():
        if line[0].isalpha():
            isa, _, sparse = line.partition(" ")
            assert not sparse or lines == actual[isa]
            actual[isa], lines = lines, []
        else:
            lines.append([int(word) for word in line.split()])
    return actual
