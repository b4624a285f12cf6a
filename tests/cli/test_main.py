"""The command as a whole: help, version, exit codes, what goes where."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

import quicknet
from quicknet.cli import main
from quicknet.cli.main import VERBS, run
from quicknet.core.errors import CheckFailed, DataError
from schema import follows

COMMAND = [sys.executable, "-m", "quicknet"]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """Put a function in the place of `quicknet doctor`."""

    def put(function) -> None:
        module = importlib.import_module("quicknet.cli.doctor")
        monkeypatch.setattr(module, "doctor", click.command("doctor")(function))

    monkeypatch.delenv("QUICKNET_DEBUG", raising=False)
    return put


def raising(error: BaseException):
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_verb_with_a_line(option: str, capfd: pytest.CaptureFixture[str]):
    assert run([option]) == 0
    captured = capfd.readouterr()
    for name, line in VERBS.items():
        assert any(text.split()[:1] == [name] and line[:30] in text for text in captured.out.splitlines()), name
    assert "130  The command was interrupted." in captured.out
    assert captured.err == ""


def test_without_a_command_the_help_is_shown_and_the_code_is_that_of_bad_input(capfd: pytest.CaptureFixture[str]):
    assert run([]) == 2
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err.startswith("Usage: quicknet") and "  doctor " in captured.err
    assert captured.err.splitlines()[-1] == "quicknet: error: no command given; name one of those above"


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help(name: str, capfd: pytest.CaptureFixture[str]):
    assert run([name, "--help"]) == 0
    captured = capfd.readouterr()
    assert captured.out.startswith(f"Usage: quicknet {name} ")
    assert captured.err == ""
    command = getattr(importlib.import_module(f"quicknet.cli.{name}"), name)
    assert len(command.help.strip()) > 40
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert option.opts[0] in captured.out
    assert "--json" in {word for option in command.params for word in option.opts}


def test_every_verb_file_is_on_the_list():
    folder = Path(main.__file__).parent
    shared = {"__init__", "main", "live", "text"}
    verbs = {
        path.stem
        for path in folder.glob("*.py")
        if path.stem not in shared and not path.stem.startswith("_") and "@click.command" in path.read_text()
    }
    assert verbs == set(VERBS)


def test_version(capfd: pytest.CaptureFixture[str]):
    assert run(["--version"]) == 0
    assert capfd.readouterr().out.split()[-1] == quicknet.__version__


@pytest.mark.parametrize(
    ("function", "code", "line"),
    [
        (lambda: None, 0, None),
        (raising(CheckFailed("3 duplicates (photos)")), 1, "3 duplicates (photos)"),
        (raising(DataError("no images (photos); add some")), 2, "no images (photos); add some"),
        (raising(DataError("two\nlines\x1b[2J")), 2, "two lines\\x1b[2J"),
        (raising(click.UsageError("wrong.")), 2, "wrong; see `quicknet doctor --help`"),
        (raising(KeyboardInterrupt()), 130, "interrupted; run the same command again"),
        (raising(click.Abort()), 130, "interrupted; run the same command again"),
        (raising(MemoryError()), 2, "out of memory; use smaller images, a smaller --batch-size or a smaller model"),
        (
            raising(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")),
            2,
            "out of memory; use smaller images, a smaller --batch-size or a smaller model",
        ),
        (
            raising(PermissionError(13, "Permission denied", "/etc/x")),
            2,
            "Permission denied (/etc/x); check that it exists, that you may use it, and that the disk has space left",
        ),
        (
            raising(ZeroDivisionError("division by zero")),
            2,
            "unexpected error (ZeroDivisionError: division by zero); QUICKNET_DEBUG=1 shows where it happened",
        ),
    ],
)
def test_exit_codes_and_the_one_line(function, code: int, line: str | None, verb, capfd: pytest.CaptureFixture[str]):
    verb(function)
    assert run(["doctor"]) == code
    assert capfd.readouterr() == ("", "" if line is None else f"quicknet: error: {line}\n")


def test_the_traceback_on_demand(verb, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    verb(raising(ZeroDivisionError("division by zero")))
    monkeypatch.setenv("QUICKNET_DEBUG", "1")
    assert run(["doctor"]) == 2
    assert "Traceback (most recent call last)" in capfd.readouterr().err


def process(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, timeout=60, **options)


def test_the_real_command_answers_with_the_same_codes(tmp_path: Path):
    completed = process("doctor", "none", cwd=tmp_path)
    assert (completed.returncode, completed.stdout) == (2, b"")
    assert completed.stderr.count(b"\n") == 1
    assert completed.stderr.startswith(b"quicknet: error: 'none' does not exist")
    assert list(tmp_path.iterdir()) == []


def test_help_on_a_terminal_of_few_letters_and_to_a_reader_who_leaves():
    plain = process("--help", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (plain.returncode, plain.stderr) == (0, b"")
    assert plain.stdout.startswith(b"Usage: quicknet ")
    leaving = subprocess.Popen([*COMMAND, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert leaving.stdout is not None
    leaving.stdout.close()
    assert leaving.wait(60) == 141
    assert leaving.stderr is not None
    with leaving.stderr as errors:
        assert errors.read() == b""


def test_output_that_has_no_room_is_an_error():
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        completed = subprocess.run([*COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert completed.returncode == 2
    assert completed.stderr.count("\n") == 1
    assert "No space left on device" in completed.stderr


def test_doctor_finds_something_with_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    from PIL import Image

    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    for name, colour in (("a", "red"), ("b", "red")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 40 + number), colour).save(tmp_path / "photos" / name / f"{number}.png")
    assert run(["doctor", str(tmp_path / "photos"), "--json", "--quiet"]) == 1
    captured = capfd.readouterr()
    report = json.loads(captured.out)
    follows("doctor", report)
    assert report["found"] is True
    assert captured.err == ""
