"""DenseNet-BC for CIFAR: every layer takes the maps of all layers of its block.

Source: Huang et al. 2016 (arXiv:1608.06993) §3, and the authors' repository, models/densenet.lua: a 3x3 stem of 2 k;
three blocks of (L - 4) / 6 layers, each batch norm, ReLU, 1x1 of 4 k, batch norm, ReLU, 3x3 of k; between blocks batch
norm, ReLU (which only the code has), 1x1 to half of the channels, 2x2 average pool; batch norm, ReLU, average. L = 100,
k = 12: 0.8 million parameters, 4.51% error (Table 2). The counts in the tests are counted here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.core.errors import ConfigError
from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.norm import BatchNorm2d
from quicknet.models.zoo.blocks import Before, ZooConfig, stages


class DenseNetConfig(ZooConfig, frozen=True, kw_only=True):
    """Layers L and growth k, which `width` multiplies."""

    depth: int = 100
    growth: int = 12

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        ZooConfig.__post_init__(self)
        if not 10 <= self.depth <= 250 or (self.depth - 4) % 6:
            raise ConfigError(f"depth {self.depth} must be 6 n + 4 within 10..250, such as 40 or 100")
        if not 1 <= self.growth <= 48:
            raise ConfigError(f"growth {self.growth} must lie in 1..48")


class Dense(nn.Module):
    """One layer: (N, C, H, W) → (N, C + growth, H, W)."""

    def __init__(self, ins: int, growth: int) -> None:
        super().__init__()
        self.squeeze, self.grow = Before(ins, 4 * growth, 1), Before(4 * growth, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps with the new ones behind."""
        return torch.cat([x, self.grow(self.squeeze(x))], 1)


class DenseNet(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: DenseNetConfig) -> None:
        super().__init__(config)
        growth, depth = config.wide(config.growth), (config.depth - 4) // 6
        width = 2 * growth
        self.stem = nn.Conv2d(config.in_channels, width, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        widths: list[int] = []
        for stage in range(3):
            if stage:
                blocks += [Before(width, width // 2, 1), nn.AvgPool2d(2)]
                width //= 2
            blocks += [Dense(width + index * growth, growth) for index in range(depth)]
            width += depth * growth
            widths.append(width)
        self.blocks, self.bn = nn.Sequential(*blocks), BatchNorm2d(width)
        self.add_head(width)
        self.feature_info = stages(widths, (1, 2, 4))
        start_convolutions(self, 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        return F.relu(self.bn(self.blocks(self.stem(x))))


NETWORK = DenseNet
densenet_bc_100_12 = DenseNetConfig()
