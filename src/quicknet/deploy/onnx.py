"""The ONNX graph of a folded network, made node by node; the same input gives the same bytes.

The graph takes `images`, uint8 (N, H, W, C), N free, and gives `logits`, float32 (N, classes);
scaling, mean and std are inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import onnx
from onnx import TensorProto, helper, numpy_helper
from quicknet import __version__
from quicknet.core.card import Card
from quicknet.core.files import sha256_bytes
from quicknet.deploy.graph import (
    IMAGE,
    Activation,
    Array,
    Average,
    Concat,
    Conv,
    Flatten,
    Folded,
    Linear,
    Maximum,
    Node,
    Pool,
    Regions,
    ResponseNorm,
    Scale,
    Select,
    Sum,
    ranks,
    unused_name,
)
from quicknet.models.pooling import region_pixels
from quicknet.onnx.file import CARD_KEY, DIGEST_KEY

# Old on purpose: ONNX Runtime reads them from 1.12 on (July 2022).
OPSET = 17
IR_VERSION = 8

# `fused`: PReLU in the form that ONNX Runtime keeps in its blocked layout; `plain`: the PRelu
# operator, which OpenVINO fuses per channel.
Form = Literal["fused", "plain"]


@dataclass
class Nodes:
    """Nodes and constants so far; a node, its output and its constants share a name."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    names: set[str] = field(default_factory=lambda: {"images", "logits"})

    def constant(self, name: str, array: Array) -> str:
        """Add a float32 constant: here, and only here, float64 is rounded."""
        return self.exact(name, np.ascontiguousarray(array, "<f4"))

    def exact(self, name: str, array: NDArray[Any]) -> str:
        """Add a constant as it is."""
        name = self._unused(name)
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name: `name`, with a number where that is used."""
        name = name if name == "logits" else self._unused(name)
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _unused(self, name: str) -> str:
        name = unused_name(name, self.names)
        self.names.add(name)
        return name

    def serialized(self, size: int, channels: int, classes: int) -> bytes:
        """Return the graph from `images` to `logits`, as bytes."""
        images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, channels])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])
        graph = helper.make_graph(self.nodes, "quicknet", [images], [logits], self.constants)
        return bytes(graph.SerializeToString(deterministic=True))


def build_graph(net: Folded, size: int, form: Form) -> bytes:
    """Return the serialized graph for images of `size` pixels square."""
    made = Nodes()
    x = made.node("Transpose", ["images"], "planes", perm=[0, 3, 1, 2])  # as bytes: a quarter of the traffic
    x = made.node("Cast", [x], "pixels", to=TensorProto.FLOAT)
    if net.scale is not None and net.shift is not None:
        x = made.node("Mul", [x, made.constant("scale", net.scale.reshape(-1, 1, 1))], "scaled")
        x = made.node("Add", [x, made.constant("shift", net.shift.reshape(-1, 1, 1))], "normalized")
    outputs, rank = {IMAGE: x}, ranks(net.nodes)
    *body, last = net.nodes
    for node in body:
        outputs[node.name] = _node(made, node, [outputs[name] for name in node.inputs], form, rank[node.name])
    inputs = [outputs[name] for name in last.inputs]
    if isinstance(last, Linear):
        _linear(made, inputs, last, "logits")
    else:
        made.node("Identity", [_node(made, last, inputs, form, rank[last.name])], "logits")
    return made.serialized(size, net.channels, net.classes)


def _node(made: Nodes, node: Node, inputs: list[str], form: Form, rank: int) -> str:
    """Add a node of the network, whose output has `rank` dimensions; returns the name of its output."""
    match node:
        case Conv():
            return _slope(made, _convolution(made, inputs[0], node), node.name, node.slope, form, rank)
        case Pool():
            return _pool(made, inputs, node)
        case Activation(slope=None):
            return _ACTIVATIONS[node.kind](made, inputs[0], node.name)
        case Activation():
            return _slope(made, inputs[0], node.name, node.slope, form, rank)
        case Average():
            x = made.node("GlobalAveragePool", inputs, node.name)
            name = node.name.replace("average", "features")
            return x if node.sides else made.node("Flatten", [x], name, axis=1)
        case Flatten():
            return made.node("Flatten", inputs, node.name, axis=1)
        case Sum():
            return made.node("Add", inputs, node.name)
        case Maximum():
            return made.node("Max", inputs, node.name)
        case Scale():
            return made.node("Mul", [*inputs, made.constant(f"{node.name}.factor", np.array(node.factor))], node.name)
        case Select():
            return _taken(made, inputs[0], node.name, node.indices, 1)
        case Regions():
            rows = _largest(made, inputs[0], f"{node.name}.rows", node.rows, 2)
            return _largest(made, rows, f"{node.name}.columns", node.columns, 3)
        case ResponseNorm():
            return _response_norm(made, inputs[0], node)
        case Concat():
            return made.node("Concat", inputs, node.name, axis=1)
        case Linear():
            return _linear(made, inputs, node, node.name)


def _pool(made: Nodes, inputs: list[str], pool: Pool) -> str:
    attributes: dict[str, Any] = {"kernel_shape": [pool.kernel] * 2, "strides": [pool.stride] * 2}
    if pool.padding:
        attributes["pads"] = [pool.padding] * 4
    if pool.ceil:
        attributes["ceil_mode"] = 1
    if pool.kind == "max":
        return made.node("MaxPool", inputs, pool.name, **attributes)
    return made.node("AveragePool", inputs, pool.name, count_include_pad=int(pool.counts_padding), **attributes)


def _linear(made: Nodes, inputs: list[str], layer: Linear, name: str) -> str:
    inputs = [*inputs, made.constant(f"{layer.name}.weight", layer.weight)]
    if layer.bias is not None:
        inputs.append(made.constant(f"{layer.name}.bias", layer.bias))
    return made.node("Gemm", inputs, name, transB=1)


def _convolution(made: Nodes, x: str, layer: Conv) -> str:
    inputs = [x, made.constant(f"{layer.name}.weight", layer.weight)]
    if layer.bias is not None:
        inputs.append(made.constant(f"{layer.name}.bias", layer.bias))
    side = layer.weight.shape[2]
    return made.node(
        "Conv",
        inputs,
        layer.name,
        kernel_shape=[side, side],
        strides=[layer.stride] * 2,
        pads=[layer.padding] * 4,
        group=layer.groups,
    )


def _slope(made: Nodes, x: str, name: str, slope: Array | None, form: Form, rank: int) -> str:
    """Add max(x, 0) + slope * min(x, 0), for an x of `rank` dimensions."""
    if slope is None:
        return x
    if len(slope) == 1:  # one slope for all: ONNX Runtime fuses these two into the convolution
        if slope[0] == 0:
            return made.node("Relu", [x], f"{name}.relu")
        return made.node("LeakyRelu", [x], f"{name}.leaky_relu", alpha=float(slope[0]))
    if form == "plain" or rank == 2:
        each = slope if rank == 2 else slope.reshape(-1, 1, 1)
        return made.node("PRelu", [x, made.constant(f"{name}.slope", each)], f"{name}.prelu")
    # x + (1 - slope) relu(-x), for any slope. Both factors are 1x1 depthwise convolutions, which,
    # with Relu and Add fused into them, stay in the blocked layout that PRelu falls out of.
    # quicknet_s, one core, in one run: 0.85 ms; slope x + relu((1 - slope) x), which slopes above
    # 1 break, 0.92; PRelu 1.86; LeakyRelu 0.80.
    negative = _scaled(made, x, f"{name}.negated", -np.ones_like(slope))
    rest = _scaled(made, made.node("Relu", [negative], f"{name}.negative_part"), f"{name}.rest", 1 - slope)
    return made.node("Add", [rest, x], f"{name}.prelu")


def _silu(made: Nodes, x: str, name: str) -> str:
    """Add x sigmoid(x)."""
    return made.node("Mul", [x, made.node("Sigmoid", [x], f"{name}.sigmoid")], f"{name}.silu")


def _gelu(made: Nodes, x: str, name: str) -> str:
    """Add x (1 + erf(x / sqrt(2))) / 2."""
    scaled = made.node("Mul", [x, made.constant(f"{name}.root", np.array(0.5**0.5))], f"{name}.scaled")
    error = made.node("Erf", [scaled], f"{name}.erf")
    share = made.node("Add", [error, made.constant(f"{name}.one", np.array(1.0))], f"{name}.share")
    half = made.node("Mul", [x, made.constant(f"{name}.half", np.array(0.5))], f"{name}.half_x")
    return made.node("Mul", [half, share], f"{name}.gelu")


def _relu6(made: Nodes, x: str, name: str) -> str:
    """Add min(max(x, 0), 6)."""
    bounds = [made.constant(f"{name}.least", np.array(0.0)), made.constant(f"{name}.most", np.array(6.0))]
    return made.node("Clip", [x, *bounds], f"{name}.relu6")


def _tanh(made: Nodes, x: str, name: str) -> str:
    return made.node("Tanh", [x], f"{name}.tanh")


_ACTIVATIONS = {"silu": _silu, "gelu": _gelu, "relu6": _relu6, "tanh": _tanh}


def _taken(made: Nodes, x: str, name: str, indices: tuple[int, ...], axis: int) -> str:
    """Add what lies at `indices` along an axis."""
    return made.node("Gather", [x, made.exact(f"{name}.indices", np.array(indices, "<i8"))], name, axis=axis)


def _largest(made: Nodes, x: str, name: str, bounds: tuple[int, ...], axis: int) -> str:
    """Add the largest value of each region along an axis: its first, its second and its last."""
    parts = [_taken(made, x, f"{name}.part", indices, axis) for indices in region_pixels(bounds)]
    return made.node("Max", parts, name)


def _response_norm(made: Nodes, x: str, norm: ResponseNorm) -> str:
    if norm.over == "channels":
        return made.node("LRN", [x], norm.name, size=norm.size, alpha=norm.alpha, beta=norm.beta, bias=norm.k)
    name = norm.name
    sides = {"kernel_shape": [norm.size] * 2, "strides": [1, 1], "pads": [norm.size // 2] * 4, "count_include_pad": 1}
    mean = made.node("AveragePool", [made.node("Mul", [x, x], f"{name}.squares")], f"{name}.mean", **sides)
    scaled = made.node("Mul", [mean, made.constant(f"{name}.alpha", np.array(norm.alpha))], f"{name}.scaled")
    sums = made.node("Add", [scaled, made.constant(f"{name}.k", np.array(norm.k))], f"{name}.sum")
    power = made.node("Pow", [sums, made.constant(f"{name}.beta", np.array(norm.beta))], f"{name}.power")
    return made.node("Div", [x, power], name)


def _scaled(made: Nodes, x: str, name: str, factor: Array) -> str:
    weight = made.constant(f"{name}.weight", factor.reshape(-1, 1, 1, 1))
    return made.node("Conv", [x, weight], name, kernel_shape=[1, 1], group=len(factor))


def assemble(graph: bytes, card: Card) -> bytes:
    """Return the whole file: the graph, the card with the graph's digest, a digest over both."""
    text = card.replace(weights_sha256=sha256_bytes(graph)).to_json().encode()
    model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="quicknet", producer_version=__version__)
    model.opset_import.append(helper.make_opsetid("", OPSET))
    model.graph.ParseFromString(graph)
    for key, value in ((CARD_KEY, text.decode()), (DIGEST_KEY, sha256_bytes(graph + text))):
        model.metadata_props.add(key=key, value=value)
    return bytes(model.SerializeToString(deterministic=True))
