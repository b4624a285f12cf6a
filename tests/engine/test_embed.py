"""The engine without Python: the library, the example program, and the build for a microcontroller."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from native import CSRC, ENGINE, STRICT, bare_file, compile_c, engine_sources, run, tool, write_cases
from networks import Block, network_card, random_images, random_network
from quicknet.core.card import PreprocessSpec
from quicknet.image.preprocess import load_image
from quicknet.qnz import c_array, reference
from quicknet.qnz.file import assemble_qnz

# What a compiler may call by itself, with any program.
FREESTANDING = {"memcpy", "memmove", "memset", "memcmp"}


def make_engine(folder: Path, *settings: str) -> Path:
    """Run `make engine` with warnings as errors; return the folder with what it made."""
    flags = ("ENGINE_CFLAGS=-O2 -pedantic", "WERROR=-Werror")
    run(tool("make"), "-f", ENGINE / "engine.mk", "engine", f"ENGINE_OUT={folder}", *flags, *settings)
    return folder


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_engine(tmp_path_factory.mktemp("portable"), "ISA=portable", "THREADS=0")


@pytest.mark.parametrize("build", ["best", "portable"])
def test_the_example_prints_class_and_logits(build: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(build)
    files, expected = write_cases(tmp_path, range(200, 204))
    for model, images, logits in zip(files[::2], files[1::2], expected, strict=True):
        lines = [list(map(int, line.split())) for line in run(folder / "classify", model, images).splitlines()]
        assert [value for line in lines for value in line[1:]] == logits
        assert [line[0] for line in lines] == [int(np.argmax(line[1:])) for line in lines]


def test_the_example_prepares_a_picture_of_any_size(best: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for channels, kind in ((3, b"P6"), (1, b"P5")):
        network = random_network(rng, channels=channels, classes=4)
        pixels = rng.integers(0, 256, (41, 87, channels), np.uint8)
        (tmp_path / "model.qnz").write_bytes(bare_file(network))
        (tmp_path / "picture.ppm").write_bytes(kind + b"\n87 41\n255\n" + pixels.tobytes())
        numbers = (0.5,) * channels
        spec = PreprocessSpec(size=network.side, mode="RGB" if channels == 3 else "L", mean=numbers, std=numbers)
        for ways, chosen in (((), spec), (("stretch", "lanczos"), spec.replace(resize="stretch", filter="lanczos"))):
            line = run(best / "classify", tmp_path / "model.qnz", tmp_path / "picture.ppm", *ways)
            expected = reference.run(network, load_image(pixels, chosen)[None])[0]
            assert list(map(int, line.split()[1:])) == expected.tolist()
    (tmp_path / "picture.ppm").write_bytes(b"P6\n87 41\n255\n\0")
    command = [best / "classify", tmp_path / "model.qnz", tmp_path / "picture.ppm"]
    assert "cut short" in subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stderr


def test_the_example_says_what_is_wrong(best: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.qnz").write_bytes(b"\x89QNZ\r\n\x1a\n")
    for model, message in (("damaged.qnz", "truncated"), ("missing.qnz", "cannot be read")):
        command = [best / "classify", tmp_path / model, tmp_path / "damaged.qnz"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 2
        assert message in done.stderr


def test_the_portable_library_needs_no_system(portable: Path) -> None:
    objects = run(tool("nm"), "-u", portable / "libquicknet.a").split()
    expected = {name for name in objects if name not in ("U",) and not name.endswith(".o:")}
    assert {name for name in expected if not name.startswith("qn_")} <= FREESTANDING


def test_the_header_is_also_cpp(tmp_path: Path) -> None:
    source = tmp_path / "user.cpp"
    source.write_text(
        '#include "quicknet.h"\nint main() { return qn_check(nullptr, 0, nullptr) == QN_MAGIC ? 0 : 1; }\n'
    )
    run(tool("c++", "g++", "clang++"), "-std=c++11", "-pedantic", "-Wall", "-Werror", "-I", CSRC, "-c", source,
        "-o", tmp_path / "user.o")  # fmt: skip


HARNESS = """
#include <stdio.h>
#include <stdint.h>
int classify(const uint8_t *picture, int32_t logits[]);
const char *class_name(int index);
int main(void) {
    static uint8_t picture[PICTURE];
    int32_t logits[CLASSES];
    if (fread(picture, 1, PICTURE, stdin) != PICTURE) return 2;
    int index = classify(picture, logits);
    printf("%d\\n%s\\n", index, class_name(index));
    for (int k = 0; k < CLASSES; k++) printf("%d ", logits[k]);
    return 0;
}
"""


def test_a_microcontroller_build_runs_a_model_in_an_array(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    network = random_network(rng, side=24, classes=3, blocks=(Block(32), Block(32, pool=True)))
    card = network_card(network).replace(classes=('a "quoted" ??/ \\', "café", "third"))
    model = tmp_path / "model.qnz"
    model.write_bytes(assemble_qnz(network, card))
    (tmp_path / "model.h").write_text(run(sys.executable, "-m", "quicknet.qnz.c_array", model))
    (tmp_path / "harness.c").write_text(HARNESS)
    image = random_images(rng, network, 1)
    defines = ["-DQN_NO_THREADS", "-DQN_PORTABLE_ONLY", f"-I{tmp_path}", "-Os"]
    defines += [f"-DPICTURE={image.size}", "-DCLASSES=3", "-DMEMORY=200000"]
    sources = [*engine_sources(), ENGINE / "example" / "microcontroller.c"]
    # the library and the example must do without a system's headers and calls; the harness is a PC's
    run(tool("cc", "gcc"), *STRICT, "-ffreestanding", "-I", CSRC, *defines, "-r", "-nostdlib", *sources,
        "-o", tmp_path / "firmware.o")  # fmt: skip
    program = compile_c(tmp_path / "program", [tmp_path / "harness.c", tmp_path / "firmware.o"], *defines)
    with (tmp_path / "image.raw").open("wb") as file:
        file.write(image.tobytes())
    with (tmp_path / "image.raw").open("rb") as file:
        index, name, logits = run(program, stdin=file).splitlines()
    expected = reference.run(network, image)[0]
    assert list(map(int, logits.split())) == expected.tolist()
    assert int(index) == expected.argmax()
    assert name == card.classes[int(index)]


def test_every_name_survives_as_a_c_string(tmp_path: Path) -> None:
    names = ["plain", 'a "quote"', "back\\slash", "what??/", "café 猫", "new\nline", "\x7f1"]
    lines = "\n".join(f'    puts({c_array.c_string(name)}); puts("--");' for name in names)
    (tmp_path / "names.c").write_text(f"#include <stdio.h>\nint main(void) {{\n{lines}\n    return 0;\n}}\n")
    program = compile_c(tmp_path / "names", [tmp_path / "names.c"], "-trigraphs")
    assert run(program).split("\n--\n")[:-1] == names


def test_the_array_of_a_file_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "bad.qnz").write_bytes(b"nothing")
    assert c_array.main([str(tmp_path / "bad.qnz")]) == 2
    assert c_array.main([]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("quicknet: error: ") and "bad.qnz" in errors[0]
    assert errors[1].startswith("quicknet: error: one file is needed: ")
