"""The engine as a Windows program, under Wine: what the wheel's MinGW makes of it, and its threads."""

from pathlib import Path

import pytest

from native import compile_c, engine_sources, run, run_all, tool, write_cases

HERE = Path(__file__).parent
CROSS = "x86_64-w64-mingw32-gcc"
WINE = ("wine64", "/usr/lib/wine/wine64", "wine")
# as engine/build.py has it
FLAGS = ("-O3", "-static", "-Wa,-muse-unaligned-vector-move", "-D__USE_MINGW_ANSI_STDIO=1")


@pytest.fixture
def wine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("WINEPREFIX", str(tmp_path / "wine"))
    monkeypatch.setenv("WINEDEBUG", "-all")
    return tool(*WINE)


@pytest.mark.slow
def test_equal_to_the_reference(wine: str, tmp_path: Path) -> None:
    program = compile_c(tmp_path / "run_all.exe", [*engine_sources(), HERE / "run_all.c"], *FLAGS, compiler=tool(CROSS))
    files, expected = write_cases(tmp_path, range(40))
    actual = run_all([wine, program], files)
    assert "portable" in actual
    assert all(logits == expected for logits in actual.values())


@pytest.mark.slow
def test_threads(wine: str, tmp_path: Path) -> None:
    program = compile_c(
        tmp_path / "run_threads.exe", [*engine_sources(), HERE / "run_threads.c"], *FLAGS, compiler=tool(CROSS)
    )
    (model, images), (expected,) = write_cases(tmp_path, [2], images=5)
    assert [int(word) for word in run(wine, program, model, images, timeout_s=250).split()] == expected
