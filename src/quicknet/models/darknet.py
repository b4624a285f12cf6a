"""The Darknet reference network, which QuickNet modifies (paper §3.1).

Source: J. Redmon, Darknet, cfg/darknet.cfg: 3x3 convolutions with batch norm and leaky ReLU
0.1, max pooling between, a 1x1 convolution as classifier, global average. Published as a
28 MB model (7.3 million parameters at 4 bytes) for ImageNet.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from quicknet.core.errors import ConfigError
from quicknet.core.limits import MAX_IMAGE_SIZE, MAX_WEIGHTS, MIN_IMAGE_SIZE
from quicknet.core.settings import Settings, from_mapping
from quicknet.models.dropout import Dropout
from quicknet.models.norm import BatchNorm2d


class DarknetConfig(Settings, frozen=True, kw_only=True):
    """Widths layer by layer; the first `pools` layers are each followed by a 2x2 max pool."""

    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)
    pools: int = 6
    negative_slope: float = 0.1
    dropout: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000
    image_size: int = 224

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        if not self.widths or min(self.widths) < 1 or max(self.widths) > 8192 or len(self.widths) > 32:
            raise ConfigError("widths need 1 to 32 entries within 1..8192")
        if not 0 <= self.pools < len(self.widths):
            raise ConfigError(f"pools {self.pools} must lie in 0..{len(self.widths) - 1}")
        if not 1 <= self.in_channels <= 16 or not 1 <= self.num_classes <= 100_000:
            raise ConfigError("1 to 16 input channels and 1 to 100,000 classes")
        if not MIN_IMAGE_SIZE <= self.image_size <= MAX_IMAGE_SIZE or self.image_size >> self.pools < 1:
            raise ConfigError(
                f"image size {self.image_size} is too small for {self.pools} poolings, or outside "
                f"{MIN_IMAGE_SIZE}..{MAX_IMAGE_SIZE} pixels"
            )
        layers = zip((self.in_channels, *self.widths), self.widths, strict=False)
        weights = sum(9 * width * out for width, out in layers) + self.widths[-1] * self.num_classes
        if weights > MAX_WEIGHTS:
            raise ConfigError(
                f"widths {self.widths} make {weights:,} weights, over the limit of {MAX_WEIGHTS:,}; choose smaller ones"
            )


class Darknet(nn.Module):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: DarknetConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        width = config.in_channels
        for index, out in enumerate(config.widths):
            layers += [
                nn.Conv2d(width, out, 3, padding=1, bias=False),
                BatchNorm2d(out),
                nn.LeakyReLU(config.negative_slope),
            ]
            if index < config.pools:
                layers.append(nn.MaxPool2d(2))
            width = out
        self.features = nn.Sequential(*layers)
        self.num_features = width
        self.drop = Dropout(config.dropout)
        self.classifier = nn.Linear(width, config.num_classes)
        self.feature_info = [
            {"stage": i, "num_chs": w, "reduction": 2 ** min(i, config.pools)} for i, w in enumerate(config.widths)
        ]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=config.negative_slope, mode="fan_out")

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w)."""
        features: Tensor = self.features(x)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Average and classify: the 1x1 convolution before the average of the original, moved
        behind it (the same function, 1/49 of the work).
        """
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.classifier(self.drop(pooled))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a fresh one for `num_classes`."""
        self.config = self.config.replace(num_classes=num_classes)
        self.classifier = nn.Linear(self.num_features, num_classes)


# As published for ImageNet, and with three poolings fewer for 32x32 images.
darknet = DarknetConfig()
darknet_32 = DarknetConfig(pools=3, num_classes=10, image_size=32)


def build(base: DarknetConfig, overrides: dict[str, Any]) -> Darknet:
    """Return the network of `base` with `overrides`. Raises ConfigError."""
    return Darknet(from_mapping(DarknetConfig, {**base.to_dict(), **overrides}, "model settings"))
