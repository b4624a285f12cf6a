"""AlexNet, the form for ImageNet.

Source: Krizhevsky et al. 2012, ImageNet classification with deep convolutional neural networks, §3.5: 11x11 of 96 with
stride 4; 5x5 of 256; 3x3 of 384, 384, 256; the second, fourth and fifth in two halves; 3x3 max pools of stride 2 after
the first, second and fifth; response normalization (§3.3: k 2, n 5, alpha 1e-4, beta 0.75) behind the first two; 4096
and 4096 hidden units with dropout 0.5 (§4.2). Published: 60 million parameters. The counts in the tests are counted
here; they are also those of the network in Caffe's model zoo, bvlc_alexnet.

The text's 224 pixels give its 55x55 maps with a padding of 2. Normalization follows activation and stands before the
pool (§3.3, §3.5); torch divides alpha by n, so n alpha is given.
"""

from __future__ import annotations

from torch import Tensor, nn

from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.zoo.blocks import Unit, WholeMapConfig, hidden_layers, pooled, stages

_HIDDEN = 4096


class AlexNetConfig(WholeMapConfig, frozen=True, kw_only=True):
    """As published for ImageNet; the first hidden layer takes the last map, 6x6 pixels of it at most."""

    dropout: float = 0.5
    num_classes: int = 1000
    image_size: int = 224

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        self.require_size(63)
        WholeMapConfig.__post_init__(self)
        hidden = self.wide(_HIDDEN)
        self.require_weights([(self.wide(256, 2), hidden, self.side), (hidden, hidden, 1)])

    @property
    def published_side(self) -> int:
        """Side of the last map at 224 pixels."""
        return 6

    @property
    def last_side(self) -> int:
        """Side of the last map at `image_size`."""
        return pooled(pooled(pooled(pooled(self.image_size, 11, 4, 2), 3, 2), 3, 2), 3, 2)


class AlexNet(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: AlexNetConfig) -> None:
        super().__init__(config.replace(map_side=config.side))
        w96, w256, w384 = (config.wide(width, 2) for width in (96, 256, 384))
        self.features = nn.Sequential(
            Unit(config.in_channels, w96, 11, 4, padding=2, norm=False),
            nn.LocalResponseNorm(5, 5 * 1e-4, 0.75, 2.0),
            nn.MaxPool2d(3, 2),
            Unit(w96, w256, 5, groups=2, norm=False),
            nn.LocalResponseNorm(5, 5 * 1e-4, 0.75, 2.0),
            nn.MaxPool2d(3, 2),
            Unit(w256, w384, norm=False),
            Unit(w384, w384, groups=2, norm=False),
            Unit(w384, w256, groups=2, norm=False),
            nn.MaxPool2d(3, 2),
        )
        start_convolutions(self, 0.0)
        hidden = config.wide(_HIDDEN)
        self.hidden = hidden_layers(w256, (hidden, hidden), config.side, config.dropout)
        self.add_head(hidden)
        self.feature_info = stages((w96, w256, hidden), (4, 8, 32))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        features: Tensor = self.hidden(self.features(x))
        return features


NETWORK = AlexNet
alexnet = AlexNetConfig()
