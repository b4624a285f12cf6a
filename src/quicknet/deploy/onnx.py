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
from quicknet.deploy.fold import Array, Conv, Folded, Pool
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

    def constant(self, name: str, array: Array) -> str:
        """Add a float32 constant: here, and only here, float64 is rounded."""
        return self.exact(name, np.ascontiguousarray(array, "<f4"))

    def exact(self, name: str, array: NDArray[Any]) -> str:
        """Add a constant as it is."""
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node with one output."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
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
    first = next(layer for layer in net.layers if isinstance(layer, Conv))
    channels = first.weight.shape[1] * first.groups
    x = made.node("Transpose", ["images"], "planes", perm=[0, 3, 1, 2])  # as bytes: a quarter of the traffic
    x = made.node("Cast", [x], "pixels", to=TensorProto.FLOAT)
    if net.scale is not None and net.shift is not None:
        x = made.node("Mul", [x, made.constant("scale", net.scale.reshape(-1, 1, 1))], "scaled")
        x = made.node("Add", [x, made.constant("shift", net.shift.reshape(-1, 1, 1))], "normalized")
    for layer in net.layers:
        if isinstance(layer, Pool):
            x = made.node("MaxPool", [x], layer.name, kernel_shape=[2, 2], strides=[2, 2])
        else:
            x = _activation(made, _convolution(made, x, layer), layer, form)
    x = made.node("Flatten", [made.node("GlobalAveragePool", [x], "average")], "features", axis=1)
    weight, bias = made.constant("classifier.weight", net.weight), made.constant("classifier.bias", net.bias)
    made.node("Gemm", [x, weight, bias], "logits", transB=1)
    return made.serialized(size, channels, len(net.bias))


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


def _activation(made: Nodes, x: str, layer: Conv, form: Form) -> str:
    """Add max(x, 0) + slope * min(x, 0)."""
    slope, name = layer.slope, layer.name
    if slope is None:
        return x
    if len(slope) == 1:  # one slope for all: ONNX Runtime fuses these two into the convolution
        if slope[0] == 0:
            return made.node("Relu", [x], f"{name}.relu")
        return made.node("LeakyRelu", [x], f"{name}.leaky_relu", alpha=float(slope[0]))
    if form == "plain":
        return made.node("PRelu", [x, made.constant(f"{name}.slope", slope.reshape(-1, 1, 1))], f"{name}.prelu")
    # x + (1 - slope) relu(-x), for any slope. Both factors are 1x1 depthwise convolutions, which,
    # with Relu and Add fused into them, stay in the blocked layout that PRelu falls out of.
    # quicknet_s, one core, in one run: 0.85 ms; slope x + relu((1 - slope) x), which slopes above
    # 1 break, 0.92; PRelu 1.86; LeakyRelu 0.80.
    negative = _scaled(made, x, f"{name}.negated", -np.ones_like(slope))
    rest = _scaled(made, made.node("Relu", [negative], f"{name}.negative_part"), f"{name}.rest", 1 - slope)
    return made.node("Add", [rest, x], f"{name}.prelu")


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
