"""Standard error that is lost ends no work; standard output that is lost is a failure."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from exported import make_run, write_pictures
from helpers import TINY
from quicknet.cli.main import run

COMMAND = [sys.executable, "-m", "quicknet"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "data")


@pytest.fixture(scope="module")
def run_dir(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "run", pictures)
    (folder / "recipe.toml").write_text(f"[data]\nsource = {json.dumps(str(pictures))}\n")
    return folder


@pytest.fixture(scope="module")
def exported(run_dir: Path) -> Path:
    """A run's .onnx, in which every verb but train and export works without torch."""
    out = run_dir.parent / "model.onnx"
    assert run(["export", str(run_dir), "--format", "onnx", "--out", str(out), "--quiet"]) == 0
    return out


def without_stderr(how: str, arguments: list[str], cwd: Path) -> subprocess.CompletedProcess:
    """Run the command with a standard error that is closed, full, or a pipe that nobody reads."""
    command = [*COMMAND, *arguments]
    if how == "closed":
        script = 'exec "$@" 2>&-'
        return subprocess.run(["sh", "-c", script, "sh", *command], stdout=subprocess.PIPE, timeout=240, cwd=cwd)
    if how == "full":
        with Path("/dev/full").open("w") as full:
            return subprocess.run(command, stdout=subprocess.PIPE, stderr=full, timeout=240, cwd=cwd)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=writer, timeout=240, cwd=cwd)
    finally:
        os.close(writer)


HOW = ["closed", "full", "reader left"]
# of each verb: arguments, exit code, what standard output holds
LIGHT = {
    "a failure": (["evaluate", "MODEL", "none", "--quiet"], 2, ""),
    "evaluate --json": (["evaluate", "MODEL", "DATA", "--json", "--html", "page.html"], 0, '"n": 30'),
    "predict": (["predict", "MODEL", "good.png", "cut.png", "none.png", "good2.png"], 2, "good2.png\t"),
    "verify": (["verify", "MODEL", "--data", "DATA"], 0, "the receipt holds"),
    "inspect": (["inspect", "MODEL"], 0, "classes: 3"),
    "doctor": (["doctor", "DATA"], 1, "small_class"),
    "--help": (["--help"], 0, "Usage"),
}


def prepared(folder: Path, pictures: Path) -> None:
    good = next((pictures / "test" / "left").iterdir()).read_bytes()
    (folder / "good.png").write_bytes(good)
    (folder / "good2.png").write_bytes(good)
    (folder / "cut.png").write_bytes(good[: len(good) // 2])


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("verb", LIGHT)
def test_light_verbs_answer_without_standard_error(
    verb: str, how: str, exported: Path, pictures: Path, tmp_path: Path
) -> None:
    prepared(tmp_path, pictures)
    arguments, code, text = LIGHT[verb]
    given = [{"MODEL": str(exported), "DATA": str(pictures)}.get(word, word) for word in arguments]
    completed = without_stderr(how, given, tmp_path)
    assert completed.returncode == code
    assert text in completed.stdout.decode()
    assert completed.stdout or not text


TRAIN = ["train", "DATA", "--recipe", "fast", "--size", "32", *(word for key in TINY for word in ("--set", key))]
TRAIN += ["--set", "train.epochs=1"]


@pytest.mark.parametrize(("how", "quiet"), [("closed", []), ("closed", ["--quiet"]), ("reader left", [])])
def test_training_ends_as_always_without_standard_error(
    how: str, quiet: list[str], pictures: Path, tmp_path: Path
) -> None:
    given = [str(pictures) if word == "DATA" else word for word in TRAIN]
    completed = without_stderr(how, [*given, "--run", "run", *quiet], tmp_path)
    assert completed.returncode == 0
    assert b"test accuracy" in completed.stdout
    assert (tmp_path / "run" / "report.html").is_file()


def test_training_goes_on_when_its_terminal_is_gone(pictures: Path, tmp_path: Path) -> None:
    """Its live line is written by a thread of its own."""
    given = [str(pictures) if word == "DATA" else word for word in TRAIN]
    terminal, messages = pty.openpty()
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [*COMMAND, *given, "--run", "run", "--epochs", "20"], stdout=out, stderr=messages, cwd=tmp_path
        )
    os.close(messages)
    said = b""
    while b"epoch" not in said:  # until the live line is there
        said += os.read(terminal, 1000)
    os.close(terminal)
    assert process.wait(240) == 0
    assert b"test accuracy" in (tmp_path / "out").read_bytes()
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 20


def test_export_writes_its_file_without_standard_error(run_dir: Path, tmp_path: Path) -> None:
    completed = without_stderr("closed", ["export", str(run_dir), "--format", "onnx", "--out", "a.onnx"], tmp_path)
    assert completed.returncode == 0
    assert b"a.onnx" in completed.stdout
    assert (tmp_path / "a.onnx").is_file()


def test_benchmark_measures_without_standard_error(exported: Path, tmp_path: Path) -> None:
    arguments = ["benchmark", str(exported), "--seconds", "0.01", "--batch", "1", "--threads", "1", "--json"]
    completed = without_stderr("closed", arguments, tmp_path)
    assert completed.returncode == 0
    assert json.loads(completed.stdout)["rows"]


def test_a_file_does_not_get_the_number_of_a_closed_standard_error(tmp_path: Path) -> None:
    """What a native library prints would be written into it."""
    code = (
        "import os; from quicknet.cli.streams import install_streams; install_streams()\n"
        "file = open('file', 'w'); os.write(2, b'native'); print('said', file=__import__('sys').stderr)\n"
        "import subprocess; subprocess.run(['sh', '-c', 'echo child >&2'], check=True)"
    )
    subprocess.run(["sh", "-c", '"$@" 2>&- <&-', "sh", sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert (tmp_path / "file").read_bytes() == b""


# --- standard output ------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["predict", "evaluate", "--help"])
@pytest.mark.parametrize(("how", "unbuffered"), [(">&-", ""), (">/dev/full", ""), (">/dev/full", "1")])
def test_results_that_cannot_be_written_are_a_failure(
    verb: str, how: str, unbuffered: str, exported: Path, pictures: Path, tmp_path: Path
) -> None:
    prepared(tmp_path, pictures)
    arguments = {"predict": [str(exported), "good.png"], "evaluate": [str(exported), str(pictures)]}.get(verb, [])
    command = ["sh", "-c", f'exec "$@" {how}', "sh", *COMMAND, verb, *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    completed = subprocess.run(command, stderr=subprocess.PIPE, timeout=120, cwd=tmp_path, env=environment)
    errors = [line for line in completed.stderr.decode().splitlines() if not line.startswith("quicknet: note: ")]
    assert completed.returncode == 2
    assert len(errors) == 1
    assert errors[0].startswith("quicknet: error: cannot write the results (")
    assert "standard output" in errors[0]


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_a_reader_who_leaves_is_no_failure_to_tell(verb: str, exported: Path, pictures: Path, tmp_path: Path) -> None:
    prepared(tmp_path, pictures)
    arguments = {"predict": [str(exported), "good.png"], "evaluate": [str(exported), str(pictures)]}[verb]
    process = subprocess.Popen(
        [*COMMAND, verb, *arguments, "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait(60) == 141
