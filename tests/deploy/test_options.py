"""The family's options in files: exact where there is a place for them, refused by name where there is none."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from exported import make_run, torch_logits
from optional import OPTIONS, SMALL, Option
from parts import answered, draw
from quicknet.cli.main import run as command
from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import ConfigError
from quicknet.data import DataRequest
from quicknet.deploy.compress.run import compress
from quicknet.deploy.compress.settings import CompressSettings
from quicknet.deploy.fold import fold
from quicknet.deploy.graph import Conv, chain
from quicknet.deploy.pipeline import reference_logits
from quicknet.deploy.quantize import quantize, require_expressible
from quicknet.image.vectors import draw_vectors
from quicknet.inference.artifact import open_artifact
from quicknet.models.norm import BatchNorm2d
from quicknet.models.options.weight_norm import WeightNormConv2d
from quicknet.models.registry import create_model

SPEC = PreprocessSpec(mean=(0.5, 0.4, 0.6), std=(0.25, 0.2, 0.3))
Captured = pytest.CaptureFixture[str]


def optional_run(folder: Path, pictures: Path, option: Option, **options: Any) -> Path:
    settings = {**SMALL, "options": options or OPTIONS[option]}
    return make_run(folder, pictures, request=DataRequest(size=32, quiet=True), **settings)


def images(count: int) -> np.ndarray:
    return draw_vectors(SPEC.size, 3, count)


def normalized(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(((pixels / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)).transpose(0, 3, 1, 2).copy())


def test_neither_folding_nor_the_float64_oracle_drops_a_sum() -> None:
    """By hand, since the modules of a residual network are a plain one's."""
    torch.manual_seed(2)
    net = draw(create_model("quicknet_xs", **SMALL, options={"residual": True}))
    plain: Any = create_model("quicknet_xs", **SMALL).double().eval()
    plain.load_state_dict(net.state_dict())
    pixels = images(3)
    with torch.no_grad():
        x = net.stem(normalized(pixels))
        for block in net.blocks:
            y = block(x)
            x = x + y if x.shape == y.shape else y
        expected = net.classifier(x.mean((2, 3))).numpy()
    scale = np.abs(expected).max()
    assert np.abs(reference_logits(net, pixels, SPEC) - expected).max() < 1e-12 * scale
    assert np.abs(answered(fold(net, SPEC), pixels) - expected).max() < 1e-11 * scale
    assert np.abs(reference_logits(plain, pixels, SPEC) - expected).max() > 1e-2 * scale


@pytest.mark.parametrize("option", OPTIONS)
def test_it_is_exported_or_refused_by_name(option: Option, pictures: Path, tmp_path: Path, capfd: Captured) -> None:
    folder = optional_run(tmp_path / "run", pictures, option)
    data = ["--data", str(pictures), "--quiet"]
    onnx, qnz = tmp_path / "model.onnx", tmp_path / "model.qnz"
    for out, words, refused in (
        (onnx, ["--format", "onnx"], option == "transformer"),
        (qnz, ["--format", "qnz", "--max-loss", "100"], option != "weight_norm"),
    ):
        code = command(["export", str(folder), *words, "--out", str(out), *data])
        error = capfd.readouterr().err
        assert code == (2 if refused else 0), error
        assert out.exists() != refused
        if refused:
            assert error.startswith(f"quicknet: error: the network has the option {option} (options.{option}), and ")
            assert error.count("\n") == 1
        else:
            assert command(["verify", str(out), *data]) == 0
            capfd.readouterr()
    unread: Any = None
    with pytest.raises(ConfigError, match=rf"the network has the option {option} \(options.{option}\), and "):
        compress(folder, unread, tmp_path / "small.qnz", CompressSettings(density=0.5))
    if onnx.exists():
        expected = torch_logits(folder, images(5))
        assert np.abs(open_artifact(onnx).classifier().logits(images(5)) - expected).max() <= 1e-4


def twin_of(net: Any) -> Any:
    """The plain network that a weight-normalized one is in eval mode."""
    plain: Any = create_model("quicknet_xs", **SMALL, num_classes=net.config.num_classes).double()
    pairs = dict(net.named_modules())
    with torch.no_grad():
        for name, module in plain.named_modules():
            source = pairs[name]
            if isinstance(source, WeightNormConv2d):
                module.weight.copy_(source.filters())
            elif isinstance(module, BatchNorm2d):
                module.eps = 0.0
                module.running_mean.copy_(source.running_mean)
                module.bias.copy_(source.bias)
            elif name.endswith(("act", "classifier")):
                module.load_state_dict(source.state_dict())
    return plain.eval()


def test_weight_norm_is_folded_away() -> None:
    """What is exported is the plain network of the same filters: as fast, bit for bit as exact."""
    torch.manual_seed(2)
    net = draw(create_model("quicknet_xs", **SMALL, options={"weight_norm": True}))
    pixels = images(24)
    folded, plain = fold(net, SPEC), fold(twin_of(net), SPEC)
    assert len(require_expressible(folded, 32)[1]) == len(net.blocks)
    for ours, theirs in zip(chain(folded).layers, chain(plain).layers, strict=True):
        assert type(ours) is type(theirs)
        if isinstance(ours, Conv) and isinstance(theirs, Conv):
            assert np.allclose(ours.weight, theirs.weight, rtol=1e-12, atol=1e-14)
            assert (ours.stride, ours.padding, ours.groups) == (theirs.stride, theirs.padding, theirs.groups)
    expected = reference_logits(net, pixels, SPEC)
    assert np.abs(answered(folded, pixels) - expected).max() < 1e-11 * np.abs(expected).max()
    integers = [quantize(each, pixels, "w7a8") for each in (folded, plain)]
    assert integers[0].logit_scale == pytest.approx(integers[1].logit_scale, rel=1e-9)
    first, second = (flattened(each.network) for each in integers)
    assert len(first) == len(second) > 30
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def flattened(part: Any) -> list[np.ndarray]:
    """Every number of an integer network, in order."""
    if dataclasses.is_dataclass(part):
        return [array for field in dataclasses.fields(part) for array in flattened(getattr(part, field.name))]
    if isinstance(part, tuple):
        return [array for each in part for array in flattened(each)]
    return [np.asarray(part)]
