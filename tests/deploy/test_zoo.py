"""Every registered network is folded without a change and exported as a graph that answers as it does."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from narrowed import narrow
from optional import OPTIONS, SMALL, TOGETHER
from parts import answered, draw
from quicknet.core.card import Card, PreprocessSpec
from quicknet.core.errors import ConfigError
from quicknet.deploy.fold import fold
from quicknet.deploy.graph import Activation, Conv, Folded, Linear, Sum, chain
from quicknet.deploy.onnx import assemble, build_graph
from quicknet.image.vectors import draw_vectors
from quicknet.models.registry import create_model, list_models, model_record
from quicknet.models.zoo.repvgg import Layer
from quicknet.onnx.file import parse_onnx
from quicknet.onnx.runtime import import_onnxruntime

onnxruntime = import_onnxruntime()


def folded(name: str, **overrides: Any) -> tuple[Any, PreprocessSpec, Folded]:
    torch.manual_seed(3)
    model = create_model(name, **narrow(name, num_classes=4, **overrides))
    channels = model.config.in_channels
    mode: Any = {1: "L", 3: "RGB"}[channels]
    spec = PreprocessSpec(size=model.config.image_size, mode=mode, mean=(0.4,) * channels, std=(0.25,) * channels)
    for parameter in model.parameters():
        if parameter.ndim == 4:  # so that maps neither die nor grow, however deep
            nn.init.kaiming_normal_(parameter)
    model = draw(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.uniform_(module.running_var, 0.7, 1.4)
    return model, spec, fold(model, spec)


def logits(model: Any, spec: PreprocessSpec, images: np.ndarray) -> np.ndarray:
    normalized = (images / 255 - np.array(spec.mean)) / np.array(spec.std)
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(normalized.transpose(0, 3, 1, 2).copy())).numpy())


OPTIONAL = [*(options for name, options in OPTIONS.items() if name != "transformer"), *TOGETHER]


@pytest.mark.parametrize(
    ("name", "overrides"),
    [(name, {}) for name in list_models()] + [("quicknet_xs", {**SMALL, "options": options}) for options in OPTIONAL],
)
def test_the_folded_graph_and_the_file_answer_as_the_network(name: str, overrides: dict[str, Any]) -> None:
    model, spec, net = folded(name, **overrides)
    images = draw_vectors(spec.size, spec.channels, 3)
    expected = logits(model, spec, images)
    scale = np.abs(expected).max()
    assert scale > 1e-3
    assert np.ptp(expected, axis=0).max() > 1e-6 * scale  # the image reaches the logits
    assert np.abs(answered(net, images) - expected).max() <= 1e-9 * scale
    card = Card(model=model_record(name, model), classes=("a", "b", "c", "d"), preprocess=spec)
    blob = assemble(build_graph(net, spec.size, "fused"), card)
    parse_onnx(blob, "file")  # type: ignore[arg-type]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
    answers = session.run(None, {"images": images})[0]
    assert np.abs(answers - expected).max() <= 1e-4 * scale


def test_the_branches_of_repvgg_become_one_convolution_exactly() -> None:
    model, _, net = folded("repvgg_a0")
    plain = create_model("repvgg_a0_folded", **narrow("repvgg_a0_folded"))
    convolutions = [node for node in net.nodes if isinstance(node, Conv)]
    assert len(convolutions) == sum(isinstance(m, nn.Conv2d) for m in plain.modules()) == 6
    assert not any(isinstance(node, Sum | Activation) for node in net.nodes)
    assert [conv.weight.shape[2] for conv in convolutions] == [3] * 6
    layer: Layer = model.blocks[2]
    assert layer.same is not None
    x = torch.randn(1, layer.same.num_features, 7, 7, dtype=torch.float64)
    weight, bias = (torch.from_numpy(np.asarray(part)) for part in (convolutions[2].weight, convolutions[2].bias))
    assert torch.allclose(layer(x), nn.functional.conv2d(x, weight, bias, padding=1).relu(), rtol=1e-12, atol=1e-12)
    assert isinstance(net.nodes[-1], Linear)


class Two(nn.Module):
    """A sum of two convolutions of one map."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.first(x) + self.second(x)
        return y


@pytest.mark.parametrize(
    ("first", "second", "convolutions"),
    [
        (nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1), 1),
        (nn.Conv2d(6, 6, 1, groups=2), nn.Conv2d(6, 6, 3, padding=1, bias=False), 1),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6), 1),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 6, 1), 2),  # one would be nine times the work
        (nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU()), nn.Conv2d(6, 6, 1), 2),
        (nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3, padding=0), 2),  # not centred on the pixel
    ],
)
def test_convolutions_become_one_only_where_that_is_exact_and_no_more_work(
    first: nn.Module, second: nn.Module, convolutions: int
) -> None:
    model: Any = create_model("resnet_20", width=0.375, depths=(1,), widths=(16,))
    model.blocks = nn.Sequential(Two(first, second))
    model = draw(model)
    spec = PreprocessSpec(size=32, mean=(0.4,) * 3, std=(0.25,) * 3)
    net = fold(model, spec)
    assert sum(isinstance(node, Conv) for node in net.nodes) == 1 + convolutions
    images = draw_vectors(32, 3, 2)
    expected = logits(model, spec, images)
    assert np.abs(answered(net, images) - expected).max() <= 1e-10 * np.abs(expected).max()


def test_a_network_that_is_no_chain_has_no_qnz() -> None:
    for name, words in {
        "resnet_20": "takes 2 inputs",
        "mobilenet_v2_x1": "is a RELU6 activation",
        "lenet_5": "is a TANH activation",
        "maxout": "takes an earlier layer's output",
        "alexnet_cifar": "no global average",
    }.items():
        with pytest.raises(ConfigError, match=words):
            chain(folded(name)[2])
