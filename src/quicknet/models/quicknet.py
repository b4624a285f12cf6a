"""The paper's network: a 5x5 stem, depthwise separable stages, global average, linear.

Source: Ghosh 2017 (arXiv:1701.02291) §3. `models.config.plan` says which layers there are,
`models/layers.py` what each of them is, `models/network.py` what comes behind them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from quicknet.models import fused
from quicknet.models.config import QuickNetConfig, is_chain, plan
from quicknet.models.layers import Separable, Stem, start_convolutions
from quicknet.models.network import Network
from quicknet.models.options.connections import forward_connected
from quicknet.models.options.pyramid import Pyramid
from quicknet.models.options.separable import make_separable
from quicknet.models.options.transformer import Transformer
from quicknet.models.options.weight_norm import start_gains


class QuickNet(Network):
    """Normalized images (N, C, H, W) → logits (N, classes); any H = W that `plan` accepts.

    On CPU the separable stages run through the fused kernels where those could be built
    (`models/fused`); the result is the same to float rounding. What options change is in `models/options`.
    """

    def __init__(self, config: QuickNetConfig) -> None:
        super().__init__(config)
        self.plan = plan(config)
        self.layers = layers = tuple(layer for layer in self.plan if layer.kind in ("stem", "separable"))
        options = config.options
        self.transformer = Transformer(config.in_channels, options.transformer) if options.transformer else None
        self.stem = Stem(config, layers[0])
        self.blocks = nn.ModuleList(make_separable(config, *pair) for pair in pairwise(layers))
        self.pyramid = Pyramid(options.pyramid, layers[-1].side) if options.pyramid else None
        self.add_head(self.plan[-1].out_channels)
        self.feature_info = [
            {"stage": layer.stage, "num_chs": layer.out_channels, "reduction": config.image_size / layer.side}
            for layer, following in zip(layers, [*layers[1:], None], strict=True)
            if following is None or following.stage != layer.stage
        ]
        slope = 0.0 if config.activation == "relu" else config.negative_slope
        start_convolutions(self, slope)
        start_gains(self, slope)
        if self.transformer is not None:
            self.transformer.start()
        self.initialize_classifier()

    def initialize_classifier(self) -> None:
        """Start from a small normal."""
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def layer_name(self, path: str) -> str:
        """Return what the plan calls it."""
        scope, _, rest = path.partition(".")
        return self.layers[1 + int(rest.partition(".")[0])].name if scope == "blocks" else path.removesuffix(".conv")

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        if self.transformer is not None:
            x = self.transformer(x)
        if fused.usable(self.plan, (self.stem, *self.blocks), x):
            return fused.forward_features(self.stem, cast("Iterable[Separable]", self.blocks), x)
        if not is_chain(self.plan):
            return forward_connected(self.layers, (self.stem, *self.blocks), x)
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x

    def pool_features(self, features: Tensor) -> Tensor:
        """Return the global average (N, features), or the bins of a pyramid."""
        return super().pool_features(features) if self.pyramid is None else cast(Tensor, self.pyramid(features))


NETWORK = QuickNet
# The paper's network and two smaller ones: a variant is a line of data.
quicknet = QuickNetConfig(stem_width=64, widths=(128, 256, 512, 1024))
quicknet_s = QuickNetConfig(stem_width=32, widths=(64, 128, 256, 512))
quicknet_xs = QuickNetConfig(stem_width=16, widths=(32, 64, 128, 256))
