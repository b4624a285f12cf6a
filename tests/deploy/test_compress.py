"""`quicknet compress`, in its parts, in Python and as a user calls it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import quicknet
from exported import make_run, write_pictures
from quicknet.cli.compress import size_bytes
from quicknet.cli.main import run as command
from quicknet.core.errors import CheckFailed, CheckpointError, ConfigError, ToolError
from quicknet.core.lineage import CompressStep, DistillStep
from quicknet.data import DataRequest, Dataset
from quicknet.data.augment import AugmentSettings, normalize
from quicknet.deploy.compress import integers, predict, sensitivity
from quicknet.deploy.compress.paper import relative_indices
from quicknet.deploy.compress.permute import choose_order, kept, permuted
from quicknet.deploy.compress.prepare import plan_pruning, shape_at, target_density
from quicknet.deploy.compress.run import compress, work_folder
from quicknet.deploy.compress.settings import CompressSettings
from quicknet.deploy.compress.size import blocks_kept, entropy, layer_sizes
from quicknet.deploy.compress.speed import Speedometer
from quicknet.deploy.export import load_run_data
from quicknet.deploy.fold import fold
from quicknet.deploy.qnz import silent
from quicknet.deploy.quantize import Lesson, QatSettings, Quantized, fine_tune, quantize
from quicknet.deploy.quantize.student import Student
from quicknet.image.vectors import draw_vectors
from quicknet.inference.verify import verify
from quicknet.models.config import QuickNetConfig, plan
from quicknet.models.registry import create_model
from quicknet.qnz.bounds import check_network
from quicknet.qnz.file import read_qnz
from quicknet.training.checkpoint import TorchClassifier
from quicknet.training.prune import Pruner, separable_layers
from quicknet.training.settings import PruneSettings
from schema import follows

Captured = pytest.CaptureFixture[str]
QUICK = CompressSettings(density=0.5, epochs=2, qat_epochs=1.0, batch_size=10, images=16, lr=0.003)


@pytest.fixture(scope="module")
def data(run_dir: Path, pictures: Path) -> Dataset:
    return load_run_data(run_dir, str(pictures), True)


def logits(model: Any) -> torch.Tensor:
    images = normalize(torch.from_numpy(draw_vectors(32, 3)), (0.5,) * 3, (0.25,) * 3)
    with torch.no_grad():
        return model.double().eval()(images.double())


# --- the order of the inputs ---------------------------------------------------------------


@pytest.mark.parametrize("activation", ["prelu", "prelu_shared", "leaky_relu", "relu"])
def test_a_permutation_changes_no_answer(activation: str) -> None:
    torch.manual_seed(0)
    shape = {"stem_width": 12, "widths": [16, 24], "depths": [2, 2], "kernel_sizes": [3, 5]}
    model: Any = create_model("quicknet_xs", activation=activation, **shape)
    for name, tensor in model.state_dict().items():
        if "bn" in name or "act" in name:
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    orders = [torch.randperm(layer.pointwise.in_channels) for layer in separable_layers(model)]
    other: Any = permuted(model, orders)
    assert not torch.equal(other.blocks[1].pointwise.weight, model.blocks[1].pointwise.weight)
    assert torch.allclose(logits(other), logits(model), rtol=0, atol=1e-12)


def test_the_order_brings_together_what_is_strong_together() -> None:
    """Two kinds of outputs that look at two halves of the inputs, the halves mixed: blocks find them again."""
    rng = np.random.default_rng(0)
    mixed = rng.permutation(32)
    score = torch.full((16, 32), 0.01)
    for row in range(16):
        score[row, mixed[:16] if row % 2 else mixed[16:]] = 1.0
    order = choose_order(score, 0.5)
    assert sorted(order.tolist()) == list(range(32))
    assert kept(score, 0.5) < 0.8
    assert kept(score[:, order], 0.5) > 0.98


def test_no_order_keeps_less_than_the_usual_one() -> None:
    torch.manual_seed(1)
    for columns in (4, 6, 24, 30):
        score = torch.rand(10, columns) ** 4
        order = choose_order(score, 0.3)
        assert sorted(order.tolist()) == list(range(columns))
        assert kept(score[:, order], 0.3) >= kept(score, 0.3)


# --- sensitivity, predictions --------------------------------------------------------------


def test_sensitivity_is_measured_and_leaves_the_network_as_it_was(run_dir: Path, data: Dataset) -> None:
    parent = TorchClassifier(run_dir)
    before = {name: tensor.clone() for name, tensor in parent.model.state_dict().items()}
    images = np.array(data.split("train").images)
    rows = sensitivity.measure(parent.model, images, parent.card.preprocess, "block", lambda n: None)
    assert len(rows) == sensitivity.steps(parent.model) == 5 + 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in parent.model.state_dict().items())
    pruned = [row for row in rows if row.importance is not None]
    assert [row.name for row in rows if row.importance is None] == ["stem", "depthwise", "classifier"]
    assert all(min(row.divergence) >= 0 < max(row.divergence) and (row.importance or 0) > 0 for row in pruned)
    assert sum(row.weights for row in rows) == sum(
        p.numel() for name, p in parent.model.named_parameters() if p.ndim > 1
    )


def test_the_density_for_a_size() -> None:
    layers = plan(QuickNetConfig(stem_width=16, widths=(32, 64, 128, 256)))

    def size(density: float, step: float = 0.6) -> int:
        return predict.size_at(predict.Shape(layers, (density,) * 12, 4), 10, step)

    density = predict.density_for(lambda d: size(d) <= 64_000, "--target-size 64,000", lambda d: f"{size(d):,} bytes")
    assert 60_000 < size(density) <= 64_000
    assert size(density, step=0.9) < size(density) < size(density, step=0.0)
    with pytest.raises(
        ConfigError, match=r"--target-size 9 is out of reach: at 3% .* about [\d,]+ bytes; ask for less"
    ):
        predict.density_for(lambda d: size(d) <= 9, "--target-size 9", lambda d: f"{size(d):,} bytes")


needs_engine = pytest.mark.skipif(not quicknet.engine.available(), reason="no engine: no C compiler")


@needs_engine
def test_speed_is_measured_on_networks_of_that_shape() -> None:
    config = QuickNetConfig(stem_width=32, widths=(96, 96), depths=(2, 2), kernel_sizes=(3, 3))
    narrow = plan(config.replace(widths=(32, 32)))
    speed = Speedometer(config, "w5a8")
    few = predict.Shape(plan(config), (0.03,) * 4, 4)
    assert speed.of(few) > 1.2
    assert speed.of(few) is speed.of(few)
    assert speed.of(predict.Shape(narrow, (1.0,) * 4, 4)) > 1.5


@needs_engine
def test_a_speed_gives_a_density(run_dir: Path) -> None:
    model, settings = TorchClassifier(run_dir).model, CompressSettings(target_speed=1.01)
    asked: list[float] = []

    def of(self: Speedometer, shape: predict.Shape) -> float:
        asked.append(float(np.mean(shape.densities)))
        return 1.5 - asked[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Speedometer, "of", of)
        density = target_density(model, (1.0,) * 5, settings)
    assert density is not None
    assert min(asked) < density < max(asked)
    assert float(np.mean(shape_at(model, (1.0,) * 5, density, "block").densities)) <= 0.5


def test_a_size_and_a_speed_together_count_time_as_little_as_they_may(run_dir: Path) -> None:
    model, raw = TorchClassifier(run_dir).model, (1.0,) * 5
    settings = CompressSettings(target_size=9_000)

    def size(shape: predict.Shape) -> int:
        return predict.size_at(shape, 4, settings.step)

    def early(shape: predict.Shape) -> float:
        return shape.densities[0]

    def asked(times: float) -> predict.Shape:
        importance, density = plan_pruning(raw, model, settings.replace(target_speed=times))
        assert density is not None
        return shape_at(model, importance, density, "block")

    bytes_only, density = plan_pruning(raw, model, settings)
    assert density is not None
    usual = shape_at(model, bytes_only, density, "block")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Speedometer, "of", lambda self, shape: 5.0 - 2 * early(shape))  # the first layer takes the time
        assert asked(5.0 - 2 * early(usual)) == usual  # fast enough already
        faster = asked(5.0 - 2 * early(usual) + 0.1)
        assert early(faster) < early(usual)
        assert size(faster) == pytest.approx(size(usual), rel=0.03)
        assert size(asked(4.8)) < size(usual)  # only with fewer weights


# --- integers ------------------------------------------------------------------------------


def pruned_network(run_dir: Path, pattern: Any = "block") -> Any:
    model = TorchClassifier(run_dir).model
    Pruner((model,), PruneSettings(density=0.4, ramp=0.0, pattern=pattern)).after_step(0, 0.0)
    return model


@pytest.mark.parametrize("pattern", ["block", "element"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_absent_weights_are_zero_through_quantization_and_fine_tuning(
    pattern: str, rate: float, run_dir: Path, data: Dataset
) -> None:
    model = pruned_network(run_dir, pattern)
    images = np.array(data.split("train").images)
    quantized = quantize(fold(model, data.spec), images, "w5a8", None, (0.5,) * 5)
    lesson = Lesson(TorchClassifier(run_dir).model, data, AugmentSettings(crop=0, flip="none"))
    tuned, _ = fine_tune(quantized, lesson, QatSettings(epochs=4, lr=0.1, batch_size=10, rate=rate), silent)
    check_network(tuned.network)
    changed = 0
    for layer, before, after in zip(
        separable_layers(model), quantized.network.blocks, tuned.network.blocks, strict=True
    ):
        absent = (layer.pointwise.weight[:, :, 0, 0] == 0).numpy()
        assert absent.any()
        assert not before.weight[absent].any()
        assert not after.weight[absent].any()
        changed += int((before.weight != after.weight).sum())
    assert changed > 0 or not rate  # without a rate the start is kept where nothing was better
    assert tuned.kept is quantized.kept
    assert np.array_equal(Student(tuned).logits(images), quicknet.qnz.reference.run(tuned.network, images))


def test_a_coarser_step_and_a_rate_take_fewer_bits(run_dir: Path, data: Dataset) -> None:
    net, images = fold(pruned_network(run_dir), data.spec), np.array(data.split("train").images)

    def bits(quantized: Quantized) -> float:
        rows = [row for row in layer_sizes(quantized.network, 4) if "pointwise" in row.name]
        return sum(row.kept * row.coded_bits for row in rows) / sum(row.kept for row in rows)

    fine, coarse = (quantize(net, images, "w5a8", None, (step,) * 5) for step in (0.0, 0.7))
    assert bits(coarse) < bits(fine) - 0.5
    student = Student(coarse)
    student.weigh_bits(0.5)
    assert bits(student.quantized()) < bits(coarse)


def test_sizes_are_entropies() -> None:
    assert entropy(np.array([5, 5, 5])) == 0.0
    assert entropy(np.arange(256)) == 8.0
    weight = np.array([[1, 0, 0, 0, 0, 0, 0, 0, 0, 7]], np.int8)
    assert blocks_kept(weight, 4).tolist() == [[True, False, True]]


def test_a_size_is_reached_by_cheaper_values_or_refused(run_dir: Path, data: Dataset) -> None:
    images = np.array(data.split("train").images)
    quantized = quantize(fold(pruned_network(run_dir), data.spec), images, "w5a8", None, (0.5,) * 5)
    settings = CompressSettings(target_size=1 << 20)
    card = read_qnz_card(run_dir, data, quantized)
    size = integers.file_bytes(quantized, card, settings)
    assert integers.fitting(quantized, card, settings) is quantized
    smaller = integers.fitting(quantized, card, settings.replace(target_size=size - 20))
    assert integers.file_bytes(smaller, card, settings) <= size - 20
    with pytest.raises(CheckFailed, match=r"the file would be [\d,]+ bytes, over --target-size 900; allow \d+KB"):
        integers.fitting(quantized, card, settings.replace(target_size=900))


def read_qnz_card(run_dir: Path, data: Dataset, quantized: Quantized) -> Any:
    from quicknet.deploy.pipeline import parents_vectors

    parent = TorchClassifier(run_dir)
    return parent.card.replace(vectors=parents_vectors(parent))


# --- the whole -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compressed(run_dir: Path, pictures: Path, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("compressed") / "m.qnz"
    return compress(run_dir, data, out, QUICK, pictures)


def test_the_file_is_sparse_verified_and_says_what_it_is(compressed: Any, run_dir: Path, data: Dataset) -> None:
    file = read_qnz(Path(compressed.path))
    assert verify(compressed.path, data).holds
    absent = [1 - blocks_kept(block.weight, 4).mean() for block in file.network.blocks]
    weights = [block.weight.size for block in file.network.blocks]
    assert np.average(absent, weights=weights) >= 0.48
    step = file.card.lineage[-2]
    assert (type(step), step.pattern, step.density, step.epochs) == (CompressStep, "block", 0.5, 2)
    assert step.grid == QUICK.step
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
    class Killed(BaseException):
        pass

    def dying(*_: Any, **__: Any) -> Any:
        raise Killed

    settings = QUICK.replace(teacher=str(make_run(tmp_path / "teacher", pictures, seed=5)))
    monkeypatch.setattr(sensitivity, "measure", dying)
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


def test_another_compression_in_the_same_place_is_refused(run_dir: Path, data: Dataset, tmp_path: Path) -> None:
    work = work_folder(tmp_path / "m.qnz")
    work.mkdir()
    digest = TorchClassifier(run_dir).card.weights_sha256
    (work / "settings.json").write_text(json.dumps({"weights_sha256": digest, **QUICK.replace(seed=1).to_dict()}))
    with pytest.raises(CheckpointError, match=r"holds another compression .its seed differs.; give the same options"):
        compress(run_dir, data, tmp_path / "m.qnz", QUICK)


def test_a_loss_is_searched_for_along_the_path(run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path) -> None:
    settings = QUICK.replace(density=None, max_loss=90.0, epochs=4)
    written = compress(run_dir, data, tmp_path / "m.qnz", settings, pictures)
    assert written.density < 0.2
    assert written.compared[0].lost_points <= 90
    without = dataclasses.replace(data, splits={**data.splits})
    never = settings.replace(max_loss=0.0, epochs=2)
    with pytest.raises(CheckFailed, match=r"the nearest keeps|over --max-loss"):
        compress(run_dir, without, tmp_path / "n.qnz", never, pictures)


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
    assert command(["compress", str(run_dir), str(pictures), "--out", str(out), *options, "--json", "--quiet"]) == 0
    fields = json.loads(capfd.readouterr().out)
    follows("compress", fields)
    paper = fields["paper"]
    assert paper["bytes_dense"] > paper["bytes_pruned"] > paper["bytes_quantized"] > paper["bytes_coded"]
    for row in paper["layers"]:
        assert 1 < row["values"] <= 32
        assert row["value_bits"] <= 5.2
    assert verify(out, data).holds


def test_relative_indices_lead_back_to_the_places() -> None:
    rng = np.random.default_rng(0)
    for width in (2, 5):
        there = rng.random(500) < 0.07
        places = np.cumsum(relative_indices(there, width) + 1) - 1
        assert set(np.flatnonzero(there)) <= set(places)
        assert relative_indices(there, width).max() < 1 << width


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
        (["--density", "0.5", "--epochs", "0"], "epochs must lie in"),
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
