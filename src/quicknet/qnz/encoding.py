"""A network as the bytes of NETW and of TENS or CODE, and back: FORMAT.md, "NETW", "TENS" and "CODE"."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quicknet.core.errors import FormatError
from quicknet.qnz.bounds import check_numbers, check_shape, shape_of
from quicknet.qnz.format import (
    CODE,
    CODE_HEADER,
    CONTEXTS,
    EXPANSION,
    EXPANSION_FREE,
    HUFFMAN,
    LAYER,
    LAYERS,
    NETW,
    SEPARABLE,
    SHAPE,
    STEM,
    TENS,
)
from quicknet.qnz.network import (
    IntegerNetwork,
    IntegerSeparable,
    IntegerStem,
    LayerShape,
    NetworkShape,
    Requantization,
)

if TYPE_CHECKING:
    from quicknet.qnz.coding.model import Parts

_ADVICE = "export the model again"

_I8, _I16, _I32 = (np.dtype(name) for name in ("<i1", "<i2", "<i4"))


def encode_network(network: IntegerNetwork) -> tuple[bytes, bytes]:
    """Return the bytes of NETW and of TENS for a network that `bounds.check_network` takes."""
    return _encode_shape(shape_of(network)), b"".join(array.tobytes() for array in _arrays(network))


def encode_coded(network: IntegerNetwork, coding: int) -> tuple[bytes, bytes]:
    """Return the bytes of NETW and of CODE for a network that `bounds.check_network` takes.

    Raises FormatError for one of which so little is left that readers refuse it.
    """
    from quicknet.qnz.coding.encode import encode_numbers  # only writers of version 2 need it

    shape = shape_of(network)
    return _encode_shape(shape), encode_numbers(network, coding, tensor_bytes(shape))


def decode_network(netw: memoryview, tens: memoryview, where: str, bounds: bool = True) -> IntegerNetwork:
    """Return the network of the bytes of NETW and TENS, checked against all of FORMAT.md.

    Arrays look into `tens` where they can, and are read-only. `bounds` False leaves the check of
    the numbers to an engine that does it. Raises FormatError naming the section and `where`.
    """
    shape = decode_shape(netw, where)
    check_tensor_bytes(shape, tens, where)
    network = network_of(shape, tens)
    if bounds:
        check_numbers(network, shape, f"{where}, section {TENS}")
    return network


def decode_coded(netw: memoryview, code: memoryview, where: str) -> tuple[IntegerNetwork, Parts]:
    """Return the network of the bytes of NETW and CODE, checked against all of FORMAT.md, without the engine.

    Also returns what CODE's bits are for. Raises FormatError naming the section and `where`.
    """
    from quicknet.qnz.coding.decode import decode_arrays  # files of version 1 start without it

    shape = decode_shape(netw, where)
    check_code(shape, code, where)
    arrays, parts = decode_arrays(code, shape, f"{where}, section {CODE}")
    network = _network(shape, iter(arrays))
    check_numbers(network, shape, f"{where}, section {CODE}")
    return network, parts


def decode_shape(netw: memoryview, where: str) -> NetworkShape:
    """Return the checked shape in the bytes of NETW. Raises FormatError naming the section and `where`."""
    shape = _decode_shape(netw, f"{where}, section {NETW}")
    check_shape(shape, f"{where}, section {NETW}")
    return shape


def tensor_bytes(shape: NetworkShape) -> int:
    """Return the length of TENS, which a network's shape determines."""
    return sum(dtype.itemsize * math.prod(size) for dtype, size in _layout(shape))


def check_tensor_bytes(shape: NetworkShape, tens: memoryview, where: str) -> None:
    """Raise FormatError for a TENS of another length."""
    expected = tensor_bytes(shape)
    if expected != len(tens):
        raise FormatError(
            f"the tensors have {len(tens):,} bytes where the network's shape needs {expected:,} "
            f"({where}, section {TENS}); {_ADVICE}"
        )


def check_code(shape: NetworkShape, code: memoryview, where: str) -> None:
    """Raise FormatError for a CODE of another header, or too short for the network; its numbers are not looked at."""
    where = f"{where}, section {CODE}"
    coding_number(code, where)
    expected = tensor_bytes(shape)
    if expected > EXPANSION_FREE + EXPANSION * len(code):
        raise FormatError(f"{len(code):,} bytes cannot hold {expected:,} bytes of numbers ({where}); {_ADVICE}")


def coding_number(code: memoryview, where: str) -> int:
    """Return the coding that CODE's header names. Raises FormatError where it names none."""
    if len(code) < CODE_HEADER.size:
        raise FormatError(f"the coded numbers are cut short ({where}); {_ADVICE}")
    coding, zeros = CODE_HEADER.unpack_from(code)
    if coding not in (HUFFMAN, CONTEXTS) or any(zeros):
        raise FormatError(f"the coding {coding} is not known ({where}); {_ADVICE}")
    return int(coding)


def network_of(shape: NetworkShape, tens: memoryview) -> IntegerNetwork:
    """Return the network of a TENS of the right length; its numbers are not checked."""
    return _network(shape, _take(tens, list(_layout(shape))))


# --- NETW ----------------------------------------------------------------------------------


def _encode_shape(shape: NetworkShape) -> bytes:
    parts = [SHAPE.pack(shape.side, shape.channels, 0, len(shape.layers), 0, shape.classes, 0)]
    for index, layer in enumerate(shape.layers):
        fields = (layer.kernel, layer.stride, layer.pool, layer.channels, layer.sums, layer.shift)
        ranges = (layer.zero, layer.top, layer.middle_zero, layer.middle_top)
        parts.append(LAYER.pack(SEPARABLE if index else STEM, *fields, *ranges, b""))
    return b"".join(parts)


def _decode_shape(netw: memoryview, where: str) -> NetworkShape:
    if len(netw) < SHAPE.size:
        raise FormatError(f"the network's shape is cut short ({where}); {_ADVICE}")
    side, channels, zero1, count, zero2, classes, zero3 = SHAPE.unpack_from(netw)
    if not LAYERS[0] <= count <= LAYERS[1] or len(netw) != SHAPE.size + count * LAYER.size:
        raise FormatError(f"{len(netw):,} bytes cannot describe {count:,} layers ({where}); {_ADVICE}")
    if zero1 or zero2 or zero3:
        raise FormatError(f"bytes are set that must be zero ({where}); {_ADVICE}")
    layers = tuple(
        _decode_layer(fields, index, where) for index, fields in enumerate(LAYER.iter_unpack(netw[SHAPE.size :]))
    )
    return NetworkShape(side, channels, classes, layers)


def _decode_layer(fields: tuple[Any, ...], index: int, where: str) -> LayerShape:
    kind, kernel, stride, pool, channels, sums, shift, zero, top, middle_zero, middle_top, zeros = fields
    if kind != (SEPARABLE if index else STEM):
        raise FormatError(
            f"layer {index} is of kind {kind}: the first is a stem (1), others are 2 ({where}); {_ADVICE}"
        )
    if pool > 1 or any(zeros):
        raise FormatError(f"layer {index} has bytes set that must be zero ({where}); {_ADVICE}")
    return LayerShape(
        kernel, stride, bool(pool), channels, sums, shift, zero, top, middle_zero=middle_zero, middle_top=middle_top
    )


# --- TENS ----------------------------------------------------------------------------------


def _arrays(network: IntegerNetwork) -> Iterator[NDArray[Any]]:
    """Yield the arrays of TENS in order, little-endian."""
    layers: list[IntegerStem | IntegerSeparable] = [network.stem, *network.blocks]
    for layer in layers:
        if isinstance(layer, IntegerSeparable):
            yield layer.depthwise.astype(_I8)
            yield layer.multiplier.astype(_I16)
        yield layer.weight.astype(_I8)
        yield layer.bias.astype(_I32)
        yield layer.output.positive.astype(_I16)
        yield layer.output.negative.astype(_I16)
    yield network.weight.astype(_I16)
    yield network.bias.astype(_I32)


def _layout(shape: NetworkShape) -> Iterator[tuple[np.dtype[Any], tuple[int, ...]]]:
    """Yield type and shape of each array of TENS, in order."""
    for index, (inputs, layer) in enumerate(zip(shape.widths()[:-1], shape.layers, strict=True)):
        outputs, kernel = layer.channels, layer.kernel
        if index:
            yield _I8, (kernel, kernel, inputs)
            yield _I16, (inputs,)
            yield _I8, (outputs, inputs)
        else:
            yield _I8, (outputs, kernel, kernel, inputs)
        yield _I32, (outputs,)
        yield _I16, (outputs,)
        yield _I16, (outputs,)
    yield _I16, (shape.classes, shape.widths()[-1])
    yield _I32, (shape.classes,)


def _take(tens: memoryview, layout: list[tuple[np.dtype[Any], tuple[int, ...]]]) -> Iterator[NDArray[Any]]:
    """Yield the arrays of a TENS whose length fits `layout`."""
    offset = 0
    for dtype, shape in layout:
        count = math.prod(shape)
        array = np.frombuffer(tens, dtype, count, offset).reshape(shape)
        if dtype.itemsize > 1:  # its place in the file is not aligned to it
            array = array.astype(dtype.newbyteorder("="))
            array.flags.writeable = False
        yield array
        offset += count * dtype.itemsize


def _network(shape: NetworkShape, arrays: Iterator[NDArray[Any]]) -> IntegerNetwork:
    stem, *layers = shape.layers
    weight, bias = next(arrays), next(arrays)
    first = IntegerStem(stem.stride, stem.sums, weight, bias, _requantization(stem, arrays))
    blocks = []
    for layer in layers:
        depthwise, multiplier, weight, bias = (next(arrays) for _ in range(4))
        blocks.append(
            IntegerSeparable(
                pool=layer.pool,
                depthwise=depthwise,
                multiplier=multiplier,
                middle_zero=layer.middle_zero,
                middle_top=layer.middle_top,
                sums=layer.sums,
                weight=weight,
                bias=bias,
                output=_requantization(layer, arrays),
            )
        )
    return IntegerNetwork(shape.side, shape.channels, first, tuple(blocks), next(arrays), next(arrays))


def _requantization(layer: LayerShape, arrays: Iterator[NDArray[Any]]) -> Requantization:
    return Requantization(layer.shift, next(arrays), next(arrays), layer.zero, layer.top)
