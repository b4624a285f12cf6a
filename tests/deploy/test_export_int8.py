"""`export --int8`: what is written is the integer network of the run, by executed outputs."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import quicknet
from quicknet.cli.main import run
from quicknet.core.errors import CheckFailed, ToolError
from quicknet.data import Dataset
from quicknet.deploy import onnx_int8
from quicknet.deploy.export import Format
from quicknet.deploy.export_int8 import export_int8
from quicknet.deploy.qnz import QnzSettings, make_qnz
from quicknet.image.vectors import draw_vectors
from quicknet.inference.evaluate import evaluate
from quicknet.inference.receipt import recorded_predictions, stated_tolerance
from quicknet.inference.verify import verify
from quicknet.onnx.runtime import present
from quicknet.qnz import reference
from quicknet.qnz.file import QnzFile

openvino = pytest.param(
    "openvino",
    marks=pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"),
)


@pytest.fixture(scope="module")
def parent(run_dir: Path, data: Dataset) -> QnzFile:
    """The integer network of a run that knows its classes."""
    return make_qnz(run_dir, data, Path("parent.qnz"), QnzSettings(max_loss=None))[0]


@pytest.mark.parametrize("format_", ["onnx", openvino])
def test_the_file_answers_as_the_integer_network(
    format_: Format, parent: QnzFile, data: Dataset, tmp_path: Path
) -> None:
    progress: list[int] = []
    exported = export_int8(parent, tmp_path / "m.onnx", format_, data, progress.append)
    assert set(exported.runtimes) == set(present())
    assert (exported.split, exported.n, sum(progress)) == ("test", 30, 3 * 30)
    assert exported.different is not None and exported.different <= 1
    images = draw_vectors(32, 3, 30)
    expected = reference.run(parent.network, images) * parent.record.logit_scale
    model = quicknet.load(tmp_path / "m.onnx", runtime="onnxruntime" if format_ == "onnx" else "openvino")
    assert np.abs(model.logits(images) - expected).max() <= 0.1 * np.abs(expected).max()
    assert evaluate(model, data).top1 == pytest.approx(exported.top1, abs=0.04)
    assert exported.top1 is not None and exported.top1 > 0.7  # it knows its classes


def test_its_receipt_is_replayed(parent: QnzFile, data: Dataset, tmp_path: Path) -> None:
    export_int8(parent, tmp_path / "m.onnx", "onnx", data)
    verification = verify(tmp_path / "m.onnx", data)
    assert verification.holds and verification.measured is not None and verification.receipt_measured
    assert verification.measured.different == 0  # the file's own answers, by the same runtime
    card = quicknet.load(tmp_path / "m.onnx").card
    assert card.lineage[-1].parent_weights_sha256 == parent.weights_sha256
    recorded = recorded_predictions(card)
    assert recorded is not None and (recorded.n, recorded.correct) == (30, round(30 * verification.measured.top1))
    logits = np.array(card.vectors.logits)
    assert stated_tolerance(card) == pytest.approx(0.1 * np.abs(logits).max(), abs=1e-3)


def test_the_same_network_gives_the_same_bytes(parent: QnzFile, tmp_path: Path) -> None:
    export_int8(parent, tmp_path / "a.onnx")
    export_int8(parent, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_file_that_answers_otherwise_is_never_written(
    parent: QnzFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the depthwise weights lose their scale, as a runtime does whose sums saturate."""
    out = tmp_path / "m.onnx"
    out.write_bytes(b"the one before")
    real = onnx_int8._scaled
    monkeypatch.setattr(
        onnx_int8,
        "_scaled",
        lambda nodes, name, values, scale: real(nodes, name, values, scale * (0.5 if "depthwise" in name else 1)),
    )
    with pytest.raises(CheckFailed, match="over the stated"):
        export_int8(parent, out)
    assert out.read_bytes() == b"the one before"


def test_a_folder_is_no_file(parent: QnzFile, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="is a folder"):
        export_int8(parent, tmp_path)


def test_on_the_command_line(run_dir: Path, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.onnx"
    words = ["export", str(run_dir), "--format", "onnx", "--int8", "--out", str(out), "--data", str(pictures)]
    assert run([*words, "--max-loss", "100", "--json", "--quiet"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["path"], record["n"], record["size_bytes"]) == (str(out), 30, out.stat().st_size)
    assert run(["verify", str(out), "--data", str(pictures), "--quiet"]) == 0
    assert run([*words, "--max-loss", "100", "--quiet"]) == 0
    assert "another class than by the integer network" in capfd.readouterr().out
