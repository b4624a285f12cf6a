"""What other runtimes are given to beat: int8 networks of a named shape, in each runtime's fastest form.

    from rivals import rivals, runner
    runs = {name: runner(name, blob) for name, blob in rivals("quicknet_s").items()}

The numbers are drawn, which changes no runtime's speed: the products, the clamping and the slopes
take the same instructions for all values. `python benchmarks/bench_int8.py` shows that these forms
are the fastest of those known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from quicknet.core.card import Card, IntegerRecord, PreprocessSpec
from quicknet.core.choice import Runner
from quicknet.deploy.onnx_int8 import Form, build_int8
from quicknet.models.config import Activation, Layer, plan
from quicknet.models.registry import create_model, model_record
from quicknet.onnx.file import parse_onnx
from quicknet.onnx.runtime import open_runner
from quicknet.qnz.network import IntegerNetwork, IntegerSeparable, IntegerStem, Requantization

OPENVINO = "OpenVINO int8, PReLU"
OPENVINO_PRODUCTS = "OpenVINO int8, PReLU, as for ONNX Runtime"
ONNXRUNTIME = "ONNX Runtime int8, ReLU"
_TOP = 255


def rivals(shape: str) -> dict[str, bytes]:
    """Return by name the best ONNX files for networks of `shape`, a name of the registry.

    OpenVINO's of the whole network, in two forms of which the second can be the faster where there
    is VNNI; ONNX Runtime's of one with ReLU, which folds away there.
    """
    return {
        OPENVINO: int8_file(shape, "prelu", "openvino"),
        OPENVINO_PRODUCTS: int8_file(shape, "prelu", "onnxruntime"),
        ONNXRUNTIME: int8_file(shape, "relu", "onnxruntime"),
    }


def runner(name: str, blob: bytes, threads: int = 1) -> Runner:
    """Return a file compiled by the runtime that its name begins with."""
    runtime = "openvino" if name.startswith("OpenVINO") else "onnxruntime"
    return open_runner(parse_onnx(blob, Path(name)), runtime, threads)


def int8_file(shape: str, activation: Activation, form: Form) -> bytes:
    """Return the ONNX file of a drawn network."""
    model: Any = create_model(shape, activation=activation)
    card = Card(
        model=model_record(shape, model),
        classes=tuple(map(str, range(model.config.num_classes))),
        preprocess=PreprocessSpec(size=model.config.image_size),
        integer=IntegerRecord(bits="w7a8", logit_scale=1e-6),
    )
    return build_int8(drawn_network(model.config, np.random.default_rng(0)), card, form)


def drawn_network(config: Any, rng: np.random.Generator) -> IntegerNetwork:
    """Return an integer network of a QuickNetConfig with weights of -64..64 (`w7a8`)."""
    layers = plan(config)
    first, last = layers[0], layers[-1]
    taps = first.kernel**2 * first.in_channels
    weight = _weights(rng, (first.out_channels, first.kernel, first.kernel, first.in_channels))
    stem = IntegerStem(first.stride, 1, weight, _bias(first), _output(config, rng, first, taps))
    blocks = tuple(_separable(config, rng, layer) for layer in layers[1:])
    classifier = rng.integers(-500, 501, (config.num_classes, last.out_channels), dtype=np.int16)
    return IntegerNetwork(
        config.image_size, config.in_channels, stem, blocks, classifier, np.zeros(config.num_classes, np.int32)
    )


def _separable(config: Any, rng: np.random.Generator, layer: Layer) -> IntegerSeparable:
    channels, kernel = layer.in_channels, layer.kernel
    most = 128 // kernel**2  # each sign's sum is at most 128
    return IntegerSeparable(
        pool=layer.pool,
        depthwise=rng.integers(-most, most + 1, (kernel, kernel, channels), dtype=np.int8),
        multiplier=np.full(channels, 2**15 // most // kernel, np.int16),
        middle_zero=_TOP // 2,
        middle_top=_TOP,
        sums=1,
        weight=_weights(rng, (layer.out_channels, channels)),
        bias=_bias(layer),
        output=_output(config, rng, layer, channels),
    )


def _weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(-64, 65, shape, dtype=np.int8)


def _bias(layer: Layer) -> np.ndarray:
    return np.zeros(layer.out_channels, np.int32)


def _output(config: Any, rng: np.random.Generator, layer: Layer, taps: int) -> Requantization:
    """Return what takes sums of `taps` products, of inputs that spread by a quarter of their range, to such again."""
    slope = {"relu": 0.0, "leaky_relu": 0.25}.get(config.activation, rng.uniform(0, 0.5, layer.out_channels))
    shift = int(np.log2(37 * taps**0.5)) + 1  # 37: the standard deviation of a weight
    positive = np.full(layer.out_channels, round(2 ** (15 + shift) / (37 * taps**0.5) / 2), np.int16)
    zero = 0 if config.activation == "relu" else _TOP // 4
    return Requantization(shift, positive, np.rint(positive * slope).astype(np.int16), zero, _TOP)
