"""Whole output channels of the pointwise layers, pruned while the network trains; the narrower network that is left.

An absent channel has no weights, no batch norm and no weights that read it: it answers zero. All layers of
a stage stay equally wide, so what is left is a QuickNet with other `widths`, dense, for every runtime.
What is zero is the mask: nothing else is saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quicknet.models.config import Layer, QuickNetConfig, plan
from quicknet.models.layers import Separable, Stem
from quicknet.models.network import Network
from quicknet.models.quicknet import QuickNet
from quicknet.training.prune import EVERY, density_at, require_importance, scores, separable_layers
from quicknet.training.settings import PruneSettings

GROUP = 8  # channels that leave a layer at once: what remains is a whole number of vectors on most machines


def quicknet_config(network: Network) -> QuickNetConfig:
    """Return the config of a network that can be pruned. Raises ConfigError for one of another family."""
    separable_layers(network)
    assert isinstance(network.config, QuickNetConfig)
    return network.config


def channel_scores(layer: Separable) -> Tensor:
    """Return how much each output channel (O,) has behind batch norm: its weights' norm, times the norm's scale."""
    return scores(layer, layer.pointwise.in_channels)[:, 0]


def channel_masks(network: Network) -> list[Tensor]:
    """Return which output channels (O,) of each pointwise layer there are."""
    return [layer.pointwise.weight.detach().flatten(1).abs().sum(1) > 0 for layer in separable_layers(network)]


def pointwise_weights(layers: Sequence[Layer]) -> int:
    """Return how many pointwise weights the layers of a plan have.

    >>> pointwise_weights(plan(QuickNetConfig(stem_width=4, widths=(8,), depths=(2,), kernel_sizes=(3,))))
    96
    """
    return sum(layer.in_channels * layer.out_channels for layer in layers[1:])


# --- the choice ----------------------------------------------------------------------------


def choose_channels(
    config: QuickNetConfig, layer_scores: Sequence[Tensor], there: Sequence[Tensor], density: float, least: float
) -> list[Tensor]:
    """Return which channels (O,) of each layer to keep of those that are `there`, equally many within a stage.

    The stage that loses the least of its scores a weight gives up GROUP channels of each of its layers, and
    again, until at most `density` of the pointwise weights are left, or every stage is down to the
    square root of `least`.
    """
    stages = [layer.stage for layer in plan(config)[1:]]
    alive = [score.masked_fill(~mask, -1.0) for score, mask in zip(layer_scores, there, strict=True)]
    kept: dict[int, Tensor] = {}  # stage → what the best n channels of its layers hold, n from 0
    for stage, score in zip(stages, alive, strict=True):
        sums = torch.cat([score.new_zeros(1), score.clamp(min=0).sort(descending=True).values.cumsum(0)]).double()
        kept[stage] = kept.get(stage, 0) + sums
    start = [max(int(m.sum()) for m, s in zip(there, stages, strict=True) if s == stage) for stage in sorted(kept)]
    held = {stage: sums.tolist() for stage, sums in kept.items()}
    widths = _narrower(config, [held[stage] for stage in sorted(held)], start, density, least)
    return [_best(score, widths[stage - 1]) for score, stage in zip(alive, stages, strict=True)]


def _narrower(
    config: QuickNetConfig, held: Sequence[Sequence[float]], widths: list[int], density: float, least: float
) -> list[int]:
    """Return the width of each stage; `held[stage][n]` is what its best n channels hold."""
    limit = density * pointwise_weights(plan(config))
    floors = [max(1, math.ceil(math.sqrt(least) * width)) for width in config.widths]
    while (count := _count(config, widths)) > limit:
        costs: list[tuple[float, int, int]] = []
        for stage, width in enumerate(widths):
            narrow = (width - 1) // GROUP * GROUP
            if narrow < floors[stage]:
                continue
            saved = count - _count(config, [*widths[:stage], narrow, *widths[stage + 1 :]])
            costs.append(((held[stage][width] - held[stage][narrow]) / saved, stage, narrow))
        if not costs:
            break
        _, stage, narrow = min(costs)
        widths = [*widths[:stage], narrow, *widths[stage + 1 :]]
    return widths


def _count(config: QuickNetConfig, widths: Sequence[int]) -> int:
    """Return the pointwise weights at these widths, without a plan: this is asked thousands of times."""
    count, before = 0, config.stem_width
    for width, depth in zip(widths, config.depths, strict=True):
        count += before * width + (depth - 1) * width * width
        before = width
    return count


def _best(score: Tensor, count: int) -> Tensor:
    """Return a mask (O,) of the `count` largest."""
    mask = torch.zeros(len(score), dtype=torch.bool, device=score.device)
    mask[score.topk(count).indices] = True
    return mask


def weighed_scores(network: Network, importance: Sequence[float]) -> list[Tensor]:
    """Return the scores (O,) of each layer's channels, as the layers count against each other."""
    pairs = zip(separable_layers(network), importance, strict=True)
    return [channel_scores(layer) * factor for layer, factor in pairs]


def narrowed_config(config: QuickNetConfig, masks: Sequence[Tensor]) -> QuickNetConfig:
    """Return the config of a network without the channels that are masked; a stage is as wide as its widest layer."""
    widths = [0] * len(config.widths)
    for layer, mask in zip(plan(config)[1:], masks, strict=True):
        widths[layer.stage - 1] = max(widths[layer.stage - 1], int(mask.sum()))
    return config.replace(widths=tuple(widths))


# --- while training --------------------------------------------------------------------------


class ChannelPruner:
    """Keeps the channels of a network, and of its average, while it trains, as `Pruner` keeps blocks.

    `networks[0]` decides. Raises as that does.
    """

    def __init__(self, networks: Sequence[Network], settings: PruneSettings) -> None:
        self.settings, self._network = settings, networks[0]
        self._config = quicknet_config(networks[0])
        self._layers = separable_layers(networks[0])
        self._all = [separable_layers(network) for network in networks]
        self._importance = require_importance(settings, len(self._layers))
        self.read()

    def read(self) -> None:
        """Take the channels without weights for the masks."""
        self.masks = channel_masks(self._network)

    def density(self) -> float:
        """Return the share of pointwise weights that is kept."""
        narrow = narrowed_config(self._config, self.masks)
        return pointwise_weights(plan(narrow)) / pointwise_weights(plan(self._config))

    def before_step(self) -> None:
        """Let absent channels have no part in the step, nor in the optimizer's averages."""
        for layer, weight, vector in self._factors():
            for parameter, factor in ((layer.pointwise.weight, weight), (layer.bn.weight, vector)):
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
            if layer.bn.bias is not None and layer.bn.bias.grad is not None:
                layer.bn.bias.grad.mul_(vector)

    @torch.no_grad()
    def after_step(self, step: int, progress: float) -> None:
        """Choose anew what is kept, where that is due after step number `step` (from 0); zero what is absent."""
        if step % EVERY == 0 or progress >= self.settings.ramp:
            self._choose(density_at(self.settings, progress))
        for layers in self._all:
            for layer, weight, vector in self._factors(layers):
                layer.pointwise.weight.mul_(weight)
                layer.bn.weight.mul_(vector)
                layer.bn.bias.mul_(vector)

    def _factors(self, layers: Sequence[Separable] | None = None) -> list[tuple[Separable, Tensor, Tensor]]:
        """Return each layer with what its weights (O, K, 1, 1) and its batch norm (O,) are multiplied by."""
        found, before = [], None
        for layer, mask in zip(layers or self._layers, self.masks, strict=True):
            vector = mask.to(layer.pointwise.weight.dtype)
            weight = vector[:, None, None, None]
            found.append((layer, weight if before is None else weight * before[None, :, None, None], vector))
            before = vector
        return found

    def _choose(self, density: float) -> None:
        if density >= self.density():
            return
        weighed = weighed_scores(self._network, self._importance)
        self.masks = choose_channels(self._config, weighed, self.masks, density, self.settings.least)


# --- what is left ----------------------------------------------------------------------------


@torch.no_grad()
def narrowed(network: Network) -> QuickNet:
    """Return the network without its absent channels, with fewer `widths`: the same function."""
    assert isinstance(network, QuickNet)
    config, masks = quicknet_config(network), channel_masks(network)
    result = QuickNet(narrowed_config(config, masks)).to(network.classifier.weight).train(network.training)
    inputs = torch.arange(config.stem_width)
    _copy_outputs(network.stem, result.stem, inputs)
    for layer, narrow, mask in zip(separable_layers(network), separable_layers(result), masks, strict=True):
        outputs = _best(mask.float(), narrow.pointwise.out_channels).nonzero()[:, 0]
        narrow.depthwise.weight.copy_(layer.depthwise.weight[inputs])
        _copy_outputs(layer, narrow, outputs, inputs)
        inputs = outputs
    result.classifier.weight.copy_(network.classifier.weight[:, inputs])
    result.classifier.bias.copy_(network.classifier.bias)
    return result


def _copy_outputs(
    layer: Stem | Separable, narrow: Stem | Separable, outputs: Tensor, inputs: Tensor | None = None
) -> None:
    conv, to = (x.conv if isinstance(x, Stem) else x.pointwise for x in (layer, narrow))
    to.weight.copy_(conv.weight[outputs] if inputs is None else conv.weight[outputs][:, inputs])
    for name, tensor in layer.bn.state_dict().items():
        narrow.bn.state_dict()[name].copy_(tensor[outputs] if tensor.ndim else tensor)
    if isinstance(layer.act, nn.PReLU) and isinstance(narrow.act, nn.PReLU):
        slopes = layer.act.weight
        narrow.act.weight.copy_(slopes[outputs] if slopes.numel() > 1 else slopes)
