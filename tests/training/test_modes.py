"""Grey and alpha networks go the whole way; what a recipe asks for is followed or refused."""

from pathlib import Path

import numpy as np
import pytest

import quicknet
from quicknet.core.errors import ConfigError, DataError
from quicknet.data import draw_scenes

SHORT = ("train.epochs=1", "model.overrides.depths=[1, 1, 1, 1]")
ALL_COLOURS = ("augment.trivial=true", "augment.jitter=0.3", "augment.cutout=8", "augment.cutmix=1.0")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_scenes(tmp_path_factory.mktemp("modes") / "scenes", per_class=6, seed=0)


def trained(scenes: Path, run: Path, *changes: str) -> quicknet.Card:
    list(quicknet.train(scenes, run, "demo", (*SHORT, *changes), device="cpu"))
    return quicknet.load(run).card


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGBA", 4)])
def test_any_mode_is_trained_measured_exported_and_predicted(scenes, tmp_path, monkeypatch, mode, channels):
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    run, file = tmp_path / "run", tmp_path / "file.onnx"
    card = trained(scenes, run, f"data.mode={mode}", *ALL_COLOURS)
    assert (card.preprocess.mode, card.model.config["in_channels"]) == (mode, channels)
    model = quicknet.load(run)
    request = quicknet.DataRequest(classes=card.classes, spec=card.preprocess, quiet=True)
    data = quicknet.load_data(scenes, request)
    measured = quicknet.evaluate(model, data)
    assert quicknet.export(run, file, data=data).different == 0
    assert quicknet.verify(file, data).measured.top1 == measured.top1
    pictures = sorted((scenes / "test").rglob("*.png"))[:5]
    exported = quicknet.load(file, runtime="onnxruntime")
    pairs = zip(quicknet.predict(model, pictures), quicknet.predict(exported, pictures), strict=True)
    assert all(abs(a.probability - b.probability) < 1e-4 and a.label == b.label for a, b in pairs)
    for wrong in (np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 32, 32, channels), np.float32)):
        with pytest.raises(DataError, match=rf"takes uint8 images \(N, 32, 32, {channels}\)"):
            model.logits(wrong)


def test_a_fine_tuned_network_keeps_its_parents_mode_or_says_why(scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    trained(scenes, tmp_path / "grey", "data.mode=L", "data.resize=pad")
    start = f"model.start_from='{tmp_path / 'grey'}'"
    spec = trained(scenes, tmp_path / "child", start).preprocess
    assert (spec.mode, spec.resize) == ("L", "pad")
    for asked in ("data.mode=RGB", "data.resize=stretch"):
        with pytest.raises(ConfigError, match=rf"{asked.split('=')[0]} is .*leave it out"):
            trained(scenes, tmp_path / "refused", start, asked)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("key", ["in_channels", "num_classes", "image_size"])
def test_what_the_data_decides_cannot_be_overridden(scenes, tmp_path, key):
    with pytest.raises(ConfigError, match=rf"model.overrides.{key} follows from the data"):
        trained(scenes, tmp_path / "run", f"model.overrides.{key}=20")
    assert not (tmp_path / "run").exists()
