"""`quicknet compress`, in Python and as a user calls it."""

import dataclasses
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quicknet
from exported import make_run, write_pictures
from quicknet.cli.compress import size_bytes
from quicknet.cli.main import run as command
from quicknet.core.errors import CheckFailed, CheckpointError, ConfigError, TargetMissed, ToolError
from quicknet.core.lineage import CompressStep, DistillStep, ExportStep
from quicknet.data import DataRequest, Dataset
from quicknet.deploy.compress import integers, sensitivity
from quicknet.deploy.compress import path as trainings
from quicknet.deploy.compress.listener import Listener
from quicknet.deploy.compress.prepare import network_densities
from quicknet.deploy.compress.run import compress
from quicknet.deploy.compress.settings import CompressSettings, Plan
from quicknet.deploy.compress.size import blocks_kept
from quicknet.deploy.compress.speed import Speedometer
from quicknet.deploy.compress.work import work_folder
from quicknet.deploy.qnz import tuned
from quicknet.deploy.quantize import Lesson, Quantized, fine_tune
from quicknet.inference.verify import verify
from quicknet.models.config import QuickNetConfig, plan
from quicknet.qnz.file import read_qnz
from quicknet.training.checkpoint import TorchClassifier
from quicknet.training.prune import separable_layers
from schema import follows

Captured = pytest.CaptureFixture[str]
QUICK = CompressSettings(density=0.5, epochs=2, qat_epochs=1.0, batch_size=10, images=16, lr=0.003)


@pytest.fixture(scope="module")
def made(run_dir: Path, pictures: Path, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("compressed") / "m.qnz"
    plans: list[Plan] = []
    written = compress(run_dir, data, out, QUICK, pictures, Listener(plan=plans.append))
    return written, plans


@pytest.fixture(scope="module")
def compressed(made: Any) -> Any:
    return made[0]


def test_what_is_to_come_is_told_before_training(made: Any) -> None:
    written, (plan_told,) = made
    assert plan_told.density == written.density == 0.5
    assert plan_told.size_bytes == written.points[-1].size_bytes
    assert plan_told.size_bytes == pytest.approx(written.size_bytes, rel=0.3)  # its card is twice the usual one
    assert (plan_told.speed is None) == (written.speed is None)


def test_the_file_is_sparse_verified_and_says_what_it_is(compressed: Any, run_dir: Path, data: Dataset) -> None:
    file = read_qnz(Path(compressed.path))
    assert verify(compressed.path, data).holds
    absent = [1 - blocks_kept(block.weight, 4).mean() for block in file.network.blocks]
    weights = [block.weight.size for block in file.network.blocks]
    assert np.average(absent, weights=weights) >= 0.48
    step = file.card.lineage[-2]
    assert (type(step), step.pattern, step.density, step.epochs) == (CompressStep, "block", 0.5, 2)
    assert step.grid == QUICK.grid
    assert step.parent_weights_sha256 == TorchClassifier(run_dir).card.weights_sha256
    assert [row.split for row in compressed.compared] == ["val", "test"]
    assert compressed.size_bytes == Path(compressed.path).stat().st_size
    assert [point.epoch for point in compressed.points] == [1, 2]
    assert compressed.points[-1].density == 0.5
    assert not work_folder(Path(compressed.path)).exists()
    follows("compress", json.loads(json.dumps(compressed.to_dict())))


def test_another_teacher_teaches_weights_and_integers(
    compressed: Any, run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import quicknet.deploy.qnz as module

    teachers: list[Any] = []

    def tuning(start: Quantized, lesson: Lesson, *others: Any) -> Any:
        teachers.append(lesson.teacher)
        return fine_tune(start, lesson, *others)

    monkeypatch.setattr(module, "fine_tune", tuning)
    teacher = make_run(tmp_path / "teacher", pictures, seed=5)
    digest = TorchClassifier(teacher).card.weights_sha256
    settings = QUICK.replace(teacher=str(teacher), keep=str(tmp_path / "pruned"))
    written = compress(run_dir, data, tmp_path / "m.qnz", settings, pictures)
    taught, step = read_qnz(tmp_path / "m.qnz").card.lineage[-3:-1]
    assert isinstance(taught, DistillStep)
    assert taught.weights_sha256 == digest
    assert isinstance(step, CompressStep)
    assert [one.card.weights_sha256 for one in teachers] == [digest]
    mine, usual = (read_qnz(Path(one.path)).network.blocks for one in (written, compressed))
    assert any(not np.array_equal(a.weight, b.weight) for a, b in zip(mine, usual, strict=True))
    assert verify(written.path, data).holds
    pruned = TorchClassifier(tmp_path / "pruned")
    assert pruned.card.lineage[-1] == step
    zeros = sum(int((layer.pointwise.weight == 0).sum()) for layer in separable_layers(pruned.model))
    assert zeros >= 0.45 * sum(layer.pointwise.weight.numel() for layer in separable_layers(pruned.model))
    with pytest.raises(ToolError, match=r"pruned is there already; name a new folder with --keep"):
        compress(run_dir, data, tmp_path / "n.qnz", settings, pictures)
    assert not work_folder(tmp_path / "n.qnz").exists()
    again = compress(tmp_path / "pruned", data, tmp_path / "n.qnz", QUICK.replace(density=0.3), pictures)
    assert again.density == 0.3


def test_another_network_at_the_teachers_path_is_noticed(
    run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import quicknet.deploy.compress.run as module

    class Killed(BaseException):
        pass

    def dying(*_: Any, **__: Any) -> Any:
        raise Killed

    settings = QUICK.replace(teacher=str(make_run(tmp_path / "teacher", pictures, seed=5)))
    monkeypatch.setattr(module, "make_recipe", dying)
    with pytest.raises(Killed):
        compress(run_dir, data, tmp_path / "m.qnz", settings, pictures)
    make_run(tmp_path / "teacher", pictures, seed=6)
    with pytest.raises(CheckpointError, match=r"holds another compression .its teacher_sha256 differs"):
        compress(run_dir, data, tmp_path / "m.qnz", settings, pictures)


def test_a_teacher_of_other_classes_is_refused_before_anything_is_written(
    run_dir: Path, data: Dataset, tmp_path: Path
) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    for split in ("train", "val", "test"):
        (pictures / split / "left").rename(pictures / split / "up")
    other = make_run(tmp_path / "other", pictures, request=DataRequest(size=32, quiet=True))
    with pytest.raises(ConfigError, match=r"the teacher .* has other classes than"):
        compress(run_dir, data, tmp_path / "m.qnz", QUICK.replace(teacher=str(other)))
    assert not work_folder(tmp_path / "m.qnz").exists()


def test_killed_at_any_stage_it_goes_on_to_the_same_bytes(
    compressed: Any, run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if killed in each stage in turn: what was finished is not done again, and the bytes are the same."""
    import quicknet.deploy.compress.path as path
    import quicknet.deploy.compress.run as module

    class Killed(BaseException):
        pass

    def dying(*_: Any, **__: Any) -> Any:
        raise Killed

    def again() -> Any:
        return compress(run_dir, data, tmp_path / "m.qnz", QUICK, pictures)

    for where, name in ((module, "make_recipe"), (path, "load_model"), (module, "pruned_integers")):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, dying)
            with pytest.raises(Killed):
                again()
        assert not (tmp_path / "m.qnz").exists()
    monkeypatch.setattr(sensitivity, "measure", dying)  # that was done, and is kept
    assert again().sha256 == compressed.sha256


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_between_trainings_leave_what_is_done(
    name: str, run_dir: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    import quicknet.deploy.compress.run as module

    monkeypatch.setattr(module, "prepare", lambda *_: signal.raise_signal(getattr(signal, name)))
    if name == "SIGINT":  # a shell's background jobs begin without
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(getattr(signal, name))
    words = ["compress", str(run_dir), str(pictures), "--out", str(tmp_path / "m.qnz"), "--density", "0.5"]
    assert command(words) == 130
    assert signal.getsignal(getattr(signal, name)) == before
    assert capfd.readouterr().err.splitlines()[-1] == "stopped  saved; the same command goes on"
    assert work_folder(tmp_path / "m.qnz").is_dir()


def test_another_compression_in_the_same_place_is_refused(run_dir: Path, data: Dataset, tmp_path: Path) -> None:
    work = work_folder(tmp_path / "m.qnz")
    work.mkdir()
    digests = {"weights_sha256": TorchClassifier(run_dir).card.weights_sha256, "data_sha256": data.sha256}
    other = QUICK.replace(seed=1).fitted(len(data.split("train")))
    (work / "prepared.json").write_text("{}")
    (work / "settings.json").write_text(json.dumps({**digests, **other.to_dict()}))
    with pytest.raises(CheckpointError, match=r"holds another compression .its seed differs.; give the same options"):
        compress(run_dir, data, tmp_path / "m.qnz", QUICK)


def test_few_pictures_are_shown_often_in_small_batches() -> None:
    settings = CompressSettings(density=0.5)
    many, some, few = (settings.fitted(images) for images in (45_000, 1_800, 20))
    assert (many.epochs, many.batch_size, many.clip_norm) == (12, 256, None)
    assert (some.epochs, some.batch_size, some.clip_norm) == (20, 32, 1.0)
    assert few.epochs == 50
    assert QUICK.fitted(20).replace(clip_norm=None) == QUICK  # what is asked for is followed


def test_few_pictures_keep_what_the_run_knows(run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path) -> None:
    """With nothing to prune, training by the usual settings may not ruin a network of 30 pictures."""
    settings = CompressSettings(density=0.99, qat_epochs=0, images=16)
    compared = compress(run_dir, data, tmp_path / "m.qnz", settings, pictures).compared
    assert all(row.lost_points <= 10 for row in compared), compared


def test_what_was_refused_leaves_room_for_another_try(
    run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target out of reach can be asked for again, larger; a file that got too large is not trained again."""
    out, size = tmp_path / "m.qnz", QUICK.replace(density=None, target_size=900, qat_epochs=0)
    with pytest.raises(ConfigError, match="900 bytes is out of reach"):
        compress(run_dir, data, out, size, pictures)
    assert not work_folder(out).exists()
    size = size.replace(target_size=19_000)
    monkeypatch.setattr(integers, "_RECEIPT_BYTES", 1 << 20)  # no file is small enough
    larger = size.replace(target_size=19_500)
    for tried in (size, larger, larger.replace(qat_epochs=1.0, keep=str(tmp_path / "kept"))):
        with pytest.raises(
            CheckFailed, match=r"the file would be [\d,]+ bytes, over --target-size 19,\d00; allow \d+KB"
        ):
            compress(run_dir, data, out, tried, pictures)
        monkeypatch.setattr(sensitivity, "measure", None)  # it is not called again: what was trained is used
        monkeypatch.setattr(trainings, "start", None)
    monkeypatch.setattr(integers, "_RECEIPT_BYTES", 400)
    written = compress(run_dir, data, out, size.replace(target_size=20_000), pictures)
    assert written.size_bytes <= 20_000
    assert list(tmp_path.iterdir()) == [out]


def test_a_much_larger_size_is_planned_anew(
    run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the weights that were kept for a size that was missed, the file would be no larger than that."""
    out, size = tmp_path / "m.qnz", QUICK.replace(density=None, target_size=3_800, qat_epochs=0)
    with monkeypatch.context() as patch:
        patch.setattr(integers, "_RECEIPT_BYTES", 1 << 20)
        with pytest.raises(CheckFailed):
            compress(run_dir, data, out, size, pictures)
    sparse = json.loads((work_folder(out) / "prepared.json").read_text())["density"]
    assert compress(run_dir, data, out, size.replace(target_size=5_500), pictures).density > 1.1 * sparse


def test_a_failed_compression_gives_way_to_another(
    run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.qnz"
    with pytest.raises(CheckFailed):
        compress(run_dir, data, out, QUICK.replace(density=None, max_loss=0.0, epochs=2, qat_epochs=0), pictures)
    assert compress(run_dir, data, out, QUICK.replace(density=0.8, qat_epochs=0), pictures).density == 0.8


def test_other_data_in_the_same_place_is_refused(
    run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import quicknet.deploy.compress.run as module

    monkeypatch.setattr(module, "pruned_integers", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compress(run_dir, data, tmp_path / "m.qnz", QUICK, pictures)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="its data_sha256 differs"):
        compress(run_dir, dataclasses.replace(data, sha256="0" * 64), tmp_path / "m.qnz", QUICK, pictures)
    moved = tmp_path / "moved"
    shutil.move(shutil.copytree(pictures, tmp_path / "copy"), moved)
    assert compress(run_dir, data, tmp_path / "m.qnz", QUICK, moved).density == QUICK.density


def test_a_loss_is_searched_for_along_the_path(run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path) -> None:
    settings = QUICK.replace(density=None, max_loss=90.0, epochs=4)
    written = compress(run_dir, data, tmp_path / "m.qnz", settings, pictures)
    assert written.density < 0.2
    assert written.compared[0].lost_points <= 90
    epochs = [point.epoch for point in written.points]
    assert epochs == list(range(1, len(epochs) + 1))
    densities = [point.density for point in written.points]
    assert densities == sorted(densities, reverse=True)
    without = dataclasses.replace(data, splits={**data.splits})
    never = settings.replace(max_loss=0.0, epochs=2)
    with pytest.raises(CheckFailed, match=r"the nearest keeps|over --max-loss"):
        compress(run_dir, without, tmp_path / "n.qnz", never, pictures)


def test_where_integers_lose_too_much_a_denser_network_is_tried(
    run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own state, so that after a kill only what was not finished is done again."""
    import quicknet.deploy.compress.run as module

    real, densities, places = integers.pruned_integers, list[float](), list[Path]()

    def integers_of(parent: Any, trained: Any, *others: Any) -> Any:
        densities.append(trained.density)
        places.append(others[3][0])
        if len(densities) < 2:
            raise TargetMissed("w5a8 loses 99 points")
        return real(parent, trained, *others)

    monkeypatch.setattr(module, "pruned_integers", integers_of)
    settings = QUICK.replace(density=None, max_loss=90.0, epochs=4)
    told: list[str] = []
    listener = Listener(missed=lambda error: told.append(str(error)))
    written = compress(run_dir, data, tmp_path / "m.qnz", settings, pictures, listener)
    assert told == ["w5a8 loses 99 points"]
    assert len(set(places)) == len(densities) == 2
    assert written.density == densities[1] > densities[0]
    monkeypatch.setattr(module, "pruned_integers", lambda *_: fail("w5a8 loses 99 points"))
    with pytest.raises(CheckFailed, match="loses 99 points"):
        compress(run_dir, data, tmp_path / "n.qnz", settings, pictures)


def test_where_all_on_the_way_down_lose_too_much_a_denser_one_is_tried(
    run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, densities = trainings._settle, list[float]()

    def settled(*asked: Any) -> Any:
        densities.append(asked[2])
        trained = real(*asked)
        wrong = [point.replace(val_accuracy=0.0) for point in trained.points]
        return trained._replace(points=tuple(wrong)) if len(densities) < 3 else trained

    monkeypatch.setattr(trainings, "_settle", settled)
    settings = QUICK.replace(density=None, max_loss=90.0, epochs=4, qat_epochs=0)
    written = compress(run_dir, data, tmp_path / "m.qnz", settings, pictures)
    assert densities == sorted(densities)
    assert len(densities) == 3
    assert written.density == pytest.approx(densities[1] ** 0.5, abs=0.02)
    assert [point.epoch for point in written.points] == [1, 2]


def fail(text: str) -> Any:
    raise TargetMissed(text)


def test_a_speed_is_that_of_the_shape_that_was_planned(
    run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    """Training changes which blocks matter, but not how many each layer keeps."""
    monkeypatch.setattr(Speedometer, "of", lambda self, shape: 2.0 - shape.densities[0])
    monkeypatch.setattr(Speedometer, "of_file", lambda self, blob: 1.5)
    out, keep = tmp_path / "m.qnz", tmp_path / "kept"
    words = ["compress", str(run_dir), str(pictures), "--out", str(out), "--keep", str(keep), "--target-speed", "1.6x"]
    assert command([*words, "--epochs", "2", "--qat", "0", "--threads", "1"]) == 0
    assert network_densities(TorchClassifier(keep).model)[0] == pytest.approx(0.4, abs=0.03)
    assert "the file is 1.50 times as fast as dense, not 1.6; measure it again" in capfd.readouterr().err


def test_the_command(run_dir: Path, pictures: Path, tmp_path: Path, capfd: Captured) -> None:
    out, page = tmp_path / "m.qnz", tmp_path / "m.html"
    options = ["--density", "0.5", "--epochs", "1", "--qat", "0", "--html", str(page), "--pattern", "element"]
    assert command(["compress", str(run_dir), str(pictures), "--out", str(out), *options, "--quiet"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "50.0% of the pointwise weights kept" in captured.out
    assert "blocks.4.pointwise" in captured.out
    assert "<svg" in page.read_text()
    assert command(["inspect", str(out)]) == 0
    assert "kept by element" in capfd.readouterr().out


def test_integers_that_fine_tuning_makes_worse_are_kept_as_they_were(
    run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = {}

    def spoilt(task: Any, quantized: Quantized, *others: Any) -> Any:
        made, card = tuned(task, quantized, *others)
        network = made.network
        wrong = dataclasses.replace(network, bias=network.bias + np.array([1 << 28, 0, 0], np.int32))
        cards["tuned"] = card
        return dataclasses.replace(made, network=wrong), card

    def steps_of(path: str) -> Any:
        (step,) = [step for step in read_qnz(Path(path)).card.lineage if isinstance(step, ExportStep)]
        return step.qat

    monkeypatch.setattr(integers, "tuned", spoilt)
    untuned = compress(run_dir, data, tmp_path / "m.qnz", QUICK.replace(qat_epochs=0), pictures)
    kept = compress(run_dir, data, tmp_path / "n.qnz", QUICK, pictures)
    assert kept.weights_sha256 == untuned.weights_sha256
    assert cards["tuned"].lineage[-1].qat is not None
    assert steps_of(kept.path) is None


def test_channels_leave_a_narrower_network(
    run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path, capfd: Captured
) -> None:
    out, page = tmp_path / "m.qnz", tmp_path / "m.html"
    options = ["--density", "0.6", "--epochs", "1", "--qat", "1", "--html", str(page), "--pattern", "channel"]
    assert command(["compress", str(run_dir), str(pictures), "--out", str(out), *options, "--json", "--quiet"]) == 0
    fields = json.loads(capfd.readouterr().out)
    follows("compress", fields)
    assert fields["density"] <= 0.6
    file = read_qnz(out)
    config, before = file.card.model.config, TorchClassifier(run_dir).model.config
    assert [len(block.weight) for block in file.network.blocks] == [
        layer.out_channels for layer in plan(QuickNetConfig(**{**config, "widths": tuple(config["widths"])}))[1:]
    ]
    assert isinstance(before, QuickNetConfig)
    assert sum(config["widths"]) < sum(before.widths)
    assert file.shape.widths()[1:] == (8, *(len(block.weight) for block in file.network.blocks))
    assert verify(out, data).holds
    images = np.array(data.split("test").images)
    assert np.array_equal(
        quicknet.qnz.reference.run(file.network, images), quicknet.engine.Engine(file.blob).run(images)
    )
    kept = [row["kept"] / row["weights"] for row in fields["layers"] if "pointwise" in row["name"]]
    assert min(kept) < 1
    assert sum(row["time_share"] for row in fields["layers"]) == pytest.approx(1)
    assert command(["compress", str(run_dir), str(pictures), "--out", str(out), *options, "--mode", "paper"]) == 2
    assert "--mode paper prunes weights, not channels" in capfd.readouterr().err


def test_the_papers_three_steps(run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path, capfd: Captured) -> None:
    out = tmp_path / "m.qnz"
    options = ["--density", "0.3", "--epochs", "1", "--qat", "0", "--mode", "paper", "--pattern", "element"]
    assert command(["compress", str(run_dir), str(pictures), "--out", str(out), *options, "--json"]) == 0
    captured = capfd.readouterr()
    assert re.search(r"^plan: keep 30\.0% of the pointwise weights: about [\d,]+ bytes", captured.err, re.M)
    fields = json.loads(captured.out)
    follows("compress", fields)
    paper = fields["paper"]
    assert paper["bytes_dense"] > paper["bytes_pruned"] > paper["bytes_quantized"] > paper["bytes_coded"]
    for row in paper["layers"]:
        assert 1 < row["values"] <= 32
        assert row["value_bits"] <= 5.2
    assert verify(out, data).holds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing says how far to compress; give one of"),
        (["--density", "0.5", "--max-loss", "1"], "--density and --max-loss exclude each other"),
        (["--target-size", "9KB", "--target-speed", "2x", "--density", "0.5"], "--density and --target-size exclude"),
        (["--density", "0.5", "--teacher", "nowhere"], "nowhere"),
        (["--density", "2"], "--density 2.0 must lie in"),
        (["--density", "nan"], "--density nan must lie in"),
        (["--target-size", "many"], "'many' is not a size"),
        (["--target-speed", "fast"], "'fast' is not a number of times"),
        (["--target-size", "500"], "--target-size 500 bytes is out of reach"),
        (["--target-speed", "50x"], "--target-speed 50x is out of reach"),
        (["--density", "0.5", "--epochs", "0"], "--density needs training"),
        (["--target-speed", "2x", "--pattern", "element"], "single weights that are absent save no time"),
    ],
)
def test_bad_input_is_one_line(
    options: list[str], message: str, run_dir: Path, pictures: Path, tmp_path: Path, capfd: Captured
) -> None:
    arguments = ["compress", str(run_dir), str(pictures), "--out", str(tmp_path / "m.qnz"), "--quiet"]
    assert command([*arguments, *options]) == 2
    error = capfd.readouterr().err
    assert error.startswith("quicknet: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "m.qnz").exists()


def test_sizes_have_units() -> None:
    assert [size_bytes(text) for text in ("350KB", "350 kb", "64KiB", "1.5MB", "900", "900b")] == [
        350_000,
        350_000,
        65_536,
        1_500_000,
        900,
        900,
    ]
    for text in ("", "KB", "-1KB", "1e9", "1TB"):
        with pytest.raises(ConfigError, match="is not a size"):
            size_bytes(text)
