"""ShuffleNetV2 in its form for CIFAR: half of the channels pass each block as they are, then halves are shuffled.

Source: Ma et al. 2018 (arXiv:1807.11164) Table 5: a 3x3 stem of 24; stages of 4, 8, 4 blocks, the first of each
of stride 2; widths 48, 96, 192 (x0.5) or 116, 232, 464 (x1); a 1x1 layer of 1024; average. For 32 pixels the stem
has stride 1 and no max pool follows (Y. Chen, pytorch-cifar-models, README: 0.35 and 1.26 million parameters,
11 and 45 M multiply-adds, 90.13 and 92.98%); the counts in the tests are counted here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.core.errors import ConfigError
from quicknet.models.layers import Shuffle, start_convolutions
from quicknet.models.network import Network
from quicknet.models.zoo.blocks import Unit, ZooConfig, stages

_DEPTHS = (4, 8, 4)


class ShuffleNetV2Config(ZooConfig, frozen=True, kw_only=True):
    """Widths of stem, stages and last layer, made even; `pooled_stem` is for larger images."""

    widths: tuple[int, ...] = (24, 116, 232, 464, 1024)
    pooled_stem: bool = False  # stride 2, then a max pool: a quarter of the side

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        ZooConfig.__post_init__(self)
        if len(self.widths) != 5 or not 2 <= min(self.widths) <= max(self.widths) <= 2048:
            raise ConfigError(f"widths {self.widths} must be 5, within 2..2048")


class Block(nn.Module):
    """One half as it is, the other by 1x1, depthwise 3x3, 1x1, then both shuffled: (N, C, H, W) → (N, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kept = half = width // 2
        self.branch = _branch(half, half, 1)
        self.shuffle = Shuffle(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map."""
        kept, taken = x[:, 0 : self.kept], x[:, self.kept : 2 * self.kept]
        y: Tensor = self.shuffle(torch.cat([kept, self.branch(taken)], 1))
        return y


class Down(nn.Module):
    """Two branches of stride 2 side by side, shuffled: (N, in, H, W) → (N, out, h, w)."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        half = outs // 2
        self.short = nn.Sequential(Unit(ins, ins, 3, 2, groups=ins, act="none"), Unit(ins, half, 1))
        self.branch = _branch(ins, half, 2)
        self.shuffle = Shuffle(outs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map, half as wide."""
        y: Tensor = self.shuffle(torch.cat([self.short(x), self.branch(x)], 1))
        return y


def _branch(ins: int, outs: int, stride: int) -> nn.Sequential:
    depthwise = Unit(outs, outs, 3, stride, groups=outs, act="none")
    return nn.Sequential(Unit(ins, outs, 1), depthwise, Unit(outs, outs, 1))


class ShuffleNetV2(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: ShuffleNetV2Config) -> None:
        super().__init__(config)
        stem, *widths, last = (config.wide(width, 2) for width in config.widths)
        self.pooled = config.pooled_stem
        self.stem = Unit(config.in_channels, stem, 3, 2 if self.pooled else 1)
        blocks: list[nn.Module] = []
        for ins, outs, depth in zip((stem, *widths), widths, _DEPTHS, strict=False):
            blocks += [Down(ins, outs), *(Block(outs) for _ in range(depth - 1))]
        self.blocks = nn.Sequential(*blocks)
        self.last = Unit(widths[-1], last, 1)
        self.add_head(last)
        first = 4 if self.pooled else 1
        self.feature_info = stages((stem, *widths[:-1], last), (first << i for i in range(4)))
        start_convolutions(self, 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        x = self.stem(x)
        if self.pooled:
            x = F.max_pool2d(x, 3, 2, 1)
        features: Tensor = self.last(self.blocks(x))
        return features


NETWORK = ShuffleNetV2
shufflenet_v2_x1 = ShuffleNetV2Config()
shufflenet_v2_x05 = ShuffleNetV2Config(widths=(24, 48, 96, 192, 1024))
