"""Videos and watched folders on the command line: lines, the rate at the end, Ctrl-C, exit codes."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from clips import BLUE, GREEN, RED, truncated, write_clip
from colours import Colours, write_image
from quicknet.cli.main import run
from quicknet.inference import artifact
from schema import follows

PROGRAM = [sys.executable, str(Path(__file__).resolve().parent.parent / "colours.py")]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Colours:
    classifier = Colours()
    monkeypatch.setattr(artifact, "load", lambda *_: classifier)
    return classifier


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", [RED, RED, GREEN, BLUE])


def test_a_line_per_frame_between_pictures_and_the_rate_at_the_end(
    model: Colours, clip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    picture = write_image(clip.parent / "a.png", "lime")
    assert run(["predict", "m", str(picture), str(clip), str(picture), "--top", "1"]) == 0
    captured = capfd.readouterr()
    lines = [line.split("\t") for line in captured.out.splitlines()]
    assert [line[0] for line in lines] == [str(picture), *[str(clip)] * 4, str(picture)]
    assert [line[1:3] for line in lines[1:5]] == [[f"frame {n}", f"{n / 10:.3f} s"] for n in range(4)]
    assert [line[-1].split()[0] for line in lines] == ["green", "red", "red", "green", "blue", "green"]
    (rate,) = captured.err.splitlines()
    assert rate.startswith(f"quicknet: note: {clip}: 4 of 4 frames classified in ")
    assert rate.endswith(" frames/s, 0 dropped")
    assert run(["predict", "m", str(clip), "--quiet"]) == 0
    assert capfd.readouterr().err == ""


def test_a_video_on_standard_input_is_answered_as_on_the_command_line(
    model: Colours, clip: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [write_image(clip.parent / f"{name}.png", name) for name in ("red", "lime")]
    names = [str(path) for path in (pictures[0], clip, clip.parent / "none.mp4", pictures[1])]
    assert run(["predict", "m", *names, "--json"]) == 2
    named = capfd.readouterr()
    listed = clip.parent / "names"
    listed.write_text("".join(f"{name}\n" for name in names), "utf-8-sig")
    with listed.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert run(["predict", "m", "-", "--json"]) == 2
    sent = capfd.readouterr()
    assert sent.out == named.out
    assert len(sent.out.splitlines()) == 6 + 1  # the file that is not there has a line too
    for message in (named.err, sent.err):
        note, unreadable = message.splitlines()
        assert note.startswith(f"quicknet: note: {clip}: 4 of 4 frames classified in ")
        assert unreadable.startswith("quicknet: unreadable: cannot read the video (")


def test_json_lines_of_frames_have_the_documented_fields(
    model: Colours, clip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", "m", str(clip), "--json", "--fps", "5", "--realtime"]) == 0
    captured = capfd.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert {name for line in lines for name in line} == {
        *("name", "label", "probability", "top", "calibrated", "frame", "time_s")
    }
    for line in lines:
        follows("predict", line)
    assert [(line["frame"], line["time_s"], line["label"]) for line in lines] == [(0, 0.0, "red"), (2, 0.2, "green")]
    assert "2 skipped by --fps" in captured.err


def test_a_broken_video_is_named_what_could_be_read_is_answered_the_rest_is_done(
    model: Colours, clip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    short = truncated(write_clip(clip.parent / "short.mkv", [RED] * 40), 0.5)
    none = clip.parent / "none.mp4"
    none.write_bytes(b"no video")
    assert run(["predict", "m", str(short), str(none), str(clip), "--quiet"]) == 2
    captured = capfd.readouterr()
    cut, unknown = captured.err.splitlines()
    assert cut.startswith("quicknet: unreadable: the video is cut short: ")
    assert unknown.startswith("quicknet: unreadable: not a video of a known kind")
    names = [line.split("\t")[0] for line in captured.out.splitlines()]
    assert names.count(str(short)) > 5
    assert names[-4:] == [str(clip)] * 4


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["a.png", "--watch", "."], "one of the two"),
        ([], "nothing to classify"),
        (["a.mp4", "--fps", "0"], "fps"),
        (["--watch", "/no/such/folder"], "cannot watch the folder"),
    ],
)
def test_what_cannot_be_followed_is_one_line_and_code_2(
    model: Colours, arguments: list[str], text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", "m", *arguments, "--quiet"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("quicknet: error: ")
    assert text in line


class Watching:
    """The program watching a folder; reads its lines, and is killed where it does not end in time."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [*PROGRAM, "predict", "m", "--watch", str(folder), "--json", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._timer = threading.Timer(30, self.process.kill)
        self._timer.start()

    def line(self) -> dict[str, object]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate()
        self._timer.cancel()
        return self.process.returncode, errors


def put_until_noticed(watching: Watching, path: Path) -> dict[str, object]:
    """Write a picture again and again from a thread, since nothing says when the watching has begun."""
    noticed = threading.Event()

    def put() -> None:
        for blue in range(200, 250):
            if not noticed.wait(0.4):
                write_image(path, (0, 0, blue))

    writer = threading.Thread(target=put, daemon=True)
    writer.start()
    actual = watching.line()
    noticed.set()
    writer.join()
    return actual


def test_a_watched_folder_is_answered_until_ctrl_c(tmp_path: Path) -> None:
    watching = Watching(tmp_path)
    first = put_until_noticed(watching, tmp_path / "first.png")
    assert (first["name"], first["label"]) == (str(tmp_path / "first.png"), "blue")
    watching.process.send_signal(signal.SIGINT)
    code, errors = watching.end()
    assert code == 130
    (rate,) = errors.splitlines()
    assert rate.startswith(f"quicknet: note: {tmp_path}: ")
    assert " pictures classified in " in rate
    assert rate.endswith(" pictures/s")


def test_a_watched_folder_that_vanishes_ends_it_with_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    watching = Watching(folder, "--quiet")
    put_until_noticed(watching, folder / "first.png")
    (folder / "first.png").unlink()
    folder.rmdir()
    code, errors = watching.end()
    assert code == 2
    (line,) = errors.splitlines()
    assert line.startswith(f"quicknet: error: cannot watch the folder ({folder}: No such file")


def test_watching_ends_after_the_time_asked_for(
    model: Colours, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    started = time.perf_counter()
    assert run(["predict", "m", "--watch", str(tmp_path), "--for", "0.3"]) == 0
    assert 0.3 <= time.perf_counter() - started < 3
    assert "0 pictures classified" in capfd.readouterr().err
