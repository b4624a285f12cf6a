import json
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import write_cifar
from quicknet.cli.main import run
from quicknet.core.card import Card, read_card
from quicknet.data import DataRequest, load_data
from quicknet.models.registry import create_model, model_record
from quicknet.train.checkpoint import RunFolder
from schema import follows


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten learnable classes in CIFAR-10's layout, 200 images to train and 40 to test."""
    return write_cifar(tmp_path_factory.mktemp("evaluate"), 40)


@pytest.fixture
def run_dir(data_dir: Path, tmp_path: Path) -> Path:
    """A run folder as training leaves it, its weights untrained."""
    torch.manual_seed(0)
    data = load_data(data_dir, DataRequest(split_seed=7, quiet=True))
    model = create_model("quicknet_xs", stem_width=8, widths=[8, 8, 8, 8], depths=[1, 1, 1, 1]).eval()
    folder = RunFolder(tmp_path / "run")
    card = Card(
        model=model_record("quicknet_xs", model),
        classes=data.classes,
        preprocess=data.spec,
        data=data.record(),
    )
    folder.save_model(dict(model.state_dict()), card)
    (folder.path / "recipe.toml").write_text(f"[data]\nsource = {json.dumps(str(data_dir))}\nsplit_seed = 7\n")
    (folder.path / "log.jsonl").write_text('{"epoch": 1, "train_loss": 2.3}\n')
    return folder.path


def test_the_table_names_protocol_split_n_and_interval(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(run_dir), "--quiet"]) == 0
    found = capfd.readouterr()
    first = found.out.splitlines()[0]
    for text in ("top-1", "95% interval", "n = 40", "cifar10 test", "protocol standard"):
        assert text in first
    for text in ("top-5", "ECE", "airplane", "precision", "rows true"):
        assert text in found.out
    assert found.err == ""


def test_json_is_one_object_with_the_documented_fields(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(run_dir), "--split", "val", "--json", "--quiet"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["n"], found["split"], found["protocol"], found["data"]) == (
        20,
        "val",
        "standard",
        "cifar10",
    )
    follows("evaluate", found)
    assert sum(map(sum, found["confusion"])) == 20
    assert found["file_sha256"] == read_card(run_dir / "card.json").weights_sha256
    assert found["temperature"] is None
    assert len(found["classes"]) == 10
    assert 0 <= found["top1_low"] <= found["top1"] <= found["top5"] <= 1


def test_calibrate_changes_the_cards_temperature_and_nothing_else(
    run_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = read_card(run_dir / "card.json")
    weights = (run_dir / "model.safetensors").read_bytes()
    assert run(["evaluate", str(run_dir), "--calibrate", "--json"]) == 0
    found = capfd.readouterr()
    after = read_card(run_dir / "card.json")
    assert after.temperature is not None
    assert after == before.replace(temperature=after.temperature)
    assert json.loads(found.out)["temperature"] == after.temperature
    assert "fitted on val" in found.err
    assert (run_dir / "model.safetensors").read_bytes() == weights


def test_html_is_written_with_curves_of_the_run(
    run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "out" / "page.html"
    assert run(["evaluate", str(run_dir), "--html", str(page)]) == 0
    text = page.read_text()
    assert "Worst mistakes" in text
    assert "Loss" in text
    assert str(page) in capfd.readouterr().err


def test_a_model_is_not_tested_on_images_it_was_trained_on(
    run_dir: Path, data_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(run_dir), str(data_dir), "--protocol", "paper"]) == 2
    assert "--protocol standard" in capfd.readouterr().err


def test_a_split_of_the_runs_own_seed_is_used(run_dir: Path, data_dir: Path) -> None:
    """Another split seed would put images of the training into `val`."""
    from quicknet.cli.evaluate import _load
    from quicknet.lite.classifier import load

    held_out = _load(load(run_dir), None, None, True).split("val").images
    same = load_data(data_dir, DataRequest(split_seed=7, quiet=True)).split("val").images
    other = load_data(data_dir, DataRequest(split_seed=0, quiet=True)).split("val").images
    assert held_out.tobytes() == same.tobytes() != other.tobytes()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["RUN", "--split", "nowhere"], "no split 'nowhere'"),
        (["RUN", "/no/such/data"], "does not exist"),
        (["/no/such/run"], "no model at"),
        (["RUN", "--protocol", "mine"], "mine"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    run_dir: Path, arguments: list[str], text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", *(str(run_dir) if word == "RUN" else word for word in arguments)]) == 2
    *notes, line = capfd.readouterr().err.splitlines()
    assert all(note.startswith("quicknet: note: ") for note in notes)
    assert line.startswith("quicknet: error: ")
    assert text in line


def test_a_model_that_does_not_say_its_data_asks_for_it(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (run_dir / "recipe.toml").unlink()
    card = read_card(run_dir / "card.json").replace(data=None)
    (run_dir / "card.json").write_text(card.to_json())
    assert run(["evaluate", str(run_dir)]) == 2
    assert "name DATA" in capfd.readouterr().err


def test_the_real_cifar10_is_scored_by_its_own_protocol(
    run_dir: Path, cifar10_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(run_dir), str(cifar10_dir), "--json", "--quiet"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["n"] >= 9_000
    assert found["protocol"] == "standard"
    assert 0.05 < found["top1"] < 0.3  # untrained
    assert sum(row["n"] for row in found["classes"]) == found["n"]


def test_class_names_cannot_drive_the_terminal(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from quicknet.cli.evaluate import _print
    from quicknet.lite.evaluate import Subject, summarize

    card = read_card(run_dir / "card.json").replace(classes=("a\x1b[2J", "[red]b[/red]"))
    subject = Subject(model="m", file_sha256="", data="d\x1b[2J", split="test", protocol="standard")
    _print(summarize(np.eye(2, dtype=np.float32)[::-1], np.arange(2), card, subject, 1.0))
    found = capfd.readouterr().out
    assert "\x1b" not in found
    assert "[red]b[/red]" in found
