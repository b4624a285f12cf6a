import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import onnx
import quicknet
from exported import make_run, torch_logits
from quicknet.core.card import read_card
from quicknet.core.errors import CheckFailed, CheckpointError, ToolError
from quicknet.data import DataRequest, load_data
from quicknet.deploy import export as module
from quicknet.deploy.export import Format, export, load_run_data
from quicknet.deploy.pipeline import default_path
from quicknet.image.vectors import draw_vectors
from quicknet.inference.evaluate import evaluate
from quicknet.inference.predict import predict
from quicknet.inference.receipt import recorded_predictions, unpack_classes
from quicknet.onnx.file import read_onnx


def test_the_file_is_the_run(run_dir: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "m.onnx"
    exported = export(run_dir, out)
    assert (exported.path, exported.format, exported.size_bytes) == (str(out), "onnx", out.stat().st_size)
    model = quicknet.load(out)
    parent = read_card(run_dir / "card.json")
    assert (model.card.classes, model.card.preprocess) == (parent.classes, parent.preprocess)
    assert model.card.lineage[-1].parent_weights_sha256 == parent.weights_sha256
    assert model.card.weights_sha256 == exported.weights_sha256 != parent.weights_sha256
    images = draw_vectors(32, 3, 30)
    assert np.abs(model.logits(images) - torch_logits(run_dir, images)).max() <= 1e-4
    assert [path.name for path in out.parent.iterdir()] == ["m.onnx"]


def test_the_openvino_format_keeps_prelu_whole(run_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    exported = export(run_dir, tmp_path / "m.onnx", format="openvino")
    assert set(exported.runtimes) == {"onnxruntime", "openvino"}
    kinds = {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert "PRelu" in kinds
    assert default_path(run_dir, "openvino") != default_path(run_dir, "onnx")


def test_the_receipt_holds_the_parents_class_of_every_test_image(run_dir: Path, pictures: Path, tmp_path: Path) -> None:
    data = load_run_data(run_dir, str(pictures), True)
    progress: list[int] = []
    exported = export(run_dir, tmp_path / "m.onnx", data=data, advance=progress.append)
    test = data.split("test")
    expected = torch_logits(run_dir, test.images).argmax(1)
    card = read_onnx(tmp_path / "m.onnx").card
    recorded = recorded_predictions(card)
    assert recorded is not None
    assert unpack_classes(recorded.classes, recorded.sha256, recorded.n).tolist() == expected.tolist()
    assert recorded.correct == (expected == test.labels).sum() > 20  # of 30: it knows its classes
    assert (exported.split, exported.n, exported.different) == ("test", 30, 0)
    assert sum(progress) == 2 * 30
    measured = [m for m in card.metrics if m.file_sha256 == exported.weights_sha256]
    assert [(m.name, m.n, m.value) for m in measured] == [("top1", 30, exported.top1)]


def test_same_run_same_bytes(run_dir: Path, tmp_path: Path) -> None:
    """From a copy elsewhere too, and with another thread count."""
    import torch

    shutil.copytree(run_dir, tmp_path / "elsewhere")
    export(run_dir, tmp_path / "a.onnx")
    torch.set_num_threads(2)
    export(tmp_path / "elsewhere", tmp_path / "b.onnx")
    torch.set_num_threads(1)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_evaluate_and_predict_take_the_file(run_dir: Path, pictures: Path, tmp_path: Path) -> None:
    export(run_dir, tmp_path / "m.onnx")
    model, parent = quicknet.load(tmp_path / "m.onnx"), quicknet.load(run_dir)
    card = model.card
    data = load_data(pictures, DataRequest(spec=card.preprocess, classes=card.classes, quiet=True))
    by_file, by_run = evaluate(model, data), evaluate(parent, data)
    assert by_file.top1 == by_run.top1 > 0.7
    assert by_file.confusion == by_run.confusion
    assert by_file.file_sha256 == read_onnx(tmp_path / "m.onnx").sha256
    names = sorted(map(str, (pictures / "test").rglob("*.png")))
    for one, other in zip(predict(model, names), predict(parent, names), strict=True):
        assert one.label == other.label
        assert one.probability == pytest.approx(other.probability, abs=1e-5)


def test_darknet_and_distilled_sizes_export(pictures: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "dark", pictures, "darknet_32", DataRequest(size=40, quiet=True), pools=2)
    export(run)
    model = quicknet.load(run / "dark.onnx")
    images = draw_vectors(40, 3, 9)
    assert np.abs(model.logits(images) - torch_logits(run, images)).max() <= 1e-4


# --- what goes wrong -----------------------------------------------------------------------


def test_a_file_that_answers_otherwise_is_never_written(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.onnx"
    out.write_bytes(b"the one before")
    spec = read_card(run_dir / "card.json").preprocess
    from quicknet.deploy.fold import fold as real

    monkeypatch.setattr(module, "fold", lambda model, _: real(model, spec.replace(mean=(0.0, 0.0, 0.0))))
    with pytest.raises(CheckFailed, match=r"test vectors by onnxruntime: logits differ by"):
        export(run_dir, out)
    assert out.read_bytes() == b"the one before"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_full_disk_leaves_nothing(
    failing: str, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(ToolError, match="No space left"):
        export(run_dir, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "format_", "extra"),
    [("onnx", "onnx", "export"), ("onnxruntime", "onnx", "onnx"), ("openvino", "openvino", "openvino")],
)
def test_a_missing_tool_is_named_with_its_extra(
    missing: str, format_: Format, extra: str, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else real(name))
    with pytest.raises(ToolError, match=rf"needs {missing}.*quicknet-vision\[{extra}\]"):
        export(run_dir, tmp_path / "m.onnx", format=format_)


def test_what_is_no_run_folder_is_refused(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run folder"):
        export(tmp_path)
    with pytest.raises(ToolError, match="is a folder; name a file"):
        export(run_dir, tmp_path)


def test_data_of_other_classes_is_refused(run_dir: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "others")
    for split in ("train", "val", "test"):
        (tmp_path / "others" / split / "left").rename(tmp_path / "others" / split / "above")
    with pytest.raises(quicknet.QuickNetError, match="above"):
        load_run_data(run_dir, str(tmp_path / "others"), True)
