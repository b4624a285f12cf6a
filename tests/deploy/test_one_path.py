"""One preprocessing: 200 odd image files come to the same tensor and the same class by every path."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import onnx
import quicknet
from exported import make_run, torch_logits
from quicknet.core.card import Mode, PreprocessSpec
from quicknet.data import DataRequest, load_data
from quicknet.data.augment import normalize
from quicknet.deploy.export import export
from quicknet.image.preprocess import load_image
from quicknet.inference.predict import PredictSettings, predict
from quicknet.onnx.file import read_onnx
from quicknet.onnx.runtime import import_onnxruntime, present

onnxruntime = import_onnxruntime()

SIZES = [(1, 1), (4000, 10), (10, 4000), (33, 32), (32, 32), (7, 90), (200, 150), (3, 2), (64, 48), (31, 31), (2, 500)]


def draw(rng: np.random.Generator, size: tuple[int, int], channels: int) -> np.ndarray:
    """Blotches, smooth enough that a resize shows what it does."""
    coarse = rng.integers(0, 256, (3, 4, channels), dtype=np.uint8)
    fine = Image.merge(
        "RGB" if channels == 3 else "RGBA" if channels == 4 else "L",
        [Image.fromarray(coarse[..., c]).resize(size, Image.Resampling.BICUBIC) for c in range(channels)],
    )
    noise = rng.integers(-30, 30, (size[1], size[0], channels))
    return np.clip(np.asarray(fine).reshape(size[1], size[0], channels) + noise, 0, 255).astype(np.uint8)


def write_odd(root: Path) -> list[Path]:
    """Write 20 files of each of eleven kinds in each of the sizes, in two class folders."""
    rng = np.random.default_rng(5)
    pictures = []
    for index in range(220):
        size = SIZES[(index + index // 11) % len(SIZES)]
        rgb = Image.fromarray(draw(rng, size, 3))
        name = root / ("even" if index % 2 == 0 else "odd") / f"{index:03d}"
        name.parent.mkdir(parents=True, exist_ok=True)
        kind = index % 11
        if kind < 3:  # every EXIF orientation, and values that are none
            exif = Image.Exif()
            exif[0x0112] = index % 10
            path = name.with_suffix(".jpg")
            rgb.save(path, quality=90, exif=exif)
        elif kind == 3:
            path = name.with_suffix(".jpg")
            rgb.convert("CMYK").save(path)
        elif kind == 4:
            path = name.with_suffix(".png")
            rgb.quantize(16).save(path, transparency=3)
        elif kind == 5:
            path = name.with_suffix(".gif")
            rgb.quantize(32).save(path)
        elif kind == 6:
            path = name.with_suffix(".png")
            Image.fromarray(draw(rng, size, 1)[..., 0].astype(np.uint16) * 257).save(path)
        elif kind == 7:
            path = name.with_suffix(".png")
            Image.fromarray(draw(rng, size, 4)).save(path)
        elif kind == 8:
            path = name.with_suffix(".png")
            rgb.convert("LA").save(path)
        elif kind == 9:
            path = name.with_suffix(".tif")
            rgb.convert("1").save(path)
        else:
            path = name.with_suffix(".png")
            exif = Image.Exif()
            exif[0x0112] = 1 + index % 8
            rgb.save(path, exif=exif)
        pictures.append(path)
    return pictures


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd")
    assert len(write_odd(root)) == 220
    return root


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_every_path_gives_the_same_tensor_and_class(mode: Mode, odd: Path, tmp_path: Path) -> None:
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    spec = PreprocessSpec(
        size=32, mode=mode, mean=(0.4, 0.5, 0.6, 0.7)[:channels], std=(0.2, 0.25, 0.3, 0.2)[:channels]
    )
    run = make_run(tmp_path / "run", odd, request=DataRequest(spec=spec, quiet=True))
    export(run, tmp_path / "m.onnx")
    model = quicknet.load(tmp_path / "m.onnx", "onnxruntime", 1)
    request = DataRequest(spec=model.card.preprocess, classes=model.card.classes, quiet=True)
    split = load_data(odd, request).split("all")
    assert len(split) == 220
    assert split.paths is not None
    trained_on = torch_logits(run, split.images)  # what evaluation in training computes
    paths = [path if Path(path).is_absolute() else str(odd / path) for path in split.paths]
    decoded = np.stack([load_image(path, model.card.preprocess) for path in paths])
    assert np.array_equal(decoded, split.images)
    as_bytes = load_image(io.BytesIO(Path(paths[0]).read_bytes()).getvalue(), model.card.preprocess)
    assert np.array_equal(as_bytes, split.images[0])
    actual = model.logits(decoded)
    assert np.abs(actual - trained_on).max() <= 1e-4
    assert np.array_equal(actual.argmax(1), trained_on.argmax(1))
    answers = list(predict(model, paths, PredictSettings(top=1)))
    assert [model.card.classes.index(a.label) for a in answers] == trained_on.argmax(1).tolist()
    for name in present():
        other = quicknet.load(tmp_path / "m.onnx", name, 1).logits(decoded)
        assert np.array_equal(other.argmax(1), trained_on.argmax(1))


def test_the_graphs_own_normalization_is_the_training_pipelines(odd: Path, tmp_path: Path) -> None:
    """Darknet's first layer has padding, so its normalization is there to be looked at."""
    spec = PreprocessSpec(size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    run = make_run(tmp_path / "run", odd, "darknet_32", DataRequest(spec=spec, quiet=True), pools=2)
    export(run, tmp_path / "m.onnx")
    file = read_onnx(tmp_path / "m.onnx")
    graph = onnx.load_from_string(file.blob)
    graph.graph.output.append(onnx.helper.make_tensor_value_info("normalized", onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.array(load_data(odd, DataRequest(spec=spec, quiet=True)).split("all").images)
    (inside,) = session.run(["normalized"], {"images": images})
    outside = normalize(torch.from_numpy(images), spec.mean, spec.std).numpy()
    assert np.abs(inside - outside).max() <= 1e-5 < 1 / 255
