"""LeNet-5, with its table of connections.

Source: LeCun et al. 1998, Gradient-based learning applied to document recognition, §II.B: on 32x32 grey pixels C1, 6
maps of 5x5; S2, 2x2 averages, each map times a coefficient plus a bias; C3, 16 maps of 5x5 that each see some of the
6 (Table I); S4 like S2; C5, 120 of 5x5; F6, 84; all units up to F6 are squashed. Published: 60,000 trainable
parameters, and by layer C1 156, S2 12, C3 1,516, S4 32, C5 48,120, F6 10,164. A linear classifier stands in the place
of the ten radial basis functions, whose 84 centres each were fixed, so 850 parameters more; and tanh(x) in the place
of 1.7159 tanh(2x/3).
The counts in the tests are counted here; layer by layer they are the published ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quicknet.models.network import Network
from quicknet.models.zoo.blocks import Select, ZooConfig, stages

# Table I: which maps of S2 each group of maps of C3 sees
_SEEN = (
    ((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 0), (5, 0, 1)),
    ((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 0), (4, 5, 0, 1), (5, 0, 1, 2)),
    ((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    ((0, 1, 2, 3, 4, 5),),
)


class LeNetConfig(ZooConfig, frozen=True, kw_only=True):
    """`width` multiplies C5 and F6 only: the maps before them are those of the table."""

    in_channels: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        ZooConfig.__post_init__(self)
        self.require_size(32)


class Subsample(nn.Module):
    """2x2 averages, times a coefficient, plus a bias, squashed: (N, C, H, W) → (N, C, H / 2, W / 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool, self.act = nn.AvgPool2d(2), nn.Tanh()
        self.scale = nn.Conv2d(channels, channels, 1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map, half as wide."""
        y: Tensor = self.act(self.scale(self.pool(x)))
        return y


class C3(nn.Module):
    """The third layer: (N, 6, H, W) → (N, 16, H - 4, W - 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.ModuleList(Select(index for maps in group for index in maps) for group in _SEEN)
        self.convs = nn.ModuleList(nn.Conv2d(sum(map(len, group)), len(group), 5, groups=len(group)) for group in _SEEN)

    def forward(self, x: Tensor) -> Tensor:
        """Return the four groups of maps side by side."""
        return torch.cat([conv(seen(x)) for conv, seen in zip(self.convs, self.seen, strict=True)], 1)


class LeNet(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: LeNetConfig) -> None:
        super().__init__(config)
        self.c1, self.act1, self.s2 = nn.Conv2d(config.in_channels, 6, 5), nn.Tanh(), Subsample(6)
        self.c3, self.act3, self.s4 = C3(), nn.Tanh(), Subsample(16)
        self.c5, self.act5 = nn.Conv2d(16, config.wide(120), 5), nn.Tanh()
        self.f6, self.act6 = nn.Conv2d(config.wide(120), config.wide(84), 1), nn.Tanh()
        self.add_head(config.wide(84))
        self.feature_info = stages((6, 16, config.wide(84)), (1, 2, 4))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        x = self.s4(self.act3(self.c3(self.s2(self.act1(self.c1(x))))))
        features: Tensor = self.act6(self.f6(self.act5(self.c5(x))))
        return features


NETWORK = LeNet
lenet_5 = LeNetConfig()
