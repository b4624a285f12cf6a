"""The base of every network: features, average, dropout, a linear classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from quicknet.models.config import Layer, NetworkConfig
from quicknet.models.dropout import Dropout


class Network(nn.Module, ABC):
    """Normalized images (N, C, H, W) → logits (N, classes), rebuilt from `config` and nothing else.

    A network makes its feature layers, then calls `add_head`, and says in `forward_features`
    what is done with them. `feature_info` lists its stages: channels and reduction of the side.
    `num_features` is what the classifier takes: the channels of the last map, unless the network
    has a `forward_head` of its own.
    """

    config: NetworkConfig
    plan: tuple[Layer, ...] = ()  # of a family that has one: what predicates are asked about
    num_features: int
    feature_info: list[dict[str, Any]]

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config

    def add_head(self, num_features: int) -> None:
        """Add dropout and classifier, after the feature layers: a state dict is in this order."""
        self.num_features = num_features
        self.drop = Dropout(self.config.dropout)
        self.classifier = nn.Linear(num_features, self.config.num_classes)

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Average, drop out and classify; `pre_logits` returns the (N, features) average."""
        pooled = self.pool_features(features)
        return pooled if pre_logits else self.classifier(self.drop(pooled))

    def pool_features(self, features: Tensor) -> Tensor:
        """Return what the classifier takes (N, num_features): the average over the map."""
        return features.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a fresh one for `num_classes`."""
        self.config = self.config.replace(num_classes=num_classes)
        self.classifier = nn.Linear(self.num_features, num_classes)
        self.initialize_classifier()

    def layer_name(self, path: str) -> str:
        """Return what the layer of the module at `path` is called in a table."""
        return path.removesuffix(".conv").replace("blocks.", "block")

    def initialize_classifier(self) -> None:
        """Set what a fresh classifier starts from, where that is not torch's default."""
