"""The folders that weights are judged by, built from small folders and repositories in the sources' layout."""

import json
import re
from dataclasses import replace

import pytest
from click.testing import CliRunner
from PIL import Image

from photographs import git, jpeg, numbered, photo, put, repository
from quicknet.core.errors import DataError
from quicknet.data import DataRequest, load_data
from quicknet.study.folders import FOLDERS, build, main, parse_place


@pytest.fixture
def monkeys(tmp_path):
    files = {f"training/n{n}/{n}{i}.jpg": jpeg(photo(10 * n + i)) for n in range(3) for i in range(6)}
    files |= {"validation/n0/other.jpg": jpeg(photo(77)), "validation/n0/again.jpg": files["training/n0/00.jpg"]}
    files |= {"training/n1/broken.jpg": b"no image", "README.md": b"x"}
    return put(tmp_path / "monkeys", files)


def test_what_was_learned_from_is_left_out_and_named(monkeys, tmp_path):
    learned = numbered(range(500, 520), "train/n01532829")
    smaller = photo(12).resize((60, 50), Image.Resampling.BICUBIC)  # of n1, compressed again
    put(tmp_path / "photos", {**learned, "train/n02099601/a.jpg": jpeg(smaller, 70), "val/x/b.jpg": jpeg(photo(77))})
    manifest = build({"monkeys": monkeys}, tmp_path / "out", tmp_path / "photos", quiet=True)
    folder = manifest["folders"]["monkeys"]
    assert folder["classes"] == {"n0": 6, "n1": 5, "n2": 6}
    assert len(folder["left_out"]) == 2
    assert (folder["undecodable"], folder["repeated"], folder["pictures"]) == (1, 1, 17)
    against = manifest["against"]
    assert (against["folder"], against["pictures"], against["undecodable"]) == ("photos", 22, 0)
    (tmp_path / "photos" / "val" / "x" / "b.jpg").unlink()
    again = build({"monkeys": monkeys}, tmp_path / "again", tmp_path / "photos", quiet=True)
    assert again["against"]["sha256"] != against["sha256"]
    assert set(again["folders"]["monkeys"]["left_out"]) < set(folder["left_out"])
    names = sorted(path.name for path in (tmp_path / "out" / "monkeys" / "n1").iterdir())
    assert names == [f"monkeys_1{i}.jpg" for i in (0, 1, 3, 4, 5)]
    data = load_data(str(tmp_path / "out" / "monkeys"), DataRequest(quiet=True))
    assert data.classes == ("n0", "n1", "n2")


def test_of_pictures_that_are_nearly_equal_the_first_is_kept(monkeys, tmp_path):
    put(
        monkeys,
        {"training/n2/20b.jpg": jpeg(photo(20).resize((80, 70)), 60), "validation/n1/x.jpg": jpeg(photo(21), 50)},
    )
    folder = build({"monkeys": monkeys}, tmp_path / "out", quiet=True)["folders"]["monkeys"]
    assert folder["pictures"] == 19  # one split would learn from the one and be judged by the other
    assert len(folder["left_out"]) == 2


def test_the_same_sources_give_the_same_folders(monkeys, tmp_path):
    manifests = [build({"monkeys": monkeys}, tmp_path / name, quiet=True) for name in ("a", "b")]
    assert manifests[0] == manifests[1] == json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifests[0]["against"] is None


def test_a_repository_is_read_at_its_commit(monkeys, tmp_path, monkeypatch):
    bare = repository(tmp_path / "bare", {}, work=monkeys)
    with pytest.raises(DataError, match="has no commit cb62130b"):
        build({"monkeys": bare}, tmp_path / "out", quiet=True)
    commit = git("--git-dir", bare, "rev-parse", "HEAD").strip()
    repository(bare, {"training/n0/later.jpg": jpeg(photo(99))}, work=monkeys)
    monkeypatch.setitem(FOLDERS, "monkeys", replace(FOLDERS["monkeys"], commit=commit))
    folder = build({"monkeys": bare}, tmp_path / "out", quiet=True)["folders"]["monkeys"]
    assert (folder["commit"], folder["repository"]) == (commit, FOLDERS["monkeys"].repository)
    assert (folder["pictures"], folder["classes"]["n0"]) == (19, 7)


def test_every_folder_has_a_named_commit_and_reads_its_layout():
    paths = {
        "trashnet": "dataset-resized/glass/glass1.jpg",
        "flowers": "flowers/val/roses/1.jpg",
        "monkeys": "validation/n9/n901.jpg",
        "cats_and_dogs": "dataset/test_set/cats/cat.4001.jpg",
    }
    for name, source in FOLDERS.items():
        assert re.fullmatch("[0-9a-f]{40}", source.commit)
        assert any(re.fullmatch(layout, paths[name]) for layout in source.layouts)


def test_a_folder_is_written_whole_or_not_at_all(monkeys, tmp_path):
    with pytest.raises(DataError, match="no pictures of flowers where they are expected"):
        build({"monkeys": monkeys, "flowers": monkeys}, tmp_path / "out", quiet=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["monkeys"]
    build({"monkeys": monkeys}, tmp_path / "out", quiet=True)
    with pytest.raises(DataError, match="is there already"):
        build({"monkeys": monkeys}, tmp_path / "out", quiet=True)


def test_the_command_says_what_it_wrote(monkeys, tmp_path):
    result = CliRunner().invoke(main, [f"monkeys={monkeys}", "--out", str(tmp_path / "out"), "--quiet"])
    assert result.exit_code == 0
    assert "monkeys: 19 pictures, 0 left out" in result.output
    with pytest.raises(DataError, match=r"not NAME=PLACE with one of the names trashnet, flowers"):
        parse_place(f"cars={monkeys}")
