"""Before training: the layers' sensitivity, their weight against each other, and the order of their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from quicknet.core.files import write_atomically
from quicknet.core.settings import Settings
from quicknet.data import Dataset
from quicknet.deploy.compress import sensitivity
from quicknet.deploy.compress.permute import choose_orders, permuted
from quicknet.deploy.compress.predict import Shape, density_for, density_of, size_at, step_for
from quicknet.deploy.compress.sensitivity import LayerSensitivity
from quicknet.deploy.compress.settings import CompressSettings, Pattern
from quicknet.deploy.compress.speed import Speedometer
from quicknet.deploy.compress.work import PREPARED
from quicknet.deploy.quantize.qat import Show
from quicknet.models.config import Layer, plan
from quicknet.models.network import Network
from quicknet.models.quicknet import QuickNet
from quicknet.training.channels import (
    channel_masks,
    choose_channels,
    narrowed_config,
    quicknet_config,
    weighed_scores,
)
from quicknet.training.checkpoint import RunFolder, TorchClassifier
from quicknet.training.prune import BLOCKS, choose_masks, scores, separable_layers

LEAST = 0.02  # of every layer's weights that stay
# Tried in turn for a size and a speed together; `quicknet` gets faster mostly at the end (1.3 to 1.75 times).
_SHARES_OF_TIME = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)
_PERMUTE_AT = 0.3  # where the density is not known yet


class Prepared(Settings, frozen=True, kw_only=True):
    """What is known before training. `density` is None where only training tells it (`max_loss`).

    `step` of the integers is None, the usual one, but where a speed leaves bytes of a size over.
    """

    importance: tuple[float, ...]
    density: float | None
    sensitivity: tuple[LayerSensitivity, ...]
    step: float | None = None


def prepare(parent: TorchClassifier, data: Dataset, settings: CompressSettings, work: Path, show: Show) -> Prepared:
    """Return what is known before training, and write the run with its inputs in order to WORK/parent.

    What an earlier call with the same arguments wrote is read.
    """
    path = work / PREPARED
    if path.is_file():
        return msgspec.json.decode(path.read_bytes(), type=Prepared)
    images = _images(data, settings)
    with show("measure sensitivity", sensitivity.steps(parent.model), "layers") as advance:
        rows = sensitivity.measure(parent.model, images, parent.card.preprocess, settings.pattern, advance)
    raw = [row.importance for row in rows if row.importance is not None]
    if settings.epochs:
        importance, density = plan_pruning(raw, parent.model, settings)
    else:
        importance, density = tuple(raw), kept_share(parent.model)
    network = parent.model
    if settings.pattern == "block" and settings.epochs:
        network = permuted(network, choose_orders(network, importance, density or _PERMUTE_AT))
    RunFolder(work / "parent").save_model(dict(network.state_dict()), parent.card)
    step = _finer_step(network, importance, density, settings)
    prepared = Prepared(importance=importance, density=density, sensitivity=tuple(rows), step=step)
    write_atomically(path, msgspec.json.encode(prepared))
    return prepared


def _images(data: Dataset, settings: CompressSettings) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return training images to measure on, in the data's order."""
    train = data.split("train").images
    rows = np.sort(np.random.default_rng(settings.seed).permutation(len(train))[: settings.images])
    return np.ascontiguousarray(train[rows])


def plan_pruning(
    importance: Sequence[float], network: Network, settings: CompressSettings
) -> tuple[tuple[float, ...], float | None]:
    """Return what a unit of each layer's scores is worth, and the density (None for `max_loss`).

    A weight costs a byte or so, and a multiply-add for each place of its layer's map: a size is reached with least
    lost by what scores are worth per byte, a speed per multiply-add. Where both are asked for, the time counts
    as little as it may.
    """
    if settings.target_speed is None or settings.target_size is None:
        weighed = _weighed(importance, network, float(settings.target_speed is not None))
        return weighed, target_density(network, weighed, settings)
    by_size = settings.replace(target_speed=None)
    speed = Speedometer(quicknet_config(network), settings.bits)
    for share in _SHARES_OF_TIME:
        weighed = _weighed(importance, network, share)
        density = target_density(network, weighed, by_size)
        assert density is not None
        if speed.of(shape_at(network, weighed, density, settings.pattern)) >= settings.target_speed:
            return weighed, density
    return weighed, target_density(network, weighed, settings.replace(target_size=None))


def _finer_step(
    network: Network, importance: Sequence[float], density: float | None, settings: CompressSettings
) -> float | None:
    """Return the step of the integers that fills the size, where a speed needs a lower density than the size does."""
    if density is None or settings.target_size is None or settings.target_speed is None or settings.step is not None:
        return None
    shape = shape_at(network, importance, density, settings.pattern)
    return step_for(shape, network.config.num_classes, settings.grid, settings.target_size)


def _weighed(importance: Sequence[float], network: Network, share: float) -> tuple[float, ...]:
    """Return what a unit of each layer's scores is worth per byte (`share` 0), per multiply-add (1) or between."""
    sides = [layer.side for layer in plan_of(network)[1:]]
    weighed = [value / side ** (2 * share) for value, side in zip(importance, sides, strict=True)]
    return tuple(value / max(weighed) for value in weighed)


def plan_of(network: Network) -> tuple[Layer, ...]:
    """Return the layers of a QuickNet."""
    separable_layers(network)  # refuses others
    assert isinstance(network, QuickNet)
    return network.plan


def shape_at(network: Network, importance: Sequence[float], density: float, pattern: Pattern) -> Shape:
    """Return the shape of the network whose pointwise layers together keep `density`, were it pruned now."""
    least = min(LEAST, density)
    if pattern == "channel":
        config, there = quicknet_config(network), channel_masks(network)
        channels = choose_channels(config, weighed_scores(network, importance), there, density, least)
        layers = plan(narrowed_config(config, channels))
        return Shape(layers, (1.0,) * len(channels), BLOCKS["block"])
    size = BLOCKS[pattern]
    pairs = zip(separable_layers(network), importance, strict=True)
    weighed = [scores(layer, size) * factor for layer, factor in pairs]
    masks = choose_masks(weighed, density, least)  # of a run that is pruned already some of what is chosen is absent
    kept = [mask & (score > 0) for mask, score in zip(masks, weighed, strict=True)]
    return Shape(plan_of(network), tuple(float(mask.float().mean()) for mask in kept), size)


def target_density(network: Network, importance: Sequence[float], settings: CompressSettings) -> float | None:
    """Return the density for a size or a speed; None for a loss. Raises ConfigError for what is out of reach."""
    classes, config = network.config.num_classes, quicknet_config(network)

    def shape(density: float) -> Shape:
        return shape_at(network, importance, density, settings.pattern)

    if settings.target_size is not None:
        limit = settings.target_size
        return density_for(
            lambda density: size_at(shape(density), classes, settings.grid) <= limit,
            f"--target-size {limit:,} bytes",
            lambda density: f"{size_at(shape(density), classes, settings.grid):,} bytes",
        )
    if settings.target_speed is not None:
        times, speed = settings.target_speed, Speedometer(config, settings.bits)
        return density_for(
            lambda density: speed.of(shape(density)) >= times,
            f"--target-speed {times:g}x",
            lambda density: f"{speed.of(shape(density)):.2f}x",
        )
    return settings.density


def whole_shape(network: Network) -> Shape:
    """Return the shape of a network as it is: pruned already, or with all its weights."""
    return Shape(plan_of(network), tuple(network_densities(network)), BLOCKS["block"])


def kept_share(network: Network) -> float:
    """Return the share of all pointwise weights that a network has: 1.0 for one that was never pruned."""
    return round(density_of(whole_shape(network)), 4)


def network_densities(network: Network) -> list[float]:
    """Return the share of the weights that each pointwise layer of a pruned network has."""
    with torch.no_grad():
        return [float((layer.pointwise.weight != 0).float().mean()) for layer in separable_layers(network)]
