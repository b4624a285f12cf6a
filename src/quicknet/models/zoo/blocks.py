"""What several networks of the zoo share: a config that scales widths, units of layers, selections of channels."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.core.errors import ConfigError
from quicknet.models.config import NetworkConfig, check_weights
from quicknet.models.dropout import Dropout
from quicknet.models.fused import convolve
from quicknet.models.norm import BatchNorm2d


class ZooConfig(NetworkConfig, frozen=True, kw_only=True):
    """A published network whose every width is multiplied by `width`, 1 as published."""

    width: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        NetworkConfig.__post_init__(self)
        if not 1 / 64 <= self.width <= 4:
            raise ConfigError(f"width {self.width} must lie in 1/64..4")

    def wide(self, channels: int, multiple: int = 1) -> int:
        """Return a published number of channels at this width: the nearest multiple, never below 90% of it.

        Source of the 90%: the MobileNets' published code, `make_divisible`.
        """
        exact = channels * self.width
        nearest = max(multiple, int(exact + multiple / 2) // multiple * multiple)
        return nearest if nearest >= 0.9 * exact else nearest + multiple

    def require_size(self, smallest: int) -> None:
        """Raise ConfigError for images that the network leaves nothing of."""
        if self.image_size < smallest:
            raise ConfigError(f"image size {self.image_size} is too small: this network needs at least {smallest}")

    def require_weights(self, hidden: Iterable[tuple[int, int, int]]) -> None:
        """Raise ConfigError where layers (channels in, out, side) over whole maps have more weights than is allowed."""
        weights = sum(ins * outs * side**2 for ins, outs, side in hidden)
        check_weights(f"width {self.width} and image size {self.image_size}", weights)


class WholeMapConfig(ZooConfig, frozen=True, kw_only=True):
    """A network with a fully connected layer over its last map, or, where that is larger, over each part of the map.

    `map_side` is the side of what that layer takes, None for the published one where the map is large enough.
    The network's own config has it as a number, so that other image sizes are held to it.
    """

    map_side: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        ZooConfig.__post_init__(self)
        if self.map_side is not None and not 1 <= self.map_side <= self.last_side:
            raise ConfigError(
                f"image size {self.image_size} leaves a map of {self.last_side} x {self.last_side} pixels, and a layer "
                f"takes {self.map_side} x {self.map_side} (map_side); use larger images"
            )

    @property
    @abstractmethod
    def last_side(self) -> int:
        """Side of the last map at `image_size`."""

    @property
    @abstractmethod
    def published_side(self) -> int:
        """Side of the last map as published."""

    @property
    def side(self) -> int:
        """Side of what the fully connected layer takes."""
        return min(self.published_side, self.last_side) if self.map_side is None else self.map_side


class Unit(nn.Module):
    """Convolution, batch norm (else a bias), activation: (N, in, H, W) → (N, out, h, w).

    `padding` None keeps the side, but for the stride.
    """

    def __init__(
        self,
        ins: int,
        outs: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        padding: int | None = None,
        groups: int = 1,
        norm: bool = True,
        act: Literal["relu", "relu6", "none"] = "relu",
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(ins, outs, kernel, stride, padding, groups=groups, bias=not norm)
        self.bn = BatchNorm2d(outs) if norm else nn.Identity()
        self.act = {"relu": nn.ReLU, "relu6": nn.ReLU6, "none": nn.Identity}[act]()

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated feature map."""
        y: Tensor = self.act(self.bn(convolve(self.conv, x)))
        return y


class Before(nn.Module):
    """Batch norm and ReLU, then a convolution: (N, in, H, W) → (N, out, H, W)."""

    def __init__(self, ins: int, outs: int, kernel: int, groups: int = 1) -> None:
        super().__init__()
        self.bn = BatchNorm2d(ins)
        self.conv = nn.Conv2d(ins, outs, kernel, padding=kernel // 2, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution's map."""
        return convolve(self.conv, F.relu(self.bn(x)))


def hidden_layers(ins: int, units: Iterable[int], side: int, dropout: float) -> nn.Sequential:
    """Return fully connected layers with ReLU, dropout between them: (N, in, side, side) → (N, units, 1, 1).

    The first takes side x side pixels. As convolutions they answer for every place of a larger map, too.
    """
    layers: list[nn.Module] = []
    for outs in units:
        layers += [Dropout(dropout)] if layers else []
        layers.append(Unit(ins, outs, side, padding=0, norm=False))
        ins, side = outs, 1
    return nn.Sequential(*layers)


def pooled(side: int, kernel: int, stride: int, padding: int = 0, ceil: bool = False) -> int:
    """Return the side that a convolution or pooling leaves.

    >>> pooled(224, 11, 4, 2), pooled(112, 3, 2), pooled(112, 3, 2, ceil=True)
    (55, 55, 56)
    """
    left = side + 2 * padding - kernel
    return (math.ceil(left / stride) if ceil else left // stride) + 1


def stages(widths: Iterable[int], reductions: Iterable[int]) -> list[dict[str, Any]]:
    """Return a network's `feature_info`: channels of each stage, and by how much its side is smaller."""
    pairs = enumerate(zip(widths, reductions, strict=True))
    return [{"stage": stage, "num_chs": width, "reduction": reduction} for stage, (width, reduction) in pairs]


class Select(nn.Module):
    """Channels by their indices, in that order: (N, C, H, W) → (N, len(indices), H, W)."""

    indices: tuple[int, ...]

    def __init__(self, indices: Iterable[int]) -> None:
        super().__init__()
        self.indices = tuple(indices)
        self.register_buffer("_indices", torch.tensor(self.indices), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the selected channels."""
        return x.index_select(1, self.get_buffer("_indices"))


class WithinNorm(nn.Module):
    """Each value divided by (1 + alpha * mean square of its size x size neighbourhood) ** beta.

    Source: cuda-convnet's `rnorm` layer, response normalization within a map (its documentation,
    LayerParams), of which Caffe's WITHIN_CHANNEL is the copy.
    """

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) normalized."""
        mean = F.avg_pool2d(x * x, self.size, 1, self.size // 2)
        return x / (1 + self.alpha * mean) ** self.beta
