"""The bounds are exact: what FORMAT.md allows passes, one more is refused, by layer and channel."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from networks import GROUPS, Block, networks, random_network
from quicknet.core.errors import FormatError
from quicknet.qnz.bounds import check_network, check_shape, lane_sums, shape_of
from quicknet.qnz.network import IntegerNetwork, IntegerSeparable, IntegerStem, NetworkShape

INT32 = (1 << 31) - 1


@settings(max_examples=150, deadline=None)
@given(networks())
def test_every_random_network_is_within_the_bounds(network: IntegerNetwork) -> None:
    check_network(network)
    shape = shape_of(network)
    assert len(shape.layers) == 1 + len(network.blocks)
    assert min(shape.sides()) >= 1


@pytest.mark.parametrize("sums", [1, 2, 4])
def test_lanes_are_the_groups_of_the_format(sums: int) -> None:
    weight = np.random.default_rng(0).integers(100, 128, (3, 48)).astype(np.int8)
    blocks = weight.astype(int).reshape(3, 3, 16)
    expected = [blocks[..., group].sum(-1) for group in GROUPS[sums]]
    assert np.array_equal(lane_sums(weight, sums), np.stack(expected, -1).reshape(3, -1))


# --- lanes, exactly ------------------------------------------------------------------------


def pointwise(sums: int, top: int, inputs: int = 33) -> IntegerNetwork:
    """Return a network whose only block has weights of zero."""
    network = random_network(
        np.random.default_rng(1), side=16, stem=inputs, blocks=(Block(5, sums=sums, middle_top=top),)
    )
    return with_block(network, weight=np.zeros((5, inputs), np.int8))


def with_block(network: IntegerNetwork, **changes: Any) -> IntegerNetwork:
    return replace(network, blocks=(replace(network.blocks[0], **changes), *network.blocks[1:]))


def with_stem(network: IntegerNetwork, **changes: Any) -> IntegerNetwork:
    return replace(network, stem=replace(network.stem, **changes))


def fill(weight: np.ndarray, places: list[int], total: int) -> None:
    """Let the weights at `places` of channel 3 sum to `total`."""
    share = [total // len(places)] * len(places)
    share[0] += total - sum(share)
    weight[3, places] = share


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("top", [255, 127])
@pytest.mark.parametrize("sums", [1, 2, 4])
def test_a_lane_holds_its_limit_and_no_more(sums: int, top: int, sign: int) -> None:
    limit = {255: 128, 127: 258}[top]
    if 2 * sums * 127 < limit:
        limit = 2 * sums * 127  # 2 weights of 127 never pass 258
    for block in range(2):
        for group in GROUPS[sums]:
            network = pointwise(sums, top)
            places = [16 * block + index for index in group]
            fill(network.blocks[0].weight, places, sign * limit)
            check_network(network)
            if limit < 2 * sums * 127:
                fill(network.blocks[0].weight, places, sign * (limit + 1))
                word = "positive" if sign > 0 else "negative"
                with pytest.raises(
                    FormatError, match=f"layer 1's {word} weights of output channel 3 sum to {limit + 1}"
                ):
                    check_network(network)


def test_positive_and_negative_weights_have_a_limit_each() -> None:
    network = pointwise(4, 255)
    network.blocks[0].weight[0, [0, 1, 4, 5]] = [127, 1, -127, -1]
    check_network(network)


def test_the_last_block_is_filled_with_zeros() -> None:
    network = pointwise(4, 255)
    network.blocks[0].weight[4, 32] = 127
    check_network(network)


def test_groups_do_not_cross_blocks_or_a_stems_rows() -> None:
    """A row of 3 × 3 weights is filled up to 16: its last and the next row's first are in no group together."""
    network = random_network(np.random.default_rng(1), side=16, stem=4, kernel=3, blocks=())
    weight = np.zeros((4, 3, 9), np.int8)
    weight[1, 0, 8] = weight[1, 1, 0] = 127
    check_network(with_stem(network, weight=weight.reshape(4, 3, 3, 3)))
    weight[2, 2, 6:8] = (64, 65)  # the pair {6, 7}
    with pytest.raises(FormatError, match="the stem's positive weights of output channel 2 sum to 129"):
        check_network(with_stem(network, weight=weight.reshape(4, 3, 3, 3)))


# --- the other bounds ----------------------------------------------------------------------


@pytest.mark.parametrize(("top", "limit"), [(255, 128), (127, 258)])
def test_depthwise_sums(top: int, limit: int) -> None:
    network = random_network(np.random.default_rng(1), side=16, stem=3, top=top, blocks=(Block(4),))
    for sign in (1, -1):
        depthwise = np.zeros((3, 3, 3), np.int8)
        depthwise[0, :, 1] = sign * np.array([limit // 3, limit // 3, limit - limit // 3 * 2])
        check_network(with_block(network, depthwise=depthwise))
        depthwise[2, 2, 1] = sign
        with pytest.raises(FormatError, match=f"layer 1's depthwise .* channel 1 sum to {limit + 1}, over {limit}"):
            check_network(with_block(network, depthwise=depthwise))


@pytest.mark.parametrize("sign", [1, -1])
def test_accumulators_reach_the_ends_of_32_bits(sign: int) -> None:
    network = pointwise(1, 255)
    network.blocks[0].weight[2] = sign * 64
    end = INT32 - 33 * 64 * 255 if sign > 0 else -INT32 - 1 + 33 * 64 * 255
    bias = np.zeros(5, np.int32)
    bias[2] = end
    check_network(with_block(network, bias=bias))
    bias[2] = end + sign
    with pytest.raises(FormatError, match="layer 1's sums of output 2 can pass 32 bits"):
        check_network(with_block(network, bias=bias))


@pytest.mark.parametrize("sign", [1, -1])
def test_logits_reach_the_ends_of_32_bits(sign: int) -> None:
    network = random_network(np.random.default_rng(1), side=16, kernel=1, stem=3, classes=4, blocks=())
    weight = np.zeros((4, 3), np.int16)
    weight[3] = sign * 7000
    end = INT32 - 3 * 7000 * 256 * 255 if sign > 0 else -INT32 - 1 + 3 * 7000 * 256 * 255
    bias = np.zeros(4, np.int32)
    bias[3] = end
    check_network(replace(network, weight=weight, bias=bias))
    bias[3] += sign
    with pytest.raises(FormatError, match="classifier's sums of output 3 can pass 32 bits"):
        check_network(replace(network, weight=weight, bias=bias))


def least(array: np.ndarray, value: int) -> np.ndarray:
    changed = array.copy()
    changed.flat[-1] = value
    return changed


def test_numbers_at_the_very_end_of_their_type_are_refused() -> None:
    network = random_network(np.random.default_rng(1), blocks=(Block(4),))
    stem, block = network.stem, network.blocks[0]
    bad = {
        "stem's weights reach -128": with_stem(network, weight=least(stem.weight, -128)),
        "layer 1's depthwise weights reach -128": with_block(network, depthwise=least(block.depthwise, -128)),
        "layer 1's weights reach -128": with_block(network, weight=least(block.weight, -128)),
        "depthwise multipliers reach -1,": with_block(network, multiplier=least(block.multiplier, -1)),
        "layer 1's positive multipliers reach -32768": with_block(
            network, output=replace(block.output, positive=least(block.output.positive, -32768))
        ),
        "the stem's negative multipliers reach -32768": with_stem(
            network, output=replace(stem.output, negative=least(stem.output.negative, -32768))
        ),
    }
    for text, changed in bad.items():
        with pytest.raises(FormatError, match=text):
            check_network(changed)


# --- shapes --------------------------------------------------------------------------------

Change = Callable[[IntegerNetwork], IntegerNetwork]


def _stem(change: Callable[[IntegerStem], IntegerStem]) -> Change:
    return lambda network: replace(network, stem=change(network.stem))


def _block(change: Callable[[IntegerSeparable], IntegerSeparable]) -> Change:
    return lambda network: replace(network, blocks=(network.blocks[0], change(network.blocks[1])))


SHAPES: dict[str, Change] = {
    "image side is 15, outside 16..1024": lambda n: replace(n, side=15),
    "image side is 1025": lambda n: replace(n, side=1025),
    "the stem's weights are .*, not int8": lambda n: replace(n, channels=4),
    "the stem's biases are int64": _stem(lambda s: replace(s, bias=s.bias.astype(np.int64))),
    "the stem's stride is 9": _stem(lambda s: replace(s, stride=9)),
    "the stem's sums are 3": _stem(lambda s: replace(s, sums=3)),
    "the stem's shift is 31": _stem(lambda s: replace(s, output=replace(s.output, shift=31))),
    "top of the stem's output is 128": _stem(lambda s: replace(s, output=replace(s.output, top=128))),
    "zero point of the stem's output is -1": _stem(lambda s: replace(s, output=replace(s.output, zero=-1))),
    "layer 2's weights are .*, not int8": _block(lambda b: replace(b, weight=b.weight[:, 1:])),
    "layer 2's depthwise multipliers are": _block(lambda b: replace(b, multiplier=b.multiplier[1:])),
    "layer 2's kernel is 7": _block(lambda b: replace(b, depthwise=np.zeros((7, 7, 4), np.int8))),
    "zero point of layer 2's depthwise output is 200": _block(lambda b: replace(b, middle_top=127, middle_zero=200)),
    "the classifier's biases are": lambda n: replace(n, bias=n.bias[:1]),
    "number of classes is 0": lambda n: replace(n, weight=n.weight[:0], bias=n.bias[:0]),
}


@pytest.mark.parametrize(("text", "change"), SHAPES.items(), ids=SHAPES)
def test_shapes_that_no_network_has(text: str, change: Change) -> None:
    network = random_network(np.random.default_rng(1), stem=4, blocks=(Block(4), Block(4)))
    with pytest.raises(FormatError, match=text):
        check_network(change(network))


def _layers(shape: NetworkShape, **changes: Any) -> tuple:
    return (shape.layers[0], *(replace(layer, **changes) for layer in shape.layers[1:]))


def test_a_network_stays_within_what_the_format_can_say() -> None:
    shape = shape_of(random_network(np.random.default_rng(1), side=16, stem=4, blocks=(Block(4),) * 4))
    for text, changed in {
        "nothing is left of the image after layer 4": replace(shape, layers=_layers(shape, pool=True)),
        "number of layers is 514": replace(shape, layers=(*shape.layers, *[shape.layers[-1]] * 509)),
        "over 268,435,456 weights": replace(shape, side=16, layers=_layers(shape, channels=8192), classes=100_000),
        "feature map of the stem has over 67,108,864": replace(
            shape, side=1024, layers=(replace(shape.layers[0], channels=65),)
        ),
        "layer 1's stride is 2": replace(shape, layers=_layers(shape, stride=2)),
        "output channels is 8193": replace(shape, layers=_layers(shape, channels=8193)),
        "the stem has a pool": replace(shape, layers=(replace(shape.layers[0], pool=True),)),
    }.items():
        with pytest.raises(FormatError, match=text):
            check_shape(changed, "here")
