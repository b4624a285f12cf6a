"""Factorized convolutions: a few filters for each channel alone, a sum with the input, then a 1x1 layer.

Source: Wang et al. 2016 (arXiv:1608.04337), single intra-channel convolution (SIC): a convolution of each channel for
itself, a shortcut around it, and a linear projection of the channels. This layer is what the file takes from the paper.
Its order within batch norm and ReLU, widths and depths for 32 pixels are chosen here (a 3x3 stem and three stages, as
wide as in the residual networks times four), because the published networks are for ImageNet; so all counts are of this
network, counted here, and none is published.
"""

from __future__ import annotations

from torch import Tensor, nn

from quicknet.core.errors import ConfigError
from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.norm import BatchNorm2d
from quicknet.models.zoo.blocks import Unit, ZooConfig, stages


class FactorizedConfig(ZooConfig, frozen=True, kw_only=True):
    """Width and layers of each stage; every stage but the first begins with a 2x2 max pool."""

    widths: tuple[int, ...] = (64, 128, 256)
    depths: tuple[int, ...] = (4, 4, 4)

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        ZooConfig.__post_init__(self)
        if not 1 <= len(self.widths) <= 5 or len(self.widths) != len(self.depths):
            raise ConfigError("widths and depths need one entry for each of 1 to 5 stages")
        if not all(1 <= width <= 1024 for width in self.widths) or not all(1 <= depth <= 32 for depth in self.depths):
            raise ConfigError("widths must lie in 1..1024, depths in 1..32")


class SIC(nn.Module):
    """Depthwise 3x3 with a shortcut, 1x1, batch norm, ReLU: (N, in, H, W) → (N, out, H, W)."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(ins, ins, 3, padding=1, groups=ins, bias=False)
        self.bn = BatchNorm2d(ins)
        self.pointwise = Unit(ins, outs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated feature map."""
        y: Tensor = self.pointwise(x + self.bn(self.depthwise(x)))
        return y


class Factorized(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: FactorizedConfig) -> None:
        super().__init__(config)
        widths = [config.wide(width) for width in config.widths]
        self.stem = Unit(config.in_channels, widths[0])
        blocks: list[nn.Module] = []
        ins = widths[0]
        for stage, (outs, depth) in enumerate(zip(widths, config.depths, strict=True)):
            blocks += [nn.MaxPool2d(2)] if stage else []
            for _ in range(depth):
                blocks.append(SIC(ins, outs))
                ins = outs
        self.blocks = nn.Sequential(*blocks)
        self.add_head(ins)
        self.feature_info = stages(widths, (1 << i for i in range(len(widths))))
        start_convolutions(self, 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        features: Tensor = self.blocks(self.stem(x))
        return features


NETWORK = Factorized
factorized = FactorizedConfig()
