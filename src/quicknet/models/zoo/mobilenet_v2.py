"""MobileNetV2 in its form for CIFAR: inverted residuals with linear bottlenecks.

Source: Sandler et al. 2018 (arXiv:1801.04381) Table 2: a 3x3 stem of 32; blocks of expansion t, width c,
n times, first stride s; a 1x1 layer of 1280; average; ReLU6. For 32 pixels the stem and the second row
have stride 1 (Y. Chen, pytorch-cifar-models, README: 0.70 and 2.24 million parameters, 28 and 88 M
multiply-adds, 92.88 and 93.79% at widths 0.5 and 1); the counts in the tests are counted here.
"""

from __future__ import annotations

from torch import Tensor, nn

from quicknet.core.errors import ConfigError
from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.zoo.blocks import Unit, ZooConfig, stages

# expansion, width, blocks, first stride
_ROWS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV2Config(ZooConfig, frozen=True, kw_only=True):
    """`stem_stride` 2 is for larger images; `last_width` is not multiplied below a width of 1, as published."""

    stem_stride: int = 1
    last_width: int = 1280
    dropout: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        ZooConfig.__post_init__(self)
        if self.stem_stride not in (1, 2) or not 1 <= self.last_width <= 8192:
            raise ConfigError("stem_stride must be 1 or 2, and last_width lie in 1..8192")


class Inverted(nn.Module):
    """1x1 to `expansion` times the width, depthwise 3x3, 1x1 without activation: (N, in, H, W) → (N, out, h, w)."""

    def __init__(self, ins: int, outs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * ins
        self.expand = Unit(ins, inner, 1, act="relu6") if expansion > 1 else nn.Identity()
        self.depthwise = Unit(inner, inner, 3, stride, groups=inner, act="relu6")
        self.project = Unit(inner, outs, 1, act="none")
        self.residual = stride == 1 and ins == outs

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map, with the input added where it has the same shape."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileNetV2(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: MobileNetV2Config) -> None:
        super().__init__(config)
        ins, last = config.wide(32, 8), int(config.last_width * max(1.0, config.width))
        self.stem = Unit(config.in_channels, ins, 3, config.stem_stride, act="relu6")
        blocks: list[nn.Module] = []
        for expansion, width, depth, stride in _ROWS:
            outs = config.wide(width, 8)
            for index in range(depth):
                blocks.append(Inverted(ins, outs, 1 if index else stride, expansion))
                ins = outs
        self.blocks = nn.Sequential(*blocks)
        self.last = Unit(ins, last, 1, act="relu6")
        self.add_head(last)
        widths = (*(config.wide(w, 8) for w in (24, 32, 96)), last)
        self.feature_info = stages(widths, (config.stem_stride << i for i in range(4)))
        start_convolutions(self, 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        features: Tensor = self.last(self.blocks(self.stem(x)))
        return features


NETWORK = MobileNetV2
mobilenet_v2_x1 = MobileNetV2Config()
mobilenet_v2_x05 = MobileNetV2Config(width=0.5)
