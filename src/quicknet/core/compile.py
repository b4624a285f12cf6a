"""Compiles a part that is written in C or C++, once per user, source and setting, into the user's cache.

Such a library is plain C to its callers and is loaded with ctypes, so it compiles in seconds,
needs nothing but a compiler, and outlives updates of Python and of packages.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quicknet.core.errors import ToolError
from quicknet.core.places import default_cache, locked

_COMPILE_LIMIT_S = 600


@dataclass(frozen=True, slots=True)
class Built:
    """Where the library is (None: the fallback is used), and one line that says so."""

    library: Path | None
    status: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is compiled.

    `flags` are tried in order, after `common`, before the sources. `check` is Python that exits
    with 0 where the library in sys.argv[1] runs on this CPU.
    """

    what: str  # "fused kernels"
    fallback: str  # "the plain path is used"
    folder: str  # in the user's cache
    sources: tuple[Path, ...]
    headers: tuple[Path, ...]
    language: str  # "C++"
    variable: str  # "CXX"
    compilers: tuple[str, ...]
    common: tuple[str, ...]
    flags: tuple[tuple[str, ...], ...]
    check: str
    cpu: Callable[[], str] = lambda: ""  # what else the result depends on

    def cache_folder(self) -> Path:
        """Return this user's folder for the compiled library.

        $QUICKNET_CACHE does not move it: that folder may be shared, and these files are executed.
        Raises ToolError for a user without a home.
        """
        cache = default_cache()
        if cache is None:
            raise ToolError("this user has no home; set XDG_CACHE_HOME to a folder that only this user can write")
        return cache / self.folder

    def key(self) -> str:
        """Return the name of the library for this source, compiler setting, C library and CPU."""
        digest = hashlib.sha256()
        for path in sorted((*self.sources, *self.headers)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        setting = repr((self.common, self.flags, os.environ.get(self.variable)))
        for part in (setting, platform.machine(), sys.platform, _libc(), self.cpu()):
            digest.update(part.encode() + b"\0")
        return digest.hexdigest()[:20]


def _libc() -> str:
    """Return the C library's version: an older system that shares this home cannot load what was linked to a newer."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):  # not glibc
        return ""


def ensure_built(part: Part) -> Built:
    """Return the compiled library, building it first where it is not there yet; never raises."""

    def without(reason: str) -> Built:
        return Built(None, f"{part.what}: {reason}")

    folder = None
    try:
        folder = part.cache_folder()
        name = part.key()
        final = folder / f"{name}.so"
        if final.is_file():
            return Built(final, f"{part.what}: in use ({final})")
        compiler = _compiler(part)
        if compiler is None:
            needs = f"install {part.compilers[1]} or set {part.variable}"
            return without(f"no {part.language} compiler found, {part.fallback}; {needs}")
        with locked(folder / ".lock"):  # one process builds, the others wait
            if final.is_file():  # another process built it meanwhile
                return Built(final, f"{part.what}: in use ({final})")
            return _build(part, compiler, folder, name)
    except OSError as error:
        return without(f"not built, {part.fallback} ({folder}: {error.strerror or error})")
    except ToolError as error:
        reason = getattr(error.__cause__, "strerror", None)
        return without(f"not built, {part.fallback} ({f'{folder}: {reason}' if reason else error})")


def _compiler(part: Part) -> str | None:
    named = os.environ.get(part.variable)
    return shutil.which(named) if named else next(filter(None, map(shutil.which, part.compilers)), None)


def _build(part: Part, compiler: str, folder: Path, name: str) -> Built:
    failure = None
    for stale in folder.glob("build-*"):  # of builds that were killed: we hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as work:
        for flags in part.flags:
            target = Path(work) / "library.so"
            failure = _compile(part, compiler, flags, target)
            if failure is None:
                final = folder / f"{name}.so"
                target.replace(final)
                command = " ".join((Path(compiler).name, *flags))
                return Built(final, f"{part.what}: built with {command} ({final})")
    return Built(None, f"{part.what}: not built, {part.fallback} ({compiler}: {failure})")


def _compile(part: Part, compiler: str, flags: tuple[str, ...], target: Path) -> str | None:
    """Compile to `target` and run the library's check in another process.

    Returns what failed, or None.
    """
    command = [compiler, *part.common, *flags, *map(str, part.sources), "-o", str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_LIMIT_S, check=False)
        if done.returncode:
            return (done.stderr.strip() or "it failed without a message").splitlines()[0]
        # An instruction that this CPU lacks must not take the user's process down.
        check = [sys.executable, "-I", "-S", "-c", part.check, str(target)]
        done = subprocess.run(check, capture_output=True, text=True, timeout=_COMPILE_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return f"its instructions do not run here (exit {done.returncode})" if done.returncode else None


def compile_once(part: Part, target: Path) -> str | None:
    """Compile to the file `target`, for a package that is being built. Returns what failed, or None."""
    compiler = _compiler(part)
    if compiler is None:
        return f"no {part.language} compiler found"
    failure = None
    for flags in part.flags:
        failure = _compile(part, compiler, flags, target)
        if failure is None:
            break
    return failure
