import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from colours import write_image
from exported import make_run, write_pictures
from helpers import write_cifar
from quicknet.cli.main import run
from quicknet.core.card import Card, read_card
from quicknet.data import DataRequest, load_data
from quicknet.models.registry import create_model, model_record
from quicknet.training.checkpoint import RunFolder
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
    captured = capfd.readouterr()
    first = captured.out.splitlines()[0]
    for text in ("top-1", "95% interval", "n = 40", "cifar10 test", "protocol standard"):
        assert text in first
    for text in ("top-5", "ECE", "airplane", "precision", "rows true"):
        assert text in captured.out
    assert captured.err == ""


def test_json_is_one_object_with_the_documented_fields(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(run_dir), "--split", "val", "--json", "--quiet"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["n"], record["split"], record["protocol"], record["data"]) == (
        20,
        "val",
        "standard",
        "cifar10",
    )
    follows("evaluate", record)
    assert sum(map(sum, record["confusion"])) == 20
    assert record["file_sha256"] == read_card(run_dir / "card.json").weights_sha256
    assert record["temperature"] is None
    assert len(record["classes"]) == 10
    assert 0 <= record["top1_low"] <= record["top1"] <= record["top5"] <= 1


def test_calibrate_changes_the_cards_temperature_and_threshold_and_nothing_else(
    run_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = read_card(run_dir / "card.json")
    weights = (run_dir / "model.safetensors").read_bytes()
    assert run(["evaluate", str(run_dir), "--calibrate", "--json"]) == 0
    captured = capfd.readouterr()
    after = read_card(run_dir / "card.json")
    assert after.temperature is not None
    assert after.unknown is not None
    assert after == before.replace(temperature=after.temperature, unknown=after.unknown)
    assert json.loads(captured.out)["temperature"] == after.temperature
    assert "fitted on val" in captured.err
    assert (run_dir / "model.safetensors").read_bytes() == weights


def test_pictures_of_none_of_the_classes_are_counted_and_kept_in_the_card(
    run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        write_image(tmp_path / "others" / f"{name}.png", "red")
    (tmp_path / "others" / "broken.png").write_bytes(b"no image")
    others = ["--others", str(tmp_path / "others")]
    assert run(["evaluate", str(run_dir), *others]) == 2
    assert "holds no threshold for unknown pictures" in capfd.readouterr().err
    assert run(["evaluate", str(run_dir), "--calibrate", *others, "--json"]) == 0
    unknown = json.loads(capfd.readouterr().out)["unknown"]
    assert (unknown["others"], unknown["others_n"]) == ("others", 3)
    assert unknown["refused"] in (0.0, 1.0)  # three equal pictures
    assert unknown["kept"] >= 0.95
    record = read_card(run_dir / "card.json").unknown
    assert record is not None
    assert record.to_dict() == unknown
    assert run(["evaluate", str(run_dir)]) == 0
    assert f"{100 * unknown['refused']:.1f}% of 3 pictures in others are not" in capfd.readouterr().out
    assert run(["evaluate", str(run_dir), "--others", str(tmp_path / "none")]) == 2
    assert "none" in capfd.readouterr().err


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
    from quicknet.inference.artifact import load

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
    record = json.loads(capfd.readouterr().out)
    assert record["n"] >= 9_000
    assert record["protocol"] == "standard"
    assert 0.05 < record["top1"] < 0.3  # untrained
    assert sum(row["n"] for row in record["classes"]) == record["n"]


def test_class_names_cannot_drive_the_terminal(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from quicknet.cli.evaluate import _print
    from quicknet.inference.evaluate import Subject, summarize

    card = read_card(run_dir / "card.json").replace(classes=("a\x1b[2J", "[red]b[/red]"))
    subject = Subject(model="m", file_sha256="", data="d\x1b[2J", split="test", protocol="standard")
    _print(summarize(np.eye(2, dtype=np.float32)[::-1], np.arange(2), card, subject, 1.0))
    printed = capfd.readouterr().out
    assert "\x1b" not in printed
    assert "[red]b[/red]" in printed


# --- data that is not, or is no longer, what the model was trained on ------------------------


def write_classes(root: Path, n: int, seed: int) -> Path:
    """Write class folders of n pictures each, without split folders."""
    parts = write_pictures(root.parent / f"{root.name}-parts", n, seed)
    (parts / "train").rename(root)
    return root


@pytest.fixture
def pets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of three classes of 20 pictures in the folder `pets`, whose recipe names it as the user did: relative."""
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_classes(tmp_path / "pets", 20, 0)
    folder = make_run(tmp_path / "run", tmp_path / "pets", request=DataRequest(quiet=True, size=32))
    RunFolder(folder).write_split(load_data(tmp_path / "pets", DataRequest(quiet=True, size=32)))
    (folder / "recipe.toml").write_text('[data]\nsource = "pets"\nsize = 32\n')
    return folder


def test_a_new_folder_is_measured_whole_and_says_so(pets_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_classes(Path("others"), 30, 1)
    assert run(["evaluate", str(pets_run), "others", "--json"]) == 0
    captured = capfd.readouterr()
    assert (json.loads(captured.out)["n"], json.loads(captured.out)["split"]) == (90, "all")
    assert "others is not the data that the model was trained on: all 90 pictures are measured" in captured.err
    assert run(["evaluate", str(pets_run), "others", "--split", "test", "--json", "--quiet"]) == 0
    captured = capfd.readouterr()
    assert (json.loads(captured.out)["n"], captured.err) == (9, "")


def test_an_exported_file_measures_a_new_folder_whole_too(
    pets_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_classes(Path("others"), 30, 1)
    assert run(["export", str(pets_run), "--format", "onnx", "--out", "a.onnx", "--quiet"]) == 0
    capfd.readouterr()
    assert run(["evaluate", "a.onnx", "others", "--json"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["n"] == 90
    assert "all 90 pictures" in captured.err


def test_added_pictures_are_said_and_the_recorded_split_is_used(
    pets_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = json.loads(_output(["evaluate", str(pets_run), "--json"], capfd).out)
    for number, path in enumerate(sorted(write_classes(Path("more"), 20, 2).rglob("*.png"))):
        path.rename(Path("pets") / path.parent.name / f"more{number}.png")
    captured = _output(["evaluate", str(pets_run), "--json"], capfd)
    after = json.loads(captured.out)
    assert (after["n"], after["top1"]) == (before["n"], before["top1"])
    assert after["nll"] == pytest.approx(before["nll"], rel=1e-12)  # the pictures may come in another order
    assert "60 of its 120 pictures are new, and 0 of the 60 at training are gone" in captured.err
    assert "test pictures were trained on" in captured.err
    as_is = _output(["evaluate", str(pets_run), "--as-is", "--json"], capfd)
    assert json.loads(as_is.out)["n"] == 12
    assert "today's (--as-is)" in as_is.err
    assert _output(["evaluate", str(pets_run), "--quiet", "--json"], capfd).err == ""
    note = _output(["export", str(pets_run), "--format", "onnx", "--out", "b.onnx", "--data", "pets"], capfd).err
    assert "60 of its 120 pictures are new" in note


def _output(arguments: list[str], capfd: pytest.CaptureFixture[str]):
    assert run(arguments) == 0
    return capfd.readouterr()


@pytest.mark.parametrize(
    ("verb", "option"), [("evaluate", "name DATA"), ("export", "name --data"), ("train", "name DATA")]
)
def test_a_relative_name_of_the_runs_own_is_said_to_be_so(
    verb: str, option: str, pets_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    if verb == "train":
        _save_last(pets_run)
    arguments = {"export": ["--format", "qnz"], "train": ["--resume"]}.get(verb, [])
    assert run([verb, *arguments, str(pets_run)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"quicknet: error: 'pets', the data that {pets_run} was trained on, does not exist here")
    assert "relative to the folder where training was started" in line
    assert option in line


def test_an_absolute_name_of_the_runs_own_and_that_of_a_file(
    pets_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (pets_run / "recipe.toml").write_text(f"[data]\nsource = {json.dumps(str(tmp_path / 'gone'))}\n")
    assert run(["evaluate", str(pets_run)]) == 2
    assert "does not exist; name DATA: where it lies now" in capfd.readouterr().err
    assert run(["export", str(pets_run), "--format", "onnx", "--out", "a.onnx", "--quiet"]) == 0
    (tmp_path / "pets").rename(tmp_path / "moved")
    capfd.readouterr()
    assert run(["evaluate", "a.onnx"]) == 2
    assert "a file knows no more than the name; name DATA" in capfd.readouterr().err


def test_another_folder_at_the_runs_own_name_is_refused(
    pets_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write_classes(Path("pets"), 5, 3)
    assert run(["evaluate", str(pets_run)]) == 2
    assert "pets holds no picture that the model was trained on" in capfd.readouterr().err


def _save_last(folder: Path) -> None:
    """Give a run folder what --resume reads before its data."""
    card = read_card(folder / "card.json")
    counters = {"format": 1, "data_sha256": card.data.sha256, "threads": 1, "model": card.model.to_dict()}
    counters |= {"classes": card.classes, "preprocess": card.preprocess.to_dict(), "lineage": (), "history": ()}
    counters |= {"epoch": 0, "step": 0, "seen": 0, "seconds": 0.0, "best_accuracy": -1.0, "best_epoch": 0}
    RunFolder(folder).save_last({"a": torch.zeros(1)}, counters)


@pytest.mark.parametrize("calibrate", [False, True])
def test_a_folder_without_test_is_measured_on_val(
    calibrate: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = write_pictures(tmp_path / "pictures")
    shutil.rmtree(data / "test")
    folder = make_run(tmp_path / "run", data)
    options = ["--calibrate"] if calibrate else []
    assert run(["evaluate", str(folder), str(data), *options]) == 0
    captured = capfd.readouterr()
    assert "pictures val, protocol" in captured.out
    assert "note: pictures has no test split, so val is measured" in captured.err
    assert run(["evaluate", str(folder), str(data), *options, "--split", "test"]) == 2
    error = capfd.readouterr().err
    assert "pictures has no split 'test'; it has train, val, and all" in error.splitlines()[-1]
