"""export, verify, and the exported file under evaluate and predict, as a user calls them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import onnx
import quicknet
from exported import make_run, write_pictures
from quicknet.cli.main import run
from quicknet.data import DataRequest
from quicknet.deploy import export as module
from quicknet.image.vectors import draw_vectors
from quicknet.inference.shipped import locate
from quicknet.onnx.file import read_onnx
from quicknet.onnx.runtime import present
from quicknet.qnz.file import QnzFile, assemble_qnz, read_qnz
from schema import follows

Captured = pytest.CaptureFixture[str]
EXPORT = ("export", "--format", "onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, its pictures without splits of their own, and an export with a receipt."""
    root = tmp_path_factory.mktemp("made")
    whole = write_pictures(root / "whole", 20)
    for split in ("train", "val", "test"):
        for path in whole.glob(f"{split}/*/*.png"):
            target = root / "pictures" / path.parent.name / f"{split}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    request = DataRequest(size=32, split_seed=7, val_share=0.2, quiet=True)
    make_run(root / "my-run", root / "pictures", request=request)
    (root / "my-run" / "recipe.toml").write_text(
        f"[data]\nsource = {json.dumps(str(root / 'pictures'))}\nsplit_seed = 7\nval_share = 0.2\n"
    )
    assert run([*EXPORT, str(root / "my-run"), "--data", str(root / "pictures"), "--quiet"]) == 0
    return root


def test_export_writes_beside_the_run_and_says_what(folder: Path, capfd: Captured) -> None:
    assert run([*EXPORT, str(folder / "my-run"), "--data", str(folder / "pictures")]) == 0
    captured = capfd.readouterr()
    first, second, third = captured.out.splitlines()
    path = folder / "my-run" / "my-run.onnx"
    assert first.startswith(str(path))
    assert read_onnx(path).sha256 in first
    assert second == f"test vectors answered as by the run: {', '.join(present())}"
    assert "0 images have another class" in third


def test_export_json_has_the_documented_fields(folder: Path, tmp_path: Path, capfd: Captured) -> None:
    assert run(["export", str(folder / "my-run"), "--out", str(tmp_path / "a.onnx"), "--json"]) == 0
    captured = capfd.readouterr()
    fields = json.loads(captured.out)
    follows("export", fields)
    assert fields["path"] == str(tmp_path / "a.onnx")
    assert fields["size_bytes"] == (tmp_path / "a.onnx").stat().st_size
    assert [fields[key] for key in ("split", "n", "top1", "different")] == [None] * 4
    assert fields["sha256"] == read_onnx(tmp_path / "a.onnx").sha256
    assert "not measured on data" in captured.err


def test_verify_says_what_holds(folder: Path, capfd: Captured) -> None:
    path = folder / "my-run" / "my-run.onnx"
    assert run(["verify", str(path), "--data", str(folder / "pictures")]) == 0
    captured = capfd.readouterr()
    assert captured.out.splitlines()[-1] == "the receipt holds"
    assert "0 of " in captured.out
    assert "images have another class than by the parent, 0 may" in captured.out
    assert run(["verify", str(path), "--json"]) == 0
    fields = json.loads(capfd.readouterr().out)
    assert fields["holds"] is True
    assert fields["receipt_measured"] is True
    assert fields["measured"] is None
    assert all(check["ok"] for check in fields["checks"])


def test_a_receipt_that_does_not_hold_is_exit_1(folder: Path, tmp_path: Path, capfd: Captured) -> None:
    model = onnx.load(folder / "my-run" / "my-run.onnx")
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert run(["verify", str(tmp_path / "m.onnx"), "--json"]) == 1
    captured = capfd.readouterr()
    assert json.loads(captured.out)["holds"] is False
    (line,) = captured.err.splitlines()
    assert line.startswith("quicknet: error: the receipt does not hold: graph or card were changed")
    assert run(["predict", str(tmp_path / "m.onnx"), "x.png"]) == 2


def test_an_export_that_fails_is_exit_1_and_leaves_nothing(
    folder: Path, tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quicknet.deploy.fold import fold as real

    monkeypatch.setattr(module, "fold", lambda model, spec: real(model, spec.replace(std=(1.0, 1.0, 1.0))))
    assert run(["export", str(folder / "my-run"), "--out", str(tmp_path / "m.onnx")]) == 1
    assert "test vectors" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["test", "val"])
def test_evaluate_splits_the_data_as_the_run_did(split: str, folder: Path, tmp_path: Path, capfd: Captured) -> None:
    """The file is moved away from its run folder: what it needs to know is in it."""
    shutil.copy(folder / "my-run" / "my-run.onnx", tmp_path / "m.onnx")
    rows = []
    for model in (str(tmp_path / "m.onnx"), str(folder / "my-run")):
        page = tmp_path / "page.html"
        assert run(["evaluate", model, str(folder / "pictures"), "--split", split, "--json", "--html", str(page)]) == 0
        rows.append(json.loads(capfd.readouterr().out))
        assert "Worst mistakes" in page.read_text()
    assert rows[0]["confusion"] == rows[1]["confusion"]
    assert rows[0]["nll"] == pytest.approx(rows[1]["nll"], abs=1e-5)
    assert rows[0]["top1"] > 0.6


def test_predict_answers_as_the_run_by_every_runtime(folder: Path, tmp_path: Path, capfd: Captured) -> None:
    (folder / "pictures" / "left" / "broken.txt").write_text("no image")
    model = str(folder / "my-run" / "my-run.onnx")
    assert run(["predict", str(folder / "my-run"), str(folder / "pictures"), "--quiet"]) == 0
    expected = capfd.readouterr().out.splitlines()
    assert len(expected) == 180
    for name in present():
        assert run(["predict", model, str(folder / "pictures"), "--quiet", "--runtime", name, "--threads", "1"]) == 0
        printed = capfd.readouterr().out.splitlines()
        assert [line.split("%")[0] for line in printed] == [line.split("%")[0] for line in expected]
    assert run(["predict", model, str(folder / "nowhere.png")]) == 2
    assert "then export again" in capfd.readouterr().err
    assert run(["predict", str(folder / "my-run"), str(folder / "pictures"), "--threads", "1"]) == 2
    assert "exported files only" in capfd.readouterr().err


@pytest.mark.parametrize("verb", ["predict", "evaluate", "verify"])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not a model"),
        (b"\x08\x08" + bytes(50), "damaged"),
        (b"\x89PNG\r\n\x1a\n", "not a model"),
        (b"\x80\x04cposix\nsystem\n", "not a model"),
    ],
)
def test_files_that_are_none_are_one_line_and_exit_2(
    verb: str, content: bytes, text: str, tmp_path: Path, capfd: Captured
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert run([verb, str(path), *(["x.png"] if verb == "predict" else [])]) == 2
    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("quicknet: error: ")
    assert str(path) in line
    assert text in line
    assert captured.out == ""


def test_integers_of_a_file_become_onnx_without_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    """Shipped weights are exported by name into this folder; a compressed file beside itself."""
    monkeypatch.chdir(tmp_path)
    shipped = locate("quicknet_xs.cifar10", "file")
    (tmp_path / "small.qnz").write_bytes(recoded(read_qnz(shipped)))
    assert run(["export", "quicknet_xs.cifar10", "--int8", "--quiet"]) == 0
    assert run(["export", "small.qnz", "--int8", "--quiet"]) == 0
    images = draw_vectors(32, 3, 20)
    integers = quicknet.load(shipped).logits(images)
    for name in ("quicknet_xs.cifar10.int8.onnx", "small.int8.onnx"):
        assert np.abs(quicknet.load(tmp_path / name).logits(images) - integers).max() <= 0.1 * np.abs(integers).max()
    capfd.readouterr()
    for options, message in (
        ([], "--format qnz needs a run folder, small.qnz is a file; name the folder, or write its integers"),
        (["--format", "onnx"], "--format onnx needs a run folder"),
        (["--int8", "--max-loss", "1"], "--max-loss needs a run folder"),
    ):
        assert run(["export", "small.qnz", *options]) == 2
        assert message in capfd.readouterr().err
    assert run(["export", "quicknet_xs.cifar10", "--format", "onnx", "--quiet"]) == 0
    assert (tmp_path / "quicknet_xs.cifar10.onnx").is_file()


def test_a_file_of_another_kind_is_not_written_over(folder: Path, tmp_path: Path, capfd: Captured) -> None:
    """Neither the model, by its own report, nor a photograph; nor is a .qnz called something else."""
    pictures, model = str(folder / "pictures"), tmp_path / "m.onnx"
    model.write_bytes((folder / "my-run" / "my-run.onnx").read_bytes())
    before = model.read_bytes()
    for arguments, message in (
        (["evaluate", str(model), pictures, "--html", str(model)], "--html {} does not end in .html"),
        (["page", "quicknet_xs.cifar10", "--out", str(model)], "--out {} does not end in .html, and a page is written"),
        (["export", str(folder / "my-run"), "--format", "qnz", "--out", str(model)], "--out {} does not end in .qnz"),
        (
            ["compress", str(folder / "my-run"), "--density", "0.5", "--out", str(model)],
            "--out {} does not end in .qnz",
        ),
        (["benchmark", str(model), "--png", str(model)], "--png {} does not end in .png"),
        (["compare", "lenet_5", "--html", str(model)], "--html {} does not end in .html"),
    ):
        assert run(arguments) == 2, arguments
        assert message.format(model) in capfd.readouterr().err
    assert run(["export", str(folder / "my-run"), "--out", str(tmp_path / "m.tflite")]) == 2
    assert model.read_bytes() == before
    assert list(tmp_path.iterdir()) == [model]


def recoded(file: QnzFile) -> bytes:
    return assemble_qnz(file.network, file.card, "contexts")


def test_the_integers_of_a_file_are_measured_on_data(folder: Path, tmp_path: Path, capfd: Captured) -> None:
    small, out = tmp_path / "m.qnz", tmp_path / "m.onnx"
    pictures = str(folder / "pictures")
    made = ["export", str(folder / "my-run"), "--out", str(small), "--data", pictures, "--coding", "contexts"]
    assert run([*made, "--max-loss", "100", "--quiet"]) == 0
    assert run(["export", str(small), "--int8", "--out", str(out), "--data", pictures, "--quiet"]) == 0
    assert "another class than by the integer network" in capfd.readouterr().out
    assert run(["verify", str(out), "--data", pictures]) == 0


def test_export_refuses_what_is_no_run_folder(folder: Path, tmp_path: Path, capfd: Captured) -> None:
    for arguments in (
        [str(tmp_path)],
        [str(tmp_path / "none"), "--data", "cifar10"],
        [str(folder / "my-run" / "my-run.onnx")],
        [str(folder / "my-run"), "--format", "tflite"],
        [str(folder / "my-run"), "--out", str(tmp_path)],
        [str(folder / "my-run"), "--data", str(tmp_path / "none")],
    ):
        assert run(["export", *arguments]) == 2, arguments
        assert len(capfd.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_verify_needs_no_torch(folder: Path) -> None:
    import subprocess
    import sys

    path = folder / "my-run" / "my-run.onnx"
    code = (
        "import sys\nfrom quicknet.cli.main import run\n"
        f"assert run(['verify', {str(path)!r}, '--data', {str(folder / 'pictures')!r}]) == 0\n"
        "assert not {'torch', 'onnx'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


def test_sizes_are_what_the_parameters_need(folder: Path) -> None:
    """The card and the receipt cost little beside four bytes a parameter."""
    path = folder / "my-run" / "my-run.onnx"
    weights = sum(np.prod(t.dims) for t in onnx.load(path).graph.initializer) * 4
    assert path.stat().st_size < weights + 20_000
