"""EfficientNet-Lite0 as a file of features: the graph computes what the network does."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.inference.artifact import load
from quicknet.study import efficientnet


def conv(inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, groups=groups, bias=False)


def norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    layer.running_mean = torch.rand(channels)
    layer.running_var = torch.rand(channels) + 0.5
    return layer.eval()


def block(inputs: int, outputs: int, side: int, stride: int, grow: int) -> Any:
    wide = inputs * grow
    parts: dict[str, Any] = {"_expand_conv": conv(inputs, wide, 1), "_bn0": norm(wide)} if grow > 1 else {}
    return SimpleNamespace(
        **parts,
        _depthwise_conv=conv(wide, wide, side, stride, wide),
        _bn1=norm(wide),
        _project_conv=conv(wide, outputs, 1),
        _bn2=norm(outputs),
        _block_args=SimpleNamespace(input_filters=inputs, output_filters=outputs),
    )


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small network with the parts of EfficientNet-Lite0: strides, kernels of 5, blocks with and without a sum."""
    torch.manual_seed(0)
    net = SimpleNamespace(
        _conv_stem=conv(3, 8, 3, 2),
        _bn0=norm(8),
        _blocks=[block(8, 6, 3, 1, 1), block(6, 10, 5, 2, 3), block(10, 10, 5, 1, 3)],
        _conv_head=conv(10, efficientnet.FEATURES, 1),
        _bn1=norm(efficientnet.FEATURES),
    )
    monkeypatch.setattr(efficientnet, "network_of", lambda: net)
    return net


def padded(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """TensorFlow's `same`: what an even number of pixels of padding leaves over goes behind."""
    side, stride = layer.kernel_size[0], layer.stride[0]
    total = max((-(-x.shape[-1] // stride) - 1) * stride + side - x.shape[-1], 0)
    before = total // 2
    return layer(F.pad(x, (before, total - before) * 2))


@torch.no_grad()
def expected(net: Any, images: np.ndarray) -> np.ndarray:
    x = torch.from_numpy((images.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
    x = F.relu6(net._bn0(padded(x, net._conv_stem)))
    for each in net._blocks:
        start = x
        if hasattr(each, "_expand_conv"):
            x = F.relu6(each._bn0(padded(x, each._expand_conv)))
        x = F.relu6(each._bn1(padded(x, each._depthwise_conv)))
        x = each._bn2(padded(x, each._project_conv))
        x = x + start if x.shape == start.shape and each is net._blocks[2] else x
    return F.relu6(net._bn1(padded(x, net._conv_head))).mean((2, 3)).numpy()


@pytest.mark.parametrize("size", [32, 64])
def test_the_file_gives_the_networks_features(network, tmp_path, size):
    path = tmp_path / "features.onnx"
    path.write_bytes(efficientnet.feature_file(size))
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    features = load(path).logits(images)
    np.testing.assert_allclose(features, expected(network, images), rtol=1e-4, atol=1e-4)
    assert features.std() > 0.01


def test_the_real_network_has_its_features(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the package with EfficientNet-Lite0 is not installed")
    path = tmp_path / "features.onnx"
    path.write_bytes(efficientnet.feature_file())
    side = efficientnet.SIDE
    assert load(path).logits(np.zeros((1, side, side, 3), np.uint8)).shape == (1, efficientnet.FEATURES)
