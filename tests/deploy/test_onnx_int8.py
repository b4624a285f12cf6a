"""The int8 graph by executed outputs: what a runtime answers, beside the integer network itself."""

import importlib.util
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import onnx
from networks import Block, network_card, networks, random_images, random_network
from quicknet.core.errors import FormatError
from quicknet.data import DataRequest, load_data
from quicknet.deploy.onnx_int8 import Form, build_int8
from quicknet.onnx.file import parse_onnx
from quicknet.onnx.runtime import import_onnxruntime, open_runner
from quicknet.qnz import reference
from quicknet.qnz.network import IntegerNetwork

onnxruntime = import_onnxruntime()

FORMS: tuple[Form, ...] = ("onnxruntime", "openvino")
HERE = Path("m.onnx")
BLOCKS = (Block(32), Block(24, pool=True), Block(40))
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")


def with_slope(network: IntegerNetwork, slope: float | None) -> IntegerNetwork:
    """Return the network with one slope everywhere; None: slopes of -0.5..1.5, a channel each."""

    def sloped(layer):
        positive = np.abs(layer.output.positive) + 1
        slopes = np.linspace(-0.5, 1.5, len(positive)) if slope is None else np.full(len(positive), slope)
        negative = np.clip(np.rint(positive * slopes), -32767, 32767)
        zero = 0 if slope == 0 else layer.output.zero
        output = replace(
            layer.output, positive=positive.astype(np.int16), negative=negative.astype(np.int16), zero=zero
        )
        return replace(layer, output=output)

    return replace(network, stem=sloped(network.stem), blocks=tuple(map(sloped, network.blocks)))


def maps_of(network: IntegerNetwork, form: Form, images: np.ndarray) -> list[np.ndarray]:
    """Return each map as it is stored, channels last, by ONNX Runtime without optimization."""
    model = onnx.load_from_string(build_int8(network, network_card(network), form))
    clipped = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Clip"}
    written = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    names = [clipped.get(name, name) for name in written]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    run = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [actual.transpose(0, 2, 3, 1) for actual in run.run(names, {"images": images})]


def kinds(blob: bytes, folder: Path) -> Counter:
    """Return the operators of ONNX Runtime's optimized model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


# --- the same network ----------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("slope", [0.0, 0.25, 1.0, None])
@pytest.mark.parametrize("top", [255, 127])
def test_maps_are_the_integer_networks_but_for_the_last_rounding(form: Form, slope: float | None, top: int) -> None:
    rng = np.random.default_rng(7)
    network = with_slope(random_network(rng, blocks=(Block(32, top=top, middle_top=top),), top=top), slope)
    images = random_images(rng, network, 4)
    trace = [maps for name, maps in reference.trace(network, images) if name not in ("sums", "logits")]
    actual = maps_of(network, form, images)
    assert len(actual) == len(trace) == 3
    differences = [np.abs(ours.astype(int) - theirs) for ours, theirs in zip(actual, trace, strict=True)]
    assert differences[0].max() <= 1
    for ours, difference in zip(actual, differences, strict=True):  # what differs is passed on and adds up
        assert ours.max() <= top
        assert difference.mean() < 0.1
        assert difference.max() <= 8


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
@pytest.mark.parametrize("slope", [0.0, 0.25, None])
def test_runtimes_answer_as_the_integer_network(form: Form, runtime: str, slope: float | None) -> None:
    """Their optimized int8 kernels, alone and in batches; random networks amplify roundings, trained ones do not."""
    rng = np.random.default_rng(3)
    network = with_slope(random_network(rng, blocks=BLOCKS), slope)
    card = network_card(network)
    images = random_images(rng, network, 12)
    expected = reference.run(network, images) * card.integer.logit_scale
    run = open_runner(parse_onnx(build_int8(network, card, form), HERE), runtime, 1)
    spread = np.ptp(expected, axis=0).max()
    for actual in (run(images), np.concatenate([run(image[None]) for image in images])):
        assert actual.dtype == np.float32
        assert np.abs(actual - expected).max() < 0.05 * spread


@given(network=networks())
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_network_of_the_format_is_expressed(network: IntegerNetwork) -> None:
    """Multipliers of 0 and below, ranges without one side, one channel, a shift that leaves one bit."""
    if network.channels == 2:  # no card has those
        return
    images = random_images(np.random.default_rng(0), network, 2)
    for form in FORMS:
        blob = build_int8(network, network_card(network), form)
        onnx.checker.check_model(onnx.load_from_string(blob), full_check=True)
        file = parse_onnx(blob, HERE)
        assert file.intact
        assert np.isfinite(open_runner(file, "onnxruntime", 1)(images)).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("positive", "negative"), [(0, 400), (0, -400), (-400, 200), (-400, -200), (0, 0), (300, 900)])
def test_multipliers_that_no_prelu_gives(form: Form, positive: int, negative: int) -> None:
    network = random_network(np.random.default_rng(4), blocks=())
    images = random_images(np.random.default_rng(0), network, 4)
    output = network.stem.output
    some, other = output.positive.copy(), output.negative.copy()
    some[::2], other[::2] = positive, negative
    changed = replace(output, positive=some, negative=other, zero=100)
    network = replace(network, stem=replace(network.stem, output=changed))
    (_, expected), *_ = reference.trace(network, images)
    assert (
        len(np.unique(expected[..., ::2])) == 1 if (positive, negative) == (0, 0) else np.ptp(expected[..., ::2]) > 10
    )
    assert np.abs(maps_of(network, form, images)[0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def test_full_lanes_do_not_saturate(runtime: str) -> None:
    """All pairs of weights at their bound, over white: without the bound, CPUs that lack VNNI would cut here."""
    rng = np.random.default_rng(0)
    network = random_network(rng, blocks=(Block(64),))
    block = network.blocks[0]
    channels = block.weight.shape[1]
    full = np.tile(np.array([127, 1], np.int8), channels // 2)
    weight = np.where(np.arange(64)[:, None] % 2, full, -full).astype(np.int8)
    bias = -(weight.astype(np.int64).sum(1) * block.middle_zero).astype(np.int32)
    network = replace(network, blocks=(replace(block, weight=weight, bias=bias),))
    card, images = network_card(network), np.full((1, 32, 32, 3), 255, np.uint8)
    expected = reference.run(network, images) * card.integer.logit_scale
    actual = open_runner(parse_onnx(build_int8(network, card, FORMS[runtime == "openvino"]), HERE), runtime, 1)(images)
    assert np.abs(actual - expected).max() <= 0.02 * np.abs(expected).max()


def test_on_real_images(cifar10_dir: Path) -> None:
    data = load_data(cifar10_dir, DataRequest(quiet=True))
    images = np.array(data.split("test").images[::100])
    network = with_slope(random_network(np.random.default_rng(5), blocks=BLOCKS), None)
    card = network_card(network)
    expected = reference.run(network, images)
    for form in FORMS:
        run = open_runner(parse_onnx(build_int8(network, card, form), HERE), "onnxruntime", 1)
        actual = np.concatenate([run(images[i : i + 8]) for i in range(0, len(images), 8)])
        assert (actual.argmax(1) == expected.argmax(1)).mean() >= 0.95


# --- the form of the file ------------------------------------------------------------------


def test_onnxruntime_runs_it_in_int8(tmp_path: Path) -> None:
    """Where a node falls out of its int8 kernels, the file is slower than the float one."""
    rng = np.random.default_rng(1)
    network = random_network(rng, blocks=BLOCKS)
    sloped = kinds(build_int8(with_slope(network, None), network_card(network), "onnxruntime"), tmp_path)
    assert (sloped["QGemm"], sloped["QLinearConv"], sloped["NhwcMaxPool"]) == (3, 3, 1)
    assert sloped["Conv"] <= 1  # the stem
    assert sloped["Transpose"] <= 3
    plain = kinds(build_int8(with_slope(network, 0.0), network_card(network), "onnxruntime"), tmp_path)
    assert plain["QLinearConv"] >= 6
    assert "QuantizeLinear" not in plain or plain["QuantizeLinear"] == 1


def test_the_same_network_gives_the_same_bytes() -> None:
    for form in FORMS:
        first, second = (random_network(np.random.default_rng(2), blocks=BLOCKS) for _ in range(2))
        assert build_int8(first, network_card(first), form) == build_int8(second, network_card(second), form)


def test_weights_are_kept_in_a_byte() -> None:
    network = random_network(np.random.default_rng(2), blocks=(Block(128), Block(128), Block(128)))
    weights = sum(block.weight.size + block.depthwise.size for block in network.blocks)
    for form in FORMS:
        assert len(build_int8(network, network_card(network), form)) < 1.2 * weights + 60_000


def test_a_card_without_a_logit_scale_is_refused() -> None:
    network = random_network(np.random.default_rng(2), blocks=())
    with pytest.raises(FormatError, match="describes no integer network"):
        build_int8(network, network_card(network).replace(integer=None), "openvino")
