"""Weight normalization with mean-only batch norm: a filter's length is a parameter, its maps are only centred.

Source: Salimans and Kingma 2016 (arXiv:1602.07868): §2, w = g v / |v|; §4, what is subtracted is the batch's mean, and
nothing is divided. §3 starts g from the first batch, so that maps have variance 1; here it starts from what that is for
a normal distribution behind the activation, so that a run starts from its seed alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from quicknet.models.norm import summed_over_processes


class WeightNormConv2d(nn.Conv2d):
    """A convolution whose filters are g v / |v|: `weight` is v, `gain` is g (channels out,), 1 at first."""

    def __init__(self, *args: int, **kwargs: int | bool) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.gain = nn.Parameter(torch.ones(self.out_channels))

    def filters(self) -> Tensor:
        """Return the filters (O, I / groups, k, k)."""
        lengths: Tensor = torch.linalg.vector_norm(self.weight, dim=(1, 2, 3))
        filters: Tensor = self.weight * (self.gain / lengths)[:, None, None, None]
        return filters

    def forward(self, x: Tensor) -> Tensor:
        """Return the map (N, O, h, w)."""
        y: Tensor = self._conv_forward(x, self.filters(), self.bias)
        return y


class MeanOnlyNorm2d(nn.Module):
    """Maps less their mean over the batch, over all processes, plus a bias; in eval mode less the running mean."""

    running_mean: Tensor

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) centred."""
        mean = self.running_mean
        if self.training:
            mean = _mean_over_processes(x, mean.dtype)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
        return x + (self.bias - mean).to(x.dtype)[:, None, None]


def _mean_over_processes(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the mean (C,) of all processes' maps, however unequal their parts."""
    count = torch.full((1,), x.numel() // x.shape[1], dtype=dtype, device=x.device)
    sums = summed_over_processes(torch.cat([x.sum((0, 2, 3), dtype=dtype), count]))
    return sums[:-1] / sums[-1].detach()


def start_gains(network: nn.Module, slope: float) -> None:
    """Set the gains of pointwise convolutions to 1 / the deviation of what they take: activated normal numbers.

    Of y = max(x, 0) + slope * min(x, 0), x of variance 1: (1 + slope²) / 2 - (1 - slope)² / (2 pi).
    """
    variance = (1 + slope**2) / 2 - (1 - slope) ** 2 / (2 * math.pi)
    for module in network.modules():
        if isinstance(module, WeightNormConv2d) and module.kernel_size == (1, 1):
            nn.init.constant_(module.gain, variance**-0.5)
