"""The paper's network: a 5x5 stem, depthwise separable stages, global average, linear.

Source: Ghosh 2017 (arXiv:1701.02291) §3. `models.config.plan` says which layers there are;
this file says what each of them is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.core.settings import from_mapping
from quicknet.models import fused
from quicknet.models.config import Layer, QuickNetConfig, plan
from quicknet.models.dropout import Dropout
from quicknet.models.norm import BatchNorm2d


def make_activation(config: QuickNetConfig, channels: int) -> nn.Module:
    """Return the activation of one layer; PReLU has a slope per channel unless shared."""
    slope = config.negative_slope
    match config.activation:
        case "prelu":
            return nn.PReLU(channels, init=slope)
        case "prelu_shared":
            return nn.PReLU(1, init=slope)
        case "leaky_relu":
            return nn.LeakyReLU(slope)
        case "relu":
            return nn.ReLU()


class Stem(nn.Module):
    """Convolution without padding, batch norm, activation: (N, C, H, W) → (N, width, h, w)."""

    def __init__(self, config: QuickNetConfig, layer: Layer) -> None:
        super().__init__()
        self.conv = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel, stride=layer.stride, bias=False)
        self.bn = BatchNorm2d(layer.out_channels)
        self.act = make_activation(config, layer.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated feature map."""
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


class Separable(nn.Module):
    """Max pool (first of a stage), depthwise, pointwise, batch norm, activation.

    Nothing stands between depthwise and pointwise (paper §3.2).
    """

    def __init__(self, config: QuickNetConfig, layer: Layer) -> None:
        super().__init__()
        c, k = layer.in_channels, layer.kernel
        self.pool = layer.pool
        self.depthwise = nn.Conv2d(c, c, k, padding=k // 2, groups=c, bias=False)
        self.pointwise = nn.Conv2d(c, layer.out_channels, 1, bias=False)
        self.bn = BatchNorm2d(layer.out_channels)
        self.act = make_activation(config, layer.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated feature map, half as wide where the layer pools."""
        if self.pool:
            x = F.max_pool2d(x, 2)
        y: Tensor = self.act(self.bn(self.pointwise(self.depthwise(x))))
        return y


class QuickNet(nn.Module):
    """Normalized images (N, C, H, W) → logits (N, classes); any H = W that `plan` accepts.

    On CPU the separable stages run through the fused kernels where those could be built
    (`models/fused`); the result is the same to float rounding.
    """

    def __init__(self, config: QuickNetConfig) -> None:
        super().__init__()
        self.config = config
        layers = plan(config)
        self.stem = Stem(config, layers[0])
        self.blocks = nn.ModuleList(Separable(config, layer) for layer in layers[1:])
        self.num_features = layers[-1].out_channels
        self.drop = Dropout(config.dropout)
        self.classifier = nn.Linear(self.num_features, config.num_classes)
        self.feature_info = [
            {"stage": layer.stage, "num_chs": layer.out_channels, "reduction": config.image_size / layer.side}
            for layer, following in zip(layers, [*layers[1:], None], strict=True)
            if following is None or following.stage != layer.stage
        ]
        self._initialize()

    def _initialize(self) -> None:
        """He's normal for the activation's slope, fan out; a small normal classifier."""
        gain_slope = 0.0 if self.config.activation == "relu" else self.config.negative_slope
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # A depthwise filter's fan out is its own k*k taps; nn.init.kaiming_normal_ would
                # take channels times that.
                fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / (1 + gain_slope**2) / fan_out))
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        if fused.usable((self.stem, *self.blocks), x):
            return fused.forward_features(self.stem, cast("Iterable[Separable]", self.blocks), x)
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Average, drop out and classify; `pre_logits` returns the (N, features) average."""
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.classifier(self.drop(pooled))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a fresh one for `num_classes`."""
        self.config = self.config.replace(num_classes=num_classes)
        self.classifier = nn.Linear(self.num_features, num_classes)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)


# The paper's network and two smaller ones: a variant is a line of data.
quicknet = QuickNetConfig(stem_width=64, widths=(128, 256, 512, 1024))
quicknet_s = QuickNetConfig(stem_width=32, widths=(64, 128, 256, 512))
quicknet_xs = QuickNetConfig(stem_width=16, widths=(32, 64, 128, 256))


def build(base: QuickNetConfig, overrides: dict[str, Any]) -> QuickNet:
    """Return the network of `base` with `overrides`. Raises ConfigError."""
    return QuickNet(from_mapping(QuickNetConfig, {**base.to_dict(), **overrides}, "model settings"))
