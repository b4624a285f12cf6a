import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from colours import Colours, write_image
from quicknet.cli.main import run
from quicknet.core.card import UnknownRecord
from quicknet.inference import artifact
from rights import without_root_rights
from schema import follows

PROGRAM = [sys.executable, str(Path(__file__).resolve().parent.parent / "colours.py")]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Colours:
    classifier = Colours()
    monkeypatch.setattr(artifact, "load", lambda *_: classifier)
    return classifier


@contextlib.contextmanager
def stdin(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the command `content` on its standard input."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        monkeypatch.setattr(sys, "stdin", file)
        yield


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name, colour in {"a red": "red", "b": "lime", "deep/c": "blue"}.items():
        write_image(tmp_path / f"{name}.png", colour)
    return tmp_path


def test_a_line_per_image(model: Colours, pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "m", str(pictures), "--top", "2"]) == 0
    captured = capfd.readouterr()
    lines = [line.split("\t") for line in captured.out.splitlines()]
    assert [Path(line[0]).name for line in lines] == ["a red.png", "b.png", "c.png"]
    assert [line[1] for line in lines] == ["red 96.5%", "green 96.5%", "blue 96.5%"]
    assert all(len(line) == 3 for line in lines)
    assert captured.err == ""


def test_what_a_folder_holds_besides_is_noted_unless_quiet(
    model: Colours, pictures: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_image(pictures / "deep" / "@eaDir" / "thumbnail.jpg", "red")
    (pictures / "list.txt").write_text("x")
    assert run(["predict", "m", str(pictures)]) == 0
    loud = capfd.readouterr()
    assert len(loud.out.splitlines()) == 3
    assert loud.err.splitlines() == [
        f"quicknet: note: 1 file in {pictures} is not an image by suffix (.txt, such as list.txt); left out",
        f"quicknet: note: folders that systems leave in {pictures}; left out: @eaDir",
    ]
    assert run(["predict", "m", str(pictures), "--quiet"]) == 0
    assert capfd.readouterr() == (loud.out, "")


def test_json_lines_have_the_documented_fields(
    model: Colours, pictures: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    grey = write_image(pictures / "grey.png", (80, 80, 80))
    assert run(["predict", "m", str(pictures / "b.png"), str(grey), "--json", "--min-confidence", "0.5"]) == 0
    sure, unsure = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    assert sure["name"] == str(pictures / "b.png")
    assert (sure["label"], sure["probability"], sure["calibrated"]) == ("green", 0.964663, True)
    assert [guess["label"] for guess in sure["top"]] == ["green", "red", "blue"]
    assert sum(guess["probability"] for guess in sure["top"]) == pytest.approx(1, abs=1e-5)
    assert (unsure["label"], unsure["probability"]) == (None, 0.333333)


def test_unknown_below_the_confidence_asked_for(
    model: Colours, pictures: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", "m", str(pictures / "b.png"), "--min-confidence", "0.97", "--top", "1"]) == 0
    assert capfd.readouterr().out == f"{pictures}/b.png\tunknown\tgreen 96.5%\n"


def test_unknown_below_the_threshold_in_the_card(
    model: Colours, pictures: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", "m", str(pictures / "b.png"), "--unknown", "--top", "1"]
    assert run(arguments) == 2
    assert "m holds no threshold for --unknown; choose one" in capfd.readouterr().err
    for threshold, label in ((0.97, "unknown\t"), (0.9, "")):
        model.card = model.card.replace(unknown=UnknownRecord(min_confidence=threshold, split="val", n=100, kept=0.95))
        assert run(arguments) == 0
        assert capfd.readouterr().out == f"{pictures}/b.png\t{label}green 96.5%\n"
    assert run([*arguments, "--min-confidence", "0.5"]) == 2
    assert "--unknown takes the threshold from the model" in capfd.readouterr().err


def test_unreadable_files_are_named_the_rest_is_done_and_the_code_is_2(
    model: Colours, pictures: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = pictures / "broken.png"
    broken.write_bytes(b"no image")
    empty = pictures / "empty"
    empty.mkdir()
    names = [pictures / "a red.png", broken, pictures / "missing.png", empty, pictures / "b.png"]
    assert run(["predict", "m", *map(str, names)]) == 2
    captured = capfd.readouterr()
    assert len(captured.out.splitlines()) == 2
    lines = captured.err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("quicknet: unreadable: ") for line in lines)
    for name, line in zip(("broken.png", "missing.png", "empty"), lines, strict=True):
        assert name in line
    assert run(["predict", "m", *map(str, names), "--json"]) == 2
    printed = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [Path(fields["name"]).name for fields in printed] == [Path(name).name for name in names]
    assert ["error" in fields for fields in printed] == [False, True, True, True, False]
    for fields in printed:
        follows("predict", fields)


def test_names_that_would_drive_the_terminal_are_shown_as_codes(
    model: Colours, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = os.fsdecode(b"new\nline\t\x1b[2J\xff.png")
    write_image(tmp_path / "plain.png", "red").rename(tmp_path / odd)
    assert run(["predict", "m", str(tmp_path)]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    assert line.split("\t")[0] == f"{tmp_path}/new\\x0aline\\x09\\x1b[2J\\udcff.png"
    assert run(["predict", "m", str(tmp_path), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["name"] == f"{tmp_path}/{odd}"


def test_a_model_without_temperature_says_so_once(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(artifact, "load", lambda *_: Colours(temperature=None))
    assert run(["predict", "m", str(pictures)]) == 0
    assert capfd.readouterr().err.count("not calibrated") == 1
    assert run(["predict", "m", str(pictures), "--quiet"]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("arguments", [["--top", "0"], ["--min-confidence", "2"], ["--batch", "0"]])
def test_bad_options_exit_with_2(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "m", "f", *arguments]) == 2
    assert run(["predict", "m"]) == 2
    assert run(["predict", "/no/such/run", "f"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("quicknet: error: ") for line in lines)


def test_names_on_a_pipe_are_answered_while_it_is_open(pictures: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "predict", "m", "-", "--batch", "8"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(60, process.kill)  # a program that waits for the pipe's end would hang here
    timer.start()
    try:
        for name in ("a red.png", "b.png", "deep"):
            process.stdin.write(f"{pictures}/{name}\n".encode())
            process.stdin.flush()
            assert process.stdout.readline().startswith(f"{pictures}/{name}".encode())
        process.stdin.close()
        assert process.wait(30) == 0
    finally:
        timer.cancel()
        process.stdout.close()


def test_nul_separated_names_may_hold_newlines(pictures: Path) -> None:
    odd = write_image(pictures / "two\nlines.png", "blue")
    names = f"{odd}\0{pictures}/b.png".encode()
    completed = subprocess.run(
        [*PROGRAM, "predict", "m", "-", "-0", "--json"], input=names, capture_output=True, timeout=60
    )
    assert [json.loads(line)["label"] for line in completed.stdout.splitlines()] == ["blue", "green"]
    assert (completed.returncode, completed.stderr) == (0, b"")


def test_a_reader_that_leaves_early_ends_it_quietly(pictures: Path, tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text(f"{pictures}/b.png\n" * 20_000)
    with names.open("rb") as listed, (tmp_path / "errors").open("wb") as errors:
        process = subprocess.Popen([*PROGRAM, "predict", "m", "-"], stdin=listed, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 141
    assert (tmp_path / "errors").read_bytes() == b""


def test_a_folder_of_real_photographs(model: Colours, photos_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    expected = sorted(str(path) for path in (photos_dir / "val" / "ants").iterdir())
    assert run(["predict", "m", str(photos_dir / "val" / "ants"), "--json", "--batch", "4"]) == 0
    assert [json.loads(line)["name"] for line in capfd.readouterr().out.splitlines()] == expected
    assert max(model.batches) == 4


LONG = f"{'x' * 300}.png"


@pytest.fixture
def hard_names(pictures: Path) -> list[str]:
    """Between two pictures, names that cannot be looked at: locked, too long, a loop of links, below a file."""
    write_image(pictures / "locked" / "0.png", "red")
    (pictures / "locked").chmod(0)
    (pictures / "loop").symlink_to(pictures / "loop")
    odd = ["locked/0.png", LONG, "loop/x.png", "b.png/x.png"]
    return [str(pictures / name) for name in ("a red.png", *odd, "b.png")]


def check_hard_names(names: list[str], code: int, out: str, err: str) -> None:
    assert [line.split("\t")[0] for line in out.splitlines()] == [names[0], names[-1]]
    lines = err.splitlines()
    assert all(line.startswith("quicknet: unreadable: cannot read the image (") for line in lines)
    assert [name for name, line in zip(names[1:-1], lines, strict=True) if name not in line] == []
    assert code == 2


def test_a_name_that_cannot_be_looked_at_costs_its_own_answer_only(
    model: Colours, hard_names: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with without_root_rights():
        code = run(["predict", "m", *hard_names])
    check_hard_names(hard_names, code, *capfd.readouterr())


def test_on_standard_input_too(
    model: Colours, hard_names: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with stdin("\n".join(hard_names).encode(), monkeypatch), without_root_rights():
        code = run(["predict", "m", "-"])
    check_hard_names(hard_names, code, *capfd.readouterr())


@pytest.mark.parametrize("content", [b"a.png\0b.png\0", b"\xff\xd8\xff\xe0\0\x10JFIF\0\n\x01"])
def test_names_with_nuls_and_pictures_are_not_taken_for_lines(
    content: bytes, model: Colours, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with stdin(content, monkeypatch):
        assert run(["predict", "m", "-"]) == 2
    captured = capfd.readouterr()
    assert captured.err.startswith("quicknet: error: standard input is not a list of file names")
    assert "-0" in captured.err
    assert captured.err.count("\n") == 1


def test_what_follows_the_names_costs_none_of_the_answers_before_it(
    model: Colours, pictures: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with stdin(f"{pictures}/b.png\n".encode() + bytes([1]) * 100_000, monkeypatch):
        assert run(["predict", "m", "-"]) == 2
    captured = capfd.readouterr()
    assert captured.out.startswith(f"{pictures}/b.png\tgreen")
    assert captured.err.startswith("quicknet: error: standard input is not a list of file names")
