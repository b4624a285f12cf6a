"""A teacher's kept answers: damaged, of other runs, on a full disk; teachers that cannot be one."""

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import TINY, same_tensors
from quicknet import training
from quicknet.cli.main import run
from quicknet.core.files import sha256_file
from quicknet.training.teacher import RunTeacher
from rights import without_root_rights

from .conftest import Refused, contents
from .test_disk import disk_of

EPOCH_BYTES = 180 * 10 * 2


@pytest.fixture
def command(tiny_data: Path, finished_run: Path) -> Callable[..., list[str]]:
    """The command that trains a student on kept answers."""

    def words(folder: str, *changes: str) -> list[str]:
        settings = [word for change in (*TINY, "distill.kept=2", *changes) for word in ("--set", change)]
        teacher = ["--teacher", str(finished_run)]
        return ["train", str(tiny_data), "--recipe", "fast", *teacher, *settings, "--run", folder]

    return words


@pytest.fixture
def answers(command: Callable[..., list[str]], tmp_path: Path) -> Path:
    """The file of kept answers, after a run has used it."""
    assert run([*command("whole"), "--quiet"]) == 0
    (path,) = (tmp_path / "cache" / "answers").glob("*.f16")
    return path


def cut(path: Path) -> None:
    os.truncate(path, EPOCH_BYTES + 7)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def altered(path: Path) -> None:
    blob = bytearray(path.read_bytes())
    blob[EPOCH_BYTES + 3] ^= 1
    path.write_bytes(blob)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def gone(path: Path) -> None:
    path.unlink()


def record_of(value: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.with_suffix(".json").write_text(value if isinstance(value, str) else json.dumps(value))

    return write


def record_of_another_key(path: Path) -> None:
    record = path.with_suffix(".json")
    fields = json.loads(record.read_text())
    record.write_text(json.dumps({**fields, "key": {**fields["key"], "seed": 5}}))


def record_of_other_digests(path: Path) -> None:
    record = path.with_suffix(".json")
    fields = json.loads(record.read_text())
    record.write_text(json.dumps({**fields, "parts": ["0" * 64, "", *fields["parts"]]}))


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (cut, "1 of 2 parts of the teacher's answers are damaged"),
        (altered, "1 of 2 parts of the teacher's answers are damaged"),
        (emptied, "2 of 2 parts"),
        (gone, "2 of 2 parts"),
        (longer, ""),
        (record_of("{"), "cannot be used"),
        (record_of("[1, 2]"), "cannot be used"),
        (record_of({"parts": [1]}), "cannot be used"),
        (record_of("[" * 100_000), "cannot be used"),
        (record_of_another_key, "cannot be used"),
        (record_of_other_digests, "1 of 2 parts"),
    ],
)
def test_damaged_answers_are_asked_again(
    damage: Callable[[Path], None],
    note: str,
    answers: Path,
    command: Callable[..., list[str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
):
    before = answers.read_bytes()
    damage(answers)
    capfd.readouterr()
    assert run(command("again")) == 0
    said = capfd.readouterr().err
    assert "Traceback" not in said
    notes = [line for line in said.splitlines() if "asked again" in line]
    assert len(notes) == bool(note)
    assert all(line.startswith("note     ") and note in line and str(answers.parent) in line for line in notes)
    assert answers.read_bytes()[: 2 * EPOCH_BYTES] == before
    assert same_tensors(tmp_path / "whole" / "last.safetensors", tmp_path / "again" / "last.safetensors")


def test_answers_that_are_a_folder(answers: Path, command: Callable[..., list[str]], refused: Refused):
    answers.unlink()
    answers.mkdir()
    refused([*command("again"), "--quiet"], "cannot write the teacher's answers", str(answers), "Is a directory")


def test_a_disk_without_room_for_the_answers(
    command: Callable[..., list[str]], tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
):
    usage = namedtuple("usage", ["total", "used", "free"])
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 5000))
        refused(
            [*command("new", "distill.kept=3"), "--quiet"],
            "answers need 10,800 bytes, and 5,000 are free",
            "QUICKNET_CACHE",
        )
    assert set(contents(tmp_path / "new")) <= {"recipe.toml", "log.jsonl"}
    assert run([*command("new"), "--quiet"]) == 0


@pytest.mark.parametrize("writes", range(1, 9))
def test_a_disk_that_fills_while_the_teacher_answers(
    writes: int,
    command: Callable[..., list[str]],
    tmp_path: Path,
    answers: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
):
    """Whichever write fails: one line, the run folder as it was, what was answered is kept."""
    before = answers.read_bytes()
    begun = training.start(recipe_of(command), tmp_path / "begun", torch.device("cpu"))
    next(training.fit(begun))
    shutil.rmtree(answers.parent)
    real, count = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count >= writes:
            raise OSError(28, "No space left on device")
        real(handle)

    asked: list[int] = []
    answer = RunTeacher.__call__

    def counted(self, images):
        asked.append(len(images))
        return answer(self, images)

    monkeypatch.setattr(RunTeacher, "__call__", counted)
    resume = ["train", "--resume", "begun", "--quiet"]
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        if writes in (1, 2, 4, 5):  # bytes and record of each part; a folder that cannot be synced is no failure
            refused(resume, "cannot write", "No space left on device", "free some space", keeps=tmp_path / "begun")
        else:
            run(resume)  # it fails in a save of the run, if at all
    assert run(resume) == 0
    assert sum(asked) <= 3 * 180
    assert answers.read_bytes() == before
    assert same_tensors(tmp_path / "whole" / "last.safetensors", tmp_path / "begun" / "last.safetensors")


def recipe_of(command: Callable[..., list[str]]) -> training.Recipe:
    words = command("-")
    changes = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    return training.load_recipe("fast", changes, {"data.source": words[1], "distill.teacher": words[5]})


def test_a_file_that_may_not_grow(command: Callable[..., list[str]], tmp_path: Path, refused: Refused):
    with disk_of(2 * EPOCH_BYTES - 1):
        refused([*command("new"), "--quiet"], "cannot write the teacher's answers", "File too large", "free some space")
    assert run([*command("new"), "--quiet"]) == 0


def test_a_cache_that_cannot_be_written(
    command: Callable[..., list[str]], answers: Path, tmp_path: Path, refused: Refused
):
    """What is there already is read all the same."""
    answers.parent.chmod(0o555)
    with without_root_rights():
        assert run([*command("second"), "--quiet"]) == 0
        line = refused([*command("third", "train.seed=3"), "--quiet"], "cannot write", "answers", "Permission denied")
        assert "QUICKNET_CACHE" in line
    answers.parent.chmod(0o755)


# --- teachers -----------------------------------------------------------------------------------


def test_a_teacher_that_is_the_students_own_folder(
    tiny_data: Path, run_dir: Path, command: Callable[..., list[str]], tmp_path: Path, refused: Refused
):
    words = ("lies in the folder that this run writes", "--teacher", "--run")
    own = ["train", tiny_data, "--teacher", run_dir, "--run", tmp_path / "x" / ".." / "run", "--quiet"]
    refused(own, *words, keeps=run_dir)
    refused([*own, "--set", "distill.kept=2"], *words, keeps=run_dir)
    recipe = run_dir / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("[distill]", f"[distill]\nteacher = {json.dumps(str(run_dir))}"))
    refused(["train", "--resume", run_dir, "--quiet"], *words, keeps=run_dir)
    assert run([*command("begun"), "--quiet"]) == 0
    (tmp_path / "link").symlink_to(tmp_path / "begun")
    refused(["train", tiny_data, "--teacher", "begun", "--run", "link", "--quiet"], *words)


def test_a_teacher_that_has_changed_since_the_run_began(
    tiny_data: Path, run_dir: Path, tmp_path: Path, refused: Refused, command: Callable[..., list[str]]
):
    """With answers of two teachers it would be neither run."""
    import safetensors.torch

    from quicknet.training.checkpoint import read_tensors

    words = [*command("begun"), "--quiet"]
    words[words.index("--teacher") + 1] = str(run_dir)
    assert run(words) == 0
    tensors = read_tensors(run_dir / "model.safetensors")
    tensors["classifier.weight"] *= 0.5
    (run_dir / "model.safetensors").write_bytes(safetensors.torch.save(tensors))
    card = json.loads((run_dir / "card.json").read_text())
    card["weights_sha256"] = sha256_file(run_dir / "model.safetensors")
    (run_dir / "card.json").write_text(json.dumps(card))
    line = ("is not the one that begun began with", "sha256", "new run")
    refused(["train", "--resume", "begun", "--quiet"], *line, keeps=tmp_path / "begun")


@pytest.mark.parametrize("factor", [1e9, float("nan")])
def test_answers_that_float16_does_not_hold(
    factor: float, command: Callable[..., list[str]], tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
):
    answer = RunTeacher.__call__
    monkeypatch.setattr(RunTeacher, "__call__", lambda self, images: answer(self, images) * factor)
    refused([*command("new"), "--quiet"], "numbers that float16 does not hold", "distill.kept=0")


@pytest.mark.parametrize("kept", ["-1", "1000001", "2.5", "true", "'many'", "nan"])
def test_numbers_of_epochs_that_mean_nothing(kept: str, command: Callable[..., list[str]], refused: Refused):
    refused([*command("new", f"distill.kept={kept}"), "--quiet"], "kept")


def test_kept_answers_of_nobody(tiny_data: Path, refused: Refused):
    refused(["train", tiny_data, "--set", "distill.kept=2", "--quiet"], "needs a teacher", "--teacher")
