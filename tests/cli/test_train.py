"""`quicknet train`: what it prints where, signals, and going on afterwards."""

import contextlib
import fcntl
import importlib.util
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import TINY, same_tensors, write_cifar
from quicknet import training
from quicknet.cli import live
from quicknet.cli.main import run
from quicknet.core.card import read_card
from quicknet.core.errors import ConfigError
from quicknet.training import loop
from quicknet.training.checkpoint import EpochRecord, RunFolder
from quicknet.training.recipe import load_recipe
from quicknet.training.settings import TrainSettings
from schema import follows

EPOCHS = 12
SETTINGS = [word for setting in (*TINY, f"train.epochs={EPOCHS}") for word in ("--set", setting)]


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar(tmp_path_factory.mktemp("train"), 40)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert (
        run(["train", str(data), "--recipe", "fast", "--run", str(folder), "--threads", "1", "--quiet", *SETTINGS]) == 0
    )
    return folder


def train(data: Path, *more: str) -> int:
    return run(["train", str(data), "--recipe", "fast", "--run", "run", "--threads", "1", *SETTINGS, *more])


def assert_goes_on_to_the_same(folder: Path, whole: Path) -> None:
    """Resume in this process; the weights must be those of the run that nothing interrupted."""
    assert run(["train", "--resume", str(folder), "--threads", "1", "--quiet"]) == 0
    for name in ("last.safetensors", "model.safetensors"):
        assert same_tensors(folder / name, whole / name), name


def test_a_run_does_not_make_itself_a_class_of_its_data(tmp_path: Path, monkeypatch, capfd: pytest.CaptureFixture[str]):
    """`cd photos; quicknet train .`: runs/ would be a class without pictures from then on."""
    photos = tmp_path / "photos"
    for name in ("cat", "dog"):
        (photos / name).mkdir(parents=True)
    monkeypatch.chdir(photos)
    for arguments in (["."], [".", "--run", "cat"], [str(photos), "--run", str(photos / "x" / "run")]):
        assert run(["train", *arguments]) == 2
        assert "would lie in the data" in capfd.readouterr().err
        with pytest.raises(ConfigError, match="name one outside of it"):
            next(training.train(".", photos / "run"))
    assert sorted(path.name for path in photos.iterdir()) == ["cat", "dog"]


# --- what is printed ----------------------------------------------------------------------


def test_results_on_stdout_progress_on_stderr(data: Path, capfd: pytest.CaptureFixture[str]):
    assert train(data, "--epochs", "2") == 0
    captured = capfd.readouterr()
    result, folder = captured.out.splitlines()
    assert re.fullmatch(
        r"test accuracy \d+\.\d\d% \(\d+\.\d\d to \d+\.\d\d, 95% interval, n = 40, protocol standard\), "
        r"weights of epoch [12], trained for \d+ s",
        result,
    )
    assert folder == "run folder run (report.html shows it)"
    heads = [line.split()[0] for line in captured.err.splitlines()]
    assert heads[0] == "data"
    assert {"note", "model", "recipe", "device", "run"} <= set(heads)
    assert heads[-4:] == ["epoch", "epoch", "next", "next"]
    assert captured.err.splitlines()[-1].startswith("next     quicknet export run --out run.qnz --data ")
    assert re.fullmatch(
        r"epoch 2/2  loss \d\.\d{3}  acc \d+\.\d\d%  val \d+\.\d\d%( \*|  )  [\d,]+ img/s  \d+ s",
        captured.err.splitlines()[-3],
    )
    assert "\x1b" not in captured.err


def test_where_the_last_epoch_is_kept_no_epoch_is_marked_as_the_best(data: Path, capfd: pytest.CaptureFixture[str]):
    assert train(data, "--epochs", "1", "--set", "train.keep=auto") == 0
    lines = capfd.readouterr().err.splitlines()
    assert "note     val has 20 images, too few to choose the best epoch by: the last epoch's weights are kept" in lines
    assert not any(line.startswith("epoch") and "*" in line for line in lines)


def test_quiet_is_quiet(data: Path, capfd: pytest.CaptureFixture[str]):
    assert train(data, "--epochs", "1", "--quiet") == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert len(captured.out.splitlines()) == 2


def test_json_lines_are_the_documented_objects(data: Path, capfd: pytest.CaptureFixture[str]):
    assert train(data, "--epochs", "2", "--json") == 0
    *epochs, result = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    for line in (*epochs, result):
        follows("train", line)
    assert [line.pop("event") for line in epochs] == ["epoch", "epoch"]
    assert all(line.keys() == set(EpochRecord.__struct_fields__) for line in epochs)
    assert epochs == [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert result.pop("event") == "result"
    assert isinstance(result["energy_joules"], float | None)  # as the machine tells it or not
    assert {name: type(value) for name, value in result.items() if name != "energy_joules"} == {
        "run": str,
        "split": str,
        "n": int,
        "top1": float,
        "top1_low": float,
        "top1_high": float,
        "balanced_accuracy": float,
        "majority_share": float,
        "protocol": str,
        "best_epoch": int,
        "seconds": float,
    }
    assert (result["run"], result["split"], result["n"], result["protocol"]) == ("run", "test", 40, "standard")


def test_a_line_now_and_then_off_a_terminal(
    data: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    assert live._LOG_EVERY_S == 30
    monkeypatch.setattr(live, "_LOG_EVERY_S", 0.05)
    assert train(data, "--epochs", "12") == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if " step " in line]
    assert lines
    form = r"epoch \d+/12  step \d/6  loss \d+\.\d{3}  acc \d+\.\d%  [\d,]+ img/s(  [^ ].* left)?"
    assert all(re.fullmatch(form, line) for line in lines), lines
    assert any(line.endswith(" left") for line in lines)


def test_time_left_follows_the_pace():
    seconds = iter([100.0, 110.0, 120.0])
    rate = live.Rate(lambda: next(seconds))
    assert rate.left(50, 300) is None  # the first look: a resumed run, no pace known yet
    assert rate.left(60, 300) == pytest.approx(240)
    assert rate.left(100, 300) == pytest.approx(80)


def test_time_left_knows_that_later_images_are_larger():
    seconds = iter([0.0, 60.0, 120.0])
    rate = live.Rate(lambda: next(seconds))
    settings = TrainSettings(sizes=((0.0, 24), (0.5, 48)))  # a step of the second half takes four times as long
    assert rate.left(settings.work(0.0), 1.0) is None
    assert rate.left(settings.work(0.25), 1.0) == pytest.approx(60 + 8 * 60)
    assert rate.left(settings.work(0.5), 1.0) == pytest.approx(8 * 60)
    assert settings.work(1.0) == pytest.approx(1)
    assert TrainSettings().work(0.3) == pytest.approx(0.3)


# --- signals ------------------------------------------------------------------------------


def interrupt_at(monkeypatch: pytest.MonkeyPatch, number: int, *signals: int) -> None:
    """Send signals to this process in the middle of step `number`, counted from 0."""
    real = loop.step

    def step(current, indices):
        if current.steps_done() == number:
            for one in signals:
                os.kill(os.getpid(), one)
        return real(current, indices)

    monkeypatch.setattr(loop, "step", step)


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize(
    ("number", "options"), [(signal.SIGINT, []), (signal.SIGTERM, ["--quiet"]), (signal.SIGHUP, ["--quiet"])]
)
def test_a_signal_saves_says_how_to_go_on_and_the_run_ends_the_same(
    number: int, options: list[str], data: Path, whole: Path, monkeypatch, capfd: pytest.CaptureFixture[str]
):
    handlers = [signal.getsignal(one) for one in STOP_SIGNALS]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8, number)  # the third step of the second epoch
        assert train(data, *options) == 130
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == "stopped  saved; go on with: quicknet train --resume run"
    assert len(captured.err.splitlines()) == 1 or not options
    assert [signal.getsignal(one) for one in STOP_SIGNALS] == handlers
    saved = json.loads(Path("run/last.json").read_text())
    assert (saved["epoch"], saved["step"]) == (1, 3)
    assert_goes_on_to_the_same(Path("run"), whole)


def test_a_second_ctrl_c_stops_at_once_and_loses_only_the_epoch_in_progress(
    data: Path, whole: Path, monkeypatch, capfd: pytest.CaptureFixture[str]
):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8, signal.SIGINT, signal.SIGINT)
        assert train(data) == 130
    said = capfd.readouterr().err.splitlines()[-1]
    assert said == ("stopped  at once, what was saved before is whole; go on with: quicknet train --resume run")
    saved = json.loads(Path("run/last.json").read_text())
    assert (saved["epoch"], saved["step"]) == (1, 0)
    assert_goes_on_to_the_same(Path("run"), whole)


@pytest.mark.parametrize(
    "signals", [(signal.SIGHUP, signal.SIGHUP), (signal.SIGTERM, signal.SIGHUP), (signal.SIGHUP, signal.SIGTERM)]
)
def test_a_closing_terminal_or_a_service_manager_sends_two_signals_and_the_step_is_saved(
    signals: tuple[int, int], data: Path, monkeypatch
):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8, *signals)
        assert train(data, "--quiet") == 130
    saved = json.loads(Path("run/last.json").read_text())
    assert (saved["epoch"], saved["step"]) == (1, 3)


def test_under_nohup_a_closing_terminal_does_not_stop_the_run(data: Path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupt_at(monkeypatch, 8, signal.SIGHUP)
        assert train(data, "--quiet", "--epochs", "2") == 0
    finally:
        assert signal.signal(signal.SIGHUP, before) == signal.SIG_IGN


def test_ctrl_c_before_anything_was_saved(data: Path, monkeypatch, capfd: pytest.CaptureFixture[str]):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 0, signal.SIGINT, signal.SIGINT)
        assert train(data) == 130
    assert "the same command again (nothing was saved yet)" in capfd.readouterr().err
    assert train(data, "--epochs", "1", "--quiet") == 0


def test_a_run_folder_whose_name_needs_quotes(data: Path, monkeypatch, capfd: pytest.CaptureFixture[str]):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 0, signal.SIGINT)
        assert train(data, "--run", "my run's") == 130
    said = capfd.readouterr().err.splitlines()[-1]
    command = said.partition("go on with: ")[2]
    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True).stdout
    assert words.splitlines() == ["quicknet", "train", "--resume", "my run's"]


@contextlib.contextmanager
def on_a_terminal(command: list[str], **variables: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """Start a process whose stdin, stderr and controlling terminal are a new terminal."""
    mine, its = pty.openpty()

    def attach() -> None:
        os.setsid()
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        command,
        stdin=its,
        stderr=its,
        stdout=subprocess.PIPE,
        preexec_fn=attach,
        env={**os.environ, **variables},
    )
    os.close(its)
    try:
        yield process, mine
    finally:
        process.kill()
        process.communicate()
        with contextlib.suppress(OSError):  # the test has closed it
            os.close(mine)


def read_until(handle: int, pattern: str, seconds: float = 90) -> str:
    """Return what a terminal shows until `pattern` (a regular expression) is there, or it closes."""
    text, ends = "", time.monotonic() + seconds
    while not re.search(pattern, text) and time.monotonic() < ends:
        if select.select([handle], [], [], 0.5)[0]:
            try:
                text += os.read(handle, 65536).decode()
            except OSError:  # its end of the terminal is closed
                break
    return text


def command(data: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "quicknet", "train", str(data), "--recipe", "fast", "--run", "run"),
        *("--threads", "1", *SETTINGS, *more),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="terminals are made in Linux's way here")
def test_ctrl_c_on_a_terminal_with_a_live_line(data: Path):
    long = command(data, "--epochs", "2000")
    with on_a_terminal(long, NO_COLOR="1", TERM="xterm-256color") as (process, terminal):
        text = read_until(terminal, r"left")
        live_line = re.search(r"\r\x1b\[K(epoch \d+/2000  step \d/6  [^\r]* left)", text)
        assert live_line, text
        for word in ("loss ", "acc ", " img/s"):
            assert word in live_line[1]
        os.write(terminal, b"\x03")
        text += read_until(terminal, r"--resume run")
        assert process.wait(60) == 130
    assert "stopped  saved; go on with: quicknet train --resume run" in text
    assert not re.search(r"\x1b\[[0-9;]*m", text)  # NO_COLOR
    assert "Traceback" not in text


@pytest.mark.skipif(sys.platform != "linux", reason="terminals are made in Linux's way here")
def test_a_terminal_that_closes_saves_the_epoch_in_progress(data: Path):
    """The kernel sends SIGHUP, and stderr can no longer be written."""
    long = command(data, "--epochs", "2000", "--quiet")
    with on_a_terminal(long) as (process, terminal):
        ends = time.monotonic() + 90
        while not Path("run/last.json").exists() and time.monotonic() < ends:
            time.sleep(0.02)
        os.close(terminal)
        process.wait(60)
    saved = RunFolder(Path("run")).load_counters()
    assert saved.step > 0, "the epoch in progress was lost"


def test_sigterm_of_a_real_process(data: Path, whole: Path):
    """It saves after every step, which changes no weight and leaves the signal time to arrive."""
    slow = command(data, "--json", "--set", "train.save_minutes=0")
    process = subprocess.Popen(slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["epoch"] == 1
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert all(json.loads(line)["event"] == "epoch" for line in out.splitlines())
    assert err.splitlines()[-1] == "stopped  saved; go on with: quicknet train --resume run"
    assert "\x1b" not in err
    assert_goes_on_to_the_same(Path("run"), whole)


def test_a_reader_that_leaves_early_ends_it_quietly_with_the_epoch_saved(data: Path):
    process = subprocess.Popen(
        command(data, "--json", "--quiet", "--epochs", "2000"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 141
    with process.stderr as errors:
        assert errors.read() == b""
    assert RunFolder(Path("run")).load_counters().epoch >= 2


# --- names and places ---------------------------------------------------------------------


def pictures(folder: Path, count: int = 12) -> Path:
    for label, name in enumerate(("ants", "bees")):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            noise = np.random.default_rng((label, number)).integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(noise).save(folder / name / f"{number}.png")
    return folder


def test_any_folder_name_trains_and_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Names go into recipe.toml and back, and onto the terminal."""
    odd = pictures(tmp_path / 'phötos 😀 "x" \\ \x1b[2J\x7f\n= [a]')
    short = ["--epochs", "1", "--size", "16", "--batch-size", "16", "--model", "quicknet_xs"]
    settings = [word for setting in TINY[1:2] for word in ("--set", setting)]
    assert run(["train", str(odd), "--recipe", "fast", *short, *settings]) == 0
    captured = capfd.readouterr()
    assert "\x1b" not in captured.out + captured.err
    (folder,) = Path("runs").iterdir()
    assert folder.name.isprintable()
    assert " " not in folder.name
    assert load_recipe(str(folder / "recipe.toml")).data.source == str(odd)
    assert run(["train", "--resume", str(folder), "--quiet"]) == 0


def test_runs_get_folders_of_their_own(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    short = ["--quiet", "--epochs", "1", *SETTINGS]
    for _ in range(2):
        assert run(["train", str(data), "--recipe", "fast", *short]) == 0
    names = sorted(path.name for path in Path("runs").iterdir())
    assert names == ["cifar-10-batches-bin-quicknet_xs-fast", "cifar-10-batches-bin-quicknet_xs-fast-2"]


def test_fine_tuning_names_the_network_that_it_has(data: Path, whole: Path, tmp_path: Path):
    photos = pictures(tmp_path / "photos")
    assert run(["train", str(photos), "--from", str(whole), "--run", "run", "--epochs", "1", "--quiet"]) == 0
    card, parent = read_card(Path("run/card.json")), read_card(whole / "card.json")
    assert card.model.name == parent.model.name == "quicknet_xs"
    assert card.classes == ("ants", "bees")
    assert card.lineage[-1].weights_sha256 == parent.weights_sha256
    assert load_recipe("run/recipe.toml").model.name == "quicknet_xs"


def test_classes_that_differ_much_in_size_are_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """500 : 5 were answered by "98.04%", which is what always naming the larger class gives."""
    photos = pictures(tmp_path / "photos", 100)
    for path in sorted((photos / "bees").iterdir())[10:]:
        path.unlink()
    tiny = [word for setting in (*TINY, "optim.lr=1e-9") for word in ("--set", setting)]
    command = ["train", str(photos), "--recipe", "fast", *tiny, "--size", "16", "--epochs", "1"]
    assert run([*command, "--run", "text"]) == 0
    captured = capfd.readouterr()
    assert re.search(
        r"note     of \d+ images to train on \d+ are 'ants', 8 'bees': compare the accuracy with", captured.err
    )
    assert re.search(r"epoch 1/1 .* val \d+\.\d\d% \(balanced \d+\.\d\d%\) \*", captured.err)
    share = r"balanced accuracy \d+\.\d\d%; the classes differ .* answering 'ants' would score 90\.91%"
    assert re.fullmatch(share, captured.out.splitlines()[1])
    assert "would score 90.91%" in Path("text/report.html").read_text()
    assert run(["evaluate", "text", "--quiet"]) == 0
    assert re.search(share, capfd.readouterr().out)
    assert run([*command, "--run", "json", "--json", "--quiet"]) == 0
    epoch, result = map(json.loads, capfd.readouterr().out.splitlines())
    assert 0 <= epoch["val_balanced_accuracy"] <= 1
    assert result["majority_share"] == pytest.approx(10 / 11)
    assert run(["evaluate", "json", "--json", "--quiet"]) == 0
    measured = json.loads(capfd.readouterr().out)
    recalls = [row["recall"] for row in measured["classes"]]
    assert measured["balanced_accuracy"] == result["balanced_accuracy"] == pytest.approx(np.mean(recalls))


def test_fine_tuning_has_the_parents_preprocessing_unless_asked(data: Path, whole: Path, tmp_path: Path):
    """The recipe `scratch` would have 96 pixels."""
    photos, grey = pictures(tmp_path / "photos"), tmp_path / "grey"
    short = ["--epochs", "1", "--quiet"]
    mode = ["--set", "data.mode=L", "--set", "data.resize=stretch", "--size", "24"]
    tiny = [word for setting in TINY for word in ("--set", setting)]
    assert run(["train", str(photos), "--from", "none", "--run", str(grey), *mode, *tiny, *short]) == 0
    for number, (parent, more, expected) in enumerate(
        [
            (whole, ["--recipe", "scratch"], (32, "RGB", "shorter")),
            (whole, ["--size", "48"], (48, "RGB", "shorter")),
            (grey, [], (24, "L", "stretch")),
        ]
    ):
        assert run(["train", str(photos), "--from", str(parent), "--run", f"run{number}", *more, *short]) == 0
        spec = read_card(Path(f"run{number}/card.json")).preprocess
        assert (spec.size, spec.mode, spec.resize) == expected


# --- TensorBoard --------------------------------------------------------------------------


class Writer:
    """Stands for torch.utils.tensorboard.SummaryWriter."""

    writers: list["Writer"] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.closed = folder, purge_step, False
        self.scalars: list[tuple[str, float, int]] = []
        Writer.writers.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def test_scalars_for_tensorboard_where_it_is_installed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "site" / "tensorboard").mkdir(parents=True)
    (tmp_path / "site" / "tensorboard" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    fake = types.ModuleType("torch.utils.tensorboard")
    setattr(fake, "SummaryWriter", Writer)  # noqa: B010
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.setattr(Writer, "writers", [])
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8, signal.SIGINT)
        assert train(data, "--epochs", "3", "--quiet") == 130
    assert run(["train", "--resume", "run", "--quiet"]) == 0
    first, second = Writer.writers
    assert Path(first.folder) == Path("run/tensorboard")
    assert (first.purge_step, second.purge_step) == (1, 2)
    assert first.closed
    assert second.closed
    log = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    curves = {name: value for name, value, step in second.scalars if step == 3}
    assert curves["loss/train"] == log[2]["train_loss"]
    assert curves["accuracy/val"] == log[2]["val_accuracy"]
    assert [step for name, _, step in (*first.scalars, *second.scalars) if name == "loss/train"] == [1, 2, 3]


def test_nothing_is_written_for_a_tensorboard_that_is_not_there(whole: Path):
    if importlib.util.find_spec("tensorboard") is not None:
        pytest.skip("tensorboard is installed here")
    assert not (whole / "tensorboard").exists()
