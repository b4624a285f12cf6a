"""Compiles the kernels once per user, source and kind of CPU.

The library is plain C to its callers (no torch headers), so it compiles in seconds, needs
nothing but a C++ compiler, and outlives an update of torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from quicknet.core.errors import ToolError
from quicknet.core.places import default_cache, locked

SOURCE = Path(__file__).resolve().parent / "csrc"
_COMPILERS = ("c++", "g++", "clang++")
_COMMON = ("-std=c++17", "-O3", "-fPIC", "-shared", "-w")
# In order of preference: this CPU's own instructions and all its cores; then what some
# compilers and systems lack. Never -ffast-math: a NaN must reach the loss.
FLAGS = (("-march=native", "-fopenmp"), ("-fopenmp",), ())
_COMPILE_LIMIT_S = 600
_CHECK = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).quicknet_check())"


@dataclass(frozen=True, slots=True)
class Built:
    """Where the library is (None: the plain path is used), and one line that says so."""

    library: Path | None
    status: str


def cache_folder() -> Path:
    """Return the per-user folder that compiled kernels are kept in.

    $QUICKNET_CACHE does not move it: that may be shared, and what lies here is executed.
    """
    return default_cache() / "fused"


def _cpu() -> str:
    """Return what `-march=native` depends on: the kind of CPU and its instruction sets."""
    with contextlib.suppress(OSError):
        wanted = ("model name", "flags", "Features", "CPU part")
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
    return platform.processor()


def key() -> str:
    """Return the name of the library for this source, compiler setting and CPU."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for part in (repr((_COMMON, FLAGS, os.environ.get("CXX"))), platform.machine(), sys.platform, _cpu()):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:20]


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, _COMPILERS)), None)


def _compile(compiler: str, flags: tuple[str, ...], target: Path) -> str | None:
    """Compile to `target` and run the library's own check in a process of its own.

    Returns what failed, or None.
    """
    command = [compiler, *_COMMON, *flags, str(SOURCE / "kernels.cpp"), "-o", str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_LIMIT_S, check=False)
        if done.returncode:
            return (done.stderr.strip() or "it failed without a message").splitlines()[0]
        # An instruction that this CPU lacks must not take the user's process down.
        check = [sys.executable, "-I", "-S", "-c", _CHECK, str(target)]
        done = subprocess.run(check, capture_output=True, text=True, timeout=_COMPILE_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return f"the compiled kernels do not run here (exit {done.returncode})" if done.returncode else None


def _build(compiler: str, folder: Path, name: str) -> Built:
    failure = None
    for stale in folder.glob("build-*"):  # of builds that were killed: we hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as work:
        for flags in FLAGS:
            target = Path(work) / "kernels.so"
            failure = _compile(compiler, flags, target)
            if failure is None:
                final = folder / f"{name}.so"
                target.replace(final)
                return Built(final, f"fused kernels: built with {Path(compiler).name} {' '.join(flags)} ({final})")
    return Built(None, f"fused kernels: not built, the plain path is used ({compiler}: {failure})")


def ensure_built() -> Built:
    """Return the compiled library, building it first where it is not there yet; never raises.

    QUICKNET_FUSED=0 asks for the plain path.
    """
    if os.environ.get("QUICKNET_FUSED") == "0":
        return Built(None, "fused kernels: switched off by QUICKNET_FUSED=0, the plain path is used")
    folder, name = cache_folder(), key()
    final = folder / f"{name}.so"
    try:
        if final.is_file():
            return Built(final, f"fused kernels: in use ({final})")
        compiler = _compiler()
        if compiler is None:
            return Built(None, "fused kernels: no C++ compiler found, the plain path is used; install g++ or set CXX")
        with locked(folder / ".lock"):  # one process builds, the others wait
            if final.is_file():  # another process built it meanwhile
                return Built(final, f"fused kernels: in use ({final})")
            return _build(compiler, folder, name)
    except OSError as error:
        return Built(None, f"fused kernels: not built, the plain path is used ({folder}: {error.strerror or error})")
    except ToolError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        return Built(None, f"fused kernels: not built, the plain path is used ({folder}: {reason})")
