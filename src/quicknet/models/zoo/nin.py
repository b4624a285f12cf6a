"""Network in Network: convolutions, each followed by two 1x1 layers, and a global average as classifier.

Source: Lin et al. 2013 (arXiv:1312.4400), and the first author's definition for CIFAR-10 in Caffe's model zoo: 5x5 of
192, 1x1 of 160 and 96, 3x3 max pool; 5x5 of 192, 1x1 of 192 twice, 3x3 average pool (a max pool in his older file for
cuda-convnet); 3x3 of 192, 1x1 of 192 and of the classes, average; both pools of stride 2 with dropout 0.5 behind; ReLU,
no norm. Published: 10.41% error without, 8.81% with augmentation (Table 1). The counts in the tests are counted here.

Two differences: the last 1x1 layer before the average is the classifier behind it, without its ReLU; pools take a
ring of padding where the published ones let the last window hang over: the mirror image, with the same sides.
"""

from __future__ import annotations

from torch import Tensor, nn

from quicknet.core.errors import ConfigError
from quicknet.models.dropout import Dropout
from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.zoo.blocks import Unit, ZooConfig, stages

_GROUPS = (((192, 5), (160, 1), (96, 1)), ((192, 5), (192, 1), (192, 1)), ((192, 3), (192, 1)))  # width, kernel


class NINConfig(ZooConfig, frozen=True, kw_only=True):
    """The share that is dropped behind each pool; `dropout` stands before the classifier."""

    inner_dropout: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        ZooConfig.__post_init__(self)
        if not 0 <= self.inner_dropout < 1:
            raise ConfigError("inner_dropout must lie in 0 <= inner_dropout < 1")


class NIN(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: NINConfig) -> None:
        super().__init__(config)
        pools = (nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False))
        layers: list[nn.Module] = []
        ins = config.in_channels
        for index, group in enumerate(_GROUPS):
            for width, kernel in group:
                layers.append(Unit(ins, config.wide(width), kernel, norm=False))
                ins = config.wide(width)
            if index < len(pools):
                layers += [pools[index], Dropout(config.inner_dropout)]
        self.features = nn.Sequential(*layers)
        self.add_head(ins)
        self.feature_info = stages((config.wide(group[-1][0]) for group in _GROUPS), (1, 2, 4))
        start_convolutions(self, 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        features: Tensor = self.features(x)
        return features


NETWORK = NIN
nin = NINConfig()
