"""Folders as other people, other systems and other encodings leave them."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import paths_of
from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import DataError
from quicknet.data import DataRequest, Dataset, examine, load_data
from quicknet.data.layout import split_of
from quicknet.inference.predict import Unreadable, find_images

QUIET = DataRequest(quiet=True, size=16)


def per_class(data: Dataset, split: str = "all") -> dict[str, int]:
    return dict(Counter(data.classes[label] for label in data.split(split).labels.tolist()))


def sizes(data: Dataset) -> dict[str, int]:
    return {name: len(split) for name, split in data.splits.items()}


def errors(root: Path) -> dict[str, str]:
    """Kind → message of doctor's errors."""
    return {f.kind: f.message for f in examine(root, QUIET) if f.severity == "error"}


def refused(root: Path, *words: str) -> None:
    """Check that training and doctor refuse a folder with the same words."""
    for look in (load_data, examine):
        with pytest.raises(DataError) as caught:
            look(root, QUIET)
        for word in words:
            assert word in str(caught.value)


# --- names of classes ------------------------------------------------------------------------


def test_class_names_that_are_not_utf8_stay_distinct_and_can_be_printed(tmp_path, pictures):
    names = ["кот", "пёс", "собака"]
    for name in names:
        pictures(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name.encode("cp1251"))), 5)
    data = load_data(tmp_path, QUIET)
    assert set(data.classes) == {name.encode("cp1251").decode("utf-8", "backslashreplace") for name in names}
    assert set(per_class(data).values()) == {5}
    assert all(name.isprintable() and name.encode("utf-8") for name in data.classes)
    again = load_data(tmp_path, QUIET.replace(classes=tuple(reversed(data.classes))))
    assert per_class(again) == per_class(data)


def test_a_code_and_the_byte_that_it_stands_for_are_never_one_class(tmp_path, pictures):
    pictures(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xea")), 3)
    pictures(tmp_path / r"\xea", 3)
    refused(tmp_path, "two folders", "would both be the class", "rename one")


def test_a_folder_whose_own_name_is_not_utf8_has_a_name_that_can_be_written(tmp_path, pictures):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xeb\xff"))
    for name in ("a", "b"):
        pictures(root / name, 4)
    pictures(root, 1)
    data = load_data(root, QUIET)
    assert data.name == r"\xeb\xff"
    assert all(note.encode("utf-8") for note in data.notes)


def test_one_name_in_two_unicode_forms_is_one_class_and_noted(tmp_path, pictures):
    for name in ("caf\u00e9", "cafe\u0301", "tea"):
        pictures(tmp_path / name, 4)
    data = load_data(tmp_path, QUIET)
    assert per_class(data) == {"caf\u00e9": 8, "tea": 4}
    assert any("two Unicode forms" in note for note in data.notes)


def test_class_names_that_differ_by_case_or_spaces_are_noted_and_doctors_error(tmp_path, pictures):
    for name in ("Cat", "cat", "cat ", "dog"):
        pictures(tmp_path / name, 4)
    data = load_data(tmp_path, QUIET)
    assert len(data.classes) == 4
    (note,) = [note for note in data.notes if "differ only by case" in note]
    assert "'Cat' and 'cat' and 'cat '" in note and "dog" not in note
    assert errors(tmp_path) == {"class_names": note}


# --- folders that may not be listed ----------------------------------------------------------


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder under which rights hold: for root, who may do anything, the user id is changed meanwhile."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o777)
    privileged = os.geteuid() == 0
    try:
        if privileged:
            os.seteuid(65534)
        yield root
    finally:
        if privileged:
            os.seteuid(0)
        for folder, _, _ in os.walk(root):
            Path(folder).chmod(0o755)
        shutil.rmtree(root, ignore_errors=True)


def test_a_folder_that_may_not_be_listed_is_named_and_refused_past_the_share(unprivileged, pictures, monkeypatch):
    monkeypatch.setenv("QUICKNET_CACHE", str(unprivileged / "cache"))
    root = unprivileged / "pets"
    for name in ("red", "green"):
        pictures(root / name, 20)
    pictures(root / "red" / "sub", 10)
    (root / "red" / "sub").chmod(0)
    with pytest.raises(DataError, match=r"1 folder cannot be listed: red/sub: Permission denied.*counts as 20 images"):
        load_data(root, QUIET)
    data = load_data(root, QUIET.replace(max_bad_share=0.5))
    assert per_class(data) == {"red": 20, "green": 20}
    assert any("red/sub: Permission denied" in note for note in data.notes)
    assert "red/sub: Permission denied" in errors(root)["unlistable"]
    (unreadable,) = [name for name in find_images(str(root)) if isinstance(name, Unreadable)]
    assert unreadable.name == str(root / "red" / "sub") and "Permission denied" in unreadable.error


def test_a_root_or_a_split_that_may_not_be_listed_is_an_error_of_one_line(unprivileged, pictures, monkeypatch):
    monkeypatch.setenv("QUICKNET_CACHE", str(unprivileged / "cache"))
    root = unprivileged / "sp"
    for name in ("train/red", "train/green", "val/red", "val/green"):
        pictures(root / name, 4)
    for folder in (root / "val", root):
        folder.chmod(0)
        refused(root, f"cannot read the folder {folder} (Permission denied)", "check its rights")
    inside = root / "train"
    refused(inside, f"cannot read the folder '{inside}' (Permission denied)", "check its name and rights")
    refused(unprivileged / ("x" * 300), "File name too long")


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of folders that cannot be listed, whoever runs this."""
    names: set[str] = set()
    scandir = os.scandir

    def refuse(path=".", *rest):
        if Path(path).name in names:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path, *rest)

    monkeypatch.setattr("os.scandir", refuse)
    return names


def test_a_class_that_may_not_be_listed_is_not_lost(tmp_path, pictures, locked):
    for name in ("train/red", "train/green", "val/locked", "val/green"):
        pictures(tmp_path / name, 20)
    locked.add("locked")
    with pytest.raises(DataError, match="val/ has class folders that train/ does not have: 'locked'"):
        load_data(tmp_path, QUIET)
    (tmp_path / "train" / "red").rename(tmp_path / "train" / "locked")
    with pytest.raises(DataError, match=r"2 folders cannot be listed: train/locked: Permission denied"):
        load_data(tmp_path, QUIET)
    with pytest.raises(DataError, match="no readable training image of 'locked'"):
        load_data(tmp_path, QUIET.replace(max_bad_share=1.0))
    data = load_data(tmp_path, QUIET.replace(max_bad_share=1.0, classes=("green", "locked")))
    assert any("val/ has no images of 1 of the classes: locked" in note for note in data.notes)


def test_a_locked_folder_among_many_is_a_note(tmp_path, pictures, locked):
    for name in ("a", "b"):
        for part in range(15):
            pictures(tmp_path / name / str(part), 2)
    pictures(tmp_path / "a" / "locked", 2)
    locked.add("locked")
    data = load_data(tmp_path, QUIET)
    assert per_class(data) == {"a": 30, "b": 30}
    assert any("1 folder cannot be listed: a/locked" in note and "counts as 2 images" in note for note in data.notes)


def test_nothing_but_locked_folders_says_so(tmp_path, locked):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    locked.update("ab")
    refused(tmp_path, "cannot list the folder", "Permission denied", "check its rights")


# --- splits of other names -------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Testing"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("train_images", "test_images"),
        ("train2017", "test2017"),
        ("trainset", "testset"),
        ("TRAIN", "Test Data"),
    ],
)
@pytest.mark.parametrize("twice", [False, True], ids=["plain", "archive"])
def test_other_names_of_splits_are_known(tmp_path, pictures, names, twice):
    for split, count in zip(names, (10, 3), strict=True):
        for label in ("cat", "dog"):
            pictures(tmp_path / split / (split if twice else "") / label, count)
    pictures(tmp_path / "seg_pred", 2)
    data = load_data(tmp_path, QUIET)
    assert data.classes == ("cat", "dog") and sizes(data) == {"train": 18, "val": 2, "test": 6}
    assert any("left out: seg_pred" in note for note in data.notes)


def test_names_that_only_contain_a_split_are_not_splits():
    for name in ("test tube", "bullet_train", "trainer", "contest", "value", "training shoes"):
        assert split_of(name) is None
    assert split_of("valid") == split_of("Validation-Set") == split_of("val.images") == "val"


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("x_train", "x_test"), ("look like splits (x_test/, x_train/)", "rename them")),
        (("train", "eval"), ("eval looks like a split", "rename it test/ or val/")),
        (("train", "my_test"), ("my_test looks like a split", "rename it test/")),
        (("train", "training_set"), ("are the split 'train'", "keep one of them")),
        (("cat/train", "cat/val", "dog/train", "dog/val"), ("cat holds the splits train/ and val/", "splits first")),
    ],
)
def test_names_that_may_be_splits_are_refused_by_name(tmp_path, pictures, folders, words):
    inner = folders[0].startswith("cat")
    for folder in folders:
        for label in ("",) if inner else ("cat", "dog"):
            pictures(tmp_path / folder / label, 4)
    refused(tmp_path, *words)


def test_training_and_testing_without_class_folders_are_not_two_classes(tmp_path, pictures):
    for name in ("Training", "Testing", "other"):
        pictures(tmp_path / name, 4)
    refused(tmp_path, "Training holds no class folders", "Training/cat/1.jpg")


def test_a_split_without_labels_is_refused_with_what_to_do(tmp_path, pictures):
    for name in ("train/cat", "train/dog", "test"):
        pictures(tmp_path / name, 4)
    refused(tmp_path, "test holds 4 images but no class folders", f"or move it out of {tmp_path}")


def test_test_beside_pictures_to_predict_is_not_a_class(tmp_path, pictures):
    for name in ("seg_test/cat", "seg_test/dog", "seg_pred"):
        pictures(tmp_path / name, 4)
    refused(tmp_path, "has seg_test/ but no train/", "--split all")


def test_only_test_proposes_what_measures_all_of_it(tmp_path, pictures):
    test = tmp_path / "ds" / "test"
    for label in ("cat", "dog"):
        pictures(test / label, 4)
    refused(tmp_path / "ds", "has test/ but no train/", f"quicknet evaluate MODEL {test} --split all")
    asked = QUIET.replace(classes=("cat", "dog"), spec=PreprocessSpec(size=16).to_dict())  # as `evaluate` asks
    assert len(load_data(test, asked).split("all")) == len(load_data(tmp_path / "ds", asked).split("all")) == 8


# --- archives that wrap ----------------------------------------------------------------------


@pytest.mark.parametrize("around", ["photos", "archive/photos"])
def test_splits_in_a_folder_of_their_own_are_found(tmp_path, pictures, around):
    for split, count in (("train", 10), ("val", 3)):
        for label in ("cat", "dog"):
            pictures(tmp_path / around / split / label, count)
    (tmp_path / "readme.txt").write_text("x")
    data = load_data(tmp_path, QUIET)
    assert data.classes == ("cat", "dog") and sizes(data) == {"train": 20, "val": 6}
    assert f"the splits lie in {around}/" in data.notes
    pictures(tmp_path / "other", 3)
    refused(tmp_path, f"name {tmp_path / around} instead", "lies other/")


def test_classes_one_folder_deeper_are_named(tmp_path, pictures):
    for label in ("cat", "dog"):
        pictures(tmp_path / "ds" / "photos" / label, 3)
    refused(tmp_path / "ds", "only one class ('photos')", "cat, dog", f"name {tmp_path / 'ds' / 'photos'}")


# --- links -----------------------------------------------------------------------------------


def test_a_link_into_another_class_takes_nothing_from_it(tmp_path, pictures):
    for name in ("green", "blue"):
        pictures(tmp_path / name / "deep", 5)
    (tmp_path / "blue" / "also").symlink_to("../green")
    data = load_data(tmp_path, QUIET)
    assert per_class(data) == {"blue": 10, "green": 5}
    (note,) = [note for note in data.notes if "link leads" in note]
    assert "green and blue/also are one folder" in note and "deep" not in note
    by_kind = errors(tmp_path)
    assert by_kind["link"] == note and "conflict" in by_kind


def test_a_link_into_another_split_is_noted(tmp_path, pictures):
    for name in ("train/red", "train/green", "val/red", "val/green"):
        pictures(tmp_path / name, 5)
    (tmp_path / "train" / "red" / "more").symlink_to(tmp_path / "val" / "red")
    data = load_data(tmp_path, QUIET)
    assert per_class(data, "train") == {"red": 10, "green": 5} and per_class(data, "val") == {"red": 5, "green": 5}
    assert any("val/red and train/red/more are one folder" in note for note in data.notes)
    assert "link" in errors(tmp_path)


def test_predict_follows_links_as_training_does(tmp_path, pictures):
    pictures(tmp_path / "elsewhere", 3)
    for name in ("a", "b"):
        pictures(tmp_path / "root" / name, 2)
    (tmp_path / "root" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "root" / "a" / "gone").symlink_to(tmp_path / "nowhere")
    data = load_data(tmp_path / "root", QUIET)
    notes: list[str] = []
    assert sorted(map(str, find_images(str(tmp_path / "root"), notes.append))) == sorted(paths_of(data, "all"))
    assert len(data.split("all")) == 7
    assert any("lead to nothing" in note and "gone" in note for note in notes)
    assert any("lead to nothing" in note and "gone" in note for note in data.notes)


# --- what is left out --------------------------------------------------------------------------

SYSTEM = ["@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "#recycle", "FOUND.000"]


def test_folders_that_systems_leave_are_left_out_with_a_note(tmp_path, pictures):
    for name in ("cat", "dog", *SYSTEM):
        pictures(tmp_path / name, 4)
    pictures(tmp_path / "cat" / "@eaDir" / "0.png", 2)
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    data = load_data(tmp_path, QUIET)
    assert data.classes == ("cat", "dog") and len(data.split("all")) == 8
    notes: list[str] = []
    assert sorted(map(str, find_images(str(tmp_path), notes.append))) == sorted(paths_of(data, "all"))
    for sentences in (notes, data.notes):
        (note,) = [note for note in sentences if "systems leave" in note]
        assert "@eaDir" in note and "lost+found" in note
        assert "Thumbs.db" not in "".join(sentences)
    assert len(list(find_images(str(tmp_path / "lost+found")))) == 4  # named, it is what the user asks for


def test_files_of_other_suffixes_are_named_with_the_extra_that_reads_them(tmp_path, pictures, without_heic):
    for name in ("cat", "dog"):
        pictures(tmp_path / name, 4)
    for name in ("cat/IMG_1.heic", "cat/IMG_2.HEIC", "dog/list.txt"):
        (tmp_path / name).write_bytes(b"x")
    notes: list[str] = []
    list(find_images(str(tmp_path), notes.append))
    for sentences in (notes, load_data(tmp_path, QUIET).notes):
        (note,) = [note for note in sentences if "3 files" in note]
        assert "not images by suffix (.heic, .txt, such as IMG_1.heic)" in note
        assert "pip install 'quicknet-vision[heic]'" in note


def test_a_folder_of_nothing_but_heic_names_them_and_the_extra(tmp_path, pictures, without_heic):
    for name in ("cat/IMG_1.heic", "cat/IMG_2.heic", "dog/IMG_3.HEIC"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    refused(tmp_path, "3 files", ".heic", "IMG_1.heic", "pip install 'quicknet-vision[heic]'")
    (answer,) = find_images(str(tmp_path))
    pictures(tmp_path / "dog", 3)
    refused(tmp_path, "only one class ('dog')", "cat", "IMG_1.heic", "pip install 'quicknet-vision[heic]'")
    assert isinstance(answer, Unreadable)
    assert "3 files" in answer.error and "IMG_1.heic" in answer.error and "quicknet-vision[heic]" in answer.error
