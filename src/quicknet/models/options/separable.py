"""A separable layer with what some options put on its way in."""

from __future__ import annotations

from torch import Tensor, nn

from quicknet.models.config import Layer, QuickNetConfig
from quicknet.models.layers import Separable, Shuffle
from quicknet.models.options.fractional_pool import FractionalPool


class EnteredSeparable(Separable):
    """First a fractional pool, or a shuffle of the channels that a layer with groups gave."""

    def __init__(self, config: QuickNetConfig, layer: Layer, before: Layer) -> None:
        super().__init__(config, layer)
        self.fractional = FractionalPool(config.options.pool_ratio, before.side) if layer.fractional else nn.Identity()
        self.pool = layer.pool and not layer.fractional
        shuffled = layer.groups > 1 and before.groups > 1
        self.shuffle = Shuffle(layer.in_channels, layer.groups) if shuffled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated feature map, smaller where the layer pools."""
        return super().forward(self.shuffle(self.fractional(x)))


def make_separable(config: QuickNetConfig, before: Layer, layer: Layer) -> Separable:
    """Return the module of a separable layer that follows another: the paper's own where nothing stands before it."""
    entered = layer.fractional or layer.groups > 1
    return EnteredSeparable(config, layer, before) if entered else Separable(config, layer)
