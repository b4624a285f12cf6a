"""Dense networks that learn 32x32 images in few operations: teachers for the small ones.

Source: K. Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv:2404.00498), and the shape
of its airbench96 (cifar10-airbench, legacy/airbench96.py): a 2x2 stem, three groups of 3x3 convolutions with
a max pool after the first and a sum around the others, batch norm, GELU. Processors multiply such wide, dense
layers near their peak, depthwise ones far below it. Four things differ: the stem is learned, not whitened, has
a norm, and is 64 wide in `speedy`, not 24; norms have a scale; the classifier takes the mean of the last map,
not its maximum (with the maximum the first loss was 6, not 2.3); convolutions start from torch's default, not
from the identity. So no published figure is of these networks; the counts in the tests are counted here.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.core.errors import ConfigError
from quicknet.models.config import NetworkConfig, check_weights
from quicknet.models.fused import convolve
from quicknet.models.network import Network
from quicknet.models.norm import BatchNorm2d


class SpeedyConfig(NetworkConfig, frozen=True, kw_only=True):
    """Width of the stem, and of each group, which halves the side."""

    stem_width: int = 64
    widths: tuple[int, ...] = (128, 384, 512)

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        NetworkConfig.__post_init__(self)
        if not 1 <= len(self.widths) <= 8 or not all(1 <= width <= 8192 for width in (self.stem_width, *self.widths)):
            raise ConfigError("speedy needs 1 to 8 widths, and stem_width and widths within 1..8192")
        if (self.image_size - 1) >> len(self.widths) < 1:
            raise ConfigError(f"image size {self.image_size} is too small for {len(self.widths)} poolings")
        weights = sum(9 * outs * (ins + 2 * outs) for ins, outs in self.groups) + self.widths[-1] * self.num_classes
        check_weights(f"stem_width {self.stem_width} and widths {self.widths}", weights)

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """(channels in, channels out) of each group."""
        return tuple(zip((self.stem_width, *self.widths), self.widths, strict=False))


class Group(nn.Module):
    """Three 3x3 convolutions, a max pool in the first, a sum around the other two: (N, in, H, W) → (N, out, h, w)."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(outs)
        self.conv3 = nn.Conv2d(outs, outs, 3, padding=1, bias=False)
        self.bn3 = BatchNorm2d(outs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated feature map, half as wide."""
        x = F.gelu(self.bn1(F.max_pool2d(convolve(self.conv1, x), 2)))
        y = F.gelu(self.bn2(convolve(self.conv2, x)))
        return F.gelu(self.bn3(convolve(self.conv3, y)) + x)


class Speedy(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: SpeedyConfig) -> None:
        super().__init__(config)
        self.stem = nn.Conv2d(config.in_channels, config.stem_width, 2, bias=False)
        self.bn = BatchNorm2d(config.stem_width)
        self.groups = nn.Sequential(*(Group(ins, outs) for ins, outs in config.groups))
        self.add_head(config.widths[-1])
        self.feature_info = [
            {"stage": stage, "num_chs": width, "reduction": 2**stage}
            for stage, width in enumerate((config.stem_width, *config.widths))
        ]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        features: Tensor = self.groups(F.gelu(self.bn(self.stem(x))))
        return features


NETWORK = Speedy
# The widths of airbench96 and, a third of the work, of airbench94 (there two convolutions a group).
speedy = SpeedyConfig()
speedy_s = SpeedyConfig(stem_width=24, widths=(64, 256, 256))
