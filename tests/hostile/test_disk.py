"""Disks that are full, folders that cannot be written, two runs at once, losses that are no numbers."""

import contextlib
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from helpers import TINY, same_tensors
from quicknet import training
from quicknet.cli.main import run
from quicknet.training import loss
from rights import without_root_rights

from .conftest import Refused, check_line, contents

STEPS_PER_EPOCH = 6


@pytest.fixture
def begun(tiny_data: Path, tmp_path: Path) -> Path:
    """A run of three epochs, stopped after the first."""
    changes = [*TINY, f"data.source={json.dumps(str(tiny_data))}"]
    started = training.start(training.load_recipe("fast", changes), tmp_path / "run", torch.device("cpu"))
    assert started.steps_per_epoch == STEPS_PER_EPOCH
    next(training.fit(started))
    return tmp_path / "run"


@contextlib.contextmanager
def disk_of(size_bytes: int) -> Iterator[None]:
    """Let no file grow past a size: the write that would fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_in_mid_save_keeps_every_byte_and_the_run_goes_on(
    begun: Path, tmp_path: Path, refused: Refused, capfd: pytest.CaptureFixture[str]
):
    shutil.copytree(begun, tmp_path / "whole")
    assert (begun / "model.safetensors").stat().st_size > 8_000
    with disk_of(8_000):
        refused(
            ["train", "--resume", begun, "--quiet"],
            "cannot write",
            "safetensors",
            "untouched",
            "free some space",
            keeps=begun,
        )
    assert {path.name for path in begun.iterdir()} - {".lock"} == {p.name for p in (tmp_path / "whole").iterdir()}
    for folder in (begun, tmp_path / "whole"):
        assert run(["train", "--resume", str(folder), "--quiet"]) == 0
    for name in ("last.safetensors", "model.safetensors"):
        assert same_tensors(begun / name, tmp_path / "whole" / name)


@pytest.mark.parametrize("writes", range(1, 8))
def test_a_disk_that_is_full_at_any_write_of_a_save(
    writes: int, begun: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Whichever write fails, the folder is what it was after some whole save, and one command goes on."""
    real, count = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count == writes:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    code = run(["train", "--resume", str(begun), "--quiet"])
    monkeypatch.setattr(os, "fsync", real)
    assert code in (0, 2)  # a folder whose rename cannot be made durable is no failure
    if code == 2:
        check_line(capfd.readouterr().err, "No space left on device", "free some space")
    assert not list(begun.glob(".*.tmp"))
    assert run(["train", "--resume", str(begun), "--quiet"]) == 0
    assert len((begun / "log.jsonl").read_text().splitlines()) == 3


def test_results_that_cannot_be_written_are_an_error(tiny_data: Path, finished_run: Path, tmp_path: Path):
    """As in `quicknet ... > /dev/full`: an exit code of 0 would claim that the output is there."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "quicknet", "doctor", str(tiny_data), "--json", "--quiet"]
        completed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    check_line(completed.stderr, "No space left on device")
    assert completed.returncode == 2


# --- folders ------------------------------------------------------------------------------


def test_a_run_folder_that_is_read_only(
    begun: Path, finished_run: Path, tmp_path: Path, refused: Refused, capfd: pytest.CaptureFixture[str]
):
    from PIL import Image

    done = Path(shutil.copytree(finished_run, tmp_path / "done"))
    Image.new("RGB", (40, 40), "red").save(tmp_path / "picture.png")
    for folder in (begun, done):
        folder.chmod(0o555)
    with without_root_rights():
        refused(["train", "--resume", begun], "cannot write into", "Permission denied", "writable", keeps=begun)
        refused(["evaluate", done, "--calibrate", "--quiet"], "cannot write into", "Permission denied", keeps=done)
        # what only reads needs no right to write
        assert run(["predict", str(done), str(tmp_path / "picture.png")]) == 0
        (done / "card.json").chmod(0)
        refused(["predict", done, tmp_path / "picture.png"], "card.json", "Permission denied")
        (done / "model.safetensors").chmod(0)
        (done / "card.json").chmod(0o444)
        refused(["predict", done, tmp_path / "picture.png"], "model.safetensors", "Permission denied")
    for folder in (begun, done):
        folder.chmod(0o755)


_ON_A_READ_ONLY_MEDIUM = """
import sys
from quicknet.cli.main import run
folder, picture = sys.argv[1:]
for words in (["train", "--resume", folder, "--quiet"], ["evaluate", folder, "--calibrate", "--quiet"]):
    print(run(words))
    sys.stderr.flush()
print(run(["evaluate", folder, "--quiet", "--json"]), run(["predict", folder, picture]))
"""


def test_a_run_folder_on_a_read_only_medium(begun: Path, tmp_path: Path):
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(tmp_path / "picture.png")
    medium = f"mount --bind '{begun}' '{begun}' && mount -o remount,ro,bind '{begun}'"
    alone = ["unshare", "--mount", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*alone, medium], capture_output=True).returncode:
        pytest.skip("this user cannot mount here")
    before = contents(begun)
    program = shlex.join([sys.executable, "-c", _ON_A_READ_ONLY_MEDIUM, str(begun), str(tmp_path / "picture.png")])
    done = subprocess.run([*alone, f"{medium} && {program}"], capture_output=True, text=True, timeout=250)
    lines = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(lines) == 2, done.stderr
    for line in lines:
        check_line(
            line, "cannot write into", str(begun), "Read-only file system", "it is on a read-only medium", "copy"
        )
        assert "free some space" not in line
    assert done.stdout.split()[:2] == ["2", "2"]
    assert done.stdout.split()[-2:] == ["0", "0"]  # what only reads needs no medium that can be written
    assert contents(begun) == before


def test_a_run_that_leads_into_a_file(tiny_data: Path, finished_run: Path, tmp_path: Path, refused: Refused):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/inside", "file/a/b"):
        refused(["train", tiny_data, "--run", place, "--quiet"], "cannot write into", "file", "another folder")
    assert (tmp_path / "file").read_text() == "mine"
    refused(["evaluate", finished_run, "--quiet", "--html", "file/x.html"], "cannot write", "file/x.html")
    refused(["train", tiny_data, "--run", "x" * 300, "--quiet"], "cannot write into", "File name too long")


def test_a_run_folder_that_is_taken(begun: Path, tiny_data: Path, refused: Refused):
    refused(["train", tiny_data, "--run", begun, "--quiet"], "holds a run already", "--resume", "--run", keeps=begun)


def test_two_runs_on_one_folder(begun: Path, tiny_data: Path, finished_run: Path, tmp_path: Path, refused: Refused):
    """Two real processes; the lock dies with its holder, however it dies."""
    program = (
        "import sys, time; from pathlib import Path; from quicknet.core.files import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(begun)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        words = ("another run is using", str(begun), f"process {holder.pid}", "wait for it or name another folder")
        refused(["train", "--resume", begun, "--quiet"], *words, keeps=begun)
        refused(["train", tiny_data, "--run", begun, "--quiet"], *words, keeps=begun)
        refused(["evaluate", begun, "--calibrate", "--quiet"], *words[:3], keeps=begun)
    finally:
        holder.kill()
        holder.communicate()
    assert run(["train", "--resume", str(begun), "--quiet"]) == 0


# --- numbers ------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_loses_nothing_saved(begun: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch):
    real = loss.loss_of

    def later_nan(current, logits, batch, features):
        return real(current, logits, batch, features) * (
            float("nan") if current.steps_done() == STEPS_PER_EPOCH + 3 else 1
        )

    monkeypatch.setattr("quicknet.training.loop.loss_of", later_nan)
    refused(
        ["train", "--resume", begun, "--quiet"],
        "the loss is nan at epoch 2, step 4",
        str(begun),
        "--set optim.lr=0.0125",
        keeps=begun,
    )


def test_weights_that_are_no_numbers_are_never_saved(begun: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch):
    """The last step of an epoch: the loss was still a number, its gradient is not."""
    real = loss.loss_of

    def later_nan(current, logits, batch, features):
        losses = real(current, logits, batch, features)
        last = current.steps_done() == 2 * STEPS_PER_EPOCH - 1
        return losses + torch.sqrt((logits * 0).sum()) if last else losses

    monkeypatch.setattr("quicknet.training.loop.loss_of", later_nan)
    refused(
        ["train", "--resume", begun, "--quiet"],
        "no longer finite at epoch 2, step 6",
        "what was saved before is whole",
        "optim.lr",
        keeps=begun,
    )


def test_a_rate_that_blows_up(tiny_data: Path, tmp_path: Path, refused: Refused):
    settings = [word for setting in (*TINY, "optim.lr=1e30", "schedule.warmup=0.0") for word in ("--set", setting)]
    command = ["train", tiny_data, "--recipe", "fast", "--run", "new", "--quiet", *settings]
    line = refused(command, "at epoch 1", "lower rate")
    assert "inf" in line or "nan" in line
    assert set(contents(tmp_path / "new")) == {"recipe.toml", "log.jsonl"}


def test_the_traceback_is_there_for_those_who_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("QUICKNET_DEBUG", "1")
    assert run(["doctor", str(tmp_path / "none")]) == 2
    said = capfd.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert "DataError" in said
    check_line(said.splitlines()[-1], "does not exist")
