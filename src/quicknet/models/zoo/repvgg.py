"""RepVGG-A0: three branches a layer in training, of which export makes one 3x3 convolution.

Source: Ding et al. 2021 (arXiv:2101.03697) §3, Tables 2 and 3: stages of 1, 2, 4, 14, 1 layers; A0 has widths 48, 48,
96, 192, 1280. A layer is 3x3 with batch norm, 1x1 with batch norm and, where the shape stays, a batch norm of its
input, summed, then ReLU. For ImageNet every stage halves the side. For CIFAR the first two do not (Y. Chen,
pytorch-cifar-models, README: 7.84 million parameters, 489 M multiply-adds, 94.39%, before folding). The counts in the
tests are counted here.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.core.errors import ConfigError
from quicknet.models.layers import start_convolutions
from quicknet.models.network import Network
from quicknet.models.norm import BatchNorm2d
from quicknet.models.zoo.blocks import Unit, ZooConfig, stages


class RepVGGConfig(ZooConfig, frozen=True, kw_only=True):
    """Width, layers and stride of each stage; without `branches` it is the network that export makes."""

    widths: tuple[int, ...] = (48, 48, 96, 192, 1280)
    depths: tuple[int, ...] = (1, 2, 4, 14, 1)
    strides: tuple[int, ...] = (1, 1, 2, 2, 2)
    branches: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        ZooConfig.__post_init__(self)
        if not 1 <= len(self.widths) <= 8 or not len(self.widths) == len(self.depths) == len(self.strides):
            raise ConfigError("widths, depths and strides need one entry for each of 1 to 8 stages")
        if not all(1 <= w <= 2560 for w in self.widths) or not all(1 <= d <= 32 for d in self.depths):
            raise ConfigError("widths must lie in 1..2560, depths in 1..32")
        if not {*self.strides} <= {1, 2}:
            raise ConfigError(f"strides {self.strides} must each be 1 or 2")
        self.require_weights((self.wide(w), self.wide(w), 3 * d) for w, d in zip(self.widths, self.depths, strict=True))


class Layer(nn.Module):
    """The branches, summed and activated: (N, in, H, W) → (N, out, h, w)."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.three = Unit(ins, outs, 3, stride, act="none")
        self.one = Unit(ins, outs, 1, stride, act="none")
        self.same = BatchNorm2d(ins) if ins == outs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated feature map."""
        y: Tensor = self.three(x) + self.one(x)
        return F.relu(y if self.same is None else y + self.same(x))


class RepVGG(Network):
    """Normalized images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, config: RepVGGConfig) -> None:
        super().__init__(config)
        widths = [config.wide(width) for width in config.widths]
        blocks: list[nn.Module] = []
        ins = config.in_channels
        for outs, depth, stride in zip(widths, config.depths, config.strides, strict=True):
            for index in range(depth):
                here = 1 if index else stride
                blocks.append(Layer(ins, outs, here) if config.branches else Unit(ins, outs, 3, here, norm=False))
                ins = outs
        self.blocks = nn.Sequential(*blocks)
        self.add_head(ins)
        halved = [sum(stride == 2 for stride in config.strides[: i + 1]) for i in range(len(widths))]
        self.feature_info = stages(widths, (1 << times for times in halved))
        start_convolutions(self, 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, features, h, w), activated."""
        features: Tensor = self.blocks(x)
        return features


NETWORK = RepVGG
repvgg_a0 = RepVGGConfig()
repvgg_a0_folded = RepVGGConfig(branches=False)
