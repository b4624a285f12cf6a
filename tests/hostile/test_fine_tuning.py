"""Folders and parents that training from weights cannot use."""

from pathlib import Path

import pytest

from .conftest import Refused
from .test_data import pictures


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"a": 2, "b": 2}, ("no images for val", "three or more a class")),
        ({"a": 12, "b": 0}, ("only one class ('a')", "folders without images", "b")),
    ],
    ids=["two of a class", "none of a class"],
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
        (["--set", "optim.layer_decay=0"], ("optim.layer_decay 0.0 must lie in",)),
        (["--set", "train.views=0"], ("train.views 0 must be at least 1",)),
    ],
)
def test_what_the_parent_cannot_take(
    options: list[str], words: tuple[str, ...], run_dir: Path, tmp_path: Path, refused: Refused
):
    for name in ("a", "b"):
        pictures(tmp_path / "photos" / name, 12, len(name))
    refused(["train", "photos", "--from", run_dir, *options, "--run", "new", "--quiet"], *words, keeps=run_dir)


def test_a_parents_file_that_is_cut(run_dir: Path, tmp_path: Path, refused: Refused):
    for name in ("a", "b"):
        pictures(tmp_path / "photos" / name, 12)
    weights = run_dir / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(
        ["train", "photos", "--from", run_dir, "--run", "new", "--quiet"],
        "model.safetensors is damaged",
        "restore both files",
        keeps=run_dir,
    )


def test_a_network_without_weights_for_photographs(tmp_path: Path, refused: Refused):
    for name in ("a", "b"):
        pictures(tmp_path / "photos" / name, 12)
    refused(
        ["train", "photos", "--model", "darknet", "--recipe", "photos", "--quiet"],
        "no weights darknet.photos",
        "--recipe scratch",
    )
