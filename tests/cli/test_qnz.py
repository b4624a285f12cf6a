"""A `.qnz` in the commands that run it: predict, evaluate, benchmark."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from integers import SMALL, receipted, small_network, write_qnz
from networks import network_card
from quicknet import engine
from quicknet.cli.main import run
from quicknet.data import load_data
from quicknet.data.request import request_for
from quicknet.image.vectors import draw_vectors
from quicknet.qnz import reference
from schema import follows

needs_engine = pytest.mark.skipif(not engine.available(), reason=engine.status())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qnz(tmp_path_factory.mktemp("qnz") / "m.qnz")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images of the network's own size in folders by the class that it gives them, some by another."""
    folder, network = tmp_path_factory.mktemp("pictures"), small_network()
    images = draw_vectors(SMALL.side, SMALL.channels, 90)
    labels = reference.run(network, images).argmax(1)
    labels[::9] = (labels[::9] + 1) % 10
    for name in range(10):
        (folder / f"class {name}").mkdir()
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / f"class {label}" / f"{index:02d}.png")
    return folder


@pytest.mark.parametrize("runtime", ["auto", "engine", "engine-portable", "reference"])
def test_predict_answers_as_the_integer_network(
    runtime: str, model: Path, pictures: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if runtime.startswith("engine") and not engine.available():
        pytest.skip(engine.status())
    arguments = ["--runtime", runtime, "--threads", "1", "--json", "--quiet", "--batch", "7"]
    assert run(["predict", str(model), str(pictures), *arguments]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert len(lines) == 90
    network = small_network()
    for line in lines:
        image = np.asarray(Image.open(line["name"]))
        logits = reference.run(network, image[None])[0] * 2.0**-10
        assert line["label"] == f"class {logits.argmax()}"
        shares = np.exp(logits - logits.max())
        assert line["probability"] == pytest.approx((shares / shares.sum()).max(), abs=1e-4)


def test_without_an_engine_the_slow_stand_in_is_noted(
    model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "available", lambda: False)
    monkeypatch.setattr(engine, "status", lambda: "engine: no C compiler was found")
    picture = str(next(pictures.rglob("*.png")))
    assert run(["predict", str(model), picture]) == 0
    note = capfd.readouterr().err.splitlines()[0]
    assert note.startswith("quicknet: note: running with numpy's reference, many times slower")
    assert "no C compiler was found" in note
    assert run(["predict", str(model), picture, "--runtime", "reference"]) == 0
    assert "slower" not in capfd.readouterr().err
    assert run(["predict", str(model), picture, "--runtime", "engine"]) == 2
    assert "no C compiler was found" in capfd.readouterr().err


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_of_another_kind_of_file_is_one_line(
    runtime: str, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", str(model), "a.png", "--runtime", runtime]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"{runtime!r}" in line
    assert "engine, engine-portable, reference" in line


def test_evaluate_measures_it(model: Path, pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(model), str(pictures), "--split", "all", "--json", "--quiet", "--threads", "1"]
    assert run([*arguments, "--runtime", "reference"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["n"], record["top1"]) == (90, pytest.approx(80 / 90))
    if engine.available():
        assert run([*arguments, "--runtime", "engine"]) == 0
        fast = json.loads(capfd.readouterr().out)
        assert (fast["confusion"], fast["nll"]) == (record["confusion"], record["nll"])


def test_verify_measures_it_again_on_the_data_of_its_receipt(
    pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = small_network()
    split = tmp_path / "data" / "test"
    shutil.copytree(pictures, split)
    shutil.copytree(pictures, tmp_path / "data" / "train")
    bare = network_card(network)
    data = load_data(str(split.parent), request_for(bare, {"quiet": True}))
    path = write_qnz(tmp_path / "m.qnz", network, receipted(network, data))
    assert run(["verify", str(path), "--data", str(split.parent), "--quiet"]) == 0
    text = capfd.readouterr().out
    assert "the classes of 90 images have the recorded digest" in text
    assert "top-1 88.89% on data test, 88.89% in the receipt" in text
    picture = next(split.rglob("*.png"))
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    assert run(["verify", str(path), "--data", str(split.parent), "--quiet", "--json"]) == 1
    record = json.loads(capfd.readouterr().out)
    assert "data" in [check["name"] for check in record["checks"] if not check["ok"]]


def test_predict_loads_no_other_runtime(model: Path, pictures: Path) -> None:
    code = (
        "import sys; from quicknet.cli.main import run; assert run(['predict', *sys.argv[1:], '--quiet']) == 0;"
        "others = {'torch', 'onnxruntime', 'openvino', 'onnx', 'av', 'rich', 'quicknet.inference.video'};"
        "assert not others & set(sys.modules)"
    )
    picture = str(next(pictures.rglob("*.png")))
    done = subprocess.run([sys.executable, "-c", code, str(model), picture], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_engine
def test_benchmark_measures_the_engine_and_its_portable_path_in_turn(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--seconds", "0.02", "--starts", "1", "--threads", "1", "--batch", "1", "--json", "--quiet"]
    assert run(["benchmark", str(model), *arguments]) == 0
    record = json.loads(capfd.readouterr().out)
    assert {row["runtime"] for row in record["rows"]} == {"engine", "engine-portable"}
    assert f"({engine.instruction_sets()[-1]})" in record["runtimes"]["engine"]
    assert record["models"][0]["macs"] > 100_000
    assert run(["benchmark", str(model), *arguments, "--runtime", "onnxruntime"]) == 2
    assert "name one of engine, engine-portable, reference" in capfd.readouterr().err


def test_the_smallest_share_of_a_core_that_holds_the_rate_is_found(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--fps", "4", "--seconds", "0.5", "--cpu-share", "auto"]
    assert run(["benchmark", str(model), *arguments, "--json", "--quiet"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    record = json.loads(captured.out)
    follows("benchmark", record)
    (smallest,), (row,) = record["smallest"], record["rows"]
    assert smallest["cpu_share"] == row["cpu_share"] <= 1
    assert row["holds"] is True
    assert smallest["trials"][0]["cpu_share"] == 1.0
    assert row in smallest["trials"]
    held = [trial["holds"] for trial in smallest["trials"] if trial["cpu_share"] == row["cpu_share"]]
    assert held.count(True) >= 2 or row["cpu_share"] == 1


def test_a_rate_that_no_core_holds_has_no_share(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["benchmark", str(model), "--fps", "10000", "--seconds", "0.2", "--cpu-share", "auto"]) == 1
    captured = capfd.readouterr()
    assert "a whole core does not hold 10000 frames/s" in captured.out
    assert "1 of one core does not hold" in captured.err
    assert run(["benchmark", str(model), "--fps", "60", "--cpu-share", "some"]) == 2
    assert "neither a number nor auto" in capfd.readouterr().err
