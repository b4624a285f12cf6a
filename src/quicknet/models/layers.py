"""The layers that networks are made of, and how convolutions start."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.models.config import Layer, QuickNetConfig
from quicknet.models.norm import BatchNorm2d
from quicknet.models.options.weight_norm import MeanOnlyNorm2d, WeightNormConv2d


def start_convolutions(network: nn.Module, slope: float) -> None:
    """Draw every convolution from He's normal for a rectifier of that negative slope, by its fan out; biases are 0.

    A depthwise filter's fan out is its own k*k taps; nn.init.kaiming_normal_ would take channels
    times that. Source: He et al. 2015 (arXiv:1502.01852) §2.2.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / (1 + slope**2) / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def kinds(layer: Layer) -> tuple[type[nn.Conv2d], type[BatchNorm2d]]:
    """Return the classes of a layer's convolutions and of its norm.

    To a type checker a mean-only norm is a batch norm: whoever reads a variance asks the plan first.
    """
    if layer.weight_norm:
        return WeightNormConv2d, cast("type[BatchNorm2d]", MeanOnlyNorm2d)
    return nn.Conv2d, BatchNorm2d


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


class Shuffle(nn.Module):
    """The channels of some groups in turn: (N, C, H, W) → (N, C, H, W).

    Source: Zhang et al. 2017, ShuffleNet (arXiv:1707.01083) §3.1.

    >>> Shuffle(6).indices, Shuffle(6, 3).indices
    ((0, 3, 1, 4, 2, 5), (0, 2, 4, 1, 3, 5))
    """

    def __init__(self, channels: int, groups: int = 2) -> None:
        super().__init__()
        self.groups, each = groups, channels // groups
        self.indices = tuple(each * (i % groups) + i // groups for i in range(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the channels in their new order."""
        return torch.unflatten(x, 1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class Stem(nn.Module):
    """Convolution without padding, batch norm, activation: (N, C, H, W) → (N, width, h, w)."""

    def __init__(self, config: QuickNetConfig, layer: Layer) -> None:
        super().__init__()
        conv, norm = kinds(layer)
        self.conv = conv(layer.in_channels, layer.out_channels, layer.kernel, stride=layer.stride, bias=False)
        self.bn = norm(layer.out_channels)
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
        conv, norm = kinds(layer)
        self.pool = layer.pool
        self.depthwise = conv(c, c, k, padding=k // 2, groups=c, bias=False)
        self.pointwise = conv(c, layer.out_channels, 1, groups=layer.groups, bias=False)
        self.bn = norm(layer.out_channels)
        self.act = make_activation(config, layer.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated feature map, half as wide where the layer pools."""
        if self.pool:
            x = F.max_pool2d(x, 2)
        y: Tensor = self.act(self.bn(self.pointwise(self.depthwise(x))))
        return y
