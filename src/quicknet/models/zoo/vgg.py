"""VGG-16 with batch norm in its form for CIFAR: thirteen 3x3 convolutions, five max pools, three linear layers.

Source: Simonyan and Zisserman 2014 (arXiv:1409.1556) Table 1, column D: widths 64, 64, 128, 128, 256 three times,
512 six times, a 2x2 max pool after each group. For 32 pixels with batch norm, both hidden layers have 512 units
(Y. Chen, pytorch-cifar-models, README: 15.25 million parameters, 314 M multiply-adds, 94.16%); `hidden` (4096, 4096)
at 224 pixels is the one for ImageNet. The counts in the tests are counted here; its convolutions have biases beside
the norms, these do not.
"""

from __future__ import annotations

from torch import Tensor, nn

from quicknet.core.errors import ConfigError
from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.zoo.blocks import Unit, WholeMapConfig, hidden_layers, stages

_GROUPS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # width, convolutions


class VGGConfig(WholeMapConfig, frozen=True, kw_only=True):
    """Units of the hidden layers, of which the first takes the last map, 7x7 pixels of it at most."""

    hidden: tuple[int, ...] = (512, 512)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        self.require_size(32)
        WholeMapConfig.__post_init__(self)
        if len(self.hidden) > 4 or not all(1 <= width <= 8192 for width in self.hidden):
            raise ConfigError(f"hidden {self.hidden} must be at most 4 entries within 1..8192")
        ins = (self.wide(512), *map(self.wide, self.hidden))
        self.require_weights(zip(ins, ins[1:], (self.side, 1, 1, 1), strict=False))

    @property
    def last_side(self) -> int:
        """Side of the last map at `image_size`."""
        return self.image_size >> len(_GROUPS)

    @property
    def published_side(self) -> int:
        """Side of the last map at 224 pixels."""
        return 7


class VGG(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: VGGConfig) -> None:
        super().__init__(config.replace(map_side=config.side))
        layers: list[nn.Module] = []
        ins = config.in_channels
        for width, depth in _GROUPS:
            for _ in range(depth):
                layers.append(Unit(ins, config.wide(width)))
                ins = config.wide(width)
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        start_convolutions(self, 0.0)
        hidden = [config.wide(units) for units in config.hidden]
        self.hidden = hidden_layers(ins, hidden, config.side, config.dropout)
        ins = [ins, *hidden][-1]
        self.add_head(ins)
        widths = [config.wide(width) for width, _ in _GROUPS[:-1]]
        self.feature_info = stages((*widths, ins), (2, 4, 8, 16, 32))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        features: Tensor = self.hidden(self.features(x))
        return features


NETWORK = VGG
vgg_16 = VGGConfig()
