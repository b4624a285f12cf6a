"""Wide residual networks: teachers for the small ones, not to be shipped themselves.

Source: Zagoruyko and Komodakis 2016 (arXiv:1605.07146) §2: three groups of pre-activated basic
blocks of two 3x3 convolutions; WRN-d-k has d convolutions on the longest path and k times the
widths 16, 32, 64. WRN-28-10 is published with 36.5 million parameters and 4.00% error on CIFAR-10
(the authors' README, without dropout, median of 5 runs). The counts in the tests are counted here.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.core.errors import ConfigError
from quicknet.models.config import NetworkConfig, check_weights
from quicknet.models.fused import convolve
from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.norm import BatchNorm2d


class WideResNetConfig(NetworkConfig, frozen=True, kw_only=True):
    """Depth d and widening factor k; `dropout` stands before the classifier, as in the family."""

    depth: int = 28
    widen: int = 10

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        NetworkConfig.__post_init__(self)
        if not 10 <= self.depth <= 100 or (self.depth - 4) % 6 != 0:
            raise ConfigError(f"depth {self.depth} must be 6 n + 4 within 10..100, such as 16, 22, 28 or 40")
        if not 1 <= self.widen <= 32:
            raise ConfigError(f"widen {self.widen} must lie in 1..32")
        weights = sum(9 * out * (ins + (self.blocks * 2 - 1) * out) for ins, out, _ in self.groups)
        check_weights(f"depth {self.depth} and widen {self.widen}", weights + self.widths[-1] * self.num_classes)

    @property
    def blocks(self) -> int:
        """Blocks in each group."""
        return (self.depth - 4) // 6

    @property
    def widths(self) -> tuple[int, int, int]:
        """Width of each group."""
        return (16 * self.widen, 32 * self.widen, 64 * self.widen)

    @property
    def groups(self) -> tuple[tuple[int, int, int], ...]:
        """(channels in, channels out, stride) of each group's first block."""
        return tuple(zip((16, *self.widths), self.widths, (1, 2, 2), strict=False))


class Block(nn.Module):
    """Batch norm, ReLU, convolution, twice, beside a shortcut: (N, in, H, W) → (N, out, h, w)."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = BatchNorm2d(ins)
        self.conv1 = nn.Conv2d(ins, outs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = BatchNorm2d(outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, padding=1, bias=False)
        same = ins == outs and stride == 1
        self.shortcut = None if same else nn.Conv2d(ins, outs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both ways; a shortcut with weights starts behind the activation."""
        y = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        out: Tensor = shortcut + convolve(self.conv2, F.relu(self.bn2(convolve(self.conv1, y))))
        return out


class WideResNet(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: WideResNetConfig) -> None:
        super().__init__(config)
        self.stem = nn.Conv2d(config.in_channels, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for ins, outs, stride in config.groups:
            blocks += [Block(ins, outs, stride), *(Block(outs, outs, 1) for _ in range(config.blocks - 1))]
        self.blocks = nn.Sequential(*blocks)
        self.bn = BatchNorm2d(config.widths[-1])
        self.add_head(config.widths[-1])
        self.feature_info = [
            {"stage": stage, "num_chs": width, "reduction": 2**stage} for stage, width in enumerate(config.widths)
        ]
        start_convolutions(self, 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        return F.relu(self.bn(self.blocks(self.stem(x))))


NETWORK = WideResNet
wide_resnet_16_8 = WideResNetConfig(depth=16, widen=8)
wide_resnet_28_10 = WideResNetConfig(depth=28, widen=10)
