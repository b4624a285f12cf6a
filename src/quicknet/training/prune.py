"""Gradual magnitude pruning of pointwise layers, in blocks that a processor multiplies together.

A network trains densely at first; while it trains, the blocks that matter least become zero and
stay zero (Zhu & Gupta 2017, arXiv:1710.01878, §3). What is zero is the mask: nothing else is saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.core.errors import ConfigError
from quicknet.models.layers import Separable
from quicknet.models.network import Network
from quicknet.models.predicates import require_pruned
from quicknet.models.quicknet import QuickNet
from quicknet.training.settings import PruneSettings

# pattern → neighbouring input channels that are kept or absent together; of whole output channels: `channels.py`
BLOCKS = {"block": 4, "element": 1}

EVERY = 8  # steps between two choices of what is kept


def separable_layers(model: Network) -> tuple[Separable, ...]:
    """Return the layers that are pruned, first to last. Raises ConfigError for a network of another family."""
    if type(model) is not QuickNet:
        raise ConfigError(f"a {type(model).__name__} cannot be pruned; only QuickNets have layers of that kind")
    require_pruned(model.plan)
    return tuple(cast(Separable, block) for block in model.blocks)


def density_at(settings: PruneSettings, progress: float) -> float:
    """Return the share to keep at `progress` (0..1 of the run).

    >>> settings = PruneSettings(density=0.2, ramp=0.5)
    >>> [round(density_at(settings, at), 3) for at in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.3, 0.2, 0.2]
    """
    left = max(0.0, 1 - progress / settings.ramp) if settings.ramp else 0.0
    return settings.density + (settings.start - settings.density) * left**3


def shares_at(settings: PruneSettings, density: float) -> tuple[float, ...]:
    """Return the share that each layer keeps on the way, where all together keep `density`.

    >>> shares_at(PruneSettings(density=0.2, shares=(0.1, 0.5)), 0.6)
    (0.55, 0.75)
    """
    way = (settings.start - density) / (settings.start - settings.density) if settings.start > settings.density else 1.0
    return tuple(round(1 - (1 - share) * way, 9) for share in settings.shares)


def block_sums(values: Tensor, size: int) -> Tensor:
    """Return the sums of neighbouring columns, `size` at a time: (O, K) → (O, blocks)."""
    padded = F.pad(values, (0, -values.shape[1] % size))
    return padded.view(len(values), -1, size).sum(2)


def spread(blocks: Tensor, size: int, columns: int) -> Tensor:
    """Return what holds for a block for each of its columns: (O, blocks) → (O, columns)."""
    return blocks.repeat_interleave(size, 1)[:, :columns]


def scores(layer: Separable, size: int) -> Tensor:
    """Return how much each block (O, blocks) adds to the variance behind batch norm, all inputs being alike."""
    weight = layer.pointwise.weight.detach()[:, :, 0, 0]
    assert layer.bn.running_var is not None
    gain = layer.bn.weight.detach().square() / (layer.bn.running_var + layer.bn.eps)
    return block_sums(weight.square(), size) * gain[:, None]


def choose_masks(layer_scores: Sequence[Tensor], density: float, least: float) -> list[Tensor]:
    """Return which blocks to keep (O, blocks) of each layer: one threshold, and `least` of every layer in any case."""
    flat = [_with_least(score.flatten(), least) for score in layer_scores]
    joined = torch.cat(flat)
    kept = torch.zeros(len(joined), dtype=torch.bool, device=joined.device)
    kept[joined.topk(max(1, round(density * len(joined)))).indices] = True
    parts = torch.split(kept, [len(part) for part in flat])
    return [part.view_as(score) for part, score in zip(parts, layer_scores, strict=True)]


def _with_least(score: Tensor, least: float) -> Tensor:
    """Return scores (B,) of which the largest few are infinite."""
    first = score.topk(min(len(score), max(1, round(least * len(score))))).indices
    return score.index_fill(0, first, torch.inf)


def require_importance(settings: PruneSettings, layers: int) -> tuple[float, ...]:
    """Return how so many layers count against each other. Raises ConfigError for another number of layers."""
    importance = settings.importance or (1.0,) * layers
    for name, numbers in (("importance", importance), ("shares", settings.shares or importance)):
        if len(numbers) != layers:
            raise ConfigError(f"prune.{name} has {len(numbers)} numbers for {layers} pointwise layers")
    return importance


class Pruner:
    """Keeps the masks of a network, and of its average, while it trains.

    `networks[0]` decides. A network that has zeros already keeps them. Raises ConfigError for one
    of another family, or `importance` for another number of layers.
    """

    def __init__(self, networks: Sequence[Network], settings: PruneSettings) -> None:
        self.settings, self.size = settings, BLOCKS[settings.pattern]
        self._layers = separable_layers(networks[0])
        self._followers = [separable_layers(network) for network in networks[1:]]
        self._importance = require_importance(settings, len(self._layers))
        self.read()

    def read(self) -> None:
        """Take the network's blocks of zeros for the masks."""
        alive = (block_sums(_matrix(layer).abs(), self.size) > 0 for layer in self._layers)
        self.masks = [self._filters(kept, layer) for kept, layer in zip(alive, self._layers, strict=True)]

    def _filters(self, kept: Tensor, layer: Separable) -> Tensor:
        """Return a mask of blocks as one of filters (O, K, 1, 1), float."""
        weight = layer.pointwise.weight
        return spread(kept, self.size, weight.shape[1]).to(weight.dtype)[:, :, None, None]

    def density(self) -> float:
        """Return the share of pointwise weights that is kept."""
        return float(sum(mask.sum() for mask in self.masks)) / sum(mask.numel() for mask in self.masks)

    def before_step(self) -> None:
        """Let absent weights have no part in the step, nor in the optimizer's averages."""
        for layer, mask in zip(self._layers, self.masks, strict=True):
            if layer.pointwise.weight.grad is not None:
                layer.pointwise.weight.grad.mul_(mask)

    @torch.no_grad()
    def after_step(self, step: int, progress: float) -> None:
        """Choose anew what is kept, where that is due after step number `step` (from 0); zero what is absent."""
        if step % EVERY == 0 or progress >= self.settings.ramp:
            self._choose(density_at(self.settings, progress))
        for layers in (self._layers, *self._followers):
            for layer, mask in zip(layers, self.masks, strict=True):
                layer.pointwise.weight.mul_(mask)

    def _choose(self, density: float) -> None:
        if density >= self.density():
            return
        found = [scores(layer, self.size) for layer in self._layers]
        weighed = [score * factor for score, factor in zip(found, self._importance, strict=True)]
        # a block that is absent has the score 0 and never comes back
        if self.settings.shares:
            shares = shares_at(self.settings, density)
            pairs = zip(weighed, shares, strict=True)
            chosen = [choose_masks([score], share, self.settings.least)[0] for score, share in pairs]
        else:
            chosen = choose_masks(weighed, density, self.settings.least)
        self.masks = [
            self._filters(kept, layer) * mask
            for kept, layer, mask in zip(chosen, self._layers, self.masks, strict=True)
        ]


def _matrix(layer: nn.Module) -> Tensor:
    weight: Tensor = cast(Separable, layer).pointwise.weight
    return weight.detach()[:, :, 0, 0]
