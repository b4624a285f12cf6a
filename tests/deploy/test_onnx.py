import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import onnx
from parts import Parts
from quicknet.core.card import Card, Mode, PreprocessSpec
from quicknet.data import DataRequest, load_data
from quicknet.data.augment import normalize
from quicknet.deploy.fold import fold
from quicknet.deploy.onnx import Form, assemble, build_graph
from quicknet.image.vectors import draw_vectors, splitmix64
from quicknet.models.config import NetworkConfig
from quicknet.models.registry import create_model, model_record
from quicknet.onnx.file import OPERATORS
from quicknet.onnx.runtime import import_onnxruntime

onnxruntime = import_onnxruntime()

SPEC = PreprocessSpec(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))


def a_card(model: Any, spec: PreprocessSpec = SPEC) -> Card:
    classes = tuple(f"class {i}" for i in range(model.config.num_classes))
    return Card(model=model_record("quicknet_xs", model), classes=classes, preprocess=spec)


def session(blob: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("form", ["fused", "plain"])
@pytest.mark.parametrize(
    ("name", "config", "mode"),
    [
        ("quicknet_xs", {}, "RGB"),
        ("quicknet_xs", {"activation": "prelu_shared", "image_size": 48}, "RGBA"),
        ("quicknet_xs", {"activation": "leaky_relu", "kernel_sizes": [3, 5, 3, 7]}, "L"),
        ("quicknet_xs", {"activation": "relu", "image_size": 50, "num_classes": 3}, "RGB"),
        ("darknet_32", {"widths": [8, 16, 32, 8]}, "RGB"),
        ("wide_resnet_16_8", {"depth": 16, "widen": 1}, "RGB"),
        ("speedy", {"stem_width": 8, "widths": [8, 16, 24]}, "RGB"),
        ("parts", {"image_size": 40, "num_classes": 5}, "RGBA"),
    ],
)
def test_the_graph_answers_as_the_network(form: Form, name: str, config: dict[str, Any], mode: Mode) -> None:
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    spec = PreprocessSpec(
        size=int(config.get("image_size", 32)), mode=mode, mean=(0.4, 0.5, 0.6, 0.5)[:channels], std=(0.2,) * channels
    )
    torch.manual_seed(0)
    config = config | {"in_channels": channels}
    model: Any = (Parts(NetworkConfig(**config)) if name == "parts" else create_model(name, **config)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None and module.running_mean is not None
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.running_mean)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 2)
    model.classifier.weight.data.normal_(0, 0.05)
    images = draw_vectors(spec.size, channels, 5)
    with torch.no_grad():
        wanted = model(normalize(torch.from_numpy(images), spec.mean, spec.std)).numpy()
    run = session(assemble(build_graph(fold(model, spec), spec.size, form), a_card(model, spec)))
    scale = max(1.0, np.abs(wanted).max() / 10)
    for count in (1, 5):  # the batch is free
        found = run.run(None, {"images": images[:count]})[0]
        assert found.dtype == np.float32
        assert np.abs(found - wanted[:count]).max() <= 1e-4 * scale


def test_the_file_is_what_others_expect() -> None:
    model: Any = create_model("quicknet_xs").eval()
    blob = assemble(build_graph(fold(model, SPEC), 32, "fused"), a_card(model))
    read = onnx.load_from_string(blob)
    onnx.checker.check_model(read, full_check=True)
    assert [(entry.domain, entry.version) for entry in read.opset_import] == [("", 17)]
    (images,), (logits,) = read.graph.input, read.graph.output
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == ["N", 32, 32, 3]
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim] == ["N", 10]
    kinds = {node.op_type for node in read.graph.node}
    assert "PRelu" not in kinds
    assert kinds <= OPERATORS
    plain = onnx.load_from_string(assemble(build_graph(fold(model, SPEC), 32, "plain"), a_card(model)))
    assert sum(node.op_type == "PRelu" for node in plain.graph.node) == 13
    # batch norm, mean and std are gone into the convolutions
    assert {"BatchNormalization", "Mul", "Sub"}.isdisjoint(kinds)


def test_the_same_network_gives_the_same_bytes_for_ever() -> None:
    """Weights by integer arithmetic, so any machine must come to this graph."""
    model: Any = create_model("quicknet_xs", stem_width=4, widths=[4, 8], depths=[1, 1], kernel_sizes=[3, 3]).eval()
    state = model.state_dict()
    for seed, name in enumerate(sorted(state)):
        if state[name].is_floating_point():
            numbers = (splitmix64(seed, state[name].numel()) >> np.uint64(44)).astype(np.float64) / 2**20  # 0..1, exact
            numbers = numbers + 0.5 if name.endswith("running_var") else numbers - 0.5
            state[name].copy_(torch.from_numpy(numbers.astype(np.float32)).reshape(state[name].shape))
    graph = build_graph(fold(model, SPEC), 32, "fused")
    assert hashlib.sha256(graph).hexdigest() == "18cb1670016baddc0ecd768238ef4b1c1a5a1449747fa2e4dccc8f79a754f656"
    assert assemble(graph, a_card(model)) == assemble(build_graph(fold(model, SPEC), 32, "fused"), a_card(model))


@pytest.mark.parametrize("name", ["quicknet_s", "quicknet"])
def test_on_real_images_the_graph_is_the_network(name: str, cifar10_dir) -> None:
    """400 of the test images here; all 10,000 in benchmarks/bench_onnx.py."""
    data = load_data(cifar10_dir, DataRequest(quiet=True))
    images = np.array(data.split("test").images[:: 10_000 // (400 if name == "quicknet_s" else 100)])
    model: Any = create_model(name)
    train = data.split("train").images[:64]
    pixels = normalize(torch.from_numpy(np.array(train)), data.spec.mean, data.spec.std)
    with torch.no_grad():
        model.train()(pixels)
        model.classifier.weight.normal_(0, 0.3)  # logits of the size of a trained network's
        wanted = model.eval()(normalize(torch.from_numpy(images), data.spec.mean, data.spec.std)).numpy()
    assert 3 < np.abs(wanted).max() < 100
    run = session(assemble(build_graph(fold(model, data.spec), 32, "fused"), a_card(model, data.spec)))
    found = np.concatenate([run.run(None, {"images": images[i : i + 8]})[0] for i in range(0, len(images), 8)])
    assert np.abs(found - wanted).max() <= 1e-4
    assert (found.argmax(1) != wanted.argmax(1)).sum() <= 1
