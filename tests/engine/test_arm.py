"""ARM, under emulation: with and without dot product, bit for bit the reference."""

from pathlib import Path

import pytest

from native import compile_c, engine_sources, run_all, tool, write_cases

CROSS, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
DRIVER = Path(__file__).parent / "run_all.c"


def build(folder: Path, *flags: str) -> Path:
    tool(EMULATOR)
    compiler = tool(CROSS)
    sources = [*engine_sources(), DRIVER]
    return compile_c(folder / "run_all", sources, "-static", "-pthread", *flags, compiler=compiler)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("arm"), "-O2")


def test_equal_to_the_reference(program: Path, tmp_path: Path) -> None:
    files, expected = write_cases(tmp_path, range(40))
    actual = run_all([tool(EMULATOR), "-cpu", "max", program], files)
    assert set(actual) == {"portable", "neon", "neon-dot"}
    assert all(logits == expected for logits in actual.values())


def test_a_cpu_without_dot_product_is_not_given_it(program: Path, tmp_path: Path) -> None:
    files, expected = write_cases(tmp_path, range(2))
    actual = run_all([tool(EMULATOR), "-cpu", "cortex-a72", program], files)  # a Raspberry Pi 4
    assert actual == {"portable": expected, "neon": expected}


@pytest.mark.slow
def test_equal_to_the_reference_on_many(program: Path, tmp_path: Path) -> None:
    for start in range(1000, 1400, 100):
        files, expected = write_cases(tmp_path, range(start, start + 100))
        actual = run_all([tool(EMULATOR), "-cpu", "max", program], files, timeout_s=600)
        assert all(logits == expected for logits in actual.values())
        assert len(actual) == 3
