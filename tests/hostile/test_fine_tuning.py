"""Folders and parents that training from weights cannot use."""

import json
from pathlib import Path

import pytest

from exported import make_run, write_pictures
from quicknet.cli.main import run
from quicknet.data import DataRequest
from quicknet.study.records import ROOT

from .conftest import Refused
from .test_data import pictures


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"a": 1, "b": 1}, ("no images for val", "three or more a class")),
        ({"a": 2, "b": 2}, ("no images for val", "three or more a class")),
        ({"a": 12, "b": 0}, ("only one class ('a')", "folders without images", "b")),
        ({"a": 12, "b": 0, "c": 12}, ("b of photos holds no pictures", "remove the folder")),
        ({"train/a": 4, "train/b": 0, "train/c": 4, "val/a": 2}, ("train/b of photos holds no pictures",)),
    ],
    ids=["one of a class", "two of a class", "one class", "none of a class", "none of a class in train"],
)
def test_a_folder_with_too_few_pictures(
    counts: dict[str, int], words: tuple[str, ...], run_dir: Path, tmp_path: Path, refused: Refused
):
    for name, count in counts.items():
        pictures(tmp_path / "photos" / name, count)
    refused(["train", "photos", "--from", run_dir, "--run", "new", "--quiet"], *words, keeps=run_dir)
    assert not (tmp_path / "new" / "last.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "data.mode=L"], ("data.mode is L", "was trained with RGB", "--from none")),
        (["--set", "data.resize=pad"], ("data.resize is pad", "leave it out")),
        (["--size", "8"], ("image size 8 must lie in 16..1024",)),
        (["--size", "2048"], ("image size 2048 must lie in 16..1024",)),
        (["--set", "optim.layer_decay=0"], ("optim.layer_decay 0.0 must lie in",)),
        (["--set", "optim.freeze=1"], ("optim.freeze 1.0 must lie in 0 <= x < 1",)),
        (["--set", "optim.freeze=0.5", "--from", "none"], ("optim.freeze 0.5 would keep random weights", "--from")),
        (["--set", "train.views=0"], ("train.views 0 must be at least 1",)),
        (["--epochs", "0"], ("train.epochs 0 must be at least 1",)),
    ],
)
def test_what_the_parent_cannot_take(
    options: list[str], words: tuple[str, ...], run_dir: Path, tmp_path: Path, refused: Refused
):
    for name in ("a", "b"):
        pictures(tmp_path / "photos" / name, 12, len(name))
    refused(["train", "photos", "--from", run_dir, *options, "--run", "new", "--quiet"], *words, keeps=run_dir)


def test_a_size_too_small_for_the_weights_for_photographs(tmp_path: Path, refused: Refused):
    for name in ("a", "b"):
        pictures(tmp_path / "photos" / name, 12, len(name))
    words = ("image size 16 is too small", "stem of stride 2", "use larger images")
    refused(["train", "photos", "--size", "16", "--run", "new", "--quiet"], *words)


def test_a_parent_that_has_learned_from_grey_pictures(tmp_path: Path, refused: Refused):
    data = write_pictures(tmp_path / "data", 4)
    grey = make_run(tmp_path / "grey", data, request=DataRequest(quiet=True, mode="L", size=32), in_channels=1)
    words = ("data.mode is RGB", "was trained with L", "leave it out", "--from none")
    refused(["train", data, "--from", grey, "--set", "data.mode=RGB", "--run", "new", "--quiet"], *words, keeps=grey)


@pytest.mark.parametrize(
    ("file", "size", "words"),
    [
        ("model.safetensors", -1000, ("model.safetensors is damaged", "restore both files")),
        ("model.safetensors", 0, ("model.safetensors is damaged", "restore both files")),
        ("card.json", -100, ("card.json is not JSON", "restore it from a copy")),
        ("card.json", 0, ("card.json is not JSON", "restore it from a copy")),
    ],
)
def test_a_parents_file_that_is_cut(
    file: str, size: int, words: tuple[str, ...], run_dir: Path, tmp_path: Path, refused: Refused
):
    for name in ("a", "b"):
        pictures(tmp_path / "photos" / name, 12)
    path = run_dir / file
    path.write_bytes(path.read_bytes()[:size])
    refused(["train", "photos", "--from", run_dir, "--run", "new", "--quiet"], *words, keeps=run_dir)


def test_a_parent_that_is_not_a_run_folder(run_dir: Path, tmp_path: Path, refused: Refused):
    for name in ("a", "b"):
        pictures(tmp_path / "photos" / name, 12)
    (tmp_path / "file.qnz").write_bytes(b"QNZ")
    refused(["train", "photos", "--from", "file.qnz", "--quiet"], "is a file, and training starts from a run folder")
    refused(["train", "photos", "--from", "./none", "--quiet"], "none", "does not exist")
    (run_dir / "card.json").unlink()
    refused(["train", "photos", "--from", run_dir, "--quiet"], "holds no card.json", keeps=run_dir)


def test_few_pictures_train_and_a_note_says_what_to_expect(
    run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    for name in ("a", "b"):
        pictures(tmp_path / "photos" / name, 4, len(name))
    assert run(["train", "photos", "--from", str(run_dir), "--epochs", "1", "--run", "new"]) == 0
    captured = capfd.readouterr()
    assert "2 training images of 'a' are few (under 100): expect many mistakes" in captured.err
    assert "95% interval, n = 2" in captured.out


def test_what_few_pictures_cost_is_what_was_measured():
    rows = json.loads((ROOT / "results" / "0032-folders-earlier" / "record.json").read_text())["rows"]
    top1 = {(row["start"], row["folder"], row["per_class"], row["seed"]): row["top1"] for row in rows}
    few = [key for key in top1 if key[2] == 20 and key[0] != "efficientnet_lite0"]
    assert few
    for start, folder, _, seed in few:
        loss = top1[start, folder, None, seed] - top1[start, folder, 20, seed]
        assert 0.10 <= round(loss, 2) <= 0.27, (start, folder)  # as the note in data/folders.py says


def test_a_network_without_weights_for_photographs(tmp_path: Path, refused: Refused):
    for name in ("a", "b"):
        pictures(tmp_path / "photos" / name, 12)
    refused(
        ["train", "photos", "--model", "darknet", "--recipe", "photos", "--quiet"],
        "no weights darknet.photos",
        "--recipe scratch",
    )
