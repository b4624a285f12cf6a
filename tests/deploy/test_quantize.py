import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from networks import GROUPS
from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import ConfigError, DataError
from quicknet.data import DataRequest, load_data
from quicknet.data.augment import normalize
from quicknet.deploy.fold import fold
from quicknet.deploy.quantize import WIDTHS, calibration_count, quantize, simulate
from quicknet.deploy.quantize.ranges import Histogram, choose_range
from quicknet.deploy.quantize.rounding import round_filters
from quicknet.deploy.quantize.student import Student
from quicknet.deploy.quantize.widths import depthwise_lanes, pointwise_lanes, stem_lanes
from quicknet.image.vectors import draw_vectors
from quicknet.models import fused
from quicknet.models.registry import create_model
from quicknet.qnz import reference
from quicknet.qnz.bounds import check_network
from quicknet.training.checkpoint import load_model

TINY = {"stem_width": 12, "widths": [20, 24, 36], "depths": [1, 2, 1], "kernel_sizes": [3, 3, 3]}
RESULTS = Path(__file__).resolve().parent.parent.parent / "results"


def spec_of(size: int = 32, mode: Any = "RGB") -> PreprocessSpec:
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    return PreprocessSpec(size=size, mode=mode, mean=(0.4, 0.5, 0.6, 0.5)[:channels], std=(0.2,) * channels)


def settled(spec: PreprocessSpec, seed: int = 0, **config: Any) -> Any:
    """A network of drawn weights and slopes whose statistics are those of drawn images."""
    torch.manual_seed(seed)
    sizes = {"image_size": spec.size, "in_channels": spec.channels}
    model: Any = create_model("quicknet_xs", **{**TINY, **sizes, **config})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.2, 1.3)  # below 0 and above 1 too
    nn.init.normal_(model.classifier.weight, 0, 0.5)
    with torch.no_grad():
        model.train()(normalize(torch.from_numpy(draw_vectors(spec.size, spec.channels, 48)), spec.mean, spec.std))
    return model.eval()


def float_logits(model: Any, images: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    with torch.no_grad():
        return model(normalize(torch.from_numpy(images), spec.mean, spec.std)).numpy()


# --- the whole -----------------------------------------------------------------------------


@pytest.mark.parametrize("bits", list(WIDTHS))
@pytest.mark.parametrize(
    ("mode", "size", "config"),
    [
        ("RGB", 32, {}),
        ("L", 28, {"activation": "relu", "kernel_sizes": [5, 3, 5]}),
        ("RGBA", 50, {"activation": "leaky_relu", "stem_kernel": 7, "stem_width": 5, "num_classes": 3}),
        ("RGB", 33, {"activation": "prelu_shared", "stem_stride": 3, "stem_kernel": 1, "widths": [130, 9, 17]}),
    ],
)
def test_integers_answer_as_the_float_network(bits: Any, mode: str, size: int, config: dict[str, Any]) -> None:
    spec = spec_of(size, mode)
    model = settled(spec, **config)
    images = draw_vectors(size, spec.channels, 96)
    quantized = quantize(fold(model, spec), images[:64], bits)
    check_network(quantized.network)
    expected = float_logits(model, images, spec)
    logits = reference.run(quantized.network, images) * quantized.logit_scale
    noise = ((logits - expected)[64:] ** 2).mean() / expected[64:].var()
    assert noise < (0.01 if bits.endswith("a8") else 0.03)
    # what the biases are for: no logit is off on average, over the images that they were fitted to
    assert np.abs((logits - expected)[:64].mean(0)).max() < 0.02 * expected.std()


def test_the_same_images_give_the_same_integers() -> None:
    spec = spec_of()
    net, images = fold(settled(spec), spec), draw_vectors(32, 3, 20)
    first, second = (quantize(net, images, "w5a8") for _ in range(2))
    assert first.logit_scale == second.logit_scale
    for one, other in zip(first.network.blocks, second.network.blocks, strict=True):
        for name in ("depthwise", "multiplier", "weight", "bias"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_channels_that_say_nothing_do_no_harm() -> None:
    """Filters of zeros, channels that are always 0 or always the same, a bias a million times its filter."""
    spec = spec_of()
    model = settled(spec, activation="relu")
    with torch.no_grad():
        model.stem.conv.weight[0] = 0
        model.stem.bn.bias[1] = -50.0  # ReLU leaves nothing
        model.blocks[0].depthwise.weight[2] = 0
        model.blocks[1].pointwise.weight[3] = 0
        model.blocks[1].bn.weight[4] = 1e-6
        model.blocks[2].pointwise.weight[5] *= 1e-4  # under batch norm's epsilon
        model.classifier.weight[:, 6] = 0
    images = draw_vectors(32, 3, 64)
    for bits in WIDTHS:
        quantized = quantize(fold(model, spec), images, bits)
        check_network(quantized.network)
        expected = float_logits(model, images, spec)
        noise = (
            (reference.run(quantized.network, images) * quantized.logit_scale - expected) ** 2
        ).mean() / expected.var()
        assert noise < 0.03


def test_what_no_qnz_can_hold_is_refused_by_name() -> None:
    images = draw_vectors(32, 3, 20)
    spec = spec_of()
    with pytest.raises(ConfigError, match=r"block1\.depthwise has a kernel of 7"):
        quantize(fold(settled(spec, kernel_sizes=[3, 7, 3]), spec), images, "w7a8")
    darknet: Any = create_model("darknet_32", widths=[8, 16, 32, 8]).eval()
    with pytest.raises(ConfigError, match="2x2 max pool of whole windows"):  # Darknet's last window hangs over
        quantize(fold(darknet, spec), images, "w7a8")
    chained: Any = create_model("all_cnn_c", width=0.125).eval()
    with pytest.raises(ConfigError, match="only QuickNets"):
        quantize(fold(chained, spec), images, "w7a8")
    speedy: Any = create_model("speedy", stem_width=8, widths=[8, 16]).eval()
    with pytest.raises(ConfigError, match=r"is a GELU activation, and a \.qnz holds.*use --format onnx"):
        quantize(fold(speedy, spec), images, "w7a8")
    net = fold(settled(spec), spec)
    with pytest.raises(DataError, match="3 images are too few"):
        quantize(net, images[:3], "w7a8")
    with pytest.raises(ConfigError, match="feature map"):
        quantize(net, np.broadcast_to(images[:1, :1, :1], (16, 3000, 3000, 3)), "w7a8")


def test_large_images_are_calibrated_on_fewer() -> None:
    spec = spec_of()
    net = fold(settled(spec), spec)
    assert calibration_count(net, 32) == 1024
    assert 16 < calibration_count(net, 1024, budget_bytes=8 << 30) < 1024
    assert calibration_count(net, 1024, budget_bytes=1) == 16


@pytest.mark.parametrize(
    "bits", ["w5a8", *(pytest.param(bits, marks=pytest.mark.slow) for bits in ("w7a8", "w7a7", "w6a7"))]
)
def test_a_trained_network_keeps_its_answers(bits: Any, cifar10_dir: Path) -> None:
    """`quicknet_s` at 92.6% with nothing but calibration; all of `val` is in benchmarks/bench_quantize.py."""
    model, card = load_model(RESULTS / "0005-cifar10-fast" / "seed0")
    spec = card.preprocess
    data = load_data(cifar10_dir, DataRequest(spec=spec, classes=card.classes, quiet=True))
    val = np.array(data.split("val").images[:200])
    expected = float_logits(model, val, spec)
    quantized = quantize(fold(model, spec), np.array(data.split("train").images[::700]), bits)
    check_network(quantized.network)
    logits = Student(quantized).logits(val)  # the reference takes a minute for them
    assert (logits.argmax(1) != expected.argmax(1)).sum() <= 4  # of 200: 0.3 to 0.7% of 5,000
    labels = data.split("val").labels[:200]
    assert (logits.argmax(1) == labels).mean() >= (expected.argmax(1) == labels).mean() - 0.015


# --- rounding ------------------------------------------------------------------------------


def lane_sums(weight: np.ndarray, sums: int) -> tuple[int, int]:
    """The largest sums of positive and of negative weights (R, K) in FORMAT.md's groups."""
    padded = np.pad(weight, ((0, 0), (0, -weight.shape[1] % 16))).reshape(len(weight), -1, 16)
    grouped = padded[:, :, GROUPS[sums]]
    return int(np.maximum(grouped, 0).sum(-1).max()), int(np.maximum(-grouped, 0).sum(-1).max())


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 5),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([127, 255]),
    st.sampled_from([0.0, 1.0, 3.0]),
)
def test_rounded_filters_keep_to_their_lanes(
    seed: int, columns: int, rows: int, sums: int, top: int, tails: float
) -> None:
    """Whatever the weights; and they serve better than the bound that holds for weights all alike."""
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.normal(size=(rows, columns)) * np.exp(tails * rng.normal(size=(rows, columns))))
    inputs = torch.from_numpy(rng.normal(size=(200, columns)) @ rng.normal(size=(columns, columns)))
    moments = inputs.T @ inputs / 200 + 1e-3 * torch.eye(columns, dtype=torch.float64)
    actual = round_filters(weight, moments, pointwise_lanes(columns, sums, top))
    whole = actual.weight.numpy()
    assert np.array_equal(whole, whole.round())
    assert max(lane_sums(whole, sums)) <= 32767 // top
    assert np.abs(whole).max() <= 127
    safe = min(127, 32767 // top // (2 * sums))
    step = weight.abs().amax(1, keepdim=True) / safe
    plain = (weight / step).round() * step - weight
    assert float(actual.error.sum()) <= 1.001 * float(((plain @ moments) * plain).sum()) + 1e-12


@pytest.mark.parametrize(("kernel", "channels"), [(5, 3), (7, 4), (1, 1), (11, 2)])
def test_a_stems_lanes_begin_anew_in_every_row(kernel: int, channels: int) -> None:
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(6, kernel * kernel * channels)))
    for sums in (1, 2, 4):
        lanes = stem_lanes(kernel, channels, sums)
        whole = round_filters(weight, torch.eye(weight.shape[1], dtype=torch.float64), lanes).weight.numpy()
        rows = whole.reshape(6 * kernel, kernel * channels)
        assert 32 < max(lane_sums(rows, sums)) <= 128


def test_a_depthwise_filter_is_one_lane() -> None:
    rng = np.random.default_rng(1)
    weight = torch.from_numpy(rng.normal(size=(50, 25)))
    moments = torch.eye(25, dtype=torch.float64).expand(50, 25, 25)
    for top in (127, 255):
        whole = round_filters(weight, moments, depthwise_lanes(25, top)).weight
        assert whole.clamp(min=0).sum(1).max() <= 32767 // top
        assert (-whole).clamp(min=0).sum(1).max() <= 32767 // top
        assert whole.abs().sum(1).min() > 60  # and uses what there is


# --- ranges --------------------------------------------------------------------------------


def spread(values: torch.Tensor) -> Histogram:
    """Values (N, C) as a histogram."""
    histogram = Histogram(values.amin(0), values.amax(0))
    histogram.add(values[:, :, None, None].float())
    return histogram


def stored_error(values: torch.Tensor, chosen: Any, top: int) -> float:
    whole = (values / chosen.scale).round().clamp(-chosen.zero, top - chosen.zero)
    return float(((whole * chosen.scale - values) ** 2).mean())


def test_each_rule_wins_where_it_is_the_best() -> None:
    torch.manual_seed(0)
    flat = torch.rand(20_000, 3).double() * torch.tensor([1.0, 5.0, 0.1])
    lonely = torch.randn(20_000, 3).double()
    lonely[0] = 200.0  # one value in 20,000
    ones = torch.ones(3, dtype=torch.float64)
    for top in (127, 255):
        assert choose_range(spread(flat), top, ones).rule == "min-max"
        actual = choose_range(spread(lonely), top, ones)
        assert actual.rule in ("percentile", "mse")
        widest = choose_range(spread(lonely), top, ones, ("min-max",))
        assert stored_error(lonely, actual, top) < stored_error(lonely, widest, top)


def test_zero_lies_where_values_are() -> None:
    torch.manual_seed(0)
    positive = torch.rand(1000, 4).double()
    assert choose_range(spread(positive), 255, torch.ones(4)).zero == 0
    assert choose_range(spread(-positive), 255, torch.ones(4)).zero == 255
    both = torch.cat([positive, -positive / 4])
    assert 30 < choose_range(spread(both), 255, torch.ones(4)).zero < 70


# --- arithmetic ----------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-32768, 32767), min_size=1, max_size=20),
    st.integers(-32767, 32767),
    st.integers(-32767, 32767),
    st.integers(0, 255),
)
def test_requantization_in_float32_is_exact(
    compiled: bool, t: list[int], positive: int, negative: int, zero: int
) -> None:
    with contextlib.nullcontext() if compiled else fused.disabled():
        check_requantization(t, positive, negative, zero)


def check_requantization(t: list[int], positive: int, negative: int, zero: int) -> None:
    maps = torch.tensor(t, dtype=torch.float32).view(1, 1, 1, -1)
    actual = simulate.requantize(
        maps.clone(), 0, torch.tensor([positive]), torch.tensor([negative]), (-zero, 255 - zero)
    )
    expected = [min(max((v * (positive if v >= 0 else negative) + (1 << 14)) >> 15, -zero), 255 - zero) for v in t]
    assert actual.flatten().tolist() == expected
    if positive >= 0:
        actual = simulate.mulr(maps, torch.tensor([positive]), (-zero, 255 - zero))
        assert actual.flatten().tolist() == [min(max((v * positive + (1 << 14)) >> 15, -zero), 255 - zero) for v in t]


def test_sums_past_float32_are_carried_in_float64() -> None:
    weight = torch.full((2, 8192), 127.0)
    assert simulate.exact_dtype(weight, torch.zeros(2), 255) == torch.float64
    maps = torch.full((1, 8192, 1, 1), 255.0)
    maps[0, 0] = 254
    actual = simulate.pointwise(maps, weight, torch.tensor([1.0, 2.0]), 255)
    assert actual.flatten().tolist() == [127 * (255 * 8192 - 1) + 1, 127 * (255 * 8192 - 1) + 2]
    assert simulate.exact_dtype(weight[:, :16], torch.zeros(2), 255) == torch.float32
