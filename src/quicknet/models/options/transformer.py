"""A spatial transformer: a small network says how to turn, scale, shear and shift the image before the others see it.

Source: Jaderberg et al. 2015 (arXiv:1506.02025) §3: a localization network gives the six numbers of an affine map, by
which a grid of points is placed on the image, which is sampled there bilinearly. It starts from the identity. The
localization network is chosen here, in the manner of their §4.1: pooling, two 5x5 convolutions, two linear layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SIDE = 4  # of the map that the first linear layer takes
_HIDDEN = 32


class Transformer(nn.Module):
    """Images → images of the same shape (N, C, H, W), `width` channels in between."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 5, padding=2)
        self.conv2 = nn.Conv2d(width, width, 5, padding=2)
        self.hidden, self.affine = nn.Linear(width * _SIDE**2, _HIDDEN), nn.Linear(_HIDDEN, 6)

    def start(self) -> None:
        """Begin with the identity."""
        nn.init.zeros_(self.affine.weight)
        with torch.no_grad():
            self.affine.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the images as they are sampled."""
        y = F.max_pool2d(F.relu(self.conv1(F.max_pool2d(x, 2))), 2)
        y = F.adaptive_avg_pool2d(F.relu(self.conv2(y)), _SIDE).flatten(1)
        affine = self.affine(F.relu(self.hidden(y))).to(x.dtype).view(-1, 2, 3)
        grid = F.affine_grid(affine, x.shape, align_corners=False)  # type: ignore[arg-type]
        return F.grid_sample(x, grid, align_corners=False)
