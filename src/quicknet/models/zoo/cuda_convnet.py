"""The three convolutions of cuda-convnet's 18% layers: what "AlexNet" on CIFAR-10 comes nearest to.

Source: A. Krizhevsky, cuda-convnet, example-layers/layers-18pct.cfg and layer-params-18pct.cfg ("18% error on CIFAR-10
in 20 minutes"): 5x5 of 32, 32, 64, each with a 3x3 pool of stride 2, the first of maxima, then of averages; ReLU, the
first one behind its pool; normalization within a map (3x3, scale 5e-5, power 0.75) behind the first two pools; one
linear layer that takes the whole last 4x4 map. The counts in the tests are counted here.

Average pools take a ring of padding, which is not counted, where the published ones let the last window hang over:
the mirror image, with the same sides.
"""

from __future__ import annotations

from torch import Tensor, nn

from quicknet.core.errors import ConfigError
from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.zoo.blocks import Unit, WholeMapConfig, WithinNorm, pooled, stages


class CudaConvnetConfig(WholeMapConfig, frozen=True, kw_only=True):
    """As published; the classifier takes the whole last map at `image_size`."""

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        WholeMapConfig.__post_init__(self)
        if self.side != self.last_side:
            raise ConfigError(
                f"image size {self.image_size} leaves a map of {self.last_side} x {self.last_side} pixels, and the "
                f"classifier takes {self.map_side} x {self.map_side} (map_side); use the size that it was made for"
            )
        self.require_weights([(self.wide(64), self.num_classes, self.side)])

    @property
    def published_side(self) -> int:
        """Any: the whole map."""
        return self.last_side

    @property
    def last_side(self) -> int:
        """Side of the last map at `image_size`."""
        return pooled(pooled(pooled(self.image_size, 3, 2, ceil=True), 3, 2, 1), 3, 2, 1)


class CudaConvnet(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: CudaConvnetConfig) -> None:
        super().__init__(config.replace(map_side=config.side))
        w32, w64 = config.wide(32), config.wide(64)
        self.features = nn.Sequential(
            Unit(config.in_channels, w32, 5, norm=False, act="none"),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.ReLU(),
            WithinNorm(3, 5e-5, 0.75),
            Unit(w32, w32, 5, norm=False),
            nn.AvgPool2d(3, 2, 1, count_include_pad=False),
            WithinNorm(3, 5e-5, 0.75),
            Unit(w32, w64, 5, norm=False),
            nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        )
        self.add_head(w64 * config.side**2)
        self.feature_info = stages((w32, w32, w64), (2, 4, 8))
        start_convolutions(self, 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, 64, h, w)."""
        features: Tensor = self.features(x)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Classify the whole map; `pre_logits` returns it flat."""
        flat = features.flatten(1)
        return flat if pre_logits else self.classifier(self.drop(flat))


NETWORK = CudaConvnet
alexnet_cifar = CudaConvnetConfig()
