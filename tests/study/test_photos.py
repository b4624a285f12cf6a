"""The set of photographs, built from small git repositories and folders."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from photographs import git, jpeg, numbered, photo, put, repository
from quicknet.core.errors import DataError, ToolError
from quicknet.data import DataRequest, load_data
from quicknet.study import trees
from quicknet.study.choose import hold_out
from quicknet.study.photos import Plan, build, main, parse_source
from quicknet.study.sources import SOURCES, Source, labelled
from quicknet.study.trees import open_tree

IDS = ("n01532829", "n02099601")


def plan(*sources, **settings) -> Plan:
    return Plan([(SOURCES_AT_HEAD.get(name, Source(name)), place) for name, place in sources], **settings)


SOURCES_AT_HEAD = {
    name: Source(name, s.holds, s.repository, "", s.terms, s.layouts, s.aside, s.table) for name, s in SOURCES.items()
}


def names(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def mini(tmp_path):
    files = numbered(range(30), f"train/{IDS[0]}") | numbered(range(30, 60), f"val/{IDS[1]}")
    return repository(tmp_path / "mini", files | {".gitattributes": b"*.jpg binary\n"})


# --- what is in it ------------------------------------------------------------------------


def test_sources_meet_in_wordnet_ids_and_keep_other_classes_apart(tmp_path, mini):
    folder = put(tmp_path / "own", numbered(range(60, 70), IDS[0]) | numbered(range(70, 80), "train/red apple"))
    manifest = build(plan(("mini", mini), ("own", folder)), tmp_path / "set", quiet=True)
    assert set(manifest["classes"]) == {*IDS, "own.red_apple"}
    assert manifest["classes"][IDS[0]]["sources"] == {"mini": 30, "own": 10}
    assert manifest["sources"]["own"]["train"] + manifest["sources"]["own"]["val"] == 20
    assert manifest["sources"]["mini"]["commit"] == git("--git-dir", mini, "rev-parse", "HEAD").strip()
    assert (manifest["sources"]["mini"]["repository"], manifest["sources"]["own"]["commit"]) == (
        "Deo0330/split_minidataset",
        "",
    )
    assert json.loads((tmp_path / "set" / "manifest.json").read_text()) == manifest


def test_pictures_keep_their_bytes(tmp_path, mini):
    build(plan(("mini", mini)), tmp_path / "set", quiet=True)
    written = {path.name: path.read_bytes() for path in (tmp_path / "set").rglob("*.jpg")}
    assert written == {f"mini_{seed}.jpg": jpeg(photo(seed)) for seed in range(60)}


def test_some_of_every_class_are_held_out_and_train_takes_the_folder(tmp_path, mini, monkeypatch):
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    manifest = build(plan(("mini", mini), val_share=0.1), tmp_path / "set", quiet=True)
    assert (manifest["train"], manifest["val"]) == (54, 6)
    data = load_data(tmp_path / "set", DataRequest(quiet=True))
    assert data.classes == IDS
    assert {split: np.bincount(part.labels).tolist() for split, part in data.splits.items()} == {
        "train": [27, 27],
        "val": [3, 3],
    }


def test_the_same_sources_give_the_same_set_and_another_seed_holds_others_out(tmp_path, mini):
    sets = [build(plan(("mini", mini), seed=seed), tmp_path / f"{i}", quiet=True) for i, seed in enumerate((0, 0, 1))]
    assert sets[0] == sets[1]
    assert names(tmp_path / "0") == names(tmp_path / "1") != names(tmp_path / "2")
    lines = sorted(
        f"{path.parts[-3]} {path.parts[-2]} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in (tmp_path / "0").rglob("*.jpg")
    )
    assert sets[0]["sha256"] == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_labels_from_a_table(tmp_path):
    root = "tiny-imagenet-200"
    rows = "".join(f"val_{i}.JPEG\t{IDS[i % 2]}\t0\t32\t44\t62\n" for i in range(8))
    files = {f"{root}/val/images/val_{i}.JPEG": jpeg(photo(i)) for i in range(9)}  # the last has no row
    files |= numbered(range(20, 24), f"{root}/train/{IDS[0]}/images")
    tiny = repository(tmp_path / "tiny", files | {f"{root}/val/val_annotations.txt": rows.encode()})
    manifest = build(plan(("tiny", tiny)), tmp_path / "set", quiet=True)
    assert {name: entry["train"] + entry["val"] for name, entry in manifest["classes"].items()} == {
        IDS[0]: 8,
        IDS[1]: 4,
    }
    assert manifest["sources"]["tiny"]["without_class"] == 1


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("mini", "train/n01532829/n0153282900000005.jpg", "n01532829"),
        ("imagewoof", "val/n02086240/ILSVRC2012_val_00001393.JPEG", "n02086240"),
        ("places", "data/images/train/a/abbey/00000001.jpg", "places.abbey"),
        ("places", "data/images/train/b/bakery/shop/00000001.jpg", "places.bakery_shop"),
        ("places", "data/images/test/00000001.jpg", None),
        ("caltech", "101_ObjectCategories/accordion/image_0001.jpg", "caltech.accordion"),
        ("caltech", "101_ObjectCategories/BACKGROUND_Google/image_0001.jpg", None),
        ("caltech", "101_ObjectCategories/Faces_easy/image_0001.jpg", None),
        ("grocery", "dataset/train/Fruit/Apple/Golden-Delicious/1.jpg", "grocery.Golden-Delicious"),
        ("grocery", "dataset/val/Fruit/Lime/1.jpg", "grocery.Lime"),
        ("grocery", "dataset/iconic-images-and-descriptions/Fruit/Lime/1.jpg", None),
        ("own", "train/cat/deep/1.png", "own.cat"),
        ("own", "cat/1.png", "own.cat"),
        ("own", "1.png", None),
    ],
)
def test_layouts_of_the_known_sources(tmp_path, name, path, expected):
    put(tmp_path, {path: b""})
    actual, _ = labelled(SOURCES.get(name, Source(name)), open_tree(tmp_path))
    assert actual == ([] if expected is None else [(path, expected)])


# --- what is left out ---------------------------------------------------------------------


def test_what_cannot_be_decoded_is_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "MAX_FILE_BYTES", 20_000)
    whole = jpeg(photo(1))
    files = numbered(range(10), "a") | numbered(range(20, 30), "b")
    files |= {
        "a/cut.jpg": whole[: len(whole) // 2],
        "a/text.jpg": b"no picture",
        "a/empty.jpg": b"",
        "a/pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "a/large.jpg": b"\xff" * 20_001,
        "a/notes.txt": b"no suffix of a picture",
    }
    manifest = build(plan(("own", repository(tmp_path / "own", files))), tmp_path / "set", quiet=True)
    count = manifest["sources"]["own"]
    assert (count["listed"], count["undecodable"], sum(count["absent"].values())) == (25, 3, 2)
    assert sorted(line.partition(":")[0] for line in count["undecodable_named"]) == [
        "a/cut.jpg",
        "a/empty.jpg",
        "a/text.jpg",
    ]
    assert manifest["pictures"] == 20


def test_objects_that_a_mirror_lacks_are_counted_and_the_rest_is_read(tmp_path, mini):
    blob = git("--git-dir", mini, "rev-parse", f"HEAD:train/{IDS[0]}/3.JPEG").strip()
    (mini / "objects" / blob[:2] / blob[2:]).unlink()
    manifest = build(plan(("mini", mini)), tmp_path / "set", quiet=True)
    assert manifest["sources"]["mini"]["absent"] == {str(trees.MISSING): 1}
    assert manifest["pictures"] == 59


def test_links_are_not_followed(tmp_path):
    secret = put(tmp_path / "elsewhere", {"secret.jpg": jpeg(photo(99))})
    folder = put(tmp_path / "own", numbered(range(4), "a") | numbered(range(10, 14), "b"))
    (folder / "a" / "link.jpg").symlink_to(secret / "secret.jpg")
    (folder / "c").symlink_to(secret)
    os.mkfifo(folder / "a" / "pipe.jpg")
    for number, place in enumerate((folder, repository(tmp_path / "bare", {}, work=folder))):
        manifest = build(plan(("own", place)), tmp_path / f"set{number}", quiet=True)
        assert set(manifest["classes"]) == {"own.a", "own.b"}
        assert manifest["pictures"] == 8


def test_equal_files_count_once_across_sources(tmp_path, mini):
    again = numbered(range(5), "train/cat") | numbered(range(60, 64), "train/dog")
    again |= {"train/dog/copy.jpg": jpeg(photo(60))}
    manifest = build(plan(("mini", mini), ("own", put(tmp_path / "own", again))), tmp_path / "set", quiet=True)
    count = manifest["sources"]["own"]
    assert (count["in_other_sources"], count["repeated"], count["other_class"]) == (5, 1, 5)
    assert manifest["pictures"] == 64
    assert "own.cat" not in manifest["classes"]


def test_namesakes_and_odd_names_keep_apart(tmp_path):
    files = {"train/a/1.jpg": jpeg(photo(1)), "val/a/1.jpg": jpeg(photo(2)), "train/b/1.jpg": jpeg(photo(3))}
    files |= {"test/a/1.JPG": jpeg(photo(4)), "test/b/..\n é.jpg": jpeg(photo(5)), "test/b/CON.jpg": jpeg(photo(6))}
    manifest = build(plan(("own", repository(tmp_path / "own", files))), tmp_path / "set", quiet=True)
    written = names(tmp_path / "set") - {"manifest.json"}
    assert manifest["pictures"] == len(written) == 6
    assert all(name.isascii() and "\n" not in name for name in written)


# --- nearly equal pictures ----------------------------------------------------------------


def changed(seed: int) -> Image.Image:
    """The same scene, smaller, compressed harder and brighter."""
    return photo(seed).resize((72, 60), Image.Resampling.BICUBIC).point(lambda level: min(255, level + 8))


def test_pictures_like_those_that_are_judged_stay_out(tmp_path, mini):
    judged = put(
        tmp_path / "judged",
        {
            "train/x/near.jpg": jpeg(changed(3), 60),
            "val/y/equal.jpg": jpeg(photo(31)),
            "val/y/new.jpg": jpeg(photo(500)),
        }
        | {"val/y/bad.jpg": b"no picture"},
    )
    before = build(plan(("mini", mini)), tmp_path / "before", quiet=True)
    manifest = build(plan(("mini", mini), exclude=[judged]), tmp_path / "set", quiet=True)
    gone = {name.split("/")[-1] for name in names(tmp_path / "before")} - {
        name.split("/")[-1] for name in names(tmp_path / "set")
    }
    assert gone == {"mini_3.jpg", "mini_31.jpg"}
    (folder,) = manifest["excluded"]
    assert (folder["folder"], folder["pictures"], folder["undecodable"], folder["left_out"]) == ("judged", 3, 1, 2)
    bare = build(
        plan(("mini", mini), exclude=[repository(tmp_path / "bare", {}, work=judged)]), tmp_path / "2", quiet=True
    )
    assert bare["sha256"] == manifest["sha256"]
    assert bare["excluded"][0]["sha256"] == folder["sha256"]
    assert manifest["sources"]["mini"]["excluded"] == 2
    assert manifest["pictures"] == before["pictures"] - 2
    assert manifest["sha256"] != before["sha256"]


def test_of_nearly_equal_pictures_none_is_held_out_while_another_is_learned_from(tmp_path):
    files = numbered(range(40), "a") | numbered(range(100, 110), "b")
    files |= {f"a/again_{seed}.jpg": jpeg(changed(seed), 70) for seed in range(40)}
    build(plan(("own", put(tmp_path / "own", files)), val_share=0.2), tmp_path / "set", quiet=True)
    held = {path.stem.split("_")[-1] for path in (tmp_path / "set" / "val" / "own.a").iterdir()}
    learned = {path.stem.split("_")[-1] for path in (tmp_path / "set" / "train" / "own.a").iterdir()}
    assert len(held) >= 6
    assert not held & learned


def test_nearly_equal_pictures_of_two_classes():
    digests = [hashlib.sha256(bytes([i])).hexdigest() for i in range(60)]
    labels = np.repeat([0, 1], [20, 40])
    twins = np.array([[i, i + 20] for i in range(20)])
    held = hold_out(digests, labels, twins, 0.25, seed=0)
    assert held.any()
    assert (held[:20] == held[20:40])[held[:20] | held[20:40]].all()


# --- what can go wrong --------------------------------------------------------------------


def test_places_that_cannot_be_read(tmp_path, mini):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="is not a folder"):
        build(plan(("mini", tmp_path / "none")), tmp_path / "set", quiet=True)
    with pytest.raises(DataError, match="no pictures of mini"):
        build(plan(("mini", empty)), tmp_path / "set", quiet=True)
    with pytest.raises(DataError, match="has no commit 557ebcae"):
        build(Plan([(SOURCES["mini"], mini)]), tmp_path / "set", quiet=True)
    with pytest.raises(DataError, match="labels of tiny cannot be read"):
        build(plan(("tiny", mini)), tmp_path / "set", quiet=True)
    with pytest.raises(DataError, match="mini is named twice"):
        build(plan(("mini", mini), ("mini", mini)), tmp_path / "set", quiet=True)
    with pytest.raises(DataError, match="no pictures that can be read"):
        build(plan(("mini", mini), exclude=[empty]), tmp_path / "set", quiet=True)
    assert not [path for path in tmp_path.iterdir() if "set" in path.name]


def test_damaged_git_directory(tmp_path, mini):
    tree = git("--git-dir", mini, "rev-parse", "HEAD:train").strip()
    (mini / "objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(DataError, match="git cannot read"):
        build(plan(("mini", mini)), tmp_path / "set", quiet=True)


def test_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    folder = put(tmp_path / "own", numbered(range(4), "a"))
    real = os.scandir

    def refuse(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot list .*a \(Permission denied\)"):
        build(plan(("own", folder)), tmp_path / "set", quiet=True)


def test_an_existing_folder_is_left_alone(tmp_path, mini):
    put(tmp_path / "set", {"mine.txt": b"1"})
    with pytest.raises(DataError, match="is there already"):
        build(plan(("mini", mini)), tmp_path / "set", quiet=True)
    assert names(tmp_path / "set") == {"mine.txt"}


def test_full_disk_leaves_nothing(tmp_path, mini, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ToolError, match="No space left"):
        build(plan(("mini", mini)), tmp_path / "set", quiet=True)
    assert not [path for path in tmp_path.iterdir() if "set" in path.name]


def test_command(tmp_path):
    folder = put(tmp_path / "own", numbered(range(6), "a") | numbered(range(10, 16), "b"))
    result = CliRunner().invoke(main, [f"own={folder}", "--out", str(tmp_path / "set"), "--quiet"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["pictures"] == 12
    again = CliRunner().invoke(main, [f"own={folder}", "--out", str(tmp_path / "set")])
    assert again.exit_code == 2
    assert again.stderr.startswith("quicknet: error: ")
    assert again.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["mini", "=place", "mini=", "../x=place", "a b=place"])
def test_arguments_that_name_no_source(text):
    with pytest.raises(DataError, match="is not NAME=PLACE"):
        parse_source(text)
