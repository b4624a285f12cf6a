"""Random integer networks within FORMAT.md's bounds: usual ones, in which values spread, and extreme ones.

The groups of a lane are spelled out here as FORMAT.md has them, apart from the code under test.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from quicknet.core.card import Card, IntegerRecord, Mode, ModelRecord, PreprocessSpec, Vectors
from quicknet.image.vectors import GENERATOR, draw_vectors, vectors_sha256
from quicknet.qnz import reference
from quicknet.qnz.container import pack_sections
from quicknet.qnz.encoding import encode_network
from quicknet.qnz.network import IntegerNetwork, IntegerSeparable, IntegerStem, Requantization

GROUPS = {
    1: [[i, i + 1] for i in range(0, 16, 2)],
    2: [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]],
    4: [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]],
}
WIDTHS = (1, 3, 7, 16, 33, 64, 100, 130)
_LIMIT = 1 << 19  # multiply-adds of a layer: tests run thousands
_INT32 = (1 << 31) - 1
T = TypeVar("T")
Pick = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True)
class Block:
    width: int
    pool: bool = False
    kernel: int = 3
    sums: int = 1
    top: int = 255
    middle_top: int = 255


@dataclass(frozen=True)
class Shape:
    """What a random network looks like; its numbers are drawn."""

    side: int = 32
    channels: int = 3
    classes: int = 10
    stem: int = 16
    kernel: int = 5
    stride: int = 1
    sums: int = 1
    top: int = 255
    blocks: tuple[Block, ...] = (Block(32), Block(32), Block(64, pool=True), Block(64))


def draw_shape(pick: Pick) -> Shape:
    """Return any shape that a test has the time for; `pick` chooses one of several, simplest first."""
    channels, kernel, stride = pick((3, 1, 2, 4)), pick((5, 3, 1, 2, 4, 7, 8, 11)), pick((1, 2, 3, 4, 8))
    side = pick((16, 17, 24, 31, 32, 33, 45, 64, 67))
    left = (side - kernel) // stride + 1
    stem = pick([w for w in WIDTHS if left**2 * kernel**2 * channels * w <= _LIMIT] or WIDTHS[:1])
    blocks: list[Block] = []
    width = stem
    for _ in range(pick(range(13))):
        pool, taps = left > 1 and pick((False, False, True)), pick((3, 5))
        left = left // 2 if pool else left
        width = pick([w for w in WIDTHS if left**2 * width * (taps**2 + w) <= _LIMIT] or WIDTHS[:1])
        blocks.append(Block(width, pool, taps, pick((1, 2, 4)), pick((255, 127)), pick((255, 127))))
    classes = pick((2, 1, 3, 10, 17, 100, 1000) if width <= 130 else (2, 10))
    return Shape(side, channels, classes, stem, kernel, stride, pick((1, 2, 4)), pick((255, 127)), tuple(blocks))


def random_shape(rng: np.random.Generator) -> Shape:
    return draw_shape(lambda options: options[int(rng.integers(len(options)))])


def random_network(
    rng: np.random.Generator, shape: Shape | None = None, *, extreme: bool = False, **changes: Any
) -> IntegerNetwork:
    """Return a network of `shape` (by default any), or of the default shape with `changes`.

    Biases and multipliers follow the sums over some random images, so that values spread in every
    layer, as a trained network's do. `extreme`: some layers' numbers lie at their bounds, their
    ranges are empty on one side, their shift is 0 or 30.
    """
    shape = shape or (Shape(**changes) if changes else random_shape(rng))
    images = some_images(rng, (4, shape.side, shape.side, shape.channels))
    draw = _Draw(rng, extreme, images)
    stem = draw.stem(shape)
    blocks, top = [], shape.top
    for block in shape.blocks:
        blocks.append(draw.separable(block, top))
        top = block.top
    head, head_bias = draw.head(shape.classes, top)
    return IntegerNetwork(shape.side, shape.channels, stem, tuple(blocks), head, head_bias)


class _Draw:
    """Numbers from a generator, layer by layer; `maps` (n, side, side, C) is what the next layer takes."""

    def __init__(self, rng: np.random.Generator, extreme: bool, maps: np.ndarray) -> None:
        self.rng = rng
        self.share = self.one(0.05, 0.15, 0.5) if extreme else 0.0  # of parts that are extreme
        self.maps = maps.astype(np.int64)
        self.zero = 0

    def one(self, *options: T) -> T:
        return options[self.rng.integers(len(options))]

    def odd(self) -> bool:
        """Return whether this part is to be an extreme one."""
        return bool(self.rng.random() < self.share)

    # --- layers --------------------------------------------------------------------------

    def stem(self, shape: Shape) -> IntegerStem:
        k, channels = shape.kernel, shape.channels
        weight = self.lanes((shape.stem, k, k * channels), shape.sums, 255).reshape(shape.stem, k, k, channels)
        windows = sliding_window_view(self.maps, (k, k), (1, 2))[:, :: shape.stride, :: shape.stride]
        taps = windows.transpose(0, 1, 2, 4, 5, 3).reshape(*windows.shape[:3], -1)  # .. (k k C)
        bias, output = self.requantization(taps, weight.reshape(shape.stem, -1), 255, shape.top)
        return IntegerStem(shape.stride, shape.sums, weight, bias, output)

    def separable(self, block: Block, top: int) -> IntegerSeparable:
        if block.pool:
            half = self.maps.shape[1] // 2
            even = self.maps[:, : 2 * half, : 2 * half]
            self.maps = even.reshape(len(even), half, 2, half, 2, -1).max((2, 4))
        depthwise, multiplier, middle_zero = self.depthwise(block, top)
        weight = self.lanes((block.width, 1, self.maps.shape[3]), block.sums, block.middle_top)[:, 0]
        bias, output = self.requantization(self.maps, weight, block.middle_top, block.top)
        return IntegerSeparable(
            pool=block.pool,
            depthwise=depthwise,
            multiplier=multiplier,
            middle_zero=middle_zero,
            middle_top=block.middle_top,
            sums=block.sums,
            weight=weight,
            bias=bias,
            output=output,
        )

    def head(self, classes: int, top: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the classifier over the sums of `maps`, whose values are 0..top."""
        features = self.maps.shape[3]
        highest = self.maps.shape[1] ** 2 * top
        largest = min(32767, (1 << 30) // (highest * features))
        weight = self.rng.integers(-largest, largest + 1, (classes, features))
        bias = self.rng.integers(-(1 << 20), 1 << 20, classes)
        if self.odd():
            weight = np.full((classes, features), min(32767, _INT32 // (highest * features)))
            weight *= self.rng.choice((-1, 1), weight.shape) if self.one(True, False) else self.one(-1, 1)
            high = _INT32 - np.maximum(weight, 0).sum(1) * highest
            bias = self.one(high, -_INT32 - 1 + np.maximum(-weight, 0).sum(1) * highest)
        elif self.odd():  # products of up to 2**32 are allowed where the bias begins at the other end
            weight = np.full((classes, features), min(32767, (2 * _INT32 + 1) // (highest * features)))
            bias = np.full(classes, -_INT32 - 1)
        return weight.astype(np.int16), bias.astype(np.int32)

    # --- their numbers -------------------------------------------------------------------

    def lanes(self, size: tuple[int, int, int], sums: int, top: int) -> np.ndarray:
        """Return weights (O, rows, K): int8, each row in blocks of 16, every group within its limit."""
        limit = 32767 // top
        if self.odd():
            return self.odd_lanes(size, sums, limit)
        if self.rng.random() < 0.5:
            safe = min(127, limit // (2 * sums))
            return self.rng.integers(-safe, safe + 1, size).astype(np.int8)
        padded = np.pad(self.rng.integers(-127, 128, size), ((0, 0), (0, 0), (0, -size[2] % 16)))
        blocks = padded.reshape(*size[:2], -1, 16)
        for group in GROUPS[sums]:
            blocks[..., group] = _within(blocks[..., group], limit)
        return blocks.reshape(padded.shape)[..., : size[2]].astype(np.int8)

    def odd_lanes(self, size: tuple[int, int, int], sums: int, limit: int) -> np.ndarray:
        """Return weights of which groups meet their limit exactly: all alike, or few large; of one sign or both."""
        group = np.zeros(2 * sums, np.int64)
        if self.one(True, False):
            group[:] = min(127, limit // (2 * sums))
            group[0] = min(127, group[0] + limit - group.sum())
        else:
            group[: min(2 * sums, limit // 127)] = 127
            group[-1] = min(127, group[-1] + limit - group.sum())
        padded = np.zeros((*size[:2], size[2] + -size[2] % 16), np.int64)
        blocks = padded.reshape(*size[:2], -1, 16)
        for places in GROUPS[sums]:
            blocks[..., places] = group
        sign = self.one(1, -1, 0)
        signs = self.rng.choice((-1, 1), padded.shape) if sign == 0 else sign
        return (padded * signs)[..., : size[2]].astype(np.int8)

    def depthwise(self, block: Block, top: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Return weights (k, k, C), multipliers and zero point; `maps` becomes the output."""
        k, pad, (side, channels) = block.kernel, block.kernel // 2, self.maps.shape[2:]
        wide = self.rng.integers(-127, 128, (channels, k * k))
        if self.odd():
            wide = np.full((channels, k * k), self.one(127, -127))
        weight = _within(wide, 32767 // top).T.reshape(k, k, channels)
        padded = np.pad(self.maps - self.zero, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        acc = np.zeros_like(self.maps)
        for i in range(k):
            for j in range(k):
                acc += padded[:, i : i + side, j : j + side] * weight[i, j]
        reach = np.abs(acc.mean((0, 1, 2))) + 2 * acc.std((0, 1, 2)) + 1
        multiplier = _int16(block.middle_top / 2 / reach * 2**15 * self.rng.uniform(0.7, 1.3, channels))
        zero = int(self.rng.integers(block.middle_top // 3, block.middle_top * 2 // 3))
        if self.odd():
            multiplier = np.full(channels, self.one(0, 1, 32767), np.int16)
            zero = self.one(0, block.middle_top)
        self.maps = np.clip(((acc * multiplier + (1 << 14)) >> 15) + zero, 0, block.middle_top)
        return weight.astype(np.int8), multiplier, zero

    def requantization(
        self, values: np.ndarray, weight: np.ndarray, top: int, out_top: int
    ) -> tuple[np.ndarray, Requantization]:
        """Return biases and requantization of Σ values·weight: (.., K) of 0..top, (O, K); `maps` becomes its output."""
        wide = weight.astype(np.int64)
        acc = np.rint(values.astype(np.float64) @ wide.T.astype(np.float64)).astype(np.int64)
        spread = acc.std((0, 1, 2)) + 1  # (O,)
        shift = max(0, int(np.ceil(np.log2(spread.max() / 4096))))
        if self.odd():
            shift = self.one(0, 30, max(0, shift - 3))
        low = -_INT32 - 1 + np.maximum(-wide, 0).sum(1) * top
        high = _INT32 - np.maximum(wide, 0).sum(1) * top
        expected = np.rint(self.rng.normal(size=len(wide)) * spread - acc.mean((0, 1, 2))) + (1 << shift >> 1)
        bias = np.clip(expected.astype(np.int64), low, high)
        if self.odd():
            bias = self.one(low, high, np.where(self.rng.random(len(wide)) < 0.5, low, high))
        output = self.output(spread / 2**shift, shift, out_top)
        t = np.clip((acc + bias) >> shift, -32768, 32767)
        scaled = (t * np.where(t >= 0, output.positive, output.negative) + (1 << 14)) >> 15
        self.maps, self.zero = np.clip(scaled + output.zero, 0, out_top), output.zero
        return bias.astype(np.int32), output

    def output(self, spread: np.ndarray, shift: int, top: int) -> Requantization:
        """Return a requantization of values that `spread` (O,) after the shift."""
        wide = top / 4 * 2**15 / np.maximum(spread, 1e-3) * self.rng.uniform(0.3, 1.5, len(spread))
        slope = self.one(0.0, 1.0, 0.25, self.rng.uniform(-1, 2, len(spread)))
        positive, negative = _int16(wide), _int16(wide * slope)
        zero = int(self.rng.integers(top // 2 + 1))
        if self.odd():
            ends = [np.full(len(spread), value, np.int16) for value in (-32767, 0, 1, 32767)]
            positive, negative = self.one(*ends), self.one(*ends)
        if self.odd():
            zero = self.one(0, top)
        return Requantization(shift, positive, negative, zero, top)


def masked(rng: np.random.Generator, network: IntegerNetwork) -> IntegerNetwork:
    """Return the network without some blocks of its pointwise layers, one output channel by four inputs: within the
    bounds, since sums shrink."""
    blocks = tuple(replace(block, weight=_without_blocks(rng, block.weight)) for block in network.blocks)
    return replace(network, blocks=blocks)


def _without_blocks(rng: np.random.Generator, weight: np.ndarray) -> np.ndarray:
    """Return weights (O, C) with a random mask: none left, one, some, or rows that are empty, full and mixed."""
    outs, quads = len(weight), -(-weight.shape[1] // 4)
    density = rng.choice((0.0, 0.05, 0.2, 0.4, 0.7, 1.0), outs) if rng.random() < 0.4 else rng.choice((0.0, 0.1, 0.3))
    keep = rng.random((outs, quads)) < np.reshape(density, (-1, 1))
    if rng.random() < 0.3:
        keep[rng.integers(outs), rng.integers(quads)] = True
    return np.where(np.repeat(keep, 4, 1)[:, : weight.shape[1]], weight, 0).astype(np.int8)


def _within(weight: np.ndarray, limit: int) -> np.ndarray:
    """Return weights (.., n) made smaller where a row's positive or negative ones sum to over `limit`."""
    return _shrunk(np.maximum(weight, 0), limit) - _shrunk(np.maximum(-weight, 0), limit)


def _shrunk(magnitudes: np.ndarray, limit: int) -> np.ndarray:
    """Return magnitudes (.., n) of which each row sums to at most `limit`."""
    total = magnitudes.sum(-1, keepdims=True)
    return np.where(total > limit, magnitudes * limit // np.maximum(total, 1), magnitudes)


def _int16(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), -32767, 32767).astype(np.int16)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    return draw_shape(lambda options: draw(st.sampled_from(options)))


@st.composite
def networks(draw: st.DrawFn) -> IntegerNetwork:
    """Networks of all shapes, usual and extreme; the shape shrinks, the numbers are drawn by a seed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random_network(rng, draw(shapes()), extreme=draw(st.booleans()))


def some_images(rng: np.random.Generator, size: tuple[int, int, int, int]) -> np.ndarray:
    """Return images (n, side, side, channels) uint8: noise, flat, halves, and edges at places of their own."""
    images = rng.integers(0, 256, size, dtype=np.uint8)
    for image in images:
        if rng.random() < 0.7:
            image[:] = rng.choice((0, 255, int(rng.integers(256))))
        for _ in range(rng.integers(4)):
            y, x = rng.integers(0, size[1], 2)
            image[y : y + size[1] // 2, x : x + size[2] // 2] = rng.integers(0, 256, size[3])
    return images


def random_images(rng: np.random.Generator, network: IntegerNetwork, n: int) -> np.ndarray:
    """Return `n` images that `network` takes."""
    return some_images(rng, (n, network.side, network.side, network.channels))


def network_blob(network: IntegerNetwork) -> bytes:
    """Return the network in a container whose card says nothing: what an engine takes, of any channel count."""
    netw, tens = encode_network(network)
    return pack_sections({"CARD": b"{}", "NETW": netw, "TENS": tens})


def network_card(network: IntegerNetwork, **fields: Any) -> Card:
    """Return a card that fits `network` (of 1, 3 or 4 channels: no card has 2), with its test vectors' logits."""
    modes: dict[int, Mode] = {1: "L", 3: "RGB", 4: "RGBA"}
    mode = modes[network.channels]
    spec = PreprocessSpec(size=network.side, mode=mode, mean=(0.5,) * network.channels, std=(0.25,) * network.channels)
    vectors = draw_vectors(network.side, network.channels)
    logits = reference.run(network, vectors).tolist()
    scale = 2.0**-10
    return Card(
        model=ModelRecord(family="quicknet", name="quicknet_xs", config={}),
        classes=tuple(f"class {index}" for index in range(len(network.weight))),
        preprocess=spec,
        vectors=Vectors(
            generator=GENERATOR,
            sha256=vectors_sha256(vectors),
            logits=tuple(tuple(scale * value for value in row) for row in logits),
            integers=tuple(map(tuple, logits)),
        ),
        integer=IntegerRecord(bits="mixed", logit_scale=scale),
        **fields,
    )
