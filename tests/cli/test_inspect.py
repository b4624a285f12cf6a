import hashlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch

from integers import data_for, receipted, small_network, write_qnz
from quicknet import __version__
from quicknet.cli.lineage import lineage_lines
from quicknet.cli.main import run
from quicknet.core.card import Costs, Metric, card_from_dict, read_card
from quicknet.core.lineage import step_from_dict
from quicknet.engine import available
from quicknet.models.costs import count_costs
from quicknet.models.registry import create_model, model_from_record
from schema import follows
from timed import write_onnx, write_run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def inspected(path: Path, capfd: pytest.CaptureFixture[str]) -> dict:
    assert run(["inspect", str(path), "--json"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def test_json_has_the_documented_fields_and_counts_what_the_network_has(
    run_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record = inspected(run_dir, capfd)
    follows("inspect", record)
    network: Any = model_from_record(read_card(run_dir / "card.json").model)
    assert record["parameters"] == sum(p.numel() for p in network.parameters())
    assert record["parameters"] == sum(layer["parameters"] for layer in record["layers"])
    assert record["macs"] == sum(layer["macs"] for layer in record["layers"])
    for layer in record["layers"][1:-1]:
        block = network.blocks[int(layer["name"].split(".")[0][-1]) - 1]
        assert layer["parameters"] == sum(p.numel() for p in block.parameters())
    assert card_from_dict(record["card"], "test") == read_card(run_dir / "card.json")
    assert record["intact"] is True
    assert (
        record["size_bytes"] == record["files"]["model.safetensors"] == (run_dir / "model.safetensors").stat().st_size
    )


def test_the_text_shows_card_metrics_layers_and_files(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    metric = Metric(
        name="top1",
        value=0.9312,
        split="test",
        protocol="standard",
        n=10000,
        file_sha256="ab" * 32,
        low=0.926,
        high=0.936,
    )
    card = read_card(run_dir / "card.json").replace(metrics=(metric,), temperature=1.25, notes="from a\x1b[2J test")
    (run_dir / "card.json").write_text(card.to_json())
    assert run(["inspect", str(run_dir)]) == 0
    printed = capfd.readouterr().out
    for text in ("quicknet_xs", "3x32x32", "class 0, class 1", "temperature 1.25", "as the card says", "0.9312"):
        assert text in printed
    for text in ("protocol", "standard", "10,000", "0.9260–0.9360", "stage4.0", "classifier", "card.json"):
        assert text in printed
    assert "\x1b" not in printed


def test_an_export_is_shown_with_what_it_was_made_from(
    run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_onnx(run_dir, tmp_path / "tiny.onnx")
    actual, parent = inspected(path, capfd), inspected(run_dir, capfd)
    assert (actual["parameters"], actual["macs"]) == (parent["parameters"], parent["macs"])
    assert actual["card"]["lineage"][0]["parent_weights_sha256"] == parent["card"]["weights_sha256"]
    assert actual["files"] == {"tiny.onnx": path.stat().st_size}
    assert run(["inspect", str(path)]) == 0
    text = capfd.readouterr().out
    digest = parent["card"]["weights_sha256"][:12]
    assert f"lineage: exported to onnx from weights with sha256 {digest}… by QuickNet {__version__}" in text
    assert "{" not in text


def test_lineage_is_lines_not_json() -> None:
    sha256, parent = "4b7d7325494f1d49", {"parent_weights_sha256": "4b7d7325494f1d49"}
    steps = (
        {"step": "fine-tune", "from": "quicknet_s", "weights_sha256": sha256},
        {"step": "distill", "from": "quicknet", "weights_sha256": sha256},
        {"step": "fp16", **parent, "split": "val", "n": 5000, "changed": 2},
        {
            "step": "export",
            "format": "qnz",
            "quicknet": "0.1.0",
            **parent,
            "bits": "w5a8",
            "calibration": {"split": "train", "n": 1024, "seed": 0, "sha256": sha256},
            "qat": {
                "epochs": 0.25,
                "lr": 5e-4,
                "batch_size": 128,
                "temperature": 2.0,
                "checks": [0.9, 0.91],
                "seed": 0,
                "steps": 9,
                "before": 0.9,
                "kept": 0.91,
            },
            "compared": [
                {
                    "split": "val",
                    "protocol": "standard",
                    "n": 5000,
                    "top1": 0.948,
                    "parent_top1": 0.9472,
                    "lost_points": -0.08,
                    "different": 14,
                }
            ],
        },
        {"step": "export", "format": "onnx", "numbers": "int8", "quicknet": "0.2.0", **parent},
    )
    weights = "weights with sha256 4b7d7325494f…"
    assert lineage_lines([step_from_dict(step) for step in steps]) == [
        f"fine-tuned from quicknet_s ({weights})",
        f"learned from the answers of quicknet ({weights})",
        f"rounded to fp16 from {weights} · another class for 2 of 5,000 pictures of val",
        f"exported to qnz from {weights} by QuickNet 0.1.0 · quantized to w5a8, calibrated on 1,024 pictures of train"
        " · fine-tuned for 0.25 epochs, val 90.00% before, 91.00% after · val 94.80%, 0.08 points more than the run",
        f"exported to int8 onnx from {weights} by QuickNet 0.2.0",
    ]


@pytest.mark.parametrize(
    "step",
    [
        {},
        {"step": 3, "n": True},
        {
            "step": "export",
            "calibration": {"n": 10**5000},
            "bits": "w5a8",
            "qat": {"epochs": 10**400},
            "more": 10**5000,
        },
        {"step": "export", "format": 7, "bits": None, "calibration": [1], "compared": {"a": 1}, "predictions": "x"},
        {"step": "export", "calibration": {"n": "many"}, "bits": "w" * 5000, "compared": [None, {"top1": "high"}]},
        {"step": "fp16", "parent_weights_sha256": 5, "changed": 1.5},
        {"step": "prune", "share": 0.8, "mask": {"deep": [1] * 9999}, "note": "n" * 9999},
    ],
)
def test_lineage_of_any_other_form_is_one_short_line(step: dict) -> None:
    (line,) = lineage_lines([step_from_dict(step)])
    assert 0 < len(line) < 400
    assert "{" not in line


def test_weights_of_another_model_are_told(run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1)
    other = write_run(tmp_path / "other", num_classes=5)
    (run_dir / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    assert inspected(run_dir, capfd)["intact"] is False
    assert run(["inspect", str(run_dir)]) == 0
    assert "NOT as the card says" in capfd.readouterr().out


def test_another_familys_card_is_shown_without_layers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path / "darknet", "darknet_32", widths=[8, 12, 16], pools=2, num_classes=4)
    record = inspected(path, capfd)
    assert (record["layers"], record["parameters"]) == ([], None)
    assert run(["inspect", str(path)]) == 0
    assert "family darknet" in capfd.readouterr().out


def test_what_the_card_counted_is_shown_for_every_family(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path / "darknet", "darknet_32", widths=[8, 12, 16], pools=2, num_classes=4)
    card = read_card(path / "card.json")
    costs = Costs(parameters=3_000, macs=9_000, activation_bytes=40, peak_activation_bytes=12)
    (path / "card.json").write_text(card.replace(costs=costs).to_json())
    record = inspected(path, capfd)
    assert (record["parameters"], record["macs"]) == (3_000, 9_000)
    assert run(["inspect", str(path)]) == 0
    assert "3,000 parameters, 9,000 MACs an image" in capfd.readouterr().out


def test_any_networks_layers_are_shown_as_they_were_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path / "wide", "wide_resnet_16_8", depth=10, widen=1, num_classes=4)
    card = read_card(path / "card.json")
    costs = count_costs(lambda: model_from_record(card.model))
    (path / "card.json").write_text(card.replace(costs=costs).to_json())
    found = inspected(path, capfd)
    follows("inspect", found)
    assert [layer["name"] for layer in found["layers"]] == [layer.name for layer in costs.layers]
    assert found["parameters"] == sum(layer["parameters"] for layer in found["layers"]) == costs.parameters
    assert found["layers"][-1]["kind"] == "linear"
    assert run(["inspect", str(path)]) == 0
    assert "block1.conv1  " in capfd.readouterr().out


def test_it_loads_neither_torch_nor_a_runtime(run_dir: Path) -> None:
    code = (
        "import sys; from quicknet.cli.main import run; assert run(['inspect', sys.argv[1]]) == 0;"
        "assert not {'torch', 'onnxruntime', 'openvino'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run_dir)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bad_input_is_one_line_and_code_2(run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (run_dir / "model.safetensors").unlink()
    for path, text in [
        (tmp_path / "nothing", "no model at"),
        (tmp_path / "text.onnx", "not a model"),
        (tmp_path / "empty.onnx", "empty.onnx"),
        (tmp_path / "folder", "no card.json"),
        (run_dir, "no weights"),
    ]:
        assert run(["inspect", str(path)]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("quicknet: error: ")
        assert text in line


# --- .qnz ----------------------------------------------------------------------------------


def test_a_qnz_shows_its_sections_its_own_layers_and_its_receipt(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = small_network()
    path = write_qnz(tmp_path / "m.qnz", network, receipted(network, data_for(network)))
    record = inspected(path, capfd)
    follows("inspect", record)
    assert [part["kind"] for part in record["sections"]] == ["CARD", "NETW", "TENS"]
    offset = record["sections"][0]["offset"]
    for part in record["sections"]:
        assert part["offset"] == offset
        offset += part["size_bytes"]
        blob = path.read_bytes()[part["offset"] : offset]
        assert hashlib.sha256(blob).hexdigest() == part["sha256"]
    assert sum(layer["size_bytes"] for layer in record["layers"]) == record["sections"][2]["size_bytes"]
    assert [layer["kind"] for layer in record["layers"]] == ["stem", *["separable"] * 3, "linear"]
    assert [layer["sums"] for layer in record["layers"]] == [1, 1, 2, 4, None]
    assert [layer["top"] for layer in record["layers"]] == [255, 255, 127, 255, None]
    assert [layer["side"] for layer in record["layers"]] == [28, 28, 14, 14, 1]
    assert record["layers"][2]["macs"] == (9 * 16 + 16 * 24) * 14**2
    assert record["macs"] == sum(layer["macs"] for layer in record["layers"])
    kept = [
        None,
        *(float(block.weight.reshape(len(block.weight), -1, 4).any(2).mean()) for block in network.blocks),
        None,
    ]
    assert [layer["kept"] for layer in record["layers"]] == kept
    assert record["receipt"] == {"data": "drawn", "split": "test", "protocol": "standard", "n": 60, "correct": 45}
    assert record["intact"] is True
    assert run(["inspect", str(path)]) == 0
    text = capfd.readouterr().out
    for part in ("receipt: 45 of 60 images right, drawn test", "layer 2, pool", "127 (255)", "TENS", "integer network"):
        assert part in text


def test_a_damaged_qnz_is_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_qnz(tmp_path / "m.qnz")
    path.write_bytes(path.read_bytes()[:-1])
    assert run(["inspect", str(path)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("quicknet: error: ")
    assert "m.qnz" in line


def drawn(path: Path) -> tuple[list[str], int]:
    """The texts of a picture, and how many boxes it has."""
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    assert not [node for node in root.iter() if node.tag.rpartition("}")[2] in ("script", "image", "foreignObject")]
    texts = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    return texts, sum(node.get("class") == "box" for node in root.iter())


def test_the_picture_has_every_layer_with_its_shapes_and_shares(
    run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "network.svg"
    layers = inspected(run_dir, capfd)["layers"]
    assert run(["inspect", str(run_dir), "--svg", str(out)]) == 0
    assert capfd.readouterr().out.endswith(f"picture: {out}\n")
    texts, boxes = drawn(out)
    assert boxes == len(layers) + 1
    assert {"quicknet_xs", "3×32×32", "stem 5×5", "side ÷ 2", "average", "classifier"} <= {*texts}
    total = sum(layer["macs"] for layer in layers)
    for layer in layers:
        shapes = {layer["name"], f"{layer['in_channels']}→{layer['out_channels']}", f"{layer['parameters']:,}"}
        assert shapes | {f"{layer['macs']:,}", f"{100 * layer['macs'] / total:.1f}%"} <= {*texts}
    first = out.read_bytes()
    assert run(["inspect", str(run_dir), "--json", "--svg", str(out)]) == 0
    assert json.loads(capfd.readouterr().out)["layers"] == layers
    assert out.read_bytes() == first


def test_branches_are_drawn_from_the_network_whatever_the_card_counted(tmp_path: Path) -> None:
    path = write_run(tmp_path / "shuffled", "shufflenet_v2_x05", num_classes=4)
    assert run(["inspect", str(path), "--svg", str(tmp_path / "a.svg")]) == 0
    card = read_card(path / "card.json")
    costs = count_costs(lambda: model_from_record(card.model))
    texts, boxes = drawn(tmp_path / "a.svg")
    assert boxes == len(costs.layers) + 1
    assert texts.count("concat") == 16 and "24 of 48" in texts
    (path / "card.json").write_text(card.replace(costs=costs).to_json())
    assert run(["inspect", str(path), "--svg", str(tmp_path / "b.svg")]) == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(("name", "told"), [("resnet_20", False), ("quicknet_xs", True)])
def test_without_torch_only_a_plain_quicknet_has_arrows(name: str, told: bool, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", name, num_classes=4)
    card = read_card(path / "card.json")
    (path / "card.json").write_text(card.replace(costs=count_costs(lambda: model_from_record(card.model))).to_json())
    code = (
        "import sys; sys.modules['torch'] = None; from quicknet.cli.main import run;"
        "assert run(['inspect', sys.argv[1], '--svg', sys.argv[2]]) == 0"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "a.svg")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    texts, _ = drawn(tmp_path / "a.svg")
    assert any("is not drawn" in text for text in texts) is not told
    assert ('class="arrow"' in (tmp_path / "a.svg").read_text()) is told


def test_the_picture_of_a_qnz_has_the_time_of_each_layer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if not available():
        pytest.skip("no engine")
    path = write_qnz(tmp_path / "m.qnz", small_network())
    assert run(["inspect", str(path), "--svg", str(tmp_path / "m.svg"), "--time"]) == 0
    texts, boxes = drawn(tmp_path / "m.svg")
    shares = [text.removesuffix("%").split(" · ") for text in texts if text.endswith("%")]
    assert len(shares) == boxes - 1
    assert sum(float(time) for _, time in shares) == pytest.approx(100, abs=1)


def test_names_from_outside_are_text_in_the_picture(run_dir: Path, tmp_path: Path) -> None:
    card = read_card(run_dir / "card.json")
    name = "<script>alert(1)</script>&\"'\x1b[2J"
    costs = count_costs(lambda: model_from_record(card.model))
    layers = tuple(layer.replace(name=name * 9, kind=name) for layer in costs.layers)
    model = card.model.replace(name=name)
    (run_dir / "card.json").write_text(card.replace(model=model, costs=costs.replace(layers=layers)).to_json())
    assert run(["inspect", str(run_dir), "--svg", str(tmp_path / "a.svg")]) == 0
    assert drawn(tmp_path / "a.svg")[0][0] == name.replace("\x1b", "\\x1b")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--svg", "{tmp}"], "is a folder; name a file with --svg"),
        (["--svg", "{run}/card.json/a.svg"], "cannot write"),
        (["--svg", "{run}/model.safetensors"], "does not end in .svg, and an SVG picture is written; name another"),
        (["--svg", "{run}/card.json"], "does not end in .svg, and an SVG picture is written; name another"),
        (["--svg", "{run}/notes"], "is a file of the model itself; name another file"),
        (["--time"], "name its file with --svg"),
        (["--time", "--svg", "{tmp}/a.svg"], "--time measures a .qnz"),
    ],
)
def test_a_picture_that_cannot_be_is_one_line(
    options: list[str], words: str, run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "notes").write_text("kept with the run")
    before = sorted((path, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file())
    assert run(["inspect", str(run_dir), *(option.format(tmp=tmp_path, run=run_dir) for option in options)]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert sorted((path, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()) == before


# --- networks by name ----------------------------------------------------------------------


def test_a_network_that_is_not_trained_is_counted_by_its_name(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "resnet_20", "--json", "--size", "64", "--set", "num_classes=3"]) == 0
    record = json.loads(capfd.readouterr().out)
    follows("inspect", record)
    network = create_model("resnet_20", image_size=64, num_classes=3)
    assert record["parameters"] == sum(p.numel() for p in network.parameters())
    assert record["macs"] == sum(layer["macs"] for layer in record["layers"])
    assert record["config"] == json.loads(json.dumps(network.config.to_dict())) and record["input"] == "3x64x64"
    assert run(["inspect", "resnet_20"]) == 0
    assert "269,722 parameters, 40,551,040 MACs" in capfd.readouterr().out


def test_the_picture_of_a_network_that_is_not_trained(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "quicknet_xs", "--svg", str(tmp_path / "xs.svg")]) == 0
    assert f"picture: {tmp_path / 'xs.svg'}" in capfd.readouterr().out
    assert "236,538 parameters · 9,478,720 multiply-adds" in (tmp_path / "xs.svg").read_text()
    changes = ["--size", "64", "--set", "in_channels=1", "--set", "depths=[1, 1, 1]"]
    assert run(["inspect", "resnet_20", *changes, "--svg", str(tmp_path / "small.SVG")]) == 0
    texts, boxes = drawn(tmp_path / "small.SVG")
    assert "1×64×64" in texts and texts.count("sum") == 3 and boxes == 1 + 8


def test_weights_that_only_start_a_training_are_shown_by_their_name(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "quicknet_xs.photos"]) == 0
    assert "To start from" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["resnet20"], "did you mean 'resnet_20'?"),
        (["nothing_like_it"], "no model at nothing_like_it"),
        (["quicknet_s", "--set", "widht=3"], "did you mean 'widths'?"),
        (["quicknet_s", "--set", "widths"], "is not KEY=VALUE"),
        (["quicknet_s", "--size", "3"], "must lie in"),
        (["resnet_20", "--svg", "card.json"], "--svg card.json does not end in .svg"),
        (["quicknet_s", "--time", "--svg", "a.svg"], "is a network that is not trained; leave it out"),
        (["quicknet_s.cifar10", "--size", "64"], "--size and --set change a network that is not trained yet"),
    ],
)
def test_what_a_network_cannot_be_is_said_in_one_line(
    arguments: list[str], error: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", *arguments]) == 2
    assert error in capfd.readouterr().err


def test_weights_that_only_start_a_training_cannot_classify(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "quicknet_xs.photos", "a.png"]) == 2
    assert "to start a training from, not to classify with" in capfd.readouterr().err
