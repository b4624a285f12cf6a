"""The layers of a network, counted: a float one's from its card, a `.qnz`'s from the network that runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import Card, LayerCosts
from quicknet.core.settings import from_mapping
from quicknet.models.config import Layer, QuickNetConfig, plan
from quicknet.models.predicates import options_of
from quicknet.qnz.network import IntegerNetwork, IntegerSeparable


def layer_facts(card: Card) -> tuple[LayerCosts, ...]:
    """Return the layers in the order in which an image passes them, as they were counted in training.

    A card that holds none gives those of a QuickNet without options by its plan, and none of another network.
    Raises ConfigError for a config that makes no network.

    >>> from quicknet.core.card import ModelRecord, PreprocessSpec
    >>> record = ModelRecord(family="quicknet", name="quicknet", config={})
    >>> card = Card(model=record, classes=tuple("0123456789"), preprocess=PreprocessSpec())
    >>> layers = layer_facts(card)
    >>> sum(layer.parameters for layer in layers), sum(layer.macs for layer in layers)
    (3557322, 127863040)
    """
    if card.costs is not None and card.costs.layers:
        return card.costs.layers
    if card.model.family != "quicknet":
        return ()
    config = from_mapping(QuickNetConfig, card.model.config, "the card's model.config")
    planned = plan(config, card.preprocess.size)
    if options_of(planned):
        return ()
    layers = [_convolution(config, layer) for layer in planned]
    width = layers[-1].out_channels
    classifier = LayerCosts(
        name="classifier",
        kind="linear",
        kernel=1,
        in_channels=width,
        out_channels=config.num_classes,
        side=1,
        parameters=(width + 1) * config.num_classes,
        macs=width * config.num_classes,
        activation_bytes=0,
    )
    return (*layers, classifier)


def _convolution(config: QuickNetConfig, layer: Layer) -> LayerCosts:
    """Count one layer: its weights are used once a pixel; batch norm has two parameters a channel."""
    slopes = {"prelu": layer.out_channels, "prelu_shared": 1}.get(config.activation, 0)
    return LayerCosts(
        name=layer.name,
        kind=layer.kind,
        kernel=layer.kernel,
        in_channels=layer.in_channels,
        out_channels=layer.out_channels,
        side=layer.side,
        parameters=layer.weights + 2 * layer.out_channels + slopes,
        macs=layer.weights * layer.side**2,
        activation_bytes=4 * layer.out_channels * layer.side**2,
    )


# --- integer networks ----------------------------------------------------------------------


class IntegerLayerFacts(LayerCosts, frozen=True, kw_only=True):
    """One layer of an integer network; `parameters` are all its numbers, `size_bytes` those they take plain.

    `sums` is FORMAT.md's N (products added up in 16 bits), `top` the largest value of the output,
    `middle_top` of the depthwise output, `bits` those of the largest weight with its sign
    (pointwise or stem). `kept` is the share of a pointwise's blocks (one output channel, four
    neighbouring inputs) that are not all zero: the engine skips the others where few are left.
    What a layer does not have is None.
    """

    pool: bool
    sums: int | None
    shift: int | None
    top: int | None
    middle_top: int | None
    bits: int
    kept: float | None
    size_bytes: int


def integer_layers(network: IntegerNetwork) -> tuple[IntegerLayerFacts, ...]:
    """Return the layers in the order in which an image passes them, the classifier last."""
    stem = network.stem
    width, kernel = stem.weight.shape[0], stem.weight.shape[1]
    side = (network.side - kernel) // stem.stride + 1
    numbers = (stem.weight, stem.bias, stem.output.positive, stem.output.negative)
    layers = [
        IntegerLayerFacts(
            name="stem",
            kind="stem",
            kernel=kernel,
            in_channels=network.channels,
            out_channels=width,
            side=side,
            parameters=sum(array.size for array in numbers),
            macs=stem.weight.size * side**2,
            activation_bytes=width * side**2,
            pool=False,
            sums=stem.sums,
            shift=stem.output.shift,
            top=stem.output.top,
            middle_top=None,
            bits=_bits(stem.weight),
            kept=None,
            size_bytes=sum(array.nbytes for array in numbers),
        )
    ]
    for index, block in enumerate(network.blocks, 1):
        side = side // 2 if block.pool else side
        layers.append(_separable(block, f"layer {index}", side))
    return (*layers, _classifier(network))


def _separable(block: IntegerSeparable, name: str, side: int) -> IntegerLayerFacts:
    output = block.output
    numbers = (block.depthwise, block.multiplier, block.weight, block.bias, output.positive, output.negative)
    return IntegerLayerFacts(
        name=name,
        kind="separable",
        kernel=len(block.depthwise),
        in_channels=block.weight.shape[1],
        out_channels=block.weight.shape[0],
        side=side,
        parameters=sum(array.size for array in numbers),
        macs=(block.depthwise.size + block.weight.size) * side**2,
        activation_bytes=block.weight.shape[0] * side**2,
        pool=block.pool,
        sums=block.sums,
        shift=output.shift,
        top=output.top,
        middle_top=block.middle_top,
        bits=_bits(block.weight),
        kept=_kept(block.weight),
        size_bytes=sum(array.nbytes for array in numbers),
    )


def _classifier(network: IntegerNetwork) -> IntegerLayerFacts:
    classes, width = network.weight.shape
    return IntegerLayerFacts(
        name="classifier",
        kind="linear",
        kernel=1,
        in_channels=width,
        out_channels=classes,
        side=1,
        parameters=network.weight.size + network.bias.size,
        macs=network.weight.size,
        activation_bytes=0,
        pool=False,
        sums=None,
        shift=None,
        top=None,
        middle_top=None,
        bits=_bits(network.weight),
        kept=None,
        size_bytes=network.weight.nbytes + network.bias.nbytes,
    )


def _bits(weight: NDArray[Any]) -> int:
    """Return how many bits the largest magnitude takes, and one for the sign."""
    return int(np.abs(weight.astype(np.int64)).max(initial=0)).bit_length() + 1


def _kept(weight: NDArray[np.int8]) -> float:
    """Return the share of blocks of a pointwise (O, C) that are not all zero."""
    full = np.pad(weight, ((0, 0), (0, -weight.shape[1] % 4)))
    return float(full.reshape(len(full), -1, 4).any(2).mean())
