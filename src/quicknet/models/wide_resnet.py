"""Wide residual networks: teachers for the small ones, not to be shipped themselves.

Source: Zagoruyko and Komodakis 2016 (arXiv:1605.07146) §2: three groups of pre-activated basic
blocks of two 3x3 convolutions; WRN-d-k has d convolutions on the longest path and k times the
widths 16, 32, 64. WRN-28-10 is published at 96.0% on CIFAR-10.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.core.errors import ConfigError
from quicknet.core.limits import MAX_IMAGE_SIZE, MAX_WEIGHTS, MIN_IMAGE_SIZE
from quicknet.core.settings import Settings, from_mapping
from quicknet.models.dropout import Dropout
from quicknet.models.norm import BatchNorm2d


class WideResNetConfig(Settings, frozen=True, kw_only=True):
    """Depth d and widening factor k; `dropout` stands before the classifier, as in the family."""

    depth: int = 28
    widen: int = 10
    dropout: float = 0.0
    in_channels: int = 3
    num_classes: int = 10
    image_size: int = 32

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        if not 10 <= self.depth <= 100 or (self.depth - 4) % 6 != 0:
            raise ConfigError(f"depth {self.depth} must be 6 n + 4 within 10..100, such as 16, 22, 28 or 40")
        if not 1 <= self.widen <= 32:
            raise ConfigError(f"widen {self.widen} must lie in 1..32")
        if not 1 <= self.in_channels <= 16 or not 1 <= self.num_classes <= 100_000:
            raise ConfigError("1 to 16 input channels and 1 to 100,000 classes")
        if not MIN_IMAGE_SIZE <= self.image_size <= MAX_IMAGE_SIZE:
            raise ConfigError(f"image size {self.image_size} must lie in {MIN_IMAGE_SIZE}..{MAX_IMAGE_SIZE} pixels")
        weights = sum(9 * out * (ins + (self.blocks * 2 - 1) * out) for ins, out, _ in self.groups)
        if weights + self.widths[-1] * self.num_classes > MAX_WEIGHTS:
            raise ConfigError(f"depth {self.depth} and widen {self.widen} make over {MAX_WEIGHTS:,} weights")

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
        out: Tensor = shortcut + self.conv2(F.relu(self.bn2(self.conv1(y))))
        return out


class WideResNet(nn.Module):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: WideResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(config.in_channels, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for ins, outs, stride in config.groups:
            blocks += [Block(ins, outs, stride), *(Block(outs, outs, 1) for _ in range(config.blocks - 1))]
        self.blocks = nn.Sequential(*blocks)
        self.num_features = config.widths[-1]
        self.bn = BatchNorm2d(self.num_features)
        self.drop = Dropout(config.dropout)
        self.classifier = nn.Linear(self.num_features, config.num_classes)
        self.feature_info = [
            {"stage": stage, "num_chs": width, "reduction": 2**stage} for stage, width in enumerate(config.widths)
        ]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        return F.relu(self.bn(self.blocks(self.stem(x))))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Average, drop out and classify; `pre_logits` returns the (N, features) average."""
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.classifier(self.drop(pooled))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a fresh one for `num_classes`."""
        self.config = self.config.replace(num_classes=num_classes)
        self.classifier = nn.Linear(self.num_features, num_classes)


wide_resnet_16_8 = WideResNetConfig(depth=16, widen=8)
wide_resnet_28_10 = WideResNetConfig(depth=28, widen=10)


def build(base: WideResNetConfig, overrides: dict[str, Any]) -> WideResNet:
    """Return the network of `base` with `overrides`. Raises ConfigError."""
    return WideResNet(from_mapping(WideResNetConfig, {**base.to_dict(), **overrides}, "model settings"))
