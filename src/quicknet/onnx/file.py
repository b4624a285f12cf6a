"""An exported ONNX file from outside, checked before any runtime sees it.

A bounded walk over the protobuf bytes, by onnx.proto's field numbers: no code is made from the
file, nothing is allocated by a length that was not checked, and every part that the walk does not
know is refused. Only then the bytes go to a runtime, as bytes: without a path, external data cannot
be read; it is refused too.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quicknet.core.card import Card, parse_card
from quicknet.core.errors import FormatError
from quicknet.core.files import read_bounded, sha256_bytes

CARD_KEY = "quicknet.card"
DIGEST_KEY = "quicknet.sha256"  # over the graph's bytes, then the card's: what makes the receipt one piece

_LIMIT_BYTES = 512 << 20  # Darknet, the largest of the registry, is 28 MB
_LIMIT_TEXT_BYTES = 1 << 10  # of a name
_LIMIT_NODES = 10_000
_LIMIT_FIELDS = 1_000_000  # about a second
_LIMIT_NUMBERS_BYTES = 1 << 10  # of one packed list
_LIMIT_DIMENSION = 1 << 24
_LIMIT_ATTRIBUTE = 64  # of kernels, strides, paddings: padding of 10^6 would be a memory bomb
_OPSETS = range(13, 22)
_IR_VERSIONS = range(3, 12)

# What QuickNet writes, float and int8 (QDQ), and nothing with a subgraph, a loop, a sequence, a
# random number or a size that the data decide (a Reshape keeps the number of values).
OPERATORS = frozenset(
    {"Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "DequantizeLinear", "Div"}
    | {"Erf", "Flatten", "Gather", "Gemm", "GlobalAveragePool", "Identity", "LRN", "LeakyRelu", "MatMul", "Max"}
    | {"MaxPool", "Mul", "PRelu", "Pow", "QuantizeLinear", "Relu", "Reshape", "Sigmoid", "Sub", "Tanh", "Transpose"}
)
_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 5: 2, 6: 4, 7: 8, 10: 2, 11: 8, 12: 4}  # TensorProto.DataType → bytes
_FLOAT, _UINT8 = 1, 2

Buffer = memoryview
# name → (element type, shape), None for a size that is left free
Values = dict[str, tuple[int, tuple[int | None, ...]]]


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A checked file: `blob` its bytes, `sha256` theirs; `weights_sha256` that of the graph message.

    `intact` says whether this graph and this card were written together.
    """

    path: Path
    blob: bytes
    sha256: str
    weights_sha256: str
    card: Card
    intact: bool


def looks_like_onnx(head: bytes) -> bool:
    """Return whether a file that begins with `head` begins as a ModelProto: field 1, the IR version, a small number."""
    return len(head) >= 2 and head[0] == 0x08 and head[1] in _IR_VERSIONS


def read_onnx(path: Path) -> OnnxFile:
    """Read and check a file that `quicknet export` wrote. Raises FormatError.

    A digest that differs is not an error here: `intact` says so (`verify` reports it, `load` refuses
    the file).
    """
    return parse_onnx(read_bounded(path, _LIMIT_BYTES, "the model"), path)


def parse_onnx(blob: bytes, path: Path) -> OnnxFile:
    """Check a file's bytes; `path` is for messages. Raises FormatError."""
    if not blob:
        raise FormatError(f"the model file is empty ({path}); export it again")
    try:
        model = _Walk().model(memoryview(blob))
    except _Broken as error:
        raise FormatError(f"{error} ({path}); use a file that `quicknet export` wrote") from error
    text = model.metadata.get(CARD_KEY)
    if text is None:
        raise FormatError(f"the ONNX file does not carry a QuickNet card ({path}); export it with `quicknet export`")
    card = parse_card(text, str(path))
    _check_interface(model, card, path)
    digest = hashlib.sha256(model.graph)
    weights_sha256 = digest.hexdigest()
    digest.update(text)
    recorded = model.metadata.get(DIGEST_KEY, memoryview(b""))
    intact = recorded == digest.hexdigest().encode() and card.weights_sha256 == weights_sha256
    return OnnxFile(path, blob, sha256_bytes(blob), weights_sha256, card, intact)


def _check_interface(model: _Model, card: Card, path: Path) -> None:
    """Refuse a graph whose declared input and output are not those of the card."""
    spec = card.preprocess
    expected_input: Values = {"images": (_UINT8, (None, spec.size, spec.size, spec.channels))}
    expected_output: Values = {"logits": (_FLOAT, (None, len(card.classes)))}
    if model.inputs != expected_input:
        raise FormatError(
            f"the graph takes {_declared(model.inputs)}, its card says {_declared(expected_input)} ({path}); "
            "export it again"
        )
    if model.outputs != expected_output:
        raise FormatError(
            f"the graph answers with {_declared(model.outputs)}, its card names {len(card.classes)} classes ({path}); "
            "export it again"
        )


def _declared(values: Values) -> str:
    kinds = {_FLOAT: "float32", _UINT8: "uint8"}
    texts = [
        f"{name[:40]!r} {kinds.get(kind, f'type {kind}')} ({', '.join('N' if d is None else str(d) for d in shape)})"
        for name, (kind, shape) in values.items()
    ]
    return ", ".join(texts[:4]) or "nothing"


# --- protobuf ------------------------------------------------------------------------------


class _Broken(Exception):
    """What is wrong with the bytes."""


@dataclass
class _Model:
    graph: Buffer
    metadata: dict[str, Buffer]
    inputs: Values
    outputs: Values


def _varint(data: Buffer, at: int) -> tuple[int, int]:
    """Return an unsigned number of at most 64 bits and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
    raise _Broken("the ONNX file is damaged or cut short")


def _bytes(value: int | Buffer) -> Buffer:
    if isinstance(value, int):
        raise _Broken("the ONNX file is damaged: a number where bytes belong")
    return value


def _number(value: int | Buffer) -> int:
    """Return a field's signed 64-bit integer."""
    if not isinstance(value, int):
        raise _Broken("the ONNX file is damaged: bytes where a number belongs")
    return value - (1 << 64) if value >> 63 else value


def _numbers(value: int | Buffer) -> list[int]:
    """Return one entry of a repeated integer field, packed or not."""
    if isinstance(value, int):
        return [_number(value)]
    if len(value) > _LIMIT_NUMBERS_BYTES:
        raise _Broken("a list of numbers is far too long")
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(_number(number))
    return numbers


def _text(value: int | Buffer) -> str:
    name = _bytes(value)
    if len(name) > _LIMIT_TEXT_BYTES:
        raise _Broken("a name is far too long")
    return bytes(name).decode("utf-8", "replace")


class _Walk:
    """One reading of a file's messages, of at most `_LIMIT_FIELDS` fields all together: 512 MB of
    empty ones would keep it busy for minutes.
    """

    def __init__(self) -> None:
        self._left = _LIMIT_FIELDS

    def fields(self, data: Buffer) -> Iterator[tuple[int, int | Buffer]]:
        """Yield a message's fields: (number, integer or bytes). Raises _Broken for bytes that are not a message."""
        at = 0
        while at < len(data):
            key, at = _varint(data, at)
            number, wire = key >> 3, key & 7
            self._left -= 1
            if self._left < 0:
                raise _Broken(f"the ONNX file has over {_LIMIT_FIELDS:,} parts")
            if number == 0 or wire not in (0, 1, 2, 5):
                raise _Broken("the file is damaged, or not an ONNX file")
            if wire == 0:
                value, at = _varint(data, at)
                yield number, value
                continue
            length, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            if length > len(data) - at:
                raise _Broken("the ONNX file is damaged or cut short")
            yield number, data[at : at + length]
            at += length

    def model(self, data: Buffer) -> _Model:
        """ModelProto: ir_version 1, graph 7, opset_import 8, metadata_props 14, training 20, functions 25."""
        graph: Buffer | None = None
        metadata: dict[str, Buffer] = {}
        opsets: dict[str, int] = {}
        for number, value in self.fields(data):
            match number:
                case 1:
                    if _number(value) not in _IR_VERSIONS:
                        raise _Broken(f"ONNX IR version {_number(value)} is not known")
                case 7:
                    if graph is not None:
                        raise _Broken("the ONNX file holds two graphs")
                    graph = _bytes(value)
                case 8:
                    entry = dict(self.fields(_bytes(value)))
                    opsets[_text(entry.get(1, memoryview(b"")))] = _number(entry.get(2, 0))
                case 14:
                    pair = dict(self.fields(_bytes(value)))
                    key = _text(pair.get(1, memoryview(b"")))
                    if key in metadata:
                        raise _Broken(f"the ONNX file says {key[:40]!r} twice")
                    metadata[key] = _bytes(pair.get(2, memoryview(b"")))
                case 2 | 3 | 4 | 5 | 6:  # producer, domain, version, documentation
                    pass
                case _:  # functions, training, and what later versions add
                    raise _Broken(f"the ONNX file has a part (field {number}) that QuickNet does not run")
        unknown = {name: version for name, version in opsets.items() if name or version not in _OPSETS}
        if unknown or not opsets:
            named = ", ".join(f"{name[:40] or 'ai.onnx'} {version}" for name, version in unknown.items()) or "none"
            raise _Broken(f"unknown operator set {named}: known is ai.onnx {_OPSETS[0]} to {_OPSETS[-1]}")
        if graph is None:
            raise _Broken("the ONNX file does not hold a graph")
        return self._read_graph(graph, metadata)

    def _read_graph(self, graph: Buffer, metadata: dict[str, Buffer]) -> _Model:
        """GraphProto: node 1, initializer 5, input 11, output 12; sparse initializers are refused."""
        model = _Model(graph, metadata, {}, {})
        nodes = 0
        for number, value in self.fields(graph):
            match number:
                case 1:
                    nodes += 1
                    if nodes > _LIMIT_NODES:
                        raise _Broken(f"the graph has over {_LIMIT_NODES:,} nodes")
                    self._check_node(_bytes(value))
                case 5:
                    self._check_tensor(_bytes(value))
                case 11 | 12:
                    name, declared = self._value_info(_bytes(value))
                    (model.inputs if number == 11 else model.outputs)[name] = declared
                case 2 | 10 | 13 | 16:  # name, documentation, value_info, metadata
                    pass
                case _:
                    raise _Broken(f"the graph has a part (field {number}) that QuickNet does not run")
        return model

    def _check_node(self, node: Buffer) -> None:
        """NodeProto: op_type 4, attribute 5, domain 7."""
        for number, value in self.fields(node):
            match number:
                case 4:
                    if _text(value) not in OPERATORS:
                        raise _Broken(f"the graph uses the operator {_text(value)[:40]!r}, which QuickNet does not run")
                case 5:
                    self._check_attribute(_bytes(value))
                case 7:
                    if _text(value) not in ("", "ai.onnx"):
                        raise _Broken(f"the graph uses operators of {_text(value)[:40]!r}, which are not loaded")
                case 1 | 2 | 3 | 6:  # inputs, outputs, name, documentation
                    pass
                case _:
                    raise _Broken(f"a node has a part (field {number}) that QuickNet does not run")

    def _check_attribute(self, attribute: Buffer) -> None:
        """AttributeProto: numbers, strings, and in `t` 5 one tensor; no subgraphs, no lists of tensors."""
        window, largest = False, 0
        for number, value in self.fields(attribute):
            match number:
                case 1:
                    window = _text(value) == "size"  # of an LRN, which adds that many channels around a map
                case 2 | 4 | 7 | 9 | 13 | 20:  # f, s, floats, strings, documentation, type
                    pass
                case 3:  # i: a group count, a data type, an axis
                    largest = max(largest, abs(_number(value)))
                case 8:  # ints: kernels, strides, paddings, permutations
                    if any(abs(entry) > _LIMIT_ATTRIBUTE for entry in _numbers(value)):
                        raise _Broken(f"a node has an attribute over {_LIMIT_ATTRIBUTE}")
                case 5:
                    self._check_tensor(_bytes(value))
                case _:
                    raise _Broken(f"a node has an attribute (field {number}) that QuickNet does not run")
        if largest > (_LIMIT_ATTRIBUTE if window else _LIMIT_DIMENSION):
            raise _Broken("a node has an attribute that is far too large")

    def _check_tensor(self, tensor: Buffer) -> None:
        """TensorProto: dims 1, data_type 2, name 8, raw_data 9; external data (13, 14) is refused."""
        dims: list[int] = []
        kind, raw = 0, None
        for number, value in self.fields(tensor):
            match number:
                case 1:
                    dims += _numbers(value)
                case 2:
                    kind = _number(value)
                case 9:
                    raw = _bytes(value)
                case 13 | 14:
                    raise _Broken("the ONNX file keeps tensors in other files (external data), which are not read")
                case 8 | 12:  # name, documentation
                    pass
                case _:
                    raise _Broken(f"a tensor keeps its values in a form (field {number}) that QuickNet does not read")
        if kind not in _ITEM_BYTES or len(dims) > 8 or not all(0 <= size <= _LIMIT_DIMENSION for size in dims):
            raise _Broken("a tensor has a type or shape that QuickNet does not run")
        if (len(raw) if raw is not None else 0) != math.prod(dims) * _ITEM_BYTES[kind]:
            raise _Broken("a tensor does not have as many bytes as its shape says")

    def _value_info(self, info: Buffer) -> tuple[str, tuple[int, tuple[int | None, ...]]]:
        """ValueInfoProto → (name, (element type, shape)); None for a size that is left free."""
        parts = dict(self.fields(info))
        kind = dict(self.fields(_bytes(parts.get(2, memoryview(b"")))))
        tensor = dict(self.fields(_bytes(kind.get(1, memoryview(b"")))))
        shape: list[int | None] = []
        for number, value in self.fields(_bytes(tensor.get(2, memoryview(b"")))):
            if number != 1:
                raise _Broken("the ONNX file is damaged: a shape that is not one")
            size = dict(self.fields(_bytes(value))).get(1)
            shape.append(None if size is None else _number(size))
        return _text(parts.get(1, memoryview(b""))), (_number(tensor.get(1, 0)), tuple(shape))
