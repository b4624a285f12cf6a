"""Xception: separable convolutions with shortcuts around every few of them.

Source: Chollet 2016 (arXiv:1610.02357) Figure 5: 3x3 of 32 (stride 2) and 64, both without padding; entry flow, three
blocks of 128, 256, 728, each two separable 3x3 layers and a 3x3 max pool of stride 2 beside a 1x1 shortcut; middle
flow, eight blocks of three layers of 728; exit flow, 728 and 1024 with pool and shortcut, then 1536 and 2048; batch
norm behind every convolution, ReLU before the separable ones. Table 3: 22,855,952 parameters, which is what is counted.
Multiply-adds in the tests are counted here.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.core.errors import ConfigError
from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.norm import BatchNorm2d
from quicknet.models.zoo.blocks import Unit, ZooConfig, stages


class XceptionConfig(ZooConfig, frozen=True, kw_only=True):
    """As published for ImageNet at 299 pixels; `middle` blocks stand in the middle."""

    middle: int = 8
    dropout: float = 0.5
    num_classes: int = 1000
    image_size: int = 299

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        ZooConfig.__post_init__(self)
        if not 0 <= self.middle <= 64:
            raise ConfigError(f"middle {self.middle} must lie in 0..64")


class Separable(nn.Module):
    """Depthwise 3x3, pointwise, batch norm: (N, in, H, W) → (N, out, H, W)."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(ins, ins, 3, padding=1, groups=ins, bias=False)
        self.pointwise = nn.Conv2d(ins, outs, 1, bias=False)
        self.bn = BatchNorm2d(outs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map, not activated."""
        y: Tensor = self.bn(self.pointwise(self.depthwise(x)))
        return y


class Block(nn.Module):
    """Separable layers, then a pool where it strides, beside a shortcut: (N, in, H, W) → (N, out, h, w)."""

    def __init__(self, widths: tuple[int, ...], pool: bool, activated: bool = True) -> None:
        super().__init__()
        self.pool, self.activated = pool, activated
        self.layers = nn.ModuleList(Separable(ins, outs) for ins, outs in pairwise(widths))
        self.shortcut = Unit(widths[0], widths[-1], 1, 2, act="none") if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, not activated."""
        y = x
        for index, layer in enumerate(self.layers):
            y = layer(F.relu(y) if index or self.activated else y)
        y = F.max_pool2d(y, 3, 2, 1) if self.pool else y
        out: Tensor = y + self.shortcut(x)
        return out


class Xception(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: XceptionConfig) -> None:
        super().__init__(config)
        w32, w64, w128, w256, w728, w1024 = (config.wide(width) for width in (32, 64, 128, 256, 728, 1024))
        self.stem = nn.Sequential(Unit(config.in_channels, w32, 3, 2, padding=0), Unit(w32, w64, 3, padding=0))
        self.blocks = nn.Sequential(
            Block((w64, w128, w128), pool=True, activated=False),
            Block((w128, w256, w256), pool=True),
            Block((w256, w728, w728), pool=True),
            *(Block((w728,) * 4, pool=False) for _ in range(config.middle)),
            Block((w728, w728, w1024), pool=True),
        )
        last, features = Separable(w1024, config.wide(1536)), config.wide(2048)
        self.last = nn.Sequential(last, nn.ReLU(), Separable(config.wide(1536), features), nn.ReLU())
        self.add_head(features)
        self.feature_info = stages((w64, w128, w256, w728, features), (2, 4, 8, 16, 32))
        start_convolutions(self, 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        features: Tensor = self.last(self.blocks(self.stem(x)))
        return features


NETWORK = Xception
xception = XceptionConfig()
