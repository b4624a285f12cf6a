"""The layers that networks are made of, and how convolutions start."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.models.config import Layer, QuickNetConfig
from quicknet.models.norm import BatchNorm2d


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
