"""Speed, measured on this machine: of networks that have the shape of a pruned one, and of the file.

Integers take the same time whatever their values are; only which weights are absent counts. So a
network is drawn at random, and nothing needs to be trained. Dense and pruned run in turn in one
process, one image at a time on one thread, by the thread's processor time.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from quicknet.deploy.compress.predict import Shape
from quicknet.engine import Engine, available
from quicknet.measure.timing import percentile
from quicknet.models.config import Layer, QuickNetConfig, plan
from quicknet.qnz.container import pack_sections
from quicknet.qnz.encoding import encode_network
from quicknet.qnz.format import CARD, NETW, TENS, WIDTHS, Bits
from quicknet.qnz.network import IntegerNetwork, IntegerSeparable, IntegerStem, Requantization

_ROUNDS = 25
_BURST_S = 0.01
_PIXELS = 16 << 10  # of a call, 16 images of 32 pixels: a call's own 3 us are 4% of one image of `quicknet_s`
_SHIFT, _MULTIPLIER = 4, 1 << 14


class Speedometer:
    """Measures how many times as fast as the dense network of a config a pruned one is, in a width class."""

    def __init__(self, config: QuickNetConfig, bits: Bits) -> None:
        self._config, self._bits = config, bits
        self._dense: Engine | None = None
        self._known: dict[Shape, float] = {}

    def of(self, shape: Shape) -> float:
        """Return the speed of a shape; of the same one, the same. Raises ToolError without an engine."""
        if shape not in self._known:
            self._known[shape] = self.of_file(_drawn_file(self._config, shape, self._bits))
        return self._known[shape]

    def of_file(self, blob: bytes) -> float:
        """Return the speed of a `.qnz`. Raises ToolError without an engine."""
        layers = plan(self._config)
        whole = Shape(layers, (1.0,) * (len(layers) - 1), 1)
        if self._dense is None:
            self._dense = Engine(_drawn_file(self._config, whole, self._bits), pointwise="dense")
        engines, images = (self._dense, Engine(blob)), _images(self._config)
        rounds = [[_seconds(one, images) for one in engines] for _ in range(_ROUNDS + 1)]
        return round(percentile([dense / pruned for dense, pruned in rounds[1:]], 0.5), 3)


def _images(config: QuickNetConfig) -> NDArray[np.uint8]:
    size = (max(1, min(16, _PIXELS // config.image_size**2)), config.image_size, config.image_size, config.in_channels)
    return np.random.default_rng(0).integers(0, 256, size, np.uint8)


def _seconds(engine: Engine, images: NDArray[np.uint8]) -> float:
    """Return the processor time of a call, over about _BURST_S."""
    start, calls = time.thread_time(), 0
    while (spent := time.thread_time() - start) < _BURST_S or not calls:
        engine.run(images)
        calls += 1
    return spent / calls


def time_shares(blob: bytes) -> tuple[float, ...]:
    """Return the share of the time that each layer of a `.qnz` takes: stem, each depthwise and pointwise, classifier.

    A pool counts with the pointwise before it. Empty without an engine.
    """
    if not available():
        return ()
    engine = Engine(blob)
    image = np.zeros(engine.shape, np.uint8)
    engine.run(image[None])
    layers = range(1, engine.layers)
    parts = [(0, "output"), *((layer, part) for layer in layers for part in ("depthwise", "output")), (0, "sums")]
    rounds = [[engine.seconds(image, layer, part) for layer, part in parts] for _ in range(_ROUNDS)]
    times = [percentile(values, 0.5) for values in zip(*rounds, strict=True)]
    for index in range(2, len(times) - 1, 2):  # what was timed is the layer with its depthwise
        times[index] = max(0.0, times[index] - times[index - 1])
    return tuple(taken / sum(times) for taken in times)


# --- drawn networks ------------------------------------------------------------------------


def _drawn_file(config: QuickNetConfig, shape: Shape, bits: Bits) -> bytes:
    """Return a `.qnz`, without a card, of a network of a shape: weights of -1 and 1, of which others are absent."""
    width, rng = WIDTHS[bits], np.random.default_rng(0)
    output = [_requantization(layer.out_channels, width.top) for layer in shape.layers]
    stem = shape.layers[0]
    drawn_stem = IntegerStem(
        stem.stride,
        width.stem_sums,
        _signs(rng, (stem.out_channels, stem.kernel, stem.kernel, stem.in_channels)),
        np.zeros(stem.out_channels, np.int32),
        output[0],
    )
    blocks = [
        IntegerSeparable(
            layer.pool,
            _signs(rng, (layer.kernel, layer.kernel, layer.in_channels)),
            np.full(layer.in_channels, _MULTIPLIER, np.int16),
            width.top // 2,
            width.top,
            width.sums,
            _signs(rng, (layer.out_channels, layer.in_channels)) * _there(rng, layer, density, shape.unit),
            np.zeros(layer.out_channels, np.int32),
            after,
        )
        for layer, density, after in zip(shape.layers[1:], shape.densities, output[1:], strict=True)
    ]
    head = _signs(rng, (config.num_classes, shape.layers[-1].out_channels)).astype(np.int16)
    bias = np.zeros(config.num_classes, np.int32)
    network = IntegerNetwork(config.image_size, config.in_channels, drawn_stem, tuple(blocks), head, bias)
    netw, tens = encode_network(network)
    return pack_sections({CARD: b"{}", NETW: netw, TENS: tens})


def _requantization(channels: int, top: int) -> Requantization:
    multipliers = np.full(channels, _MULTIPLIER, np.int16)
    return Requantization(_SHIFT, multipliers, multipliers // 4, top // 4, top)


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int8]:
    return (2 * rng.integers(0, 2, shape, np.int8) - 1).astype(np.int8)


def _there(rng: np.random.Generator, layer: Layer, density: float, unit: int) -> NDArray[np.int8]:
    """Return 1 for the weights (O, K) of a pointwise layer that are kept, 0 for others."""
    units = -(-layer.in_channels // unit)
    kept = np.zeros(layer.out_channels * units, np.int8)
    kept[: round(density * len(kept))] = 1
    rng.shuffle(kept)
    return kept.reshape(layer.out_channels, units).repeat(unit, 1)[:, : layer.in_channels]
