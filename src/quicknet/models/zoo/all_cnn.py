"""All-CNN-C: convolutions of stride 2 in the place of pooling.

Source: Springenberg et al. 2014 (arXiv:1412.6806), the table of the networks derived from model C: 3x3 of 96, 96, 96
(stride 2), 192, 192, 192 (stride 2), 192 (without padding, which leaves 6x6), 1x1 of 192, 1x1 of the classes, average
over 6x6; ReLU, no norm; dropout of 20% of the image and 50% behind each layer of stride 2. Published: 7.25% error with
flips and shifts. The counts in the tests are counted here.

The last 1x1 layer before the average is the classifier behind it here: the same function but for a ReLU on the
logits, 1/36 of that layer's work.
"""

from __future__ import annotations

from torch import Tensor, nn

from quicknet.core.errors import ConfigError
from quicknet.models.dropout import Dropout
from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.zoo.blocks import Unit, ZooConfig, stages

# width, kernel, stride, padding
_LAYERS = (
    *((96, 3, 1, 1), (96, 3, 1, 1), (96, 3, 2, 1), (192, 3, 1, 1), (192, 3, 1, 1), (192, 3, 2, 1)),
    *((192, 3, 1, 0), (192, 1, 1, 0)),
)


class AllCNNConfig(ZooConfig, frozen=True, kw_only=True):
    """Shares dropped of the image and behind each layer of stride 2; `dropout` stands before the classifier."""

    image_dropout: float = 0.2
    inner_dropout: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        ZooConfig.__post_init__(self)
        if not 0 <= self.image_dropout < 1 or not 0 <= self.inner_dropout < 1:
            raise ConfigError("image_dropout and inner_dropout must lie in 0 <= dropout < 1")


class AllCNN(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: AllCNNConfig) -> None:
        super().__init__(config)
        layers: list[nn.Module] = [Dropout(config.image_dropout)]
        ins = config.in_channels
        for width, kernel, stride, padding in _LAYERS:
            layers.append(Unit(ins, config.wide(width), kernel, stride, padding=padding, norm=False))
            ins = config.wide(width)
            if stride > 1:
                layers.append(Dropout(config.inner_dropout))
        self.features = nn.Sequential(*layers)
        self.add_head(ins)
        self.feature_info = stages((config.wide(96), config.wide(192), ins), (1, 2, 4))
        start_convolutions(self, 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        features: Tensor = self.features(x)
        return features


NETWORK = AllCNN
all_cnn_c = AllCNNConfig()
