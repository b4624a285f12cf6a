"""What a run folder keeps of its data, and what is measured when the data has changed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import paths_of
from quicknet.core.card import Card, ModelRecord
from quicknet.core.errors import DataError, FormatError
from quicknet.data import DataRequest, Dataset, load_data
from quicknet.data.recorded import FILE, Recorded, changes, choose, read_recorded, record_text, recorded_of

QUIET = DataRequest(quiet=True, size=16)


def card_of(data: Dataset) -> Card:
    model = ModelRecord(family="quicknet", name="quicknet_xs", config={})
    return Card(model=model, classes=data.classes, preprocess=data.spec, data=data.record())


def reload(root: Path, card: Card, **more: Any) -> Dataset:
    """Load a folder as `evaluate` does."""
    fields = {"classes": card.classes, "spec": card.preprocess, "quiet": True, **more}
    return load_data(root, DataRequest(**fields))


@pytest.fixture
def trained(tmp_path: Path, pictures) -> tuple[Path, Card, Recorded]:
    """Two classes of 40 pictures, the card of a model that was trained on them, and the record."""
    for name in ("cat", "dog"):
        pictures(tmp_path / "pets" / name, 40)
    data = load_data(tmp_path / "pets", QUIET)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / FILE).write_text(str(record_text(data)))
    recorded = read_recorded(tmp_path / "run", data.sha256)
    assert recorded is not None
    return tmp_path / "pets", card_of(data), recorded


def ids(data: Dataset, split: str) -> set[int]:
    return set(data.split(split).content_ids.tolist())


def test_the_record_holds_every_picture_by_content_in_11_bytes(trained) -> None:
    root, _, recorded = trained
    data = load_data(root, QUIET)
    for name in ("train", "val", "test"):
        assert set(recorded.splits[name].tolist()) == ids(data, name)
    assert len(recorded.everything) == 80
    assert len(str(record_text(data))) < 11 * 80 + 250
    copy = root.parent / "copy"
    shutil.copytree(root, copy)
    for number, path in enumerate(sorted(copy.rglob("*.png"))):
        path.rename(path.with_name(f"x{number}.png"))
    assert ids(load_data(copy, QUIET), "test") == ids(data, "test")


def test_unchanged_data_is_split_as_it_was_without_a_word(trained) -> None:
    root, card, recorded = trained
    data = reload(root, card)
    chosen = choose(data, card, recorded, None)
    assert (chosen.split, chosen.notes) == ("test", ())
    assert chosen.data is data


@pytest.fixture
def untested(tmp_path: Path, pictures) -> tuple[Path, Card, Recorded]:
    """Two classes with train/ and val/ but no test/, the card of a model trained on them, and the record."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            pictures(tmp_path / "pets" / split / name, 10)
    data = load_data(tmp_path / "pets", QUIET)
    assert set(data.splits) == {"train", "val"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / FILE).write_text(str(record_text(data)))
    recorded = read_recorded(tmp_path / "run", data.sha256)
    assert recorded is not None
    return tmp_path / "pets", card_of(data), recorded


def test_without_a_test_split_val_is_measured_and_a_note_says_so(untested, pictures) -> None:
    root, card, recorded = untested
    data = reload(root, card)
    chosen = choose(data, card, recorded, None)
    assert chosen.split == "val"
    assert "pets has no test split, so val is measured" in chosen.notes[0]
    assert choose(data, card, recorded, "val").notes == ()
    assert choose(data, card, recorded, "test").split == "test"  # and `Dataset.split` refuses it
    pictures(root / "train" / "cat", 3)  # overwrites 3: the folder has changed
    changed = reload(root, card)
    for as_is in (False, True):
        chosen = choose(changed, card, recorded, None, as_is)
        assert chosen.split == "val"
        assert "has changed since training" in chosen.notes[0]
        assert "no test split" in chosen.notes[1]
    assert choose(changed, card, None, None).split == "val"


def test_a_changed_folder_is_measured_by_the_recorded_split_with_the_numbers(trained, pictures) -> None:
    root, card, recorded = trained
    pictures(root / "cat", 30)  # overwrites 30 of the 40
    pictures(root / "dog2", 40)
    for path in (root / "dog2").iterdir():
        path.rename(root / "dog" / f"new{path.name}")
    (root / "dog2").rmdir()
    data = reload(root, card)
    moved = len(ids(data, "test") & set(recorded.splits["train"].tolist()))
    was_val = len(ids(data, "test") & set(recorded.splits["val"].tolist()))
    assert moved + was_val > 0  # of today's test: what this is about
    chosen = choose(data, card, recorded, None)
    assert chosen.split == "test"
    still = set(recorded.splits["test"].tolist()) & ids(data, "all")
    assert 0 < len(still) < 8
    assert ids(chosen.data, "test") == still
    assert ids(chosen.data, "val") == set(recorded.splits["val"].tolist()) & ids(data, "all")
    (note,) = chosen.notes
    assert "70 of its 120 pictures are new, and 30 of the 80 at training are gone" in note
    assert f"{moved} of today's {len(data.split('test'))} test pictures were trained on and {was_val} were val" in note
    assert f"test is the recorded one, {len(still)} pictures of 8" in note
    as_is = choose(data, card, recorded, None, as_is=True)
    assert ids(as_is.data, "test") == ids(data, "test")
    assert f"{moved} of today's" in as_is.notes[0]
    (all_note,) = choose(data, card, recorded, "all").notes
    assert f"trained on {len(ids(data, 'all') & set(recorded.splits['train'].tolist()))} of all 120" in all_note


def test_of_a_split_with_its_own_folder_what_was_trained_on_is_left_out(tmp_path: Path, pictures) -> None:
    for split, count in (("train", 10), ("val", 4), ("test", 5)):
        for name in ("cat", "dog"):
            pictures(tmp_path / "d" / split / name, count)
    data = load_data(tmp_path / "d", QUIET)
    (tmp_path / FILE).write_text(str(record_text(data)))
    card = card_of(data)
    shutil.copy(tmp_path / "d" / "train" / "cat" / "0.png", tmp_path / "d" / "test" / "cat" / "again.png")
    shutil.copy(tmp_path / "d" / "val" / "cat" / "0.png", tmp_path / "d" / "test" / "cat" / "val.png")
    pictures(tmp_path / "d" / "more", 1)
    (tmp_path / "d" / "more" / "0.png").rename(tmp_path / "d" / "test" / "dog" / "new.png")
    (tmp_path / "d" / "more").rmdir()
    chosen = choose(reload(tmp_path / "d", card), card, recorded_of(tmp_path, card), None)
    names = [Path(path).name for path in chosen.data.split("test").paths]
    assert len(names) == 11 and "new.png" in names and "again.png" not in names and "val.png" not in names
    assert "1 of today's 13 test pictures were trained on and 1 were val" in chosen.notes[0]


def test_a_folder_that_the_model_was_not_trained_on_is_measured_whole(trained, tmp_path: Path, pictures) -> None:
    _, card, recorded = trained
    for name, count in (("cat", 50), ("dog", 40)):
        pictures(tmp_path / "new" / name, count)
    data = reload(tmp_path / "new", card)
    for known in (recorded, None):
        chosen = choose(data, card, known, None)
        assert (chosen.split, len(chosen.data.split("all"))) == ("all", 90)
        assert chosen.other == (known is not None)
        assert "all 90 pictures are measured" in chosen.notes[0]
        assert choose(data, card, known, None, as_is=True).split == "test"
        assert choose(data, card, known, "val").split == "val"


def test_a_new_folder_with_a_test_folder_is_measured_on_that_and_says_of_all(trained, tmp_path, pictures) -> None:
    _, card, recorded = trained
    for split, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            pictures(tmp_path / "new" / split / name, count)
    chosen = choose(reload(tmp_path / "new", card), card, recorded, None)
    assert chosen.split == "test"
    assert "its test/ is measured, n = 6; --split all measures all 18 pictures" in chosen.notes[0]


@pytest.mark.parametrize(("given", "split"), [(("test",), "test"), (("val",), "all"), (("val", "test"), "test")])
def test_a_folder_without_train_is_measured(trained, tmp_path: Path, pictures, given, split: str) -> None:
    _, card, recorded = trained
    for part in given:
        for name in ("cat", "dog"):
            pictures(tmp_path / "new" / part / name, 5)
    data = reload(tmp_path / "new", card)
    chosen = choose(data, card, recorded, None)
    assert (chosen.split, len(chosen.data.split(split))) == (split, 10)
    assert len(choose(data, card, recorded, "all").data.split("all")) == 10 * len(given)
    with pytest.raises(DataError, match="but no train/"):
        load_data(tmp_path / "new", QUIET)


def test_pictures_of_the_training_in_another_folder_are_left_out(trained, tmp_path: Path, pictures) -> None:
    root, card, recorded = trained
    for name in ("cat", "dog"):
        pictures(tmp_path / "new" / name, 20)
    data = load_data(root, QUIET)
    for path in paths_of(data, "train")[:3]:
        shutil.copy(path, tmp_path / "new" / "cat" / f"old{Path(path).name}")
    chosen = choose(reload(tmp_path / "new", card), card, recorded, None)
    assert (chosen.split, len(chosen.data.split("all"))) == ("all", 40)
    assert "was trained on 3 of the 43 pictures of new: they are left out" in chosen.notes[0]
    only = tmp_path / "only"
    for name in ("cat", "dog"):
        (only / name).mkdir(parents=True)
    for path in data.split("train").paths:
        shutil.copy(path, only / Path(path).parent.name)
    with pytest.raises(DataError, match="nothing is left to measure; --split all --as-is"):
        choose(reload(only, card), card, recorded, None)


def test_a_file_without_a_record_says_that_its_data_has_changed(trained, pictures) -> None:
    root, card, _ = trained
    pictures(root / "cat" / "more", 5)
    chosen = choose(reload(root, card), card, None, None)
    assert chosen.split == "test"
    assert "pets has changed since training, or is another folder of that name" in chosen.notes[0]
    assert "--split all" in chosen.notes[0]


def test_a_changed_folder_is_not_split_by_another_protocol(trained, pictures) -> None:
    root, card, recorded = trained
    with pytest.raises(DataError, match="use --protocol standard"):
        choose(reload(root, card, protocol="paper"), card, recorded, None)


def test_cifar_keeps_no_record(cifar10_small: Path) -> None:
    assert record_text(load_data(cifar10_small, DataRequest(quiet=True))) is None


def test_changes_of_classes_only_are_said(trained) -> None:
    root, card, recorded = trained
    (root / "cat" / "0.png").rename(root / "dog" / "moved.png")
    assert changes(reload(root, card), recorded) == "the pictures are the same, but not their classes, splits or copies"


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 1, "data_sha256": "d", "splits": {}}'])
def test_a_damaged_record_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(FormatError, match=r"split\.json"):
        read_recorded(tmp_path, "d")


def test_a_record_of_other_data_is_none(trained, tmp_path: Path) -> None:
    _, card, _ = trained
    other = card.replace(data=card.data.replace(sha256="0" * 64))
    assert recorded_of(tmp_path / "run", other) is None
    assert recorded_of(tmp_path / "run" / "model.onnx", card) is not None  # exported into its run folder
    assert recorded_of(tmp_path, card) is None
    assert json.loads((tmp_path / "run" / FILE).read_text())["data_sha256"] == card.data.sha256


def test_chosen_rows_keep_images_labels_and_paths_together(trained) -> None:
    root, _, _ = trained
    data = load_data(root, QUIET)
    part = data.split("train")
    rows = part.rows(np.array([5, 2]))
    paths = paths_of(data, "train")
    assert rows.paths == (paths[5], paths[2])
    assert np.array_equal(rows.images[0], part.images[5]) and rows.labels[1] == part.labels[2]
    assert replace(data).split("all").content_ids.tolist() == [
        *part.content_ids.tolist(),
        *data.split("val").content_ids.tolist(),
        *data.split("test").content_ids.tolist(),
    ]
