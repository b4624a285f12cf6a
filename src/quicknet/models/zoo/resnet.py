"""Residual networks, of basic blocks for CIFAR and of bottlenecks for ImageNet.

Source: He et al. 2015 (arXiv:1512.03385). §4.2 for CIFAR-10: a 3x3 stem of 16; three stages of n
basic blocks, widths 16, 32, 64 at sides 32, 16, 8; average; 6 n + 2 layers; shortcuts without
parameters (option A), whose missing channels are zeros. Table 6: ResNet-20 0.27 million parameters,
8.75% error; ResNet-56 0.85 million, 6.97%. Table 1 for ImageNet, ResNet-50: a 7x7 stem of 64 and a 3x3
max pool, both of stride 2; 3, 4, 6, 3 bottlenecks (1x1 with the stride, 3x3, 1x1 four times as wide),
widths 64 to 512; 3.8 G multiply-adds (§4.1). All counts in the tests are counted here; these agree.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.core.errors import ConfigError
from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.zoo.blocks import Unit, ZooConfig, stages


class ResNetConfig(ZooConfig, frozen=True, kw_only=True):
    """Width of each stage (of its 3x3 layers) and its number of blocks; every stage but the first halves the side."""

    block: Literal["basic", "bottleneck"] = "basic"
    widths: tuple[int, ...] = (16, 32, 64)
    depths: tuple[int, ...] = (3, 3, 3)
    pooled_stem: bool = False  # 7x7 of stride 2, then a max pool: a quarter of the side

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        ZooConfig.__post_init__(self)
        if not 1 <= len(self.widths) <= 6 or len(self.widths) != len(self.depths) or not all(self.depths):
            raise ConfigError("a ResNet needs 1 to 6 widths, and as many depths from 1")
        if list(self.widths) != sorted(self.widths) or not 1 <= self.widths[0] <= self.widths[-1] <= 512:
            raise ConfigError(f"widths {self.widths} must rise within 1..512")
        if max(self.depths) > 64:
            raise ConfigError(f"depths {self.depths} must lie in 1..64")


class Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters: (N, in, H, W) → (N, out, h, w)."""

    expansion = 1

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.ins, self.outs, self.stride = ins, outs, stride
        self.conv1 = Unit(ins, outs, 3, stride)
        self.conv2 = Unit(outs, outs, act="none")

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum."""
        y: Tensor = self.conv2(self.conv1(x))
        if self.stride > 1:
            x = F.max_pool2d(x, 1, self.stride)  # every second pixel
        if self.ins == self.outs:
            return F.relu(y + x)
        return F.relu(torch.cat([y[:, 0 : self.ins] + x, y[:, self.ins : self.outs]], 1))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 beside a shortcut: (N, in, H, W) → (N, 4 width, h, w)."""

    expansion = 4

    def __init__(self, ins: int, width: int, stride: int) -> None:
        super().__init__()
        outs = self.expansion * width
        self.conv1, self.conv2 = Unit(ins, width, 1, stride), Unit(width, width)
        self.conv3 = Unit(width, outs, 1, act="none")
        self.shortcut = nn.Identity() if ins == outs and stride == 1 else Unit(ins, outs, 1, stride, act="none")

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum."""
        y: Tensor = self.conv3(self.conv2(self.conv1(x)))
        return F.relu(y + self.shortcut(x))


class ResNet(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config)
        kind = Basic if config.block == "basic" else Bottleneck
        widths = [config.wide(width) for width in config.widths]
        start, self.pooled = widths[0], config.pooled_stem
        self.stem = Unit(config.in_channels, start, 7, 2) if self.pooled else Unit(config.in_channels, start)
        blocks: list[nn.Module] = []
        ins = start
        for stage, (width, depth) in enumerate(zip(widths, config.depths, strict=True)):
            for index in range(depth):
                blocks.append(kind(ins, width, 2 if stage and not index else 1))
                ins = kind.expansion * width
        self.blocks = nn.Sequential(*blocks)
        self.add_head(ins)
        first = 4 if self.pooled else 1
        self.feature_info = stages((kind.expansion * w for w in widths), (first << i for i in range(len(widths))))
        start_convolutions(self, 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        x = self.stem(x)
        if self.pooled:
            x = F.max_pool2d(x, 3, 2, 1)
        features: Tensor = self.blocks(x)
        return features


NETWORK = ResNet
resnet_20 = ResNetConfig()
resnet_56 = ResNetConfig(depths=(9, 9, 9))
resnet_50 = ResNetConfig(
    block="bottleneck",
    widths=(64, 128, 256, 512),
    depths=(3, 4, 6, 3),
    pooled_stem=True,
    num_classes=1000,
    image_size=224,
)
