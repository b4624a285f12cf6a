"""Where the engine's library comes from: the wheel, or a C compiler at first use (`core/compile.py`)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from quicknet.core import compile as compiling
from quicknet.core.compile import Built, Part

SOURCE = Path(__file__).resolve().parent / "csrc"
_SUFFIXES = (".so", ".dll", ".dylib")
# Programs that lie beside the library's sources.
_OTHER = ("fuzz.c",)

# Against -O2 with vectorizing: a fifth larger, and `w5a8` by AVX2 0.5 to 3% faster. Nothing here throws, so that
# tables for unwinding the stack, 8 of 141 KB, are of no use; Windows wants them.
_OPTIMIZE = ("-O3",) if sys.platform == "win32" else ("-O3", "-fno-asynchronous-unwind-tables")

PART = Part(
    what="engine",
    fallback="numpy's reference runs",
    folder="engine",
    sources=tuple(path for path in sorted(SOURCE.glob("*.c")) if path.name not in _OTHER),
    headers=tuple(sorted(SOURCE.glob("*.h"))),
    language="C",
    variable="CC",
    compilers=("cc", "gcc", "clang"),
    # Each file asks for its own instructions, so that one library runs on every CPU of the kind.
    common=("-std=c11", *_OPTIMIZE, "-fPIC", "-shared", "-pthread", "-w"),
    # -s: stripped; Apple's linker does not know it. noseparate-code: 4 KB less of padding. Windows: without MinGW's
    # own libraries, and since its gcc does not align the stack to a vector (GCC bug 54412), without moves that need it.
    flags=(("-s", "-static", "-Wa,-muse-unaligned-vector-move"),)
    if sys.platform == "win32"
    else (("-s", "-Wl,-z,noseparate-code"), ("-s",), ()),
    check="import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).qn_check(b'', 0, None) != 1)",
)


def prebuilt() -> Path | None:
    """Return the library that a wheel brings beside this module, or None."""
    libraries = (path for path in Path(__file__).parent.glob("_engine*") if path.suffix in _SUFFIXES)
    return next(libraries, None)


def ensure_built() -> Built:
    """Return the library, building it first where it is not there yet; never raises.

    QUICKNET_ENGINE=0 asks for none.
    """
    if os.environ.get("QUICKNET_ENGINE") == "0":
        return Built(None, "engine: switched off by QUICKNET_ENGINE=0, numpy's reference runs")
    library = prebuilt()
    return Built(library, f"engine: in use ({library})") if library else compiling.ensure_built(PART)


def compile_to(target: Path) -> str | None:
    """Compile the library to the file `target`: what a wheel brings. Returns what failed, or None."""
    return compiling.compile_once(PART, target)
