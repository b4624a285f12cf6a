"""CondenseNet for CIFAR as its training leaves it: dense layers, whose 1x1 convolutions take selections of channels.

Source: Huang et al. 2018 (arXiv:1711.09224) §3-4, and the authors' repository ShichenLiu/CondenseNet,
models/condensenet_converted.py and layers.py: a 3x3 stem of 2 k; three blocks of (L - 2) / 6 layers with k = 8, 16, 32,
each a selection of channels, batch norm, ReLU, 1x1 of 4 k in 4 groups, shuffle, batch norm, ReLU, 3x3 of k in 4 groups,
its maps put behind; between blocks a 2x2 average pool; batch norm, ReLU, average, a classifier of half of the channels.

The learned condensation is not built. In the published training the 1x1 convolutions start dense, and each of their
groups loses the weights of three in four channels step by step; the selections are what is left. Here they are fixed
and evenly spread: group g of 4 takes the channels g, g + 4, …, and the classifier every second one. So costs and speed
are those of the published network, and the published accuracies (6.22 and 4.48% error for L = 50 and 122) are not its.

The counts in the tests are counted here. Published are 0.22 and 0.95 million parameters, 28.6 and 116.7 M operations:
with the whole classifier and, as the authors' utils.py counts, one for each value of a ReLU and each one pooled.
A test counts these too, and agrees.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.core.errors import ConfigError
from quicknet.models.layers import Shuffle, start_convolutions
from quicknet.models.network import Network
from quicknet.models.norm import BatchNorm2d
from quicknet.models.zoo.blocks import Before, Select, ZooConfig, stages


class CondenseNetConfig(ZooConfig, frozen=True, kw_only=True):
    """Layers and growth of each block; `width` multiplies the growths, which stay multiples of `groups`."""

    depths: tuple[int, ...] = (8, 8, 8)
    growths: tuple[int, ...] = (8, 16, 32)
    groups: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        ZooConfig.__post_init__(self)
        if not 1 <= len(self.depths) == len(self.growths) <= 5:
            raise ConfigError(f"depths {self.depths} and growths {self.growths} must be 1 to 5, one for each block")
        if not 1 <= min(self.depths) <= max(self.depths) <= 64:
            raise ConfigError(f"depths {self.depths} must lie in 1..64")
        if not 1 <= self.groups <= 32:
            raise ConfigError(f"groups {self.groups} must lie in 1..32")
        if any(not 1 <= growth <= 256 or growth % self.groups for growth in self.growths):
            raise ConfigError(f"growths {self.growths} must be multiples of {self.groups} (groups) within 1..256")


class Condensed(nn.Module):
    """One layer: (N, C, H, W) → (N, C + growth, H, W)."""

    def __init__(self, ins: int, growth: int, groups: int) -> None:
        super().__init__()
        self.select = Select(chain.from_iterable(range(group, ins, groups) for group in range(groups)))
        self.squeeze = Before(ins, 4 * growth, 1, groups)
        self.shuffle = Shuffle(4 * growth, groups)
        self.grow = Before(4 * growth, growth, 3, groups)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps with the new ones behind."""
        return torch.cat([x, self.grow(self.shuffle(self.squeeze(self.select(x))))], 1)


class CondenseNet(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: CondenseNetConfig) -> None:
        super().__init__(config)
        growths = [config.wide(growth, config.groups) for growth in config.growths]
        width = 2 * growths[0]
        self.stem = nn.Conv2d(config.in_channels, width, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        widths: list[int] = []
        for growth, depth in zip(growths, config.depths, strict=True):
            blocks += [nn.AvgPool2d(2)] if widths else []
            blocks += [Condensed(width + index * growth, growth, config.groups) for index in range(depth)]
            width += depth * growth
            widths.append(width)
        self.blocks, self.bn = nn.Sequential(*blocks), BatchNorm2d(width)
        self.chosen = Select(range(0, width, 2))
        self.add_head(-(-width // 2))
        self.feature_info = stages((*widths[:-1], self.num_features), (1 << index for index in range(len(widths))))
        start_convolutions(self, 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the channels of the last feature map that the classifier takes (N, features, h, w), activated."""
        features: Tensor = self.chosen(F.relu(self.bn(self.blocks(self.stem(x)))))
        return features


NETWORK = CondenseNet
condensenet_50 = CondenseNetConfig()
condensenet_122 = CondenseNetConfig(depths=(20, 20, 20))
