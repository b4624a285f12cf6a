"""A teacher's kept answers: those that it would give, asked for once, whatever interrupts it and whoever reads them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import TINY, same_tensors
from interrupted import interrupt
from quicknet import training
from quicknet.cli.live import Rate
from quicknet.cli.main import run as command
from quicknet.cli.train import _asking_line
from quicknet.core.errors import CheckpointError, ConfigError
from quicknet.models import fused
from quicknet.training.answers import AnswerFile
from quicknet.training.ask import ask_ahead, teacher_logits
from quicknet.training.kept import answers_in_bf16
from quicknet.training.teacher import RunTeacher

CPU = torch.device("cpu")
OTHERS = 'distill.teacher="quicknet_xs.cifar10"'  # a file that has learned from other images
MIXED = ("augment.mixup=0.3", "augment.cutmix=1.0", "augment.trivial=true")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "answers"


@pytest.fixture
def teacher(trained: Path) -> Path:
    return trained


@pytest.fixture
def student(tiny_cifar: Path, teacher: Path, tmp_path: Path):
    """Start a run that learns from the teacher's answers to two epochs of views."""

    def start(name: str, *changes: str) -> Any:
        settings = [*TINY, f"data.source={json.dumps(str(tiny_cifar))}", f"distill.teacher={json.dumps(str(teacher))}"]
        recipe = training.load_recipe("fast", [*settings, "distill.kept=2", *changes])
        return training.start(recipe, tmp_path / name, CPU)

    return start


def fit(run: Any) -> list[Any]:
    return list(training.fit(run))


def test_kept_answers_are_those_that_the_teacher_gives(student):
    run = student("run", *MIXED)
    fit(run)
    for view in (0, 1):
        batch = run.augmenter.batch(torch.arange(180), view)
        with torch.no_grad(), run.autocast(answers_in_bf16(run.recipe.train, CPU)):
            now = run.teachers[0](batch.images).float()
        kept = torch.from_numpy(run.kept.files[0].epoch(view).astype(np.float32))
        torch.testing.assert_close(kept, now, rtol=2**-10, atol=1e-4)


def test_a_student_learns_as_from_the_teacher_itself(student):
    """In the first epochs, whose views are the same; later ones show them again."""
    fp32 = "train.precision=fp32"  # alone, the teacher would compute as the student's batches have it
    kept, live = (fit(student(name, f"distill.kept={n}", fp32)) for name, n in (("kept", 2), ("live", 0)))
    for a, b in zip(kept[:2], live[:2], strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, rel=2e-3)


def test_later_epochs_show_the_same_views_and_answers_again(student):
    run = student("run", *MIXED, "train.epochs=5")
    real, epochs = run.augmenter.batch, [dict[int, Any]() for _ in range(5)]

    def watched(indices, epoch, size=None):
        batch = real(indices, epoch, size)
        if run.meter.asked is None:
            answers = run.kept.logits(run.state.epoch, batch.indices)
            for row, index in enumerate(indices.tolist()):
                epochs[run.state.epoch][index] = (batch.images[row], answers[row])
        return batch

    list(ask_ahead(run))
    run.augmenter.batch = watched
    fit(run)
    assert all(len(shown) == 180 for shown in epochs)
    for again, first in ((2, 0), (3, 1), (4, 0)):
        for index in range(180):
            for a, b in zip(epochs[again][index], epochs[first][index], strict=True):
                assert torch.equal(a, b)
    assert not torch.equal(epochs[0][7][0], epochs[1][7][0])


@pytest.mark.parametrize("steps", [1, 8, 16])
def test_a_student_is_resumed_bit_for_bit_and_without_the_cache_too(student, tmp_path, cache, steps):
    changes = (*MIXED, "train.epochs=4", "train.sizes=[[0.0, 24], [0.5, 32]]")
    fit(student("whole", *changes))
    (written,) = cache.glob("*.f16")
    before = written.read_bytes()
    interrupt(student("cut", *changes), steps)
    shutil.rmtree(cache)
    fit(training.resume(tmp_path / "cut", CPU))
    for name in ("last.safetensors", "model.safetensors"):
        assert same_tensors(tmp_path / "whole" / name, tmp_path / "cut" / name), name
    row = 180 * 10 * 2
    views = {0, 1} if steps < 16 else {0, 1} & {e % 2 for e in range(steps // 6, 4)}
    for view in views:  # those that the rest of the run needs
        assert written.read_bytes()[view * row : (view + 1) * row] == before[view * row : (view + 1) * row]


def test_another_student_asks_nothing(student, cache, monkeypatch):
    fit(student("first"))
    files = {path: path.read_bytes() for path in cache.iterdir()}

    def never(*_):
        raise AssertionError("the teacher is asked again")

    monkeypatch.setattr(RunTeacher, "__call__", never)
    others = ("train.epochs=4", "optim.lr=0.01", "distill.weight=0.5", "distill.temperature=2", "train.batch_size=50")
    fit(student("second", *others, "model.overrides={stem_width = 4, widths = [4, 6, 8, 8], depths = [1, 1, 1, 1]}"))
    fit(student("third", "train.sizes=[[0.0, 24]]", "distill.kept=1"))
    seed = student("seed").recipe.train.seed
    fit(student("fourth", f"train.seed={seed + 1}", f"distill.seed={seed}"))
    assert {path: path.read_bytes() for path in cache.iterdir()} == files


def test_students_of_two_seeds_see_the_same_views_and_nothing_else_alike(student):
    one = student("one", *MIXED)
    two = student("two", *MIXED, f"train.seed={one.recipe.train.seed + 1}", f"distill.seed={one.recipe.train.seed}")
    indices = torch.arange(20)
    for view in (0, 1):
        assert torch.equal(one.augmenter.batch(indices, view).images, two.augmenter.batch(indices, view).images)
    assert not np.array_equal(next(one.remaining_batches()), next(two.remaining_batches()))
    assert one.step_seed() != two.step_seed()
    name, weights = next(iter(one.model.state_dict().items()))
    assert not torch.equal(weights, two.model.state_dict()[name])


@pytest.mark.parametrize(
    "change",
    [
        "train.seed=4",
        "augment.cutout=2",
        "distill.mirror=true",
        "train.precision=bf16",
    ],
)
def test_other_views_or_answers_lie_in_another_file(student, change):
    fp32 = "train.precision=fp32"
    assert student("one", fp32).kept.files[0].path != student("other", fp32, change).kept.files[0].path


def test_other_images_to_learn_from_have_other_answers(student):
    """The content of the data is the same, and its split is not."""
    paths = {student(f"seed{n}", f"data.split_seed={n}", OTHERS).kept.files[0].path for n in (0, 1)}
    assert len(paths) == 2


def test_students_of_small_and_large_batches_share_answers(student, monkeypatch):
    """Whether a student gains by bfloat16 depends on its batches; the teacher's are its own."""
    monkeypatch.setattr(fused, "prefers_bf16", lambda: True)
    batches = ("train.batch_size=64", "train.batch_size=128", "train.accumulate=2")
    assert len({student(change, change).kept.files[0].path for change in batches}) == 1


def test_an_exported_file_answers_alike_whatever_the_student_computes_in(student):
    paths = [student(kind, OTHERS, f"train.precision={kind}").kept.files[0].path for kind in ("bf16", "fp32")]
    assert paths[0] == paths[1]


def test_another_teacher_has_another_file(student, teacher, tmp_path):
    import safetensors.torch

    from quicknet.core.files import sha256_file
    from quicknet.training.checkpoint import read_tensors

    other = Path(shutil.copytree(teacher, tmp_path / "other"))
    tensors = read_tensors(other / "model.safetensors")
    tensors["classifier.weight"] *= 0.5
    (other / "model.safetensors").write_bytes(safetensors.torch.save(tensors))
    card = json.loads((other / "card.json").read_text())
    card["weights_sha256"] = sha256_file(other / "model.safetensors")
    (other / "card.json").write_text(json.dumps(card))
    one = student("one").kept.files[0].path
    assert student("two", f"distill.teacher={json.dumps(str(other))}").kept.files[0].path != one
    card["preprocess"]["mean"] = [0.1, 0.2, 0.3]
    (other / "card.json").write_text(json.dumps(card))
    assert student("three", f"distill.teacher={json.dumps(str(other))}").kept.files[0].path != one


def test_more_epochs_are_added_to_those_that_are_there(student, monkeypatch, cache):
    fit(student("first", "train.epochs=2"))
    real, asked = RunTeacher.__call__, []

    def counted(self, images):
        asked.append(len(images))
        return real(self, images)

    monkeypatch.setattr(RunTeacher, "__call__", counted)
    fit(student("second", "distill.kept=3", "train.epochs=4"))
    assert sum(asked) == 180
    (file,) = cache.glob("*.f16")
    assert file.stat().st_size == 3 * 180 * 10 * 2


def test_nothing_is_asked_for_epochs_that_never_come(student, tmp_path, cache, monkeypatch):
    run = student("run", "distill.kept=50")
    fit(run)
    (file,) = cache.glob("*.f16")
    assert file.stat().st_size == 3 * 180 * 10 * 2
    shutil.rmtree(cache)
    fit(training.resume(tmp_path / "run", CPU))
    assert not cache.exists()


# --- interrupted ------------------------------------------------------------------------------


def test_ctrl_c_while_the_teacher_answers_keeps_what_it_said(
    tiny_cifar, teacher, tmp_path, cache, monkeypatch, capfd: pytest.CaptureFixture[str]
):
    settings = [word for change in (*TINY, "distill.kept=2") for word in ("--set", change)]
    words = ["train", str(tiny_cifar), "--recipe", "fast", "--teacher", str(teacher), *settings]
    words += ["--run", str(tmp_path / "run")]
    real, asked = RunTeacher.__call__, []

    def interrupted(self, images):
        asked.append(len(images))
        if len(asked) == 2:  # the second epoch's views
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, images)

    monkeypatch.setattr(RunTeacher, "__call__", interrupted)
    assert command(words) == 130
    said = capfd.readouterr().err
    assert "teacher  " in said and "2 epochs of views" in said
    assert "the teacher's answers so far are kept; go on with: the same command again\n" in said
    assert command(words) == 0
    assert sum(asked) == 3 * 180
    assert "50% are there" in capfd.readouterr().err


class Killed(BaseException):
    """The process dies here."""


def answers_of(images: np.ndarray, view: int) -> np.ndarray:
    return np.sin(images[:, None] * 0.37 + view + np.arange(3)).astype(np.float32)


@pytest.mark.parametrize("at", range(1, 16))
def test_a_kill_at_any_moment_of_writing_costs_one_part_at_most(at: int, tmp_path: Path, monkeypatch):
    def file(name: str) -> AnswerFile:
        return AnswerFile(tmp_path / name, {"teacher": "a"}, 5000, 3)

    def complete(of: AnswerFile) -> int:
        return sum(of.complete(of.missing([0, 1])[0], answers_of))

    assert complete(file("whole")) == 10_000
    count, dead = 0, False

    def dying(real):
        def call(*arguments, **options):
            nonlocal count, dead
            count += 1
            dead = dead or count >= at
            if dead:
                raise Killed
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for name in ("fsync", "replace"):
            patched.setattr(os, name, dying(getattr(os, name)))
        with pytest.raises(Killed):
            complete(file("cut"))
    # of each part: its bytes, the record's, the record's name, which counts, and the folder
    assert complete(file("cut")) == 10_000 - sum([2048, 2048, 904, 2048][: at // 4])
    for view in (0, 1):
        assert np.array_equal(file("cut").epoch(view), file("whole").epoch(view))
        assert np.array_equal(file("cut").epoch(view), answers_of(np.arange(5000), view).astype(np.float16))
    assert file("cut").path.read_bytes() == file("whole").path.read_bytes()
    assert file("cut").record.read_bytes() == file("whole").record.read_bytes()


def test_two_that_need_the_same_answers_take_turns(tmp_path: Path):
    one, two = (AnswerFile(tmp_path, {"teacher": "a"}, 5000, 3) for _ in range(2))
    asked = []

    def ask(images, view):
        asked.append(len(images))
        return answers_of(images, view)

    both: list[Any] = [of.complete(of.missing([0, 1])[0], ask) for of in (one, two)]
    for _ in range(8):  # the first part of one
        next(both[0])
    next(both[0])  # written, and the second begun: now the other would wait
    both[0].close()
    assert sum(both[1]) == 10_000  # as far as the other needs them
    assert sum(asked) == 10_000 + 256  # the question whose part was given up
    assert not one.missing([0, 1])[0]


def test_answers_that_are_cut_while_a_run_reads_them(student, cache, tmp_path):
    changes = (*MIXED, "train.epochs=4")
    fit(student("whole", *changes))
    run = student("cut", *changes)
    epochs = training.fit(run)
    next(epochs)
    (file,) = cache.glob("*.f16")
    os.truncate(file, 5000)
    with pytest.raises(CheckpointError, match=r"damaged or gone since the run began.*--resume"):
        next(epochs)
    fit(training.resume(tmp_path / "cut", CPU))
    assert same_tensors(tmp_path / "whole" / "last.safetensors", tmp_path / "cut" / "last.safetensors")


# --- beside other work ----------------------------------------------------------------------


def test_the_live_line_says_how_far_the_teacher_is(student):
    run, rate = student("run"), Rate(iter(range(100)).__next__)
    lines = [_asking_line(run, rate) for _ in ask_ahead(run)]
    assert lines == ["teacher's answers 1/2  image 180/360", "teacher's answers 2/2  image 360/360  0 s left"]
    assert _asking_line(run, rate) == ""


def test_two_processes_read_what_they_have_asked_for_in_turns(tiny_cifar, teacher, tmp_path, cache):
    changes = [*TINY, f"data.source={json.dumps(str(tiny_cifar))}", f"distill.teacher={json.dumps(str(teacher))}"]
    changes += ["distill.kept=2", "optim.momentum=0.0"]
    single = fit(training.start(training.load_recipe("fast", changes), tmp_path / "one", CPU))
    (file,) = cache.glob("*.f16")
    before = file.read_bytes()
    shutil.rmtree(cache)
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    words += ["-m", "--", "quicknet", "train", "--recipe", "fast", "--run", str(tmp_path / "two"), "--threads", "1"]
    words += [word for change in changes for word in ("--set", change)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    assert file.read_bytes() == before
    log = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [entry["train_loss"] for entry in log] == pytest.approx([record.train_loss for record in single], rel=1e-3)


# --- several teachers -------------------------------------------------------------------------


@pytest.fixture
def second(tiny_cifar: Path, tmp_path: Path) -> Path:
    """Another teacher, of another seed and less trained."""
    changes = [*TINY, f"data.source={json.dumps(str(tiny_cifar))}", "train.epochs=1", "train.seed=3"]
    fit(training.start(training.load_recipe("fast", changes), tmp_path / "second", CPU))
    return tmp_path / "second"


def test_several_teachers_teach_by_their_mean(student, teacher, second):
    both = f"distill.teacher={json.dumps([str(teacher), str(second)])}"
    run = student("run", both)
    list(ask_ahead(run))
    indices = torch.arange(20)
    batch = run.augmenter.batch(indices, 1)
    with torch.no_grad(), run.autocast(answers_in_bf16(run.recipe.train, CPU)):
        answers = [one(batch.images).float() for one in run.teachers]
    assert not torch.allclose(answers[0], answers[1], atol=0.1)
    torch.testing.assert_close(run.kept.logits(1, indices), sum(answers) / 2, rtol=2**-9, atol=1e-3)
    assert [step.weights_sha256 for step in run.lineage] == [one.card.weights_sha256 for one in run.teachers]
    live = student("live", both, "distill.kept=0")
    with torch.no_grad():
        torch.testing.assert_close(teacher_logits(live, batch), sum(answers) / 2, rtol=0.05, atol=0.1)


def test_each_teachers_answers_are_kept_for_itself(student, teacher, second, monkeypatch, cache, tmp_path):
    """Whoever adds a teacher asks the new one alone."""
    fit(student("first"))
    real, asked = RunTeacher.__call__, []

    def counted(self, images):
        asked.append(self.sha256)
        return real(self, images)

    monkeypatch.setattr(RunTeacher, "__call__", counted)
    changes = (f"distill.teacher={json.dumps([str(teacher), str(second)])}", "train.epochs=4")
    run = student("whole", *changes)
    fit(run)
    assert set(asked) == {run.teachers[1].sha256}
    assert len(list(cache.glob("*.f16"))) == 2
    interrupt(student("cut", *changes), 5)
    fit(training.resume(tmp_path / "cut", CPU))
    for name in ("last.safetensors", "model.safetensors"):
        assert same_tensors(tmp_path / "whole" / name, tmp_path / "cut" / name), name


def test_teachers_that_mean_nothing_together_are_refused(student, teacher, second, tmp_path):
    with pytest.raises(ConfigError, match="names a teacher twice"):
        student("run", f"distill.teacher={json.dumps([str(teacher)] * 2)}")
    with pytest.raises(ConfigError, match="learns from one teacher"):
        student("run", f"distill.teacher={json.dumps([str(teacher), str(second)])}", "distill.on=features")
    interrupt(student("run"))
    with pytest.raises(ConfigError, match="learns from 1 of them; give --teacher 1 times"):
        training.resume(tmp_path / "run", CPU, teachers=[str(teacher), str(second)])


def test_the_command_takes_several_teachers(tiny_cifar, teacher, second, tmp_path, capfd):
    words = [word for change in (*TINY, "distill.kept=1", "train.epochs=1") for word in ("--set", change)]
    words += ["--teacher", str(teacher), "--teacher", str(second), "--run", str(tmp_path / "run")]
    assert command(["train", str(tiny_cifar), "--recipe", "fast", *words]) == 0
    assert capfd.readouterr().err.count("teacher  ") == 2
    recipe = training.load_recipe(str(tmp_path / "run" / "recipe.toml"))
    assert recipe.distill.teachers == (str(teacher), str(second))
