"""`export --format qnz`, in Python and as a user calls it."""

import contextlib
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quicknet
from exported import make_run, torch_logits, write_pictures
from quicknet.cli.main import run as command
from quicknet.core.card import read_card
from quicknet.core.errors import CheckFailed, CheckpointError, ConfigError, DataError, ToolError
from quicknet.core.lineage import Compared, ExportStep
from quicknet.data import DataRequest, Dataset
from quicknet.deploy import qnz as module
from quicknet.deploy.export import load_run_data
from quicknet.deploy.qnz import QnzSettings, export_qnz
from quicknet.deploy.quantize import Quantized, quantize
from quicknet.image.vectors import draw_vectors
from quicknet.inference.receipt import pack_classes, recorded_predictions
from quicknet.inference.verify import verify
from quicknet.onnx.file import read_onnx
from quicknet.qnz import reference
from quicknet.qnz.file import read_qnz
from quicknet.training.checkpoint import RunFolder

Captured = pytest.CaptureFixture[str]
ANY_LOSS = QnzSettings(max_loss=None)


def test_the_file_is_the_run_in_integers(run_dir: Path, data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "new" / "m.qnz"
    exported = export_qnz(run_dir, data, out, ANY_LOSS.replace(bits="w7a8"))
    assert (exported.path, exported.size_bytes, exported.format) == (str(out), out.stat().st_size, "qnz")
    assert [path.name for path in out.parent.iterdir()] == ["m.qnz"]
    parent, model = read_card(run_dir / "card.json"), quicknet.load(out)
    assert (model.card.classes, model.card.preprocess, model.card.model) == (
        parent.classes,
        parent.preprocess,
        parent.model,
    )
    images = np.array(data.split("test").images)
    expected = torch_logits(run_dir, images)
    assert ((model.logits(images) - expected) ** 2).mean() < 0.03 * expected.var()
    assert exported.sha256 == read_qnz(out).sha256
    assert "reference" in exported.runtimes


def test_the_card_says_what_it_is_and_how_it_was_made(run_dir: Path, data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "m.qnz"
    settings = ANY_LOSS.replace(bits="w7a7", images=20, seed=3, qat_epochs=1.0)
    exported = export_qnz(run_dir, data, out, settings)
    file, parent = read_qnz(out), read_card(run_dir / "card.json")
    card = file.card
    assert card.integer is not None
    assert card.vectors is not None
    assert card.integer.bits == "w7a7"
    integers = reference.run(file.network, draw_vectors(32, 3))
    assert card.vectors.integers == tuple(tuple(row) for row in integers.tolist())
    assert np.abs(np.array(card.vectors.logits) - torch_logits(run_dir, draw_vectors(32, 3))).max() < 1e-3
    step = card.lineage[-1]
    assert (type(step), step.format, step.bits) == (ExportStep, "qnz", "w7a7")
    assert step.parent_weights_sha256 == parent.weights_sha256
    assert (step.calibration.n, step.calibration.seed) == (20, 3)
    assert (step.qat.epochs, step.qat.seed) == (1.0, 3)
    measured = [m for m in card.metrics if m.file_sha256 == file.weights_sha256 == exported.weights_sha256]
    assert [(m.split, m.value) for m in measured] == [(c.split, c.top1) for c in exported.compared]
    assert [m for m in card.metrics if m not in measured] == list(parent.metrics)


def test_the_receipt_is_of_the_integer_networks_own_classes(run_dir: Path, data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "m.qnz"
    exported = export_qnz(run_dir, data, out, ANY_LOSS)
    file, test = read_qnz(out), data.split("test")
    predicted = reference.run(file.network, np.array(test.images)).argmax(1)
    recorded = recorded_predictions(file.card)
    assert recorded is not None
    assert (recorded.sha256, recorded.classes) == (pack_classes(predicted)[1], "")
    assert (recorded.split, recorded.n, recorded.correct) == ("test", 30, (predicted == test.labels).sum())
    val, tested = exported.compared
    theirs = torch_logits(run_dir, np.array(test.images)).argmax(1)
    assert (val.split, tested.split, tested.n) == ("val", "test", 30)
    assert tested.different == (predicted != theirs).sum()
    assert tested.lost_points == round(100 * (tested.parent_top1 - tested.top1), 4)
    checked = verify(out, data)
    assert checked.holds
    assert checked.receipt_measured


def test_where_there_is_no_test_split_the_receipt_is_of_val(run_dir: Path, data: Dataset, tmp_path: Path) -> None:
    without = dataclasses.replace(data, splits={name: data.splits[name] for name in ("train", "val")})
    exported = export_qnz(run_dir, without, tmp_path / "m.qnz", ANY_LOSS)
    assert [c.split for c in exported.compared] == ["val"]
    recorded = recorded_predictions(read_qnz(tmp_path / "m.qnz").card)
    assert recorded is not None
    assert recorded.split == "val"


def test_same_inputs_same_bytes(run_dir: Path, data: Dataset, tmp_path: Path) -> None:
    """From a copy elsewhere too, fine-tuned too."""
    shutil.copytree(run_dir, tmp_path / "elsewhere")
    for settings in (ANY_LOSS, ANY_LOSS.replace(qat_epochs=1.0)):
        export_qnz(run_dir, data, tmp_path / "a.qnz", settings)
        export_qnz(tmp_path / "elsewhere", data, tmp_path / "b.qnz", settings)
        assert (tmp_path / "a.qnz").read_bytes() == (tmp_path / "b.qnz").read_bytes()
    other = ANY_LOSS.replace(seed=1, images=16)
    export_qnz(run_dir, data, tmp_path / "c.qnz", other)
    assert read_qnz(tmp_path / "a.qnz").weights_sha256 != read_qnz(tmp_path / "c.qnz").weights_sha256


# --- what goes wrong -----------------------------------------------------------------------


def spoiled(*arguments: Any) -> Quantized:
    """A quantizer that gives every class the next one's weights."""
    quantized = quantize(*arguments)
    network = dataclasses.replace(quantized.network, weight=np.roll(quantized.network.weight, 1, 0))
    return Quantized(network, quantized.logit_scale)


def test_too_much_lost_is_refused_and_nothing_written(
    run_dir: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.qnz"
    out.write_bytes(b"the one before")
    monkeypatch.setattr(module, "quantize", spoiled)
    with pytest.raises(CheckFailed, match=r"w5a8 loses \d+\.\d\d points of top-1 on val .*over --max-loss 0\.2; fine-"):
        export_qnz(run_dir, data, out, QnzSettings(bits="w5a8"))
    assert out.read_bytes() == b"the one before"
    assert [path.name for path in tmp_path.iterdir()] == ["m.qnz"]
    exported = export_qnz(run_dir, data, out, QnzSettings(max_loss=100))
    assert exported.compared[0].lost_points > 20


@pytest.mark.parametrize(("n", "lost", "refused"), [(30, 1, False), (30, 2, True), (5000, 10, False), (5000, 11, True)])
def test_the_limit_is_in_points_and_one_image_decides_nothing(n: int, lost: int, refused: bool) -> None:
    comparison = Compared(
        split="val",
        protocol="standard",
        n=n,
        top1=(n - lost) / n,
        parent_top1=1.0,
        lost_points=round(100 * lost / n, 4),
        different=lost,
    )
    with pytest.raises(CheckFailed, match="--qat 1") if refused else contextlib.nullcontext():
        module._require_little_loss(comparison, QnzSettings())


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_full_disk_leaves_nothing(
    failing: str, run_dir: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(ToolError, match="No space left"):
        export_qnz(run_dir, data, tmp_path / "m.qnz", ANY_LOSS)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_become_integers_is_one_line(run_dir: Path, data: Dataset, pictures: Path, tmp_path: Path) -> None:
    request = DataRequest(size=32, quiet=True)
    wide = make_run(tmp_path / "wide", pictures, request=request, kernel_sizes=[3, 7, 3, 3])
    with pytest.raises(ConfigError, match="kernel of 7"):
        export_qnz(wide, load_run_data(wide, str(pictures), True))
    dark = make_run(tmp_path / "dark", pictures, "darknet_32", request, pools=2)
    with pytest.raises(ConfigError, match="2x2 max pool of whole windows"):
        export_qnz(dark, load_run_data(dark, str(pictures), True))
    with pytest.raises(DataError, match="3 images are too few"):
        export_qnz(run_dir, data, tmp_path / "m.qnz", QnzSettings(images=3))
    with pytest.raises(CheckpointError, match="not a run folder"):
        export_qnz(tmp_path, data)
    with pytest.raises(ToolError, match="is a folder"):
        export_qnz(run_dir, data, tmp_path)
    for changes in ({"qat_epochs": -1.0}, {"max_loss": 101.0}, {"images": 0}, {"seed": -1}):
        with pytest.raises(ConfigError):
            QnzSettings(**changes)
    assert not list(tmp_path.glob("**/*.qnz"))


# --- the command ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(run_dir: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose recipe says where its data lies."""
    folder = tmp_path_factory.mktemp("made") / "my-run"
    shutil.copytree(run_dir, folder)
    (folder / "recipe.toml").write_text(f"[data]\nsource = {json.dumps(str(pictures))}\nsize = 32\n")
    return folder


def test_the_command_finds_the_data_by_the_recipe(run_folder: Path, capfd: Captured) -> None:
    assert command(["export", str(run_folder), "--max-loss", "50"]) == 0  # a .qnz unless something else is asked for
    first, second, val, test = capfd.readouterr().out.splitlines()
    path = run_folder / "my-run.qnz"
    assert first.startswith(str(path))
    assert read_qnz(path).sha256 in first
    assert "reference" in second
    assert "% on val, n = 30: " in val
    assert "% on test, n = 30: " in test
    assert command(["verify", str(path), "--data", RunFolder(run_folder).read_recipe().data.source]) == 0


def test_the_commands_json_has_the_documented_fields(run_folder: Path, tmp_path: Path, capfd: Captured) -> None:
    out = tmp_path / "a.qnz"
    arguments = ["--format", "qnz", "--bits", "w6a7", "--qat", "0.5", "--max-loss", "50", "--out", str(out), "--json"]
    assert command(["export", str(run_folder), *arguments, "--quiet"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    fields = json.loads(captured.out)
    assert (fields["path"], fields["format"], fields["bits"], fields["qat_epochs"]) == (str(out), "qnz", "w6a7", 0.5)
    assert fields["size_bytes"] == out.stat().st_size
    assert [row["split"] for row in fields["compared"]] == ["val", "test"]
    assert set(fields["compared"][0]) == {
        "split", "protocol", "n", "top1", "parent_top1", "lost_points", "different"
    }  # fmt: skip


def test_coding_makes_the_same_network_smaller(run_folder: Path, tmp_path: Path, capfd: Captured) -> None:
    files = {}
    for coding in ("none", "huffman", "contexts"):
        out = tmp_path / f"{coding}.qnz"
        arguments = ["--coding", coding, "--max-loss", "50", "--out", str(out), "--quiet"]
        assert command(["export", str(run_folder), *arguments]) == 0
        files[coding] = read_qnz(out)
        assert files[coding].coding == coding
    capfd.readouterr()
    assert len({file.weights_sha256 for file in files.values()}) == 1
    assert len(files["contexts"].blob) < len(files["none"].blob)


def test_the_command_refuses_a_loss_with_exit_1(
    run_folder: Path, tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "quantize", spoiled)
    assert command(["export", str(run_folder), "--format", "qnz", "--out", str(tmp_path / "m.qnz"), "--quiet"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("quicknet: error: ")
    assert "points of top-1 on val" in line
    assert list(tmp_path.iterdir()) == []


def test_int8_is_the_same_integers_as_onnx(run_folder: Path, pictures: Path, tmp_path: Path, capfd: Captured) -> None:
    arguments = ["export", str(run_folder), "--int8", "--bits", "w7a8", "--max-loss", "50", "--data", str(pictures)]
    assert command([*arguments, "--json", "--quiet"]) == 0
    fields = json.loads(capfd.readouterr().out)
    path = run_folder / "my-run.int8.onnx"
    assert fields["path"] == str(path)
    assert fields["n"] == 30
    card = read_onnx(path).card
    assert [step.format for step in card.lineage if isinstance(step, ExportStep)] == ["qnz", "onnx"]


def test_the_command_refuses_in_one_line(run_folder: Path, run_dir: Path, tmp_path: Path, capfd: Captured) -> None:
    few = write_pictures(tmp_path / "few", 1)  # three training images
    for arguments, text in (
        ([str(run_dir), "--format", "qnz"], "name that data with --data"),
        ([str(run_folder), "--bits", "w7a8", "--out", "m.onnx"], "--bits is for integers"),
        ([str(run_folder), "--format", "openvino", "--max-loss", "1"], "--max-loss is for integers"),
        ([str(run_folder), "--format", "qnz", "--int8"], "leave --int8 out"),
        ([str(run_folder), "--int8", "--coding", "contexts"], "--coding is for a .qnz"),
        ([str(run_folder), "--format", "qnz", "--coding", "zip"], "zip"),
        ([str(run_folder), "--format", "qnz", "--bits", "w8a8"], "w8a8"),
        ([str(run_folder), "--format", "qnz", "--qat", "-1"], "--qat"),
        ([str(run_folder), "--format", "qnz", "--data", str(few)], "3 images are too few"),
        ([str(run_folder), "--format", "qnz", "--data", str(tmp_path / "none")], "does not exist"),
    ):
        assert command(["export", *arguments]) == 2, arguments
        (line,) = capfd.readouterr().err.splitlines()
        assert text in line, line


def test_an_interrupt_leaves_nothing(
    run_dir: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "fine_tune", stop)
    with pytest.raises(KeyboardInterrupt):
        export_qnz(run_dir, data, tmp_path / "m.qnz", QnzSettings(qat_epochs=1.0))
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_recipe_is_fine_tuned_with_the_usual_augmentation(run_dir: Path, run_folder: Path) -> None:
    assert module.augmentation_of(run_dir).crop == 4
    assert module.augmentation_of(run_folder) == RunFolder(run_folder).read_recipe().augment
