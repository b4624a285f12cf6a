"""Networks of every known part, whose numbers are drawn, and what a folded graph answers, node by node in float64."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.deploy.graph import (
    IMAGE,
    Activation,
    Average,
    Concat,
    Conv,
    Flatten,
    Folded,
    Linear,
    Maximum,
    Node,
    Pool,
    Regions,
    ResponseNorm,
    Scale,
    Select,
    Sum,
)
from quicknet.models.config import NetworkConfig
from quicknet.models.network import Network
from quicknet.models.norm import BatchNorm2d
from quicknet.models.options.weight_norm import MeanOnlyNorm2d, WeightNormConv2d
from quicknet.models.registry import create_model


def by_modules(net: Any, x: Tensor) -> Tensor:
    """Return what the network answers without the kernels: a hook keeps them out."""
    handle = net.stem.register_forward_hook(lambda *_: None)
    try:
        with torch.no_grad():
            answers: Tensor = net(x)
            return answers
    finally:
        handle.remove()


def drawn(name: str, **config: Any) -> Any:
    """A network whose every parameter and statistic is drawn."""
    torch.manual_seed(3)
    return draw(create_model(name, **config))


def draw(model: Any) -> Any:
    model.double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None and module.running_mean is not None
            nn.init.uniform_(module.running_var, 0.3, 3.0)
            for values in (module.running_mean, module.weight, module.bias):
                if values is not None:
                    nn.init.normal_(values)
        if isinstance(module, MeanOnlyNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.bias)
        if isinstance(module, WeightNormConv2d):
            nn.init.uniform_(module.gain, 0.5, 2)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 2)
    return model


class Block(nn.Module):
    """Two convolutions beside a shortcut, one activation module for both, as in a ResNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding="same", bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), BatchNorm2d(width, affine=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x
        return self.relu(y)


class Branches(nn.Module):
    """Four branches side by side, of which one adds a value to itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 5, 1)
        self.prelu, self.gelu = nn.PReLU(5), nn.GELU()
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.average = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(self.conv(x))
        z = F.avg_pool2d(y, 3, 1, padding=1)
        return torch.cat([self.gelu(y), F.silu(self.pool(x)), self.average(self.norm(x)), z + z], dim=1)


class Parts(Network):
    """Every known part, with sums and branches; a classifier of two layers."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.norm = BatchNorm2d(config.in_channels)
        self.conv = nn.Conv2d(config.in_channels, 6, 3, stride=2, padding=1, groups=1)
        self.left, self.right = nn.Conv2d(6, 8, 1), nn.Conv2d(6, 8, (1, 1), groups=2)
        self.shared, self.apart = nn.BatchNorm2d(8), nn.PReLU(8)
        self.block, self.branches = Block(8), Branches(8)
        self.mix = nn.Sequential(nn.Conv2d(26, 12, 1), nn.Conv2d(12, 12, 1), nn.Dropout2d(0.1), nn.LeakyReLU(0.2))
        self.average, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.hidden, self.slopes, self.skipped = nn.Linear(24, 16), nn.PReLU(16), nn.Identity()
        self.add_head(16)

    def forward_features(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv(self.norm(x)), 0.3)
        left = self.left(x)
        x = torch.add(self.apart(left + self.right(x)), self.shared(left))  # left has two takers
        x = F.max_pool2d(self.block(x), kernel_size=2)
        return self.mix(self.branches(x))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        averages = self.flat(self.average(features))
        x = torch.cat((averages, features.mean(dim=(-2, -1)).relu()), 1)
        pooled = self.skipped(F.dropout(self.slopes(self.hidden(x)), 0.2, self.training))
        return pooled if pre_logits else self.classifier(self.drop(pooled))


def parts(**config: Any) -> Any:
    torch.manual_seed(3)
    return draw(Parts(NetworkConfig(**config)))


def answered(net: Folded, images: np.ndarray) -> np.ndarray:
    """Run the folded nodes as they are described, in float64, on pixels 0..255."""
    x = torch.from_numpy(images.astype(np.float64).transpose(0, 3, 1, 2))
    if net.scale is not None and net.shift is not None:
        x = x * torch.from_numpy(net.scale)[:, None, None] + torch.from_numpy(net.shift)[:, None, None]
    values = {IMAGE: x}
    for node in net.nodes:
        values[node.name] = computed(node, [values[name] for name in node.inputs])
    return values[net.nodes[-1].name].numpy()


def computed(node: Node, taken: list[Tensor]) -> Tensor:
    x = taken[0]
    match node:
        case Conv():
            weight, bias = torch.from_numpy(node.weight), None if node.bias is None else torch.from_numpy(node.bias)
            return sloped(F.conv2d(x, weight, bias, node.stride, node.padding, groups=node.groups), node.slope)
        case Pool(kind="max"):
            return F.max_pool2d(x, node.kernel, node.stride, node.padding, ceil_mode=node.ceil)
        case Pool():
            return F.avg_pool2d(x, node.kernel, node.stride, node.padding, count_include_pad=node.counts_padding)
        case Activation():
            named: dict[str, Any] = {"silu": F.silu, "gelu": F.gelu, "relu6": F.relu6, "tanh": torch.tanh}
            return named[node.kind](x) if node.kind in named else sloped(x, node.slope)
        case Average():
            return x.mean((2, 3), keepdim=node.sides)
        case Flatten():
            return x.flatten(1)
        case Sum():
            return taken[0] + taken[1]
        case Maximum():
            return torch.maximum(taken[0], taken[1])
        case Scale():
            return x * node.factor
        case Select():
            return x[:, list(node.indices)]
        case Regions():
            rows = [x[:, :, a : b + 1].amax(2) for a, b in pairwise(node.rows)]
            x = torch.stack(rows, 2)
            return torch.stack([x[:, :, :, a : b + 1].amax(3) for a, b in pairwise(node.columns)], 3)
        case ResponseNorm(over="channels"):
            return F.local_response_norm(x, node.size, node.alpha, node.beta, node.k)
        case ResponseNorm():
            mean = F.avg_pool2d(x * x, node.size, 1, node.size // 2)
            return x / (node.k + node.alpha * mean) ** node.beta
        case Concat():
            return torch.cat(taken, 1)
        case Linear():
            return F.linear(
                x, torch.from_numpy(node.weight), None if node.bias is None else torch.from_numpy(node.bias)
            )


def sloped(x: Tensor, slope: np.ndarray | None) -> Tensor:
    if slope is None:
        return x
    return x.clamp(min=0) + torch.from_numpy(slope).view(-1, *[1] * (x.ndim - 2)) * x.clamp(max=0)
