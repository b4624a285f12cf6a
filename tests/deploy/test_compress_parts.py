"""The parts of a compression: order of inputs, sensitivity, foretold sizes and speeds, integers, indices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import quicknet
from quicknet.core.card import UnknownRecord
from quicknet.core.errors import CheckFailed, ConfigError
from quicknet.data import Dataset
from quicknet.data.augment import AugmentSettings, normalize
from quicknet.deploy.compress import integers, predict, sensitivity
from quicknet.deploy.compress.paper import relative_indices
from quicknet.deploy.compress.permute import choose_order, kept, permuted
from quicknet.deploy.compress.prepare import plan_pruning, shape_at, target_density
from quicknet.deploy.compress.settings import CompressSettings
from quicknet.deploy.compress.size import blocks_kept, entropy, layer_sizes
from quicknet.deploy.compress.speed import Speedometer
from quicknet.deploy.fold import fold
from quicknet.deploy.qnz import integer_card, silent
from quicknet.deploy.quantize import Lesson, QatSettings, Quantized, fine_tune, quantize
from quicknet.deploy.quantize.student import Student
from quicknet.image.vectors import draw_vectors
from quicknet.inference.metrics import fit_temperature
from quicknet.inference.unknown import choose_unknown
from quicknet.models.config import QuickNetConfig, plan
from quicknet.models.registry import create_model
from quicknet.qnz.bounds import check_network
from quicknet.qnz.file import assemble_qnz
from quicknet.training.checkpoint import TorchClassifier
from quicknet.training.prune import Pruner, separable_layers
from quicknet.training.settings import PruneSettings


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
        ConfigError, match=r"--target-size 9 is out of reach: at 3% .* about [\d,]+ bytes; ask for about that"
    ):
        predict.density_for(lambda d: size(d) <= 9, "--target-size 9", lambda d: f"{size(d):,} bytes")


def test_a_step_fills_the_size_that_a_speed_leaves_over() -> None:
    shape = predict.Shape(plan(QuickNetConfig(stem_width=16, widths=(32, 64, 128, 256))), (0.2,) * 12, 4)
    usual = predict.size_at(shape, 10, 0.6)
    finer = predict.step_for(shape, 10, 0.6, round(1.2 * usual))
    assert finer < 0.6
    assert 1.15 * usual < predict.size_at(shape, 10, finer) <= 1.2 * usual
    assert predict.step_for(shape, 10, 0.6, usual) == 0.6


def test_a_card_of_many_classes_counts() -> None:
    """CARZ of 10 classes takes 2.6 KB, of 100 9.1 KB: a file that is planned without would come out too large."""
    shape = predict.Shape(plan(QuickNetConfig(stem_width=16, widths=(32, 64, 128, 256))), (0.2,) * 12, 4)
    many, few = (predict.size_at(shape, classes, 0.6) for classes in (100, 10))
    assert many - few == pytest.approx(6_500 + 90 * (256 + 4), rel=0.1)  # their card, and their rows of the classifier


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
        return predict.size_at(shape, 4, settings.grid)

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
    dense = fold(TorchClassifier(run_dir).model, data.spec)
    fine_dense, coarse_dense = (quantize(dense, images, "w5a8", None, (step,) * 5) for step in (0.0, 0.7))
    assert bits(coarse_dense) < bits(fine_dense) - 0.5
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
    written = integer_card(card, quantized, settings.bits)
    assert size > len(assemble_qnz(quantized.network, written, "contexts")) + 278  # the largest receipt of results/
    smaller = integers.fitting(quantized, card, settings.replace(target_size=size - 20))
    assert integers.file_bytes(smaller, card, settings) <= size - 20
    weaker = integers.cheapened(quantized, 0.4)  # no stronger than it must be
    enough = settings.replace(target_size=integers.file_bytes(weaker, card, settings))
    fitted = integers.fitting(quantized, card, enough)
    changed = [
        sum(int((a.weight != b.weight).sum()) for a, b in zip(n.network.blocks, quantized.network.blocks, strict=True))
        for n in (fitted, weaker)
    ]
    assert changed[0] <= 1.1 * changed[1]
    with pytest.raises(CheckFailed, match=r"the file would be [\d,]+ bytes, over --target-size 900; allow \d+KB"):
        integers.fitting(quantized, card, settings.replace(target_size=900))


def test_probabilities_are_those_of_the_integers(run_dir: Path, data: Dataset) -> None:
    images, val = np.array(data.split("train").images), data.split("val")
    quantized = quantize(fold(pruned_network(run_dir), data.spec), images, "w5a8", None, (0.5,) * 5)
    settings, card = CompressSettings(density=0.4), read_qnz_card(run_dir, data, quantized)
    assert integers.calibrated(card, quantized, data, settings, run_dir) is card  # the run has none either
    believed = UnknownRecord(min_confidence=0.0, split="val", n=5, kept=1.0, others="others", others_n=3, refused=1.0)
    now = integers.calibrated(card.replace(temperature=99.0, unknown=believed), quantized, data, settings, run_dir)
    logits = quicknet.qnz.reference.run(quantized.network, np.array(val.images)) * quantized.logit_scale
    assert now.temperature == pytest.approx(fit_temperature(logits, np.array(val.labels)))
    assert now.temperature is not None
    assert now.unknown == choose_unknown(logits, now.temperature, "val")


def read_qnz_card(run_dir: Path, data: Dataset, quantized: Quantized) -> Any:
    from quicknet.deploy.pipeline import parents_vectors

    parent = TorchClassifier(run_dir)
    return parent.card.replace(vectors=parents_vectors(parent))


def test_relative_indices_lead_back_to_the_places() -> None:
    rng = np.random.default_rng(0)
    for width in (2, 5):
        there = rng.random(500) < 0.07
        places = np.cumsum(relative_indices(there, width) + 1) - 1
        assert set(np.flatnonzero(there)) <= set(places)
        assert relative_indices(there, width).max() < 1 << width
