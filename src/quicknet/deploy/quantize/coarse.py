"""An integer network in which few low bits are set: each costs a bit in the coded file, needed or not.

Pointwise weights are chosen to code small while they are fine-tuned (`rate.py`). Of the other numbers multipliers
keep their highest bits, biases and the classifier's weights are rounded to steps that are small beside what
they are added to. Of `quicknet_s.cifar10` compressed (results 0039) that saves 6.0% of the bytes, of
`quicknet_xs.cifar10` (0028) 5.6%; top-1 on val (n = 5,000) moves by 0.04 and 0.06 points.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quicknet.core.errors import FormatError
from quicknet.deploy.quantize.build import Quantized
from quicknet.qnz.bounds import check_network
from quicknet.qnz.format import INT16_MAX, UNIT
from quicknet.qnz.network import Int16, Int32, IntegerNetwork, IntegerSeparable, IntegerStem, Requantization

_SIGNIFICANT = 7  # bits of a multiplier: off by 0.2% on average; with 6, 0.1 to 0.2 points are lost
_LEVELS = 0.5  # of a layer's output that a bias's step comes to, at most: off by an eighth on average
_OF_SIZE = 1 / 64  # of the root mean square of the classifier's weights


def coarsen(quantized: Quantized) -> Quantized:
    """Return the network with its low bits zero; as it is where the bounds of FORMAT.md leave no room for that."""
    network = quantized.network
    coarse = dataclasses.replace(
        network,
        stem=dataclasses.replace(network.stem, bias=_bias(network.stem), output=_output(network.stem.output)),
        blocks=tuple(
            dataclasses.replace(
                block, multiplier=_significant(block.multiplier), bias=_bias(block), output=_output(block.output)
            )
            for block in network.blocks
        ),
        weight=_classifier(network),
    )
    try:
        check_network(coarse)
    except FormatError:
        return quantized
    return dataclasses.replace(quantized, network=coarse)


def _output(output: Requantization) -> Requantization:
    positive, negative = _significant(output.positive), _significant(output.negative)
    return dataclasses.replace(output, positive=positive, negative=negative)


def _significant(multiplier: Int16) -> Int16:
    """Return the nearest numbers with so many significant bits; the largest of them instead of larger ones."""
    bits = np.frexp(np.abs(multiplier.astype(np.float64)))[1]
    largest = INT16_MAX >> (15 - _SIGNIFICANT) << (15 - _SIGNIFICANT)
    rounded = _rounded(multiplier, bits - _SIGNIFICANT)
    return np.clip(rounded, -largest, largest).astype(np.int16)


def _bias(layer: IntegerStem | IntegerSeparable) -> Int32:
    """Return biases (O,), each rounded to steps of `_LEVELS` of its channel's output."""
    output = layer.output
    level = 2.0**output.shift * UNIT / np.maximum(np.abs(output.positive.astype(np.float64)), 1)
    return _rounded(layer.bias, np.floor(np.log2(_LEVELS * level))).astype(np.int32)


def _classifier(network: IntegerNetwork) -> Int16:
    """Return the classifier's weights (classes, F) in steps of a share of their size."""
    size = float(np.sqrt((network.weight.astype(np.float64) ** 2).mean()))
    step = np.floor(np.log2(max(1.0, _OF_SIZE * size)))
    return np.clip(_rounded(network.weight, step), -INT16_MAX, INT16_MAX).astype(np.int16)


def _rounded(values: NDArray[Any], bits: Any) -> NDArray[np.int64]:
    """Return the multiples of 2^bits nearest to `values`; below 0 bits the values."""
    step = np.exp2(np.maximum(bits, 0))
    whole: NDArray[np.int64] = (np.round(values / step) * step).astype(np.int64)
    return whole
