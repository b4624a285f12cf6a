"""MobileNet, the first: depthwise and pointwise convolutions, each with batch norm and ReLU.

Source: Howard et al. 2017 (arXiv:1704.04861) Table 1: a 3x3 stem of 32, stride 2; then, with s for
stride 2, pointwise widths 64, 128s, 128, 256s, 256, 512s, 512 five times, 1024s, 1024; average. `width`
is the paper's alpha. Table 4: 4.2 million parameters, 569 M multiply-adds at 224 pixels; the counts in the
tests are counted here.
"""

from __future__ import annotations

from torch import Tensor, nn

from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.zoo.blocks import Unit, ZooConfig, stages

# pointwise width, stride of the depthwise layer before it
_LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *(((512, 1),) * 5), (1024, 2), (1024, 1))


class MobileNetV1Config(ZooConfig, frozen=True, kw_only=True):
    """As published for ImageNet."""

    dropout: float = 0.001  # of the published code
    num_classes: int = 1000
    image_size: int = 224


class Separable(nn.Module):
    """Depthwise and pointwise convolution: (N, in, H, W) → (N, out, h, w)."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = Unit(ins, ins, 3, stride, groups=ins)
        self.pointwise = Unit(ins, outs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated feature map."""
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


class MobileNetV1(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: MobileNetV1Config) -> None:
        super().__init__(config)
        widths = [config.wide(32), *(config.wide(width) for width, _ in _LAYERS)]
        self.stem = Unit(config.in_channels, widths[0], 3, 2)
        pairs = zip(widths, widths[1:], _LAYERS, strict=False)
        self.blocks = nn.Sequential(*(Separable(ins, outs, stride) for ins, outs, (_, stride) in pairs))
        self.add_head(widths[-1])
        self.feature_info = stages((config.wide(w) for w in (64, 128, 256, 512, 1024)), (2, 4, 8, 16, 32))
        start_convolutions(self, 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        features: Tensor = self.blocks(self.stem(x))
        return features


NETWORK = MobileNetV1
mobilenet_v1 = MobileNetV1Config()
