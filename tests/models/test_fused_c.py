"""The kernels' source: no warnings, and structs that Python names field by field."""

import ctypes
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from native import WARNINGS, run, tool
from quicknet.models.fused.build import SOURCE
from quicknet.models.fused.native import FUNCTIONS, NormInput

# What users' CPUs and compilers have: each takes other lines of vector.h and pairs.h. Without OpenMP its pragmas
# are unknown; one process then does the work.
MACHINES = {
    "this one": ("-O1", "-march=native", "-fopenmp"),
    "without OpenMP": ("-fsyntax-only", "-Wno-unknown-pragmas"),
    "AVX2": ("-fsyntax-only", "-march=haswell", "-fopenmp"),
    "AVX-512": ("-fsyntax-only", "-march=skylake-avx512", "-fopenmp"),
    "AVX512-BF16": ("-fsyntax-only", "-march=sapphirerapids", "-fopenmp"),
}


def compile_cpp(source: Path, *flags: str, target: Path) -> None:
    compiler = tool("c++", "g++", "clang++")
    run(compiler, "-std=c++17", *WARNINGS, *flags, "-I", SOURCE, "-c", source, "-o", target)


@pytest.mark.parametrize("machine", MACHINES)
def test_compiles_without_warnings(machine: str, tmp_path: Path) -> None:
    if "AVX" in machine and platform.machine() != "x86_64":
        pytest.skip("for x86-64")
    compile_cpp(SOURCE / "kernels.cpp", *MACHINES[machine], target=tmp_path / "kernels.o")


@pytest.mark.parametrize("flags", [(), ("-fopenmp",)])
def test_memory_that_runs_out_on_a_thread_is_an_exception_of_the_caller(flags: tuple[str, ...], tmp_path: Path) -> None:
    source = tmp_path / "exhausted.cpp"
    source.write_text(
        """
        #include "pieces.h"
        int main() {
            int done = 0;
            try {
                quicknet::for_pieces(8, 2, [&](int piece) { if (piece == 3) throw std::bad_alloc(); });
            } catch (const std::bad_alloc &) {
                done = 1;
            }
            return 1 - done;
        }
        """
    )
    compiler = tool("c++", "g++", "clang++")
    run(compiler, "-std=c++17", "-Wno-unknown-pragmas", *flags, "-I", SOURCE, source, "-o", tmp_path / "exhausted")
    run(tmp_path / "exhausted")


def fields(struct: type[ctypes.Structure]) -> Iterator[str]:
    """The same struct in C++ as assertions: each field's place, and the size."""
    kind = f"quicknet::{struct.__name__}"
    if struct.__name__ not in ("Separable", "Stem", "Output", "Dense", "Requantize"):
        kind += "<float>"
    for name, *_ in struct._fields_:
        yield f'static_assert(offsetof({kind}, {name}) == {getattr(struct, name).offset}, "{name}");'
    yield f'static_assert(sizeof({kind}) == {ctypes.sizeof(struct)}, "{struct.__name__}");'


def test_the_structs_are_those_of_the_source(tmp_path: Path) -> None:
    structs: set[type[ctypes.Structure]] = {NormInput, *(struct for taken in FUNCTIONS.values() for struct in taken)}
    assert len(structs) == 22
    lines = [line for struct in sorted(structs, key=lambda struct: struct.__name__) for line in fields(struct)]
    headers = [
        f'#include "{name}.h"' for name in ("dense", "output", "requantize", "separable", "separable_backward", "stem")
    ]
    source = tmp_path / "fields.cpp"
    source.write_text("\n".join(["#include <cstddef>", *headers, *lines, ""]))
    compile_cpp(source, "-fsyntax-only", "-fopenmp", target=tmp_path / "fields.o")
    swapped = source.read_text().replace("Stem, kernel)", "Stem, stride)")
    source.write_text(swapped)
    with pytest.raises(AssertionError, match="kernel"):
        compile_cpp(source, "-fsyntax-only", "-fopenmp", target=tmp_path / "fields.o")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_takes_what_python_hands_over(name: str) -> None:
    """In that order, in both forms."""
    text = " ".join((SOURCE / "kernels.cpp").read_text().split())
    for suffix, number in (("f32", "float"), ("f64", "double")):
        start = text.index(f"int quicknet_{name}_{suffix}(") + len(f"int quicknet_{name}_{suffix}(")
        taken = [
            part.split("*")[0].strip().removeprefix("const ")
            for part in text[start : text.index(")", start)].split(", ")
        ]
        sizes, *others = (struct.__name__ for struct in FUNCTIONS[name])
        assert taken == [sizes, *(f"{other}<{number}>" for other in others)]
