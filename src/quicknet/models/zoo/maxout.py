"""Maxout: each unit is the largest of several linear ones; no other activation.

Source: Goodfellow et al. 2013 (arXiv:1302.4389), and the published definition (pylearn2, scripts/papers/maxout,
cifar10.yaml and README): 8x8 of 96 with padding 4, 8x8 of 192 with padding 3, 5x5 of 192 with padding 3, two pieces
each; max pools of 4, 4 and 2, all of stride 2, whose last window may hang over; 500 hidden units of five pieces;
dropout of 20% of the image and 50% before every later layer. Published: 11.68% error without, 9.38% with augmentation.
The counts in the tests are counted here. Its bound on the norm of the filters belongs to its training and is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quicknet.core.errors import ConfigError
from quicknet.models.dropout import Dropout
from quicknet.models.network import Network
from quicknet.models.zoo.blocks import WholeMapConfig, pooled, stages

_LAYERS = ((96, 8, 4, 4), (192, 8, 3, 4), (192, 5, 3, 2))  # width, kernel, padding, pool
_HIDDEN = 500


class MaxoutConfig(WholeMapConfig, frozen=True, kw_only=True):
    """As published; the hidden layer takes the last map, 5x5 pixels of it at most."""

    dropout: float = 0.5
    image_dropout: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        WholeMapConfig.__post_init__(self)
        if not 0 <= self.image_dropout < 1:
            raise ConfigError("image_dropout must lie in 0 <= image_dropout < 1")
        self.require_weights([(self.wide(192), 5 * self.wide(_HIDDEN), self.side)])

    @property
    def published_side(self) -> int:
        """Side of the last map at 32 pixels."""
        return 5

    @property
    def last_side(self) -> int:
        """Side of the last map at `image_size`."""
        side = self.image_size
        for _, kernel, padding, pool in _LAYERS:
            side = pooled(pooled(side, kernel, 1, padding), pool, 2, ceil=True)
        return side


class Maxout(nn.Module):
    """The largest of several convolutions: (N, in, H, W) → (N, out, h, w)."""

    def __init__(self, ins: int, outs: int, kernel: int, padding: int, pieces: int) -> None:
        super().__init__()
        self.pieces = nn.ModuleList(nn.Conv2d(ins, outs, kernel, padding=padding) for _ in range(pieces))

    def forward(self, x: Tensor) -> Tensor:
        """Return the largest at each place."""
        first, *rest = self.pieces
        largest: Tensor = first(x)
        for piece in rest:
            largest = torch.maximum(largest, piece(x))
        return largest


class MaxoutNetwork(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: MaxoutConfig) -> None:
        super().__init__(config.replace(map_side=config.side))
        layers: list[nn.Module] = [Dropout(config.image_dropout)]
        ins = config.in_channels
        for width, kernel, padding, pool in _LAYERS:
            layers += [
                Maxout(ins, config.wide(width), kernel, padding, 2),
                nn.MaxPool2d(pool, 2, ceil_mode=True),
                Dropout(config.dropout),
            ]
            ins = config.wide(width)
        hidden = config.wide(_HIDDEN)
        self.features = nn.Sequential(*layers, Maxout(ins, hidden, config.side, 0, 5))
        self.add_head(hidden)
        self.feature_info = stages((*(config.wide(width) for width, *_ in _LAYERS), hidden), (2, 4, 8, 32))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w)."""
        features: Tensor = self.features(x)
        return features


NETWORK = MaxoutNetwork
maxout = MaxoutConfig()
