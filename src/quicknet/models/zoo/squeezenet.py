"""SqueezeNet 1.1: fire modules, a 1x1 layer that squeezes and two side by side that expand.

Source: Iandola et al. 2016 (arXiv:1602.07360) and the authors' repository, SqueezeNet_v1.1: a 3x3 stem of 64,
stride 2; fires with squeeze 16, 16, 32, 32, 48, 48, 64, 64 and expand four times that, twice (1x1 and 3x3);
3x3 max pools of stride 2 behind the stem and the second and fourth fire; dropout 0.5. Published: 0.72 GFLOP by
its README, a multiply-add counted as two, at 227 pixels. The counts in the tests are counted here; the parameters
are as many as torchvision says of its squeezenet1_1.

The published 1x1 classifier with ReLU before the average is the linear one behind it here: the same
parameters, and 1/169 of that layer's work at 224 pixels. Its ReLU, which keeps logits from being negative, is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quicknet.core.errors import ConfigError
from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.zoo.blocks import Unit, ZooConfig, stages

_SQUEEZES = (16, 16, 32, 32, 48, 48, 64, 64)
_POOLED_BEFORE = (0, 2, 4)  # fires


class SqueezeNetConfig(ZooConfig, frozen=True, kw_only=True):
    """As published for ImageNet; `stem_stride` 1 is for small images."""

    stem_stride: int = 2
    dropout: float = 0.5
    num_classes: int = 1000
    image_size: int = 224

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        ZooConfig.__post_init__(self)
        if self.stem_stride not in (1, 2):
            raise ConfigError("stem_stride must be 1 or 2")
        self.require_size(15 + self.stem_stride)


class Fire(nn.Module):
    """(N, in, H, W) → (N, 8 squeeze, H, W)."""

    def __init__(self, ins: int, squeeze: int) -> None:
        super().__init__()
        self.squeeze = Unit(ins, squeeze, 1, norm=False)
        self.expand1 = Unit(squeeze, 4 * squeeze, 1, norm=False)
        self.expand3 = Unit(squeeze, 4 * squeeze, 3, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return both expanded maps side by side."""
        y = self.squeeze(x)
        return torch.cat([self.expand1(y), self.expand3(y)], 1)


class SqueezeNet(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: SqueezeNetConfig) -> None:
        super().__init__(config)
        ins = config.wide(64)
        self.stem = Unit(config.in_channels, ins, 3, config.stem_stride, padding=0, norm=False)
        blocks: list[nn.Module] = []
        for index, width in enumerate(_SQUEEZES):
            if index in _POOLED_BEFORE:
                blocks.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            squeeze = config.wide(width)
            blocks.append(Fire(ins, squeeze))
            ins = 8 * squeeze
        self.blocks = nn.Sequential(*blocks)
        self.add_head(ins)
        widths = (config.wide(64), *(8 * config.wide(width) for width in (16, 32, 64)))
        self.feature_info = stages(widths, (config.stem_stride << i for i in range(4)))
        start_convolutions(self, 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        features: Tensor = self.blocks(self.stem(x))
        return features


NETWORK = SqueezeNet
squeezenet = SqueezeNetConfig()
