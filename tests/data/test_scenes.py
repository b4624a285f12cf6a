import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from quicknet.core.errors import DataError
from quicknet.data import DataRequest, draw_scenes, load_data
from quicknet.data.scenes import SHAPES, draw_scene

QUIET = DataRequest(quiet=True, size=32)


def digest(folder):
    content = hashlib.sha256()
    for path in sorted(folder.rglob("*.png")):
        content.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return content.hexdigest()


def test_scenes_load_as_a_data_set_of_ten_classes(tmp_path):
    data = load_data(draw_scenes(tmp_path / "scenes", 20, seed=0), QUIET)
    assert data.classes == tuple(SHAPES) and len(data.classes) == 10
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 200, "val": 20, "test": 40}
    assert np.bincount(data.split("train").labels).tolist() == [20] * 10
    everything = data.split("all").images.reshape(260, -1)
    assert len(np.unique(everything, axis=0)) == 260


def test_the_seed_decides_every_pixel(tmp_path):
    one = digest(draw_scenes(tmp_path / "one", 3, seed=7))
    assert one == digest(draw_scenes(tmp_path / "two", 3, seed=7))
    assert one != digest(draw_scenes(tmp_path / "three", 3, seed=8))


def test_a_drawn_folder_is_left_as_it_is_and_any_other_refused(tmp_path):
    folder = draw_scenes(tmp_path / "scenes", 2, seed=0)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    draw_scenes(folder, 2, seed=0)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(DataError, match="holds something else"):
        draw_scenes(folder, 2, seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="holds something else"):
        draw_scenes(tmp_path / "mine", 2, seed=0)
    assert (tmp_path / "mine" / "photo.jpg").exists()


@pytest.mark.parametrize("wrong", [{"per_class": 0}, {"size": 8}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(DataError, match="scenes need"):
        draw_scenes(tmp_path / "x", **{"per_class": 2, "seed": 0, **wrong})
    assert not (tmp_path / "x").exists()


def drawn(count, first):
    labels = np.arange(count) % 10
    names = list(SHAPES)
    images = [draw_scene(names[label], np.random.default_rng((first, i))) for i, label in enumerate(labels)]
    return np.stack(images).reshape(count, -1) / 255.0, labels


def test_a_linear_classifier_on_the_pixels_stays_under_60_percent():
    train, labels = drawn(2500, 0)
    test, truth = drawn(500, 1)
    mean = train.mean(0)
    gram = (train - mean) @ (train - mean).T  # ridge regression in its dual form: 2,500 unknowns
    for strength in (1.0, 100.0, 10_000.0):
        weights = np.linalg.solve(gram + strength * np.eye(len(gram)), np.eye(10)[labels] - 0.1)
        scores = (test - mean) @ (train - mean).T @ weights
        assert (scores.argmax(1) == truth).mean() < 0.6


def test_shapes_differ_from_each_other_wherever_they_lie():
    """The classes are told apart by form: the same random choices give other pixels."""
    scenes = [draw_scene(name, np.random.default_rng(3), 48).tobytes() for name in SHAPES]
    assert len(set(scenes)) == 10


def test_the_module_is_a_command(tmp_path):
    command = [
        sys.executable,
        "-m",
        "quicknet.data.scenes",
        str(tmp_path / "s"),
        "--per-class",
        "1",
        "--seed",
        "4",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "s") and done.stderr == ""
    assert json.loads((tmp_path / "s" / "scenes.json").read_text())["seed"] == 4
    (tmp_path / "s" / "scenes.json").unlink()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.startswith("quicknet: error: ")
