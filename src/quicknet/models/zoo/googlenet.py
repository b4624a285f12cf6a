"""GoogLeNet, the first Inception network.

Source: Szegedy et al. 2014 (arXiv:1409.4842) Table 1, whose rows `_ROWS` are: 7x7 of 64, stride 2; pool; 1x1 of 64, 3x3
of 192; pool; nine modules of four branches with pools between; average; dropout 0.4; response normalization (n 5,
alpha 1e-4, beta 0.75, k 1, as in Caffe's bvlc_googlenet) behind the first pool and before the second. No batch norm.
Published: 1.5 G multiply-adds. The counts in the tests are counted here; the parameters are as many as Caffe's network
has without its two auxiliary classifiers, which only training uses and which are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.zoo.blocks import Unit, ZooConfig, stages

# of each stage, its modules: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, behind the pool
_ROWS = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        *((192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64)),
        *((112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128)),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


class GoogLeNetConfig(ZooConfig, frozen=True, kw_only=True):
    """As published for ImageNet; without `pooled_stem` the stem is 3x3 of stride 1 and no pool follows."""

    pooled_stem: bool = True
    dropout: float = 0.4
    num_classes: int = 1000
    image_size: int = 224

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        ZooConfig.__post_init__(self)
        self.require_size(31 if self.pooled_stem else 16)


class Inception(nn.Module):
    """1x1, 3x3, 5x5 and a pool side by side: (N, in, H, W) → (N, sum of the branches, H, W)."""

    def __init__(self, ins: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        one, three_in, three, five_in, five, behind = widths
        self.one = Unit(ins, one, 1, norm=False)
        self.three = nn.Sequential(Unit(ins, three_in, 1, norm=False), Unit(three_in, three, 3, norm=False))
        self.five = nn.Sequential(Unit(ins, five_in, 1, norm=False), Unit(five_in, five, 5, norm=False))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), Unit(ins, behind, 1, norm=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches' maps one behind the other."""
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], 1)


def _halving() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


class GoogLeNet(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: GoogLeNetConfig) -> None:
        super().__init__(config)
        w64, ins, large = config.wide(64), config.wide(192), config.pooled_stem
        layers: list[nn.Module] = [
            Unit(config.in_channels, w64, 7 if large else 3, 2 if large else 1, norm=False),
            *([_halving()] if large else []),
            nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0),
            Unit(w64, w64, 1, norm=False),
            Unit(w64, ins, norm=False),
            nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0),
        ]
        widths = [w64]
        for rows in _ROWS:
            layers.append(_halving())
            for row in rows:
                scaled = tuple(config.wide(width) for width in row)
                layers.append(Inception(ins, scaled))
                ins = scaled[0] + scaled[2] + scaled[4] + scaled[5]
            widths.append(ins)
        self.features = nn.Sequential(*layers)
        self.add_head(ins)
        self.feature_info = stages(widths, ((4 if large else 1) << i for i in range(4)))
        start_convolutions(self, 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        features: Tensor = self.features(x)
        return features


NETWORK = GoogLeNet
googlenet = GoogLeNetConfig()
