import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

from quicknet.cli.main import run
from schema import follows
from timed import write_onnx, write_run

QUICK = ["--seconds", "0.02", "--starts", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("timed") / "run")


@pytest.fixture(scope="module")
def onnx_path(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(run_dir, tmp_path_factory.mktemp("timed") / "tiny.onnx")


def test_a_run_folder_beside_its_export_as_tables_and_picture(
    run_dir: Path, onnx_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    png = tmp_path / "out" / "speed.png"
    runtimes = ["--runtime", "torch-eager", "--runtime", "onnxruntime"]
    arguments = [str(run_dir), str(onnx_path), *runtimes, "--batch", "1,2", "--png", str(png)]
    assert run(["benchmark", *arguments, *QUICK]) == 0
    captured = capfd.readouterr()
    for text in (
        "fp32 peak",
        "numpy",
        "cold start",
        "torch-eager",
        "onnxruntime",
        "batch 1, threads 1",
        "batch 2",
        "whole",
        "ratio",
    ):
        assert text in captured.out
    assert str(png) in captured.err
    with Image.open(png) as image:
        assert image.format == "PNG"
        assert min(image.size) > 200


def test_json_is_one_object_with_the_documented_fields(onnx_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [str(onnx_path), "--runtime", "onnxruntime", "--batch", "1", "--jpeg", "64x48", "--json", "--quiet"]
    assert run(["benchmark", *arguments, *QUICK]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    record = json.loads(captured.out)
    assert record["jpegs"] == {str(onnx_path): "64x48"}
    assert {row["path"] for row in record["rows"]} == {"network", "whole"}
    follows("benchmark", record)


@pytest.mark.parametrize(("fps", "code", "text"), [("2", 0, "holds 2 frames/s"), ("10000", 1, "does not hold 10000")])
def test_the_exit_code_says_whether_frames_are_held(
    onnx_path: Path, fps: str, code: int, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    seconds = "1" if code == 0 else "0.2"
    assert run(["benchmark", str(onnx_path), "--fps", fps, "--seconds", seconds, "--quiet"]) == code
    captured = capfd.readouterr()
    assert text in captured.out
    assert "dropped" in captured.out
    assert captured.err == ""


def test_frames_as_json_with_the_documented_fields(onnx_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--fps", "5", "--seconds", "0.4", "--cpu-share", "0.5", "--json"]
    code = run(["benchmark", str(onnx_path), *arguments])
    record = json.loads(capfd.readouterr().out)
    assert code == (0 if record["holds"] else 1)
    follows("benchmark", record)
    assert record["rows"][0]["frames"] == 2
    assert record["rows"][0]["cpu_share"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["/no/such/model"], "no model at"),
        (["RUN", "--batch", "1,x"], "--batch '1,x'"),
        (["RUN", "--batch", "0"], "1..4096"),
        (["RUN", "--threads", "999"], "threads '999'"),
        (["RUN", "--jpeg", "big"], "is not a size; write it like 640x480"),
        (["RUN", "--jpeg", "9999x9999"], "4096"),
        (["RUN", "--seconds", "0"], "seconds"),
        (["RUN", "--runtime", "torhc"], "did you mean 'torch'"),
        (["RUN", "--cpu-share", "0.1"], "--fps"),
        (["RUN", "--fps", "60", "--cpu-share", "0"], "CPU share"),
        (["RUN", "--fps", "60", "--threads", "1,1,x"], "threads 'x'"),
        (["RUN", "--fps", "60", "--png", "x.png"], "--png"),
        ([], "MODELS"),
    ],
)
def test_bad_input_is_one_line_and_code_2_before_anything_is_measured(
    run_dir: Path, arguments: list[str], text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["benchmark", *(str(run_dir) if word == "RUN" else word for word in arguments)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("quicknet: error: ")
    assert text in line


def test_a_damaged_file_is_refused_in_one_line(
    onnx_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(onnx_path.read_bytes()[:-200])
    assert run(["benchmark", str(damaged), "--quiet", *QUICK]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "damaged.onnx" in line


def test_a_missing_matplotlib_is_said_before_measuring(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    assert run(["benchmark", str(run_dir), "--png", "speed.png"]) == 2
    assert "quicknet-vision[report]" in capfd.readouterr().err
