"""The limits of a `.qnz`: FORMAT.md's limits of shapes, and the bounds that exclude overflow.

The writer proves them and the reader checks them with the same functions, exactly: a network is
refused if and only if FORMAT.md refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quicknet.core.errors import FormatError
from quicknet.qnz.format import (
    BLOCK,
    CHANNELS,
    CLASSES,
    IMAGE_CHANNELS,
    IMAGE_TOP,
    INT16_MAX,
    INT32_MAX,
    INT32_MIN,
    KERNELS,
    LAYERS,
    MAX_MAP,
    MAX_WEIGHT,
    MAX_WEIGHTS,
    SHIFTS,
    SIDES,
    STEM_KERNELS,
    STEM_STRIDES,
    SUMS,
    TOPS,
)
from quicknet.qnz.network import (
    IntegerNetwork,
    IntegerSeparable,
    IntegerStem,
    LayerShape,
    NetworkShape,
    Requantization,
)

_PIECE = 1 << 17  # weights that are checked together: temporaries stay in cache

Matrix = NDArray[Any]


def layer_name(index: int) -> str:
    """Return the name in messages of the layer `index`; 0 is the stem."""
    return f"layer {index}" if index else "the stem"


def check_network(network: IntegerNetwork, where: str = "integer network") -> None:
    """Raise FormatError, naming layer and bound, for a network that FORMAT.md does not allow.

    Shapes, types, and every bound of FORMAT.md by its exact test; `where` is for messages.
    """
    shape = shape_of(network, where)
    check_shape(shape, where)
    check_numbers(network, shape, where)


# --- shapes --------------------------------------------------------------------------------


def check_shape(shape: NetworkShape, where: str) -> None:
    """Raise FormatError for sizes outside FORMAT.md's limits (those of NETW). Allocates nothing."""
    _within("image side", shape.side, *SIDES, where)
    _within("image channels", shape.channels, *IMAGE_CHANNELS, where)
    _within("number of layers", len(shape.layers), *LAYERS, where)
    _within("number of classes", shape.classes, *CLASSES, where)
    for index, layer in enumerate(shape.layers):
        _check_layer(layer, index, where)
    weights = 0
    widths = shape.widths()
    for index, (side, layer) in enumerate(zip(shape.sides(), shape.layers, strict=True)):
        if side < 1:
            raise FormatError(f"nothing is left of the image after {layer_name(index)} ({where}); {_ADVICE}")
        if side * side * layer.channels > MAX_MAP:
            raise FormatError(
                f"the feature map of {layer_name(index)} has over {MAX_MAP:,} values ({where}); {_ADVICE}"
            )
        taps = layer.kernel**2
        weights += widths[index] * (taps + layer.channels if index else taps * layer.channels)
    weights += widths[-1] * shape.classes
    if weights > MAX_WEIGHTS:
        raise FormatError(f"the network has over {MAX_WEIGHTS:,} weights ({where}); {_ADVICE}")


_ADVICE = "export the model again"


def _check_layer(layer: LayerShape, index: int, where: str) -> None:
    name = layer_name(index)
    if index:
        if layer.kernel not in KERNELS:
            raise FormatError(f"{name}'s kernel is {layer.kernel}, not 3 or 5 ({where}); {_ADVICE}")
        _within(f"{name}'s stride", layer.stride, 1, 1, where)
        _check_range(f"{name}'s depthwise output", layer.middle_zero, layer.middle_top, where)
    else:
        _within(f"{name}'s kernel", layer.kernel, *STEM_KERNELS, where)
        _within(f"{name}'s stride", layer.stride, *STEM_STRIDES, where)
        if layer.pool or layer.middle_zero or layer.middle_top:
            raise FormatError(f"{name} has a pool or a depthwise output, which a stem cannot have ({where}); {_ADVICE}")
    _within(f"{name}'s output channels", layer.channels, *CHANNELS, where)
    if layer.sums not in SUMS:
        raise FormatError(f"{name}'s sums are {layer.sums}, not 1, 2 or 4 ({where}); {_ADVICE}")
    _within(f"{name}'s shift", layer.shift, *SHIFTS, where)
    _check_range(f"{name}'s output", layer.zero, layer.top, where)


def _check_range(what: str, zero: int, top: int, where: str) -> None:
    if top not in TOPS:
        raise FormatError(f"the top of {what} is {top}, not 127 or 255 ({where}); {_ADVICE}")
    _within(f"zero point of {what}", zero, 0, top, where)


def _within(what: str, value: int, low: int, high: int, where: str) -> None:
    if not low <= value <= high:
        raise FormatError(f"the {what.removeprefix('the ')} is {value}, outside {low}..{high} ({where}); {_ADVICE}")


def shape_of(network: IntegerNetwork, where: str = "integer network") -> NetworkShape:
    """Return what NETW says of `network`.

    Raises FormatError where its arrays do not fit each other or are of other types.
    """
    stem = network.stem
    outputs, kernel = stem.weight.shape[:2] if stem.weight.ndim == 4 else (0, 0)
    layers = [_layer_shape(stem.output, outputs, kernel, stem.stride, stem.sums)]
    _check_arrays(0, where, {"weights": (stem.weight, np.int8, (outputs, kernel, kernel, network.channels))})
    _check_arrays(0, where, _outputs(stem, outputs))
    inputs = outputs
    for index, block in enumerate(network.blocks, 1):
        outputs = len(block.weight)
        kernel = len(block.depthwise)
        layers.append(_layer_shape(block.output, outputs, kernel, 1, block.sums, block))
        arrays: dict[str, tuple[Matrix, Any, tuple[int, ...]]] = {
            "depthwise weights": (block.depthwise, np.int8, (kernel, kernel, inputs)),
            "depthwise multipliers": (block.multiplier, np.int16, (inputs,)),
            "weights": (block.weight, np.int8, (outputs, inputs)),
        }
        _check_arrays(index, where, arrays | _outputs(block, outputs))
        inputs = outputs
    classes = len(network.weight)
    _check_arrays(
        None,
        where,
        {"weights": (network.weight, np.int16, (classes, inputs)), "biases": (network.bias, np.int32, (classes,))},
    )
    return NetworkShape(network.side, network.channels, classes, tuple(layers))


def _layer_shape(
    output: Requantization, channels: int, kernel: int, stride: int, sums: int, block: IntegerSeparable | None = None
) -> LayerShape:
    return LayerShape(
        kernel=kernel,
        stride=stride,
        pool=block is not None and bool(block.pool),
        channels=channels,
        sums=sums,
        shift=output.shift,
        zero=output.zero,
        top=output.top,
        middle_zero=block.middle_zero if block else 0,
        middle_top=block.middle_top if block else 0,
    )


def _outputs(layer: IntegerStem | IntegerSeparable, channels: int) -> dict[str, tuple[Matrix, Any, tuple[int, ...]]]:
    return {
        "biases": (layer.bias, np.int32, (channels,)),
        "positive multipliers": (layer.output.positive, np.int16, (channels,)),
        "negative multipliers": (layer.output.negative, np.int16, (channels,)),
    }


def _check_arrays(index: int | None, where: str, arrays: dict[str, tuple[Matrix, Any, tuple[int, ...]]]) -> None:
    name = "the classifier" if index is None else layer_name(index)
    for what, (array, dtype, expected) in arrays.items():
        if array.dtype != dtype or array.shape != expected:
            raise FormatError(
                f"{name}'s {what} are {array.dtype} {array.shape}, not {np.dtype(dtype)} {expected} "
                f"({where}); {_ADVICE}"
            )


# --- numbers -------------------------------------------------------------------------------


def check_numbers(network: IntegerNetwork, shape: NetworkShape, where: str) -> None:
    """Raise FormatError for numbers outside FORMAT.md's bounds; `shape` is the network's, checked before."""
    stem = network.stem
    rows = stem.weight.reshape(-1, stem.weight.shape[1] * network.channels)  # (O k, k C): a kernel's rows
    weight = _in_blocks(rows).reshape(len(stem.weight), -1)
    _check_layer_numbers(weight, stem, IMAGE_TOP, "the stem", where)
    top = stem.output.top
    for index, block in enumerate(network.blocks, 1):
        name = layer_name(index)
        _check_depthwise(block, top, name, where)
        _check_layer_numbers(block.weight, block, block.middle_top, name, where)
        top = block.output.top
    side = shape.sides()[-1]
    _check_sums(network.weight, network.bias, side * side * top, "the classifier", where)


def _check_depthwise(block: IntegerSeparable, top: int, name: str, where: str) -> None:
    taps = block.depthwise.reshape(-1, block.depthwise.shape[2])  # (k k, C)
    _check_weights(taps, f"{name}'s depthwise weights", where)
    _check_multipliers(block.multiplier, 0, f"{name}'s depthwise multipliers", where)
    limit = INT16_MAX // top
    positive = np.maximum(taps, 0).sum(0, dtype=np.int64)
    negative = positive - taps.sum(0, dtype=np.int64)
    for sums, sign in ((positive, "positive"), (negative, "negative")):
        if sums.max() > limit:
            raise FormatError(
                f"{name}'s depthwise {sign} weights of channel {int(sums.argmax())} sum to {int(sums.max())}, "
                f"over {limit} ({where}); {_ADVICE}"
            )


def _check_layer_numbers(
    weight: Matrix, layer: IntegerStem | IntegerSeparable, top: int, name: str, where: str
) -> None:
    """Check a stem or pointwise by its weights (O, K), the sequence of each output channel."""
    _check_weights(weight, f"{name}'s weights", where)
    for multipliers, sign in ((layer.output.positive, "positive"), (layer.output.negative, "negative")):
        _check_multipliers(multipliers, -INT16_MAX, f"{name}'s {sign} multipliers", where)
    largest = max(int(weight.max()), -int(weight.min()))
    if 2 * layer.sums * largest * top > INT16_MAX:  # else no group can pass it
        _check_lanes(weight, layer.sums, INT16_MAX // top, name, where)
    _check_sums(weight, layer.bias, top, name, where)


def _check_lanes(weight: Matrix, sums: int, limit: int, name: str, where: str) -> None:
    for first, piece in _pieces(weight):
        rows = _in_blocks(piece)
        positive = np.maximum(rows, 0)
        for part, sign in ((positive, "positive"), (positive - rows, "negative")):
            totals = lane_sums(part, sums)
            if totals.max() > limit:
                channel = first + int(totals.max(1).argmax())
                raise FormatError(
                    f"{name}'s {sign} weights of output channel {channel} sum to {int(totals.max())} in a group of "
                    f"{2 * sums}, over {limit} ({where}); {_ADVICE}"
                )


def lane_sums(magnitudes: Matrix, sums: int) -> NDArray[np.uint16]:
    """Return what each of FORMAT.md's groups adds up to: (O, K) int8 ≥ 0 → (O, K / (2 sums)) uint16.

    K is a multiple of 16. Neighbours are a pair; in half a block of 16 (`sums` 2) or in a whole
    one (`sums` 4) every second pair belongs to the same group. Two weights are added within a
    word of 16 bits, two groups side by side in one of 32: no sum passes 8 · 127, so none carries,
    and it takes 2 ns a weight where adding by index took 20.
    """
    words = np.ascontiguousarray(magnitudes).view(np.uint16)
    pairs = (words & 0xFF) + (words >> 8)  # (O, K / 2)
    parts = pairs.view(np.uint32).reshape(len(pairs), -1, sums)  # one word is two pairs
    groups = parts[..., 0].copy()
    for index in range(1, sums):
        groups += parts[..., index]
    return groups.view(np.uint16)


def _check_sums(weight: Matrix, bias: Matrix, top: int, name: str, where: str) -> None:
    """Check that 32 bits hold bias + Σ weight·a for every a in 0..top."""
    largest = max(int(weight.max()), -int(weight.min()))
    if weight.shape[1] * largest * top + max(int(bias.max()), -int(bias.min())) <= INT32_MAX:
        return
    for first, rows in _pieces(weight):
        positive = np.maximum(rows, 0).sum(1, dtype=np.int64)
        negative = positive - rows.sum(1, dtype=np.int64)
        part = bias[first : first + len(rows)].astype(np.int64)
        bad = (part + positive * top > INT32_MAX) | (part - negative * top < INT32_MIN)
        if bad.any():
            channel = first + int(bad.argmax())
            raise FormatError(f"{name}'s sums of output {channel} can pass 32 bits ({where}); {_ADVICE}")


def _pieces(weight: Matrix) -> Iterator[tuple[int, Matrix]]:
    step = max(1, _PIECE // weight.shape[1])
    for first in range(0, len(weight), step):
        yield first, weight[first : first + step]


def _in_blocks(rows: Matrix) -> Matrix:
    """Return (.., K) filled up with zeros to whole blocks of 16."""
    missing = -rows.shape[1] % BLOCK
    return np.pad(rows, ((0, 0), (0, missing))) if missing else rows


def _check_weights(weight: Matrix, what: str, where: str) -> None:
    if weight.min() < -MAX_WEIGHT:
        raise FormatError(f"{what} reach {int(weight.min())}, below {-MAX_WEIGHT} ({where}); {_ADVICE}")


def _check_multipliers(multipliers: Matrix, least: int, what: str, where: str) -> None:
    if multipliers.min() < least:
        raise FormatError(f"{what} reach {int(multipliers.min())}, below {least} ({where}); {_ADVICE}")
