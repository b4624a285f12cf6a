"""The Darknet reference network, which QuickNet modifies (paper §3.1).

Source: J. Redmon, Darknet, cfg/darknet.cfg: 3x3 convolutions of 16, 32, 64, 128, 256, 512, 1024 with batch norm and
leaky ReLU 0.1, a 2x2 max pool behind each but the last, whose last window may hang over (7x7 becomes 4x4); a 1x1
convolution as classifier, global average. Published for ImageNet (pjreddie.com/darknet/tiny-darknet): 28 MB (7.3
million parameters at 4 bytes) and 0.81 G operations, a multiply-add counted as two.

The classifier stands behind the average here: the same function but for a leaky ReLU on the logits, and 1/16 of that
layer's work at 224 pixels. The counts in the tests are counted here; with the classifier before the average the
multiply-adds would be 403 million, half of what is published.
"""

from __future__ import annotations

from torch import Tensor, nn

from quicknet.core.errors import ConfigError
from quicknet.models.config import NetworkConfig, check_weights
from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.norm import BatchNorm2d


class DarknetConfig(NetworkConfig, frozen=True, kw_only=True):
    """Widths layer by layer; the first `pools` layers are each followed by a 2x2 max pool."""

    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)
    pools: int = 6
    negative_slope: float = 0.1
    num_classes: int = 1000
    image_size: int = 224

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        NetworkConfig.__post_init__(self)
        if not self.widths or min(self.widths) < 1 or max(self.widths) > 8192 or len(self.widths) > 32:
            raise ConfigError("widths need 1 to 32 entries within 1..8192")
        if not 0 <= self.pools < len(self.widths):
            raise ConfigError(f"pools {self.pools} must lie in 0..{len(self.widths) - 1}")
        if self.image_size >> self.pools < 1:
            raise ConfigError(f"image size {self.image_size} is too small for {self.pools} poolings")
        layers = zip((self.in_channels, *self.widths), self.widths, strict=False)
        weights = sum(9 * width * out for width, out in layers) + self.widths[-1] * self.num_classes
        check_weights(f"widths {self.widths}", weights)


class Darknet(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: DarknetConfig) -> None:
        super().__init__(config)
        layers: list[nn.Module] = []
        width = config.in_channels
        for index, out in enumerate(config.widths):
            layers += [
                nn.Conv2d(width, out, 3, padding=1, bias=False),
                BatchNorm2d(out),
                nn.LeakyReLU(config.negative_slope),
            ]
            if index < config.pools:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            width = out
        self.features = nn.Sequential(*layers)
        self.add_head(width)
        self.feature_info = [
            {"stage": i, "num_chs": w, "reduction": 2 ** min(i, config.pools)} for i, w in enumerate(config.widths)
        ]
        start_convolutions(self, config.negative_slope)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w)."""
        features: Tensor = self.features(x)
        return features


NETWORK = Darknet
# As published for ImageNet, and with three poolings fewer for 32x32 images.
darknet = DarknetConfig()
darknet_32 = DarknetConfig(pools=3, num_classes=10, image_size=32)
