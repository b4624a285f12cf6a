"""The integer network as an int8 ONNX graph (QuantizeLinear, DequantizeLinear) for other runtimes.

Everything follows from the integer network alone. A feature map's scale is 1, so a value u8 q
reads as q - zero; the multipliers of a layer become its weights' scales, and what the negative
ones are of the positive ones its slopes. So a runtime answers as the `.qnz` but for how it rounds.

Products of u8 and s8 are added up in pairs of 16 bits where a CPU has no VNNI, and saturate there.
A pointwise layer's pairs are input channels {0, 1}, {2, 3} .., in ONNX Runtime (MLAS) and OpenVINO
(oneDNN) alike: the lanes of FORMAT.md for N = 1, of which those for N = 2 and 4 are sums. Their
bound is what makes every integer network exact on such CPUs.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx import TensorProto
from quicknet.core.card import Card
from quicknet.core.errors import FormatError
from quicknet.deploy.graph import Array
from quicknet.deploy.onnx import Nodes, assemble
from quicknet.qnz.format import IMAGE_TOP, INT16_MAX
from quicknet.qnz.network import IntegerNetwork, IntegerSeparable, IntegerStem, Requantization

# `onnxruntime`: PReLU between a Gemm (QGemm gives float32) and a QuantizeLinear, as Max(x, slope x);
# `openvino`: the PRelu operator, which OpenVINO fuses per channel into an int8 convolution.
# One core, best ms an image, quicknet_s / quicknet (benchmarks/bench_int8.py), with VNNI: ONNX Runtime
# 0.58 / 1.31 (fp32 0.74 / 3.15; the PRelu operator after a convolution, which so falls out of int8,
# 1.50 / 5.82; two int8 convolutions and the larger of each value 0.58 / 1.65), OpenVINO 0.58 / 1.26.
# Without VNNI, ONNX Runtime's check for AVX-512 patched out: 0.80 / 2.14 (fp32 0.80; two
# convolutions 0.93 / 3.07); OpenVINO with ONEDNN_MAX_CPU_ISA=AVX2: 0.70 / 2.19.
Form = Literal["onnxruntime", "openvino"]


class _Maps(NamedTuple):
    """A feature map in the graph, (N, C, side, side): uint8, or float32 where it was read already."""

    name: str
    zero: int
    read: bool = False


class _Layer(NamedTuple):
    """A stem's or pointwise layer's numbers.

    Of y = unit · (weight · (input - its zero) + bias) it gives alpha max(y, 0) + beta min(y, 0);
    alpha is 1, unless the positive multiplier is not positive.
    """

    name: str
    weight: NDArray[np.int8]  # (O, C, k, k)
    bias: NDArray[np.int32]  # (O,)
    unit: Array
    alpha: Array
    beta: Array
    output: Requantization


def build_int8(network: IntegerNetwork, card: Card, form: Form) -> bytes:
    """Return the ONNX file of a network with its card, of which `integer.logit_scale` scales the logits.

    Raises FormatError for a card without it.
    """
    if card.integer is None:
        raise FormatError("the card describes no integer network; quantize the run first")
    return assemble(build_int8_graph(network, card.integer.logit_scale, form), card)


def build_int8_graph(network: IntegerNetwork, logit_scale: float, form: Form) -> bytes:
    """Return the serialized graph: `images` uint8 (N, side, side, channels) to `logits` float32 (N, classes)."""
    nodes = Nodes()
    maps = _stem(nodes, network.stem, form)
    side = (network.side - network.stem.weight.shape[1]) // network.stem.stride + 1
    for index, block in enumerate(network.blocks):
        side = side // 2 if block.pool else side
        maps = _separable(nodes, maps, block, f"block{index}", side, form)
    x = nodes.node("GlobalAveragePool", [_read(nodes, maps, "last")], "average")
    x = nodes.node("Flatten", [x], "features", axis=1)
    # the integer network classifies sums over side² pixels, zeros included; the average excludes them
    weight = network.weight.astype(np.float64)
    bias = network.bias + maps.zero * side**2 * weight.sum(1)
    constants = [
        nodes.constant("classifier.weight", weight * (logit_scale * side**2)),
        nodes.constant("classifier.bias", bias * logit_scale),
    ]
    nodes.node("Gemm", [x, *constants], "logits", transB=1)
    return nodes.serialized(network.side, network.channels, len(network.bias))


def _stem(nodes: Nodes, stem: IntegerStem, form: Form) -> _Maps:
    """In int8 only where ONNX Runtime has a kernel for it and its pairs, which are not the lanes, are safe."""
    layer = _numbers("stem", stem.weight.transpose(0, 3, 1, 2), stem.bias, stem.output, 0)
    planes = nodes.node("Transpose", ["images"], "planes", perm=[0, 3, 1, 2])
    kernel = layer.weight.shape[2]
    attributes = {"kernel_shape": [kernel] * 2, "strides": [stem.stride] * 2}
    if form == "onnxruntime" and _is_relu(layer) and _any_pair_fits(layer.weight):
        y = nodes.node(
            "Conv", [_read(nodes, _Maps(planes, 0), "stem"), *_quantized(nodes, layer)], "stem", **attributes
        )
    else:
        pixels = nodes.node("Cast", [planes], "pixels", to=TensorProto.FLOAT)
        weight = nodes.constant("stem.weight", layer.weight * layer.unit[:, None, None, None])
        y = nodes.node(
            "Conv", [pixels, weight, nodes.constant("stem.bias", layer.bias * layer.unit)], "stem", **attributes
        )
    return _write(
        nodes, _activated(nodes, y, layer, form, (-1, 1, 1)), "stem", layer.output.zero, layer.output.top, form
    )


def _separable(nodes: Nodes, maps: _Maps, block: IntegerSeparable, name: str, side: int, form: Form) -> _Maps:
    if block.pool:
        maps = _pooled(nodes, maps, name, form)
    kernel, channels = block.depthwise.shape[0], block.depthwise.shape[2]
    dead = block.multiplier == 0  # not every runtime takes a scale of 0
    weight = np.where(dead, 0, block.depthwise).transpose(2, 0, 1)[:, None].astype(np.int8)
    scale = np.where(dead, 1, block.multiplier) / 2.0**15
    y = nodes.node(
        "Conv",
        [_read(nodes, maps, f"{name}.depthwise"), _scaled(nodes, f"{name}.depthwise.weight", weight, scale)],
        f"{name}.depthwise",
        kernel_shape=[kernel] * 2,
        pads=[kernel // 2] * 4,
        group=channels,
    )
    middle = _write(nodes, y, f"{name}.depthwise", block.middle_zero, block.middle_top, form)
    layer = _numbers(f"{name}.pointwise", block.weight[:, :, None, None], block.bias, block.output, middle.zero)
    if form == "onnxruntime" and not _is_relu(layer):
        return _product(nodes, middle, layer, side)
    x = _read(nodes, middle, layer.name)
    y = nodes.node("Conv", [x, *_quantized(nodes, layer)], layer.name, kernel_shape=[1, 1])
    y = _activated(nodes, y, layer, form, (-1, 1, 1))
    return _write(nodes, y, layer.name, layer.output.zero, layer.output.top, form)


def _pooled(nodes: Nodes, maps: _Maps, name: str, form: Form) -> _Maps:
    """On bytes in ONNX Runtime; OpenVINO moves the reading behind the pool by itself."""
    if form == "openvino":
        maps = _Maps(_read(nodes, maps, f"{name}.pool"), maps.zero, read=True)
    pooled = nodes.node("MaxPool", [maps.name], f"{name}.pool", kernel_shape=[2, 2], strides=[2, 2])
    return maps._replace(name=pooled)


def _product(nodes: Nodes, maps: _Maps, layer: _Layer, side: int) -> _Maps:
    """Return a pointwise layer as a matrix product: what ONNX Runtime leaves in float32 for its PReLU.

    It runs depthwise convolutions channels last, so that the transpositions here and there cancel.
    """
    name, output = layer.name, layer.output
    last = nodes.node("Transpose", [maps.name], f"{name}.channels_last", perm=[0, 2, 3, 1])
    rows = nodes.node("Flatten", [last], f"{name}.rows", axis=3)  # (N side side, C)
    x = _read(nodes, maps._replace(name=rows), name)
    weight, bias = _quantized(nodes, layer._replace(weight=layer.weight[:, :, 0, 0]))
    y = _activated(nodes, nodes.node("Gemm", [x, weight, bias], name, transB=1), layer, "onnxruntime", (-1,))
    shape = nodes.exact(f"{name}.shape", np.array([-1, side, side, len(layer.weight)], np.int64))
    # Before rounding: OpenVINO 2026.4 crashes on bytes that are transposed between two layers.
    square = nodes.node("Reshape", [y, shape], f"{name}.square")
    planes = nodes.node("Transpose", [square], f"{name}.planes", perm=[0, 3, 1, 2])
    return _write(nodes, planes, name, output.zero, output.top, "onnxruntime")


# --- numbers -------------------------------------------------------------------------------


def _numbers(name: str, weight: NDArray[np.int8], bias: NDArray[np.int32], output: Requantization, zero: int) -> _Layer:
    """Return a layer for inputs that read as q - `zero`, without the constant by which `>> shift` rounds."""
    positive, negative = output.positive.astype(np.float64), output.negative.astype(np.float64)
    unit = np.where(positive > 0, positive, np.maximum(np.abs(negative), 1))
    sums = weight.reshape(len(weight), -1).sum(1, dtype=np.int64)
    centred = bias.astype(np.int64) + zero * sums - ((1 << output.shift) >> 1)
    # Past 32 bits there is only the rounding constant, half of what the shift takes away.
    limits = np.iinfo(np.int32)
    return _Layer(
        name=name,
        weight=weight,
        bias=np.clip(centred, limits.min, limits.max).astype(np.int32),
        unit=unit / 2.0 ** (15 + output.shift),
        alpha=positive / unit,
        beta=negative / unit,
        output=output,
    )


def _is_relu(layer: _Layer) -> bool:
    """Return whether clamping to 0..top is all that the activation does."""
    return bool((layer.alpha == 1).all() and not layer.beta.any() and layer.output.zero == 0)


def _any_pair_fits(weight: NDArray[np.int8]) -> bool:
    """Return whether any two weights of a filter over an image keep to 16 bits, in any order."""
    rows = np.sort(weight.reshape(len(weight), -1).astype(np.int64), axis=1)
    most = max(int(rows[:, -2:].clip(0).sum(1).max()), int((-rows[:, :2]).clip(0).sum(1).max()))
    return most * IMAGE_TOP <= INT16_MAX


def _shared_slope(output: Requantization) -> float | None:
    """Return the slope of which all the negative multipliers are roundings, if there is one."""
    positive, negative = output.positive.astype(np.int64), output.negative.astype(np.int64)
    slope = float(negative.sum() / max(1, positive.sum()))
    return slope if (np.abs(negative - slope * positive) <= 1).all() else None


# --- nodes ---------------------------------------------------------------------------------


def _activated(nodes: Nodes, y: str, layer: _Layer, form: Form, shape: tuple[int, ...]) -> str:
    """Add alpha max(y, 0) + beta min(y, 0); `shape` is that of a constant per channel."""
    name, alpha, beta = layer.name, layer.alpha.reshape(shape), layer.beta.reshape(shape)
    if _is_relu(layer):
        return y
    if (alpha == 1).all():
        shared = _shared_slope(layer.output)
        if shared is not None:
            return nodes.node("LeakyRelu", [y], f"{name}.leaky_relu", alpha=shared)
        if form == "openvino":
            return nodes.node("PRelu", [y, nodes.constant(f"{name}.slope", beta)], f"{name}.prelu")
        if (beta <= 1).all():
            sloped = nodes.node("Mul", [y, nodes.constant(f"{name}.slope", beta)], f"{name}.sloped")
            return nodes.node("Max", [y, sloped], f"{name}.prelu")
    below = nodes.node("Clip", [y, "", nodes.constant(f"{name}.nothing", np.zeros(()))], f"{name}.below")
    rest = nodes.node("Mul", [below, nodes.constant(f"{name}.rest", beta - alpha)], f"{name}.rest_below")
    if not (alpha == 1).all():
        y = nodes.node("Mul", [y, nodes.constant(f"{name}.alpha", alpha)], f"{name}.scaled")
    return nodes.node("Add", [y, rest], f"{name}.prelu")


def _write(nodes: Nodes, y: str, name: str, zero: int, top: int, form: Form) -> _Maps:
    """Add rounding to uint8, y + zero clamped to 0..top.

    A top of 127 is clamped on bytes for ONNX Runtime, which looks for QuantizeLinear right behind
    a convolution, before it for OpenVINO, which looks for DequantizeLinear right behind.
    """
    if top < 255 and form == "openvino":
        limits = [nodes.constant(f"{name}.low", np.array(-zero)), nodes.constant(f"{name}.high", np.array(top - zero))]
        y = nodes.node("Clip", [y, *limits], f"{name}.clipped")
    scale = nodes.constant(f"{name}.output.scale", np.ones(()))
    offset = nodes.exact(f"{name}.output.zero", np.array(zero, np.uint8))
    q = nodes.node("QuantizeLinear", [y, scale, offset], f"{name}.output")
    if top < 255 and form == "onnxruntime":
        q = nodes.node("Clip", [q, "", nodes.exact(f"{name}.output.top", np.array(top, np.uint8))], f"{name}.clipped")
    return _Maps(q, zero)


def _read(nodes: Nodes, maps: _Maps, name: str) -> str:
    """Add what makes q - zero of bytes."""
    if maps.read:
        return maps.name
    scale = nodes.constant(f"{name}.input.scale", np.ones(()))
    zero = nodes.exact(f"{name}.input.zero", np.array(maps.zero, np.uint8))
    return nodes.node("DequantizeLinear", [maps.name, scale, zero], f"{name}.input")


def _quantized(nodes: Nodes, layer: _Layer) -> list[str]:
    """Add weights and bias, of the scale of their products."""
    weight = _scaled(nodes, f"{layer.name}.weight", layer.weight, layer.unit)
    return [weight, _scaled(nodes, f"{layer.name}.bias", layer.bias, layer.unit)]


def _scaled(nodes: Nodes, name: str, values: NDArray[np.int8] | NDArray[np.int32], scale: Array) -> str:
    """Add integers with a scale for each of the first axis."""
    constants = [
        nodes.exact(f"{name}.q", values),
        nodes.constant(f"{name}.scale", scale),
        nodes.exact(f"{name}.zero", np.zeros(len(scale), values.dtype)),
    ]
    return nodes.node("DequantizeLinear", constants, name, axis=0)
