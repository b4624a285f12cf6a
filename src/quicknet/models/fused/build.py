"""How the fused kernels are compiled: once per user, source and kind of CPU (`core/compile.py`)."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

from quicknet.core import compile as compiling
from quicknet.core.compile import Built, Part

__all__ = ["PART", "SOURCE", "Built", "ensure_built"]

SOURCE = Path(__file__).resolve().parent / "csrc"


def _cpu() -> str:
    """Return what `-march=native` depends on: the kind of CPU and its instruction sets."""
    with contextlib.suppress(OSError):
        fields = ("model name", "flags", "Features", "CPU part")
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(fields)}))
    return platform.processor()


PART = Part(
    what="fused kernels",
    fallback="the plain path is used",
    folder="fused",
    sources=(SOURCE / "kernels.cpp",),
    headers=tuple(path for path in sorted(SOURCE.iterdir()) if path.name != "kernels.cpp"),
    language="C++",
    variable="CXX",
    compilers=("c++", "g++", "clang++"),
    common=("-std=c++17", "-O3", "-fPIC", "-shared", "-w"),
    # In order of preference: this CPU's own instructions and all its cores; then what some
    # compilers and systems lack. Never -ffast-math: a NaN must reach the loss.
    flags=(("-march=native", "-fopenmp"), ("-fopenmp",), ()),
    check="import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).quicknet_check())",
    cpu=_cpu,
)


def ensure_built() -> Built:
    """Return the compiled library, building it first where it is not there yet; never raises.

    QUICKNET_FUSED=0 asks for the plain path.
    """
    if os.environ.get("QUICKNET_FUSED") == "0":
        return Built(None, "fused kernels: switched off by QUICKNET_FUSED=0, the plain path is used")
    return compiling.ensure_built(PART)
