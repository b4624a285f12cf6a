"""Fractional max-pooling: pools that divide the side by the cube root of 2, so that there is room for many of them.

Source: Graham 2014 (arXiv:1412.6071). §2: along each side, region i is a(i - 1)..a(i), both ends counted (overlapping);
the steps of a are 1 and 2, in random order or pseudo-random, a(i) = ceiling(alpha (i + u)) with one random u. Its
network for CIFAR-10 is (160n C2 - FMP cbrt 2)12 - C2 - C1 - output: twelve levels, each a 2x2 convolution of 160 n
filters and a pool, on the image in the middle of a field of 94x94. From the author's code (SparseConvNet,
cifar10big.cpp): C2 and C1 have 160 x 13 and 160 x 14 filters; leaky ReLU 1/3; dropout before the nth convolution of
50% x n / 13, from 0; pseudo-random regions, there always of 2x2 pixels. Published: 4.50% error with one pass, 3.67%
with 12, 3.47% with 100, whose answers are averaged. The counts in the tests are counted here (the published network
skips the empty part of the field). `fractional_s` is that shape for two cores, chosen here.
"""

from __future__ import annotations

import random
from itertools import pairwise

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from quicknet.core.errors import ConfigError
from quicknet.models.config import check_weights
from quicknet.models.dropout import Dropout
from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.pooling import Order, bounds, fractional_max_pool
from quicknet.models.zoo.blocks import ZooConfig, stages

fx.wrap("fractional_max_pool")  # one step of a traced network

_RATIO = 2 ** (1 / 3)
_SLOPE = 1 / 3


def fields(levels: int) -> tuple[int, ...]:
    """Return the side before each level's convolution, first to last, and behind the last pool.

    They follow backwards from the 2x2 pixels that the last convolution takes.

    >>> fields(12)
    (94, 74, 58, 45, 35, 27, 21, 16, 12, 9, 6, 4, 2)
    """
    sides = [2]
    for _ in range(levels):
        sides.append(round(sides[-1] * _RATIO) + 1)
    return tuple(reversed(sides))


class FractionalConfig(ZooConfig, frozen=True, kw_only=True):
    """`filters` times n at level n; in a test the answers of `passes` are averaged.

    The image lies in the middle of `fields(depth)` pixels; `depth` is at least `levels`, and more for larger images.
    """

    filters: int = 160
    levels: int = 1
    regions: Order = "pseudorandom"
    passes: int = 1
    inner_dropout: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        ZooConfig.__post_init__(self)
        if not 1 <= self.filters <= 512 or not 1 <= self.levels <= 22 or not 1 <= self.passes <= 100:
            raise ConfigError("filters must lie in 1..512, levels in 1..22, passes in 1..100")
        if not 0 <= self.inner_dropout < 1:
            raise ConfigError("inner_dropout must lie in 0 <= inner_dropout < 1")
        if self.padding > 64:
            raise ConfigError(
                f"{self.levels} levels make a field of {fields(self.depth)[0]} pixels, over 128 more than image size "
                f"{self.image_size}; choose fewer levels, or larger images"
            )
        *levels, last = self.widths
        weights = 4 * sum(ins * outs for ins, outs in pairwise(levels)) + levels[-1] * last
        check_weights(f"filters {self.filters}, width {self.width} and {self.depth} levels", weights)

    @property
    def depth(self) -> int:
        """Levels: those whose field is nearest to the image, but no fewer than `levels`."""
        return max(self.levels, min(range(1, 23), key=lambda levels: abs(fields(levels)[0] - self.image_size)))

    @property
    def padding(self) -> int:
        """Pixels around the image; a field that is an odd number larger is one pixel larger still."""
        return max(0, (fields(self.depth)[0] - self.image_size + 1) // 2)

    @property
    def widths(self) -> tuple[int, ...]:
        """Filters of each 2x2 convolution, and of the 1x1 one behind them."""
        return tuple(self.wide(self.filters * n) for n in range(1, self.depth + 3))


class Fractional(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    config: FractionalConfig

    def __init__(self, config: FractionalConfig) -> None:
        super().__init__(config.replace(levels=config.depth))
        *widths, last = config.widths
        ins = (config.in_channels, *widths)
        padding = (config.padding, *([0] * config.depth))
        layers = zip(ins, widths, padding, strict=False)
        self.padding = config.padding
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 2, padding=around) for a, b, around in layers)
        shares = (config.inner_dropout * level / (config.depth + 1) for level in range(config.depth + 2))
        self.drops = nn.ModuleList(Dropout(share) for share in shares)
        self.last = nn.Conv2d(widths[-1], last, 1)
        self.add_head(last)
        self.outs = fields(config.depth)[1:]  # sides behind the pools
        self.feature_info = stages(
            (*widths[:-1], last), (max(1, config.image_size // side) for side in (*self.outs, 1))
        )
        start_convolutions(self, _SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes), in a test the mean over the passes."""
        if self.training or self.config.passes == 1:
            return super().forward(x)
        total = self.forward_head(self._features(x, 0))
        for number in range(1, self.config.passes):
            total = total + self.forward_head(self._features(x, number))
        return total * (1 / self.config.passes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated, of one pass."""
        return self._features(x, 0)

    def _features(self, x: Tensor, number: int) -> Tensor:
        """Return the features of the pass of that number; in training every pass is a new one."""
        seed = int(torch.randint(1 << 31, (), device="cpu")) if self.training else number
        size = x.shape[-1] if isinstance(x, Tensor) else self.config.image_size  # a traced x has no shape
        rng, side = random.Random(seed), size + 2 * self.padding
        for level, (conv, drop) in enumerate(zip(self.convs, self.drops, strict=False)):
            x = F.leaky_relu(conv(drop(x)), _SLOPE)
            if level < len(self.outs):
                rows, columns = (bounds(side - 1, self.outs[level], self.config.regions, rng) for _ in range(2))
                x, side = fractional_max_pool(x, rows, columns), self.outs[level]
        return F.leaky_relu(self.last(self.drops[-1](x)), _SLOPE)


NETWORK = Fractional
fractional = FractionalConfig(levels=12)  # (160n C2 - FMP cbrt 2)12
fractional_s = FractionalConfig(filters=16)
