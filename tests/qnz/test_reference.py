"""The reference against FORMAT.md spelled out in plain Python, number by number, with every stated width looked at."""

from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from networks import GROUPS, Block, Shape, random_images, random_network
from quicknet.core.errors import DataError
from quicknet.qnz import reference
from quicknet.qnz.network import IntegerNetwork, Requantization

Map = list[list[list[int]]]


def fits(value: int, bits: int) -> int:
    assert -(1 << (bits - 1)) <= value < 1 << (bits - 1)
    return value


def clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


def mulr(t: int, multiplier: int) -> int:
    return fits(t * multiplier + (1 << 14), 32) >> 15


def requantize(acc: int, output: Requantization, o: int) -> int:
    t = clamp(fits(acc, 32) >> output.shift, -32768, 32767)
    return clamp(mulr(t, int((output.positive if t >= 0 else output.negative)[o])) + output.zero, 0, output.top)


def lanes(values: list[int], weights: list[int], sums: int) -> int:
    """Return Σ values·weights, each group added up in 16 bits whatever the order."""
    total = 0
    products = [a * w for a, w in zip(values, weights, strict=True)]
    products += [0] * (-len(products) % 16)
    for start in range(0, len(products), 16):
        for group in GROUPS[sums]:
            part = [products[start + index] for index in group]
            fits(sum(p for p in part if p > 0), 16)
            fits(sum(p for p in part if p < 0), 16)
            total += sum(part)
    return total


def plain_stem(network: IntegerNetwork, image: Map) -> Map:
    stem = network.stem
    weight = stem.weight.tolist()
    kernel = len(weight[0])
    side = (network.side - kernel) // stem.stride + 1

    def at(y: int, x: int, o: int) -> int:
        acc = int(stem.bias[o])
        for i in range(kernel):
            row = [image[y * stem.stride + i][x * stem.stride + j] for j in range(kernel)]
            acc = fits(acc + lanes([*chain(*row)], [*chain(*weight[o][i])], stem.sums), 32)
        return requantize(acc, stem.output, o)

    return [[[at(y, x, o) for o in range(len(weight))] for x in range(side)] for y in range(side)]


def plain_block(network: IntegerNetwork, index: int, maps: Map) -> tuple[Map, Map]:
    block = network.blocks[index]
    zero = (network.blocks[index - 1] if index else network.stem).output.zero
    channels, half = range(len(maps[0][0])), range(len(maps) // 2)
    if block.pool:
        maps = [
            [[max(maps[2 * y + a][2 * x + b][c] for a in (0, 1) for b in (0, 1)) for c in channels] for x in half]
            for y in half
        ]
    side, pad = range(len(maps)), len(block.depthwise) // 2

    def depthwise(y: int, x: int, c: int) -> int:
        total = 0
        for i, row in enumerate(block.depthwise[..., c].tolist()):
            for j, weight in enumerate(row):
                inside = y + i - pad in side and x + j - pad in side
                total = fits(total + ((maps[y + i - pad][x + j - pad][c] if inside else zero) - zero) * weight, 16)
        return clamp(mulr(total, int(block.multiplier[c])) + block.middle_zero, 0, block.middle_top)

    middle = [[[depthwise(y, x, c) for c in channels] for x in side] for y in side]
    weight = block.weight.tolist()

    def pointwise(values: list[int], o: int) -> int:
        return requantize(int(block.bias[o]) + lanes(values, weight[o], block.sums), block.output, o)

    return middle, [[[pointwise(middle[y][x], o) for o in range(len(weight))] for x in side] for y in side]


def plain(network: IntegerNetwork, image: np.ndarray) -> list[np.ndarray]:
    """Return every tensor on the way for one image."""
    maps = plain_stem(network, image.tolist())
    actual: list = [maps]
    for index in range(len(network.blocks)):
        middle, maps = plain_block(network, index, maps)
        actual += [middle, maps]
    sums = [fits(sum(pixel[c] for row in maps for pixel in row), 32) for c in range(len(maps[0][0]))]
    logits = []
    for weights, bias in zip(network.weight.tolist(), network.bias.tolist(), strict=True):
        for value, weight in zip(sums, weights, strict=True):
            bias = fits(bias + value * weight, 32)
        logits.append(bias)
    return [np.array(values) for values in [*actual, sums, logits]]


@st.composite
def small_networks(draw: st.DrawFn) -> IntegerNetwork:
    """Networks that plain Python runs in some hundredths of a second, usual and extreme."""

    def pick(*options: int) -> int:
        return draw(st.sampled_from(options))

    side, kernel, stride = pick(16, 17, 19), pick(5, 1, 2, 3, 4, 11), pick(4, 3, 8)
    left, blocks = (side - kernel) // stride + 1, []
    for _ in range(pick(1, 0, 2, 3)):
        pool = left > 1 and draw(st.booleans())
        left = left // 2 if pool else left
        blocks.append(Block(pick(1, 3, 17), pool, pick(3, 5), pick(1, 2, 4), pick(255, 127), pick(255, 127)))
    shape = Shape(
        side=side,
        channels=pick(3, 1, 2, 4),
        classes=3,
        stem=pick(2, 1, 5),
        kernel=kernel,
        stride=stride,
        sums=pick(1, 2, 4),
        top=pick(255, 127),
        blocks=tuple(blocks),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random_network(rng, shape, extreme=draw(st.booleans()))


@settings(max_examples=120, deadline=None)
@given(small_networks(), st.integers(0, 2**32 - 1))
def test_every_tensor_is_what_the_format_says(network: IntegerNetwork, seed: int) -> None:
    images = random_images(np.random.default_rng(seed), network, 1)
    actual = reference.trace(network, images)
    expected = plain(network, images[0])
    assert [name for name, _ in actual[-2:]] == ["sums", "logits"]
    assert len(actual) == len(expected) == 3 + 2 * len(network.blocks)
    for (name, tensor), values in zip(actual, expected, strict=True):
        assert tensor.dtype == (np.int32 if name in ("sums", "logits") else np.uint8)
        assert np.array_equal(tensor[0], values), name


def test_the_worst_image_reaches_the_end_of_32_bits() -> None:
    """Weights at their bounds, a bias that leaves no room: the sum is exact, and one more would not fit."""
    network = random_network(np.random.default_rng(0), side=16, channels=1, stem=1, kernel=4, classes=1, blocks=())
    weight = np.full((1, 4, 4, 1), 64, np.int8)
    output = Requantization(30, np.array([32767], np.int16), np.array([32767], np.int16), 100, 255)
    images = np.full((1, 16, 16, 1), 255, np.uint8)
    for sign, expected in ((1, 101), (-1, 98)):  # acc >> 30 is 1, and −2
        bias = (1 << 31) - 1 - 16 * 64 * 255 if sign > 0 else -(1 << 31) + 16 * 64 * 255
        stem = replace(network.stem, weight=sign * weight, bias=np.array([bias], np.int32), output=output)
        name, stem_output = reference.trace(replace(network, stem=stem), images)[0]
        assert name == "stem"
        assert (stem_output == expected).all()


def test_many_images_are_done_by_some_at_a_time() -> None:
    rng = np.random.default_rng(3)
    network = random_network(rng, side=64, stem=100, blocks=(Block(16),))
    images = random_images(rng, network, 9)
    together = reference.trace(network, images)[-1][1]
    assert (together.shape, together.dtype) == ((9, 10), np.int32)
    assert np.array_equal(reference.run(network, images), together)
    assert np.array_equal(
        reference.run(network, images[::-2, :, ::-1]), reference.run(network, images[::-2, :, ::-1].copy())
    )
    assert reference.run(network, images[:0]).shape == (0, 10)


def test_random_networks_answer_differently_to_different_images() -> None:
    """What the engines are compared on is no field of clamped values."""
    spread, answers = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        network = random_network(rng)
        actual = dict(reference.trace(network, random_images(rng, network, 2)))
        maps = [tensor for name, tensor in actual.items() if name not in ("sums", "logits")]
        spread.append(np.median([len(np.unique(tensor)) for tensor in maps]))
        answers.append((actual["logits"][0] != actual["logits"][1]).any())
    assert np.median(spread) >= 50
    assert np.mean(answers) >= 0.9


def test_images_of_another_kind_are_refused() -> None:
    network = random_network(np.random.default_rng(0), blocks=())
    images: Any
    for images in (
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
    ):
        with pytest.raises(DataError, match=r"takes uint8 images \(N, 32, 32, 3\), not"):
            reference.run(network, images)
