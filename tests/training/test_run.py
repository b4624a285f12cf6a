"""A run from start to finish: what lands in the folder, resuming, locks, bad input."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import TINY, same_tensors, write_cifar
from interrupted import interrupt
from quicknet import training
from quicknet.core.card import read_card
from quicknet.core.errors import CheckpointError, ConfigError, DataError, QuickNetError, ToolError, TrainingError
from quicknet.core.files import sha256_file
from quicknet.deploy.export import export
from quicknet.models import fused
from quicknet.models.costs import count_costs
from quicknet.models.registry import model_from_record
from quicknet.training import loop, notes
from quicknet.training.checkpoint import TorchClassifier, load_model
from quicknet.training.run import resident
from quicknet.training.state import Validation

CPU = torch.device("cpu")


def recipe(data: Path, *changes: str):
    return training.load_recipe("fast", [*TINY, f"data.source={json.dumps(str(data))}", *changes])


def trained(data: Path, folder: Path, *changes: str) -> Path:
    run = training.start(recipe(data, *changes), folder, CPU)
    list(training.fit(run))
    training.finish(run)
    return folder


@pytest.fixture(scope="module")
def finished(tiny_cifar, tmp_path_factory):
    return trained(tiny_cifar, tmp_path_factory.mktemp("runs") / "whole")


def interrupted(data: Path, folder: Path, steps: int, *changes: str) -> None:
    """Train for so many steps and stop as Ctrl-C does."""
    run = training.start(recipe(data, *changes), folder, CPU)
    interrupt(run, steps)


def test_the_folder_holds_what_it_should(finished):
    assert {p.name for p in finished.iterdir()} == {
        "recipe.toml",
        "card.json",
        "model.safetensors",
        "last.safetensors",
        "last.json",
        "log.jsonl",
        "report.html",
    }
    log = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == [1, 2, 3]
    card = read_card(finished / "card.json")
    assert card.weights_sha256 == sha256_file(finished / "model.safetensors")
    assert json.loads((finished / "last.json").read_text())["sha256"] == sha256_file(finished / "last.safetensors")
    assert card.classes[0] == "airplane"
    assert card.temperature is not None
    top1 = next(m for m in card.metrics if m.name == "top1" and m.split == "test")
    assert (top1.n, top1.protocol, top1.file_sha256) == (40, "standard", card.weights_sha256)
    assert card.data.counts == {"train": 180, "val": 20, "test": 40}
    model, _ = load_model(finished)
    assert card.costs.parameters == sum(p.numel() for p in model.parameters())
    assert card.costs == count_costs(lambda: model_from_record(card.model))


def test_the_classifier_answers_as_the_card_says(finished):
    classifier = TorchClassifier(finished)
    from quicknet.image.vectors import draw_vectors, vectors_sha256

    images = draw_vectors(32, 3)
    assert classifier.card.vectors.sha256 == vectors_sha256(images)
    assert np.allclose(classifier.logits(images), np.array(classifier.card.vectors.logits), rtol=1e-7, atol=1e-5)


def test_the_recipe_of_a_run_remakes_it(finished, tmp_path):
    again = training.load_recipe(str(finished / "recipe.toml"))
    run = training.start(again, tmp_path / "again", CPU)
    list(training.fit(run))
    assert same_tensors(finished / "model.safetensors", tmp_path / "again" / "model.safetensors")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("steps", [1, 8, 13])
def test_resuming_is_bitwise_from_anywhere_in_an_epoch(tiny_cifar, tmp_path, optimizer, steps):
    changes = (
        f"optim.name={optimizer}",
        "optim.lr=0.01",
        "train.sizes=[[0.0, 24], [0.5, 32]]",
        "augment.cutmix=1.0",
    )
    run = training.start(recipe(tiny_cifar, *changes), tmp_path / "whole", CPU)
    list(training.fit(run))
    interrupted(tiny_cifar, tmp_path / "cut", steps, *changes)
    resumed = training.resume(tmp_path / "cut", CPU)
    assert resumed.steps_done() == steps
    list(training.fit(resumed))
    for name in ("last.safetensors", "model.safetensors"):
        assert same_tensors(tmp_path / "whole" / name, tmp_path / "cut" / name), name

    def timeless(folder):
        lines = (folder / "log.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        return [{k: v for k, v in e.items() if k not in ("seconds", "images_per_second")} for e in entries]

    assert timeless(tmp_path / "whole") == timeless(tmp_path / "cut")


def test_another_number_of_threads_is_said(tiny_cifar, tmp_path):
    threads = torch.get_num_threads()
    interrupted(tiny_cifar, tmp_path / "run", 1)

    def said():
        return [line for line in notes.describe(training.resume(tmp_path / "run", CPU)) if "threads and now" in line]

    assert said() == []
    torch.set_num_threads(threads + 1)
    try:
        (note,) = said()
    finally:
        torch.set_num_threads(threads)
    assert f"had {threads} CPU threads and now has {threads + 1}" in note and f"--threads {threads} " in note


@pytest.mark.parametrize(("has", "batch", "fast"), [(False, 128, False), (True, 128, True), (True, 64, False)])
def test_training_takes_bfloat16_by_itself_where_it_is_faster(tiny_cifar, tmp_path, monkeypatch, has, batch, fast):
    run = training.start(recipe(tiny_cifar, f"train.batch_size={batch}"), tmp_path / "run", CPU)
    monkeypatch.setattr(fused, "prefers_bf16", lambda: has)
    (line,) = [line for line in notes.describe(run) if line.startswith("device")]
    assert ("bfloat16" if fast else "float32") in line
    with run.autocast():
        assert torch.is_autocast_enabled("cpu") == fast


def test_weights_to_use_are_never_there_without_what_resuming_needs(tiny_cifar, tmp_path, monkeypatch):
    """As if killed before the first epoch's weights are written: the run goes on to the same ones."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_best", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trained(tiny_cifar, tmp_path / "cut", "train.save_minutes=60")
    list(training.fit(training.resume(tmp_path / "cut", CPU)))
    whole = trained(tiny_cifar, tmp_path / "whole", "train.save_minutes=60")
    for name in ("last.safetensors", "model.safetensors"):
        assert same_tensors(whole / name, tmp_path / "cut" / name), name


def test_short_epochs_are_saved_seldom_and_all_is_saved_where_the_loop_is_left(tiny_cifar, tmp_path, monkeypatch):
    run = training.start(recipe(tiny_cifar, "train.epochs=30"), tmp_path / "run", CPU)
    real, saved = run.folder.save_last, []

    def slow(tensors, counters):
        time.sleep(1.0)
        saved.append(counters["epoch"])
        real(tensors, counters)

    monkeypatch.setattr(run.folder, "save_last", slow)
    for record in training.fit(run):
        if record.epoch == 6:
            break
    assert saved == [0, 1, 6]  # first before there are weights to use
    assert training.resume(tmp_path / "run", CPU).state.epoch == 6


def test_a_run_goes_on_after_it_and_its_data_moved(tmp_path):
    data = write_cifar(tmp_path / "here", 20)
    interrupted(data, tmp_path / "run", 2)
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    shutil.move(tmp_path / "here", tmp_path / "there")
    with pytest.raises(DataError, match="does not exist"):
        training.resume(tmp_path / "elsewhere", CPU)
    run = training.resume(tmp_path / "elsewhere", CPU, str(tmp_path / "there" / "cifar-10-batches-bin"))
    assert [r.epoch for r in training.fit(run)] == [1, 2, 3]


def test_other_data_is_refused(tiny_cifar, tmp_path):
    interrupted(tiny_cifar, tmp_path / "run", 2)
    other = write_cifar(tmp_path / "other", 40, seed=1)
    with pytest.raises(CheckpointError, match="other data"):
        training.resume(tmp_path / "run", CPU, str(other))


def test_images_that_do_not_fit_are_read_where_they_lie(tmp_path):
    on_disk = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (8, 32, 32, 3))
    on_disk[:] = np.random.default_rng(0).integers(0, 256, on_disk.shape)
    on_disk.flush()
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    here, there = resident(mapped, CPU), resident(mapped, CPU, budget_bytes=0)
    assert torch.equal(here, there)
    assert there.data_ptr() == mapped.ctypes.data  # no copy
    assert here.data_ptr() != mapped.ctypes.data


def test_two_runs_on_one_folder_are_refused(tmp_path):
    folder = training.RunFolder(tmp_path / "run")
    with folder.lock(), pytest.raises(CheckpointError, match="another run is using"), folder.lock():
        pass
    with folder.lock():
        pass


def test_a_used_folder_is_not_overwritten(finished, tiny_cifar):
    before = sha256_file(finished / "model.safetensors")
    with pytest.raises(CheckpointError, match="--resume"):
        training.start(recipe(tiny_cifar), finished, CPU)
    assert sha256_file(finished / "model.safetensors") == before


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_was_saved(tiny_cifar, tmp_path):
    run = training.start(recipe(tiny_cifar, "schedule.warmup=0.0"), tmp_path / "run", CPU)
    epochs = training.fit(run)
    next(epochs)
    before = sha256_file(tmp_path / "run" / "last.safetensors")
    with torch.no_grad():
        classifier: Any = run.model.classifier
        classifier.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"nan at epoch 2, step 1.*lower rate"):
        next(epochs)
    assert sha256_file(tmp_path / "run" / "last.safetensors") == before
    assert training.resume(tmp_path / "run", CPU).state.epoch == 1


def test_a_hopeless_learning_rate_is_answered_by_a_usual_one(tiny_cifar, tmp_path):
    """A quarter of it, 2.5e+29, was proposed."""
    run = training.start(recipe(tiny_cifar, "optim.lr=1e30"), tmp_path / "run", CPU)
    with pytest.raises(TrainingError, match=r"--set optim\.lr=0\.4\) or train\.clip_norm=1"):
        list(training.fit(run))


def test_a_full_disk_in_mid_save_loses_nothing_saved(tiny_cifar, tmp_path, monkeypatch):
    run = training.start(recipe(tiny_cifar), tmp_path / "run", CPU)
    epochs = training.fit(run)
    next(epochs)
    import errno
    import os

    calls = 0

    def full(handle):
        nonlocal calls
        calls += 1
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ToolError, match=r"No space left on device.*untouched"):
        next(epochs)
    assert calls
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob(".*.tmp"))
    again = training.resume(tmp_path / "run", CPU)
    assert [r.epoch for r in training.fit(again)] == [2, 3]


def test_a_run_of_an_older_version_goes_on(tiny_cifar, tmp_path):
    """Its records lack what newer ones have."""
    run = training.start(recipe(tiny_cifar), tmp_path / "run", CPU)
    next(training.fit(run))
    path = tmp_path / "run" / "last.json"
    fields = json.loads(path.read_text())
    del fields["history"][0]["val_balanced_accuracy"]
    path.write_text(json.dumps(fields))
    assert [record.epoch for record in training.fit(training.resume(tmp_path / "run", CPU))] == [2, 3]


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("last.safetensors", lambda b: b[:-5], "damaged or belongs"),
        ("last.safetensors", lambda b: b"\xff" * 8 + b[8:], "damaged or belongs"),
        ("last.json", lambda b: b"[]", "does not name a sha256"),
        ("last.json", lambda b: b"{", "not JSON"),
        ("model.safetensors", lambda b: b"", "damaged or belongs"),
        ("card.json", lambda b: b.replace(b'"format": 1', b'"format": 2'), "newer than this"),
    ],
)
def test_a_damaged_folder_is_named(finished, tmp_path, name, damage, words):
    shutil.copytree(finished, tmp_path / "copy")
    target = tmp_path / "copy" / name
    target.write_bytes(damage(target.read_bytes()))
    with pytest.raises(QuickNetError, match=words) as caught:
        load_model(tmp_path / "copy") if name in ("card.json", "model.safetensors") else training.resume(
            tmp_path / "copy", CPU
        )
    assert caught.value.exit_code == 2


def test_tensors_of_another_network_are_refused(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    fields = json.loads((tmp_path / "copy" / "card.json").read_text())
    fields["model"]["config"]["widths"] = [8, 12, 16, 32]
    (tmp_path / "copy" / "card.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match="has shape"):
        load_model(tmp_path / "copy")


def test_early_stopping_ends_a_run_that_no_longer_improves(tiny_cifar, tmp_path):
    changes = ("train.epochs=30", "train.patience=2", "optim.lr=1e-9", "train.ema_decay=0.0")
    run = training.start(recipe(tiny_cifar, *changes), tmp_path / "run", CPU)
    epochs = [r.epoch for r in training.fit(run)]
    assert len(epochs) == run.state.best_epoch + 2 < 30


def validating(run, pairs):
    """Have the run's validations give these accuracies and losses."""
    pairs = iter(pairs)

    def validate():
        accuracy, loss = next(pairs)
        return Validation(loss, accuracy, balanced_accuracy=0.5, n=10)

    run.validate = validate
    return run


def test_of_epochs_that_are_equally_accurate_the_least_loss_is_best(tiny_cifar, tmp_path):
    """A validation split of 10 images has 11 accuracies, which most epochs share."""
    folder, settings = tmp_path / "run", recipe(tiny_cifar, "train.epochs=9", "train.patience=3")
    run = validating(training.start(settings, folder, CPU), [(0.5, 1.0), (0.9, 0.5), (0.9, 0.4)])
    epochs = training.fit(run)
    assert [next(epochs).best for _ in range(3)] == [True, True, True]
    epochs.close()  # saves what is not saved yet, since epochs this short are not all saved
    kept = sha256_file(folder / "model.safetensors")
    again = validating(training.resume(folder, CPU), [(0.9, 0.4), (0.8, 0.1), (0.9, 0.45)])
    assert [record.best for record in training.fit(again)] == [False, False, False]
    assert (again.state.best_epoch, again.state.epoch) == (3, 6)  # patience counts from there
    assert sha256_file(folder / "model.safetensors") == kept


def test_accumulated_gradients_equal_a_batch_at_once(tiny_cifar, tmp_path):
    """Batch norm aside (it looks at each part alone), so its statistics are frozen here."""

    def gradients(accumulate):
        changes = (f"train.accumulate={accumulate}", "optim.lr=1e-9", "augment.cutmix=1.0", "train.precision=fp32")
        run = training.start(recipe(tiny_cifar, *changes), tmp_path / f"run{accumulate}", CPU)
        run.model.eval()
        from quicknet.training.loop import step

        step(run, next(run.remaining_batches()))
        return [p.grad for p in run.model.parameters()]

    for one, four in zip(gradients(1), gradients(4), strict=True):
        torch.testing.assert_close(one, four, rtol=1e-3, atol=1e-6)


def test_a_student_learns_from_a_teacher(finished, tiny_cifar, tmp_path):
    """With the whole weight on the teacher, the student comes to agree with it."""
    changes = (
        f"distill.teacher={finished}",
        "distill.weight=1.0",
        "train.epochs=12",
        "optim.lr=0.1",
        "train.seed=5",
    )
    run = training.start(recipe(tiny_cifar, *changes), tmp_path / "student", CPU)
    losses = [record.train_loss for record in training.fit(run)]
    assert losses[-1] < 0.5 * losses[0]


def test_an_exported_teacher_answers_as_its_run_does(finished, tiny_cifar, tmp_path):
    """A file takes uint8, which the student's normalized view is turned back into."""
    file = export(finished, tmp_path / "teacher.onnx").path
    runs = [
        training.start(recipe(tiny_cifar, f"distill.teacher={teacher}"), tmp_path / f"run{i}", CPU)
        for i, teacher in enumerate((finished, file))
    ]
    images = runs[0].augmenter.batch(torch.arange(16), 0).images
    teachers: list[Any] = [run.teachers[0] for run in runs]
    with torch.no_grad():
        of_run, of_file = (teacher(images) for teacher in teachers)
    torch.testing.assert_close(of_file, of_run, rtol=0, atol=1e-3)


def test_a_mirrored_teacher_answers_a_view_and_its_mirror_image_alike(finished, tiny_cifar, tmp_path):
    changes = (f"distill.teacher={finished}", "distill.mirror=true")
    run = training.start(recipe(tiny_cifar, *changes), tmp_path / "run", CPU)
    images = torch.randn(4, 3, 32, 32)
    teacher: Any = run.teachers[0]
    single = teacher.teacher
    torch.testing.assert_close(teacher(images), teacher(images.flip(3)))
    torch.testing.assert_close(teacher(images), (single(images) + single(images.flip(3))) / 2)


def test_a_teacher_of_other_classes_is_refused(finished, tmp_path, tiny_cifar):
    shutil.copytree(finished, tmp_path / "teacher")
    fields = json.loads((tmp_path / "teacher" / "card.json").read_text())
    fields["classes"] = fields["classes"][::-1]
    (tmp_path / "teacher" / "card.json").write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match="same classes"):
        training.start(recipe(tiny_cifar, f"distill.teacher={tmp_path / 'teacher'}"), tmp_path / "run", CPU)


def test_fine_tuning_starts_from_the_parents_features(finished, photos_dir, tmp_path):
    changes = [f"model.start_from={finished}", f"data.source={photos_dir}", "train.epochs=1", "optim.lr=1e-9"]
    settings = training.load_recipe("fast", [*TINY, *changes, "model.overrides={dropout = 0.1}"])
    run = training.start(settings, tmp_path / "run", CPU)
    parent, card = load_model(finished)
    assert run.data.classes == ("ants", "bees")
    assert run.model.config.dropout == 0.1
    assert run.data.spec == card.preprocess
    assert torch.equal(run.model.state_dict()["stem.conv.weight"], parent.state_dict()["stem.conv.weight"])
    assert run.model.classifier.weight.shape == (2, 24)
    list(training.fit(run))
    training.finish(run)
    child = read_card(tmp_path / "run" / "card.json")
    assert child.lineage[-1].weights_sha256 == card.weights_sha256


def test_an_override_that_the_parents_weights_do_not_fit_is_refused(finished, tiny_cifar, tmp_path):
    changes = (f"model.start_from={finished}", "model.overrides={widths = [8, 12, 16, 32]}")
    with pytest.raises(CheckpointError, match=r"has shape.*or start from nothing"):
        training.start(recipe(tiny_cifar, *changes), tmp_path / "run", CPU)


def test_the_python_function_trains_and_goes_on(tiny_cifar, tmp_path):
    changes = [*TINY]
    records = training.train(str(tiny_cifar), tmp_path / "run", "fast", changes)
    assert next(records).epoch == 1
    records.close()
    rest = [r.epoch for r in training.train(str(tiny_cifar), tmp_path / "run", "fast", changes)]
    assert rest == [2, 3]
    assert (tmp_path / "run" / "report.html").exists()
