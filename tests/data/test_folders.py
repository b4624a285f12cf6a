import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quicknet.core.errors import ConfigError, DataError
from quicknet.data import DataRequest, load_data
from quicknet.data.layout import natural_key
from quicknet.image.preprocess import load_image

QUIET = DataRequest(quiet=True, size=16)


def names(data, split):
    """The class name by label of every image, which a file's own folder must confirm."""
    part = data.split(split)
    labels = [data.classes[label] for label in part.labels]
    assert len(part.images) == len(part.labels) == len(part.paths)
    for path, label, image in zip(part.paths, labels, part.images, strict=True):
        assert label in Path(path).parts
        assert np.array_equal(image, load_image(Path(path), data.spec))
    return labels


def test_class_folders_are_split_in_three_parts(tmp_path, pictures):
    for name in ("cat", "dog"):
        pictures(tmp_path / "pets" / name, 20)
    data = load_data(tmp_path / "pets", QUIET)
    assert data.name == "pets" and data.classes == ("cat", "dog") and data.protocol == "standard"
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 32, "val": 4, "test": 4}
    paths = [path for split in data.splits.values() for path in split.paths]
    assert len(set(paths)) == 40
    for split in data.splits:
        assert sorted(set(names(data, split))) == ["cat", "dog"]
    pixels = data.split("train").images / 255.0
    np.testing.assert_allclose(data.spec.mean, pixels.mean((0, 1, 2)), atol=6e-5)


def test_the_split_follows_content_and_seed_and_not_names_or_place(tmp_path, pictures):
    for name in ("cat", "dog"):
        pictures(tmp_path / "a" / name, 12)
    held = load_data(tmp_path / "a", QUIET).split("val").paths
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for number, path in enumerate(sorted((tmp_path / "b").rglob("*.png"))):
        path.rename(path.with_name(f"x{100 - number}_{path.name}"))
    moved = load_data(tmp_path / "b", QUIET).split("val").paths
    assert sorted(Path(p).name.split("_")[1] for p in moved) == sorted(Path(p).name for p in held)
    assert load_data(tmp_path / "a", QUIET.replace(split_seed=5)).split("val").paths != held


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_split_folders_are_kept(tmp_path, pictures, val):
    for split, count in (("train", 4), (val, 2), ("test", 3)):
        for name in ("cat", "dog"):
            pictures(tmp_path / split / name, count)
    data = load_data(tmp_path, QUIET)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 8, "val": 4, "test": 6}
    assert all("/test/" in path for path in data.split("test").paths)


def test_val_is_held_out_of_train_where_it_is_not_given(tmp_path, pictures):
    for split, count in (("train", 10), ("test", 3)):
        for name in ("cat", "dog"):
            pictures(tmp_path / split / name, count)
    data = load_data(tmp_path, QUIET)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 18, "val": 2, "test": 6}
    assert all("/train/" in path for path in data.split("val").paths)


def test_paper_protocol_pools_a_folder_too(tmp_path, pictures):
    for split, count in (("train", 8), ("val", 2)):
        for name in ("cat", "dog"):
            pictures(tmp_path / split / name, count)
    data = load_data(tmp_path, QUIET.replace(protocol="paper"))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 18, "val": 2, "test": 2}
    assert data.protocol == "paper" and data.split("val") is data.split("test")


def test_ten_sorts_after_two(tmp_path, pictures):
    for name in ("10", "2", "1"):
        pictures(tmp_path / name, 3)
    data = load_data(tmp_path, QUIET)
    assert data.classes == ("1", "2", "10")
    assert sorted(names(data, "val")) == ["1", "10", "2"]


def test_natural_order_is_total_and_stable():
    shuffled = ["b10", "B2", "b2", "a", "é", "10", "9", "1a", "b02", "²", "٣"]
    ordered = sorted(shuffled, key=natural_key)
    assert ordered == sorted(set(shuffled), key=natural_key)
    assert ordered.index("9") < ordered.index("10") < ordered.index("a")
    assert ordered.index("B2") < ordered.index("b10")


# --- a validation folder against what the model knows ---------------------------------------


def test_a_checkpoints_class_order_decides_the_labels(tmp_path, pictures):
    for name in ("ant", "bee", "cow"):
        pictures(tmp_path / name, 5)
    data = load_data(tmp_path, QUIET.replace(classes=("cow", "ant", "elk", "bee")))
    assert data.classes == ("cow", "ant", "elk", "bee")
    assert set(names(data, "all")) == {"ant", "bee", "cow"}
    assert any("no images of 1 of the classes: elk" in note for note in data.notes)


def test_a_folder_of_one_known_class_can_be_scored(tmp_path, pictures):
    pictures(tmp_path / "bee", 2)
    data = load_data(tmp_path, QUIET.replace(classes=("ant", "bee")))
    assert data.split("all").labels.tolist() == [1, 1]


def test_classes_that_the_model_does_not_have_are_refused_by_name(tmp_path, pictures):
    for name in ("ant", "bees", "wasp"):
        pictures(tmp_path / name, 3)
    with pytest.raises(DataError, match=r"the model does not have: 'bees', 'wasp'.*did you mean 'bee'"):
        load_data(tmp_path, QUIET.replace(classes=("ant", "bee")))


def test_val_with_a_class_that_train_lacks_is_refused(tmp_path, pictures):
    for place in ("train/ant", "train/bee", "val/ant", "val/Bee"):
        pictures(tmp_path / place, 3)
    with pytest.raises(DataError, match="val/ has class folders that train/ does not have: 'Bee'"):
        load_data(tmp_path, QUIET)


def test_val_without_a_class_of_train_is_scored_by_name(tmp_path, pictures):
    for place in ("train/ant", "train/bee", "train/cow", "val/cow", "val/bee"):
        pictures(tmp_path / place, 3)
    data = load_data(tmp_path, QUIET)
    assert set(names(data, "val")) == {"bee", "cow"}
    assert any("val/ has no images of 1 of the classes: ant" in note for note in data.notes)


# --- odd folders ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".webp", ".jpg", ".JPEG", ".PNG", ".bmp", ".gif", ".tif", ".TIFF", ".ppm"])
def test_every_common_suffix_is_an_image(tmp_path, pictures, suffix):
    pictures(tmp_path / "a", 3, suffix)
    pictures(tmp_path / "b", 3, suffix)
    assert len(load_data(tmp_path, QUIET).split("all")) == 6


def test_hidden_other_nested_and_loose_files(tmp_path, pictures):
    for name in ("a", "b"):
        pictures(tmp_path / name / "deeper" / "still", 3)
    pictures(tmp_path / "a", 1)
    pictures(tmp_path / ".hidden", 3)
    pictures(tmp_path / "__MACOSX", 3)
    pictures(tmp_path, 2)
    (tmp_path / "a" / "._1.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "list.txt").write_text("x")
    data = load_data(tmp_path, QUIET)
    assert data.classes == ("a", "b") and len(data.split("all")) == 7
    text = "\n".join(data.notes)
    assert "2 images lie in" in text and "2 files in" in text and "without images" in text and "empty" in text


def test_links_are_followed_once_and_never_back_up(tmp_path, pictures):
    root = tmp_path / "root"
    pictures(tmp_path / "elsewhere", 3)
    pictures(root / "a", 3)
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "out").symlink_to(tmp_path)
    (root / "a" / "self").symlink_to(root / "a")
    data = load_data(root, QUIET)
    assert sorted(names(data, "all")) == ["a"] * 3 + ["b"] * 3


def test_a_class_called_train_is_not_a_split(tmp_path, pictures):
    for name in ("bus", "car", "train"):
        pictures(tmp_path / name, 3)
    assert load_data(tmp_path, QUIET).classes == ("bus", "car", "train")


def test_decomposed_names_match_composed_ones(tmp_path, pictures):
    pictures(tmp_path / "cafe\u0301", 3)
    pictures(tmp_path / "tea", 3)
    assert load_data(tmp_path, QUIET).classes == ("caf\u00e9", "tea")


def test_a_name_that_is_not_utf8_is_read_and_can_be_printed(tmp_path, pictures):
    for name in ("a", "b"):
        pictures(tmp_path / name, 30)
    (tmp_path / "a" / "0.png").rename(os.fsdecode(os.fsencode(tmp_path / "a") + b"/\xff.png"))
    Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"/\xfe.png")).write_bytes(b"no image")
    data = load_data(tmp_path, QUIET)
    assert len(data.split("all")) == 60
    assert all(note.encode("utf-8") for note in data.notes)
    assert any(r"a/\xfe.png" in note for note in data.notes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root, pics: None, "holds no images; make a folder per class"),
        (lambda root, pics: pics(root, 3), "holds 3 images but no class folders"),
        (lambda root, pics: pics(root / "a", 3), r"only one class \('a'\)"),
        (lambda root, pics: (root / "a").mkdir(), "holds no images"),
        (lambda root, pics: pics(root / "train", 3), "train holds no class folders"),
        (lambda root, pics: pics(root / "val" / "a", 3), "has val/ but no train/"),
        (lambda root, pics: [pics(root / "train" / "a", 3), pics(root / "train" / "b", 0)], "only one class"),
        (lambda root, pics: [pics(root / "a", 1), pics(root / "b", 1)], "too small to hold any out"),
        (
            lambda root, pics: [pics(root / s / c, 2) for s in ("train", "val", "valid") for c in "ab"],
            "keep one of them",
        ),
    ],
)
def test_folders_that_cannot_be_used_say_what_to_do(tmp_path, pictures, make, message):
    make(tmp_path, pictures)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path, QUIET)


def test_a_small_class_says_that_none_could_be_held_out(tmp_path, pictures):
    pictures(tmp_path / "many", 10)
    pictures(tmp_path / "two", 2)
    notes = "\n".join(load_data(tmp_path, QUIET).notes)
    assert "too few different images to hold any out as val: two" in notes
    assert "1 training image of 'two' is few (under 100): expect many mistakes" in notes


# --- images that cannot be read -------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of a few bytes that claims 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 90)) + chunk(b"IEND", b"")


def test_bad_images_are_named_and_skipped_up_to_a_share(tmp_path, pictures):
    good = [path for name in ("a", "b") for path in pictures(tmp_path / name, 40)]
    whole = good[0].read_bytes()
    (tmp_path / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b" / "bomb.png").write_bytes(bomb())
    (tmp_path / "b" / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "b" / "pipe.jpg")
    data = load_data(tmp_path, QUIET)
    assert sorted(path for path in data.split("all").paths) == sorted(map(str, good))
    assert len(names(data, "all")) == 80
    note = next(note for note in data.notes if "skipped" in note)
    assert note.startswith("4 of 84 images cannot be used")
    for name in ("a/cut.png", "b/bomb.png", "b/dangling.jpg", "b/pipe.jpg"):
        assert name in note
    with pytest.raises(DataError, match=r"4 of 84 images.*more than the share of 4%.*quicknet doctor"):
        load_data(tmp_path, QUIET.replace(max_bad_share=0.04))


def test_a_file_that_may_not_be_read_is_named_and_skipped(tmp_path, pictures, monkeypatch):
    for name in ("cat", "dog"):
        pictures(tmp_path / "pets" / name, 20)
    real_open = Path.open

    def opened(path, *arguments, **options):
        if path.parent.name == "cat" and path.name == "3.png":  # rights do not stop root, who may run this
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)
    data = load_data(tmp_path / "pets", QUIET)
    assert sum(len(split) for split in data.splits.values()) == 39
    (note,) = [note for note in data.notes if "cannot be used" in note]
    assert "1 of 40 images cannot be used: cat/3.png: Permission denied; they were skipped" in note


def test_nothing_but_bad_images_is_an_error_even_where_all_may_be_bad(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.jpg").write_bytes(b"not an image %d" % number)
    with pytest.raises(DataError, match="no image that can be read"):
        load_data(tmp_path, QUIET.replace(max_bad_share=1.0))


def test_a_class_without_a_readable_training_image_is_refused(tmp_path, pictures):
    pictures(tmp_path / "train" / "a", 40)
    pictures(tmp_path / "val" / "a", 2)
    (tmp_path / "train" / "b").mkdir(parents=True)
    (tmp_path / "train" / "b" / "x.png").write_bytes(b"x")
    with pytest.raises(DataError, match="no readable training image of 'b'"):
        load_data(tmp_path, QUIET)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize(("target_mode", "channels"), [("RGB", 3), ("L", 1), ("RGBA", 4)])
def test_every_colour_mode_is_read(tmp_path, pictures, mode, target_mode, channels):
    for name in ("a", "b"):
        for path in pictures(tmp_path / name, 3):
            image = Image.open(path).convert("L" if mode == "I;16" else mode)
            if mode == "I;16":
                image = Image.fromarray(np.asarray(image, np.uint16) * 257)
            path.unlink()
            image.save(path.with_suffix(".tiff"))
    data = load_data(tmp_path, QUIET.replace(mode=target_mode))
    assert data.split("all").images.shape == (6, 16, 16, channels)
    assert data.split("all").images.std() > 10


def test_a_spec_of_a_card_is_used_as_it_is(tmp_path, pictures):
    for name in ("a", "b"):
        pictures(tmp_path / name, 3)
    spec = load_data(tmp_path, QUIET).spec.replace(size=24, resize="pad", mean=(0.1, 0.2, 0.3))
    data = load_data(tmp_path, QUIET.replace(spec=spec.to_dict()))
    assert data.spec == spec and data.split("all").images.shape == (6, 24, 24, 3)


@pytest.mark.parametrize(
    "wrong",
    [{"val_share": 0.0}, {"val_share": 0.5}, {"max_bad_share": 2.0}, {"size": 0}, {"classes": ("a", "a")}],
)
def test_requests_that_no_data_can_meet_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DataRequest(**wrong)


def test_real_photographs(photos_dir):
    data = load_data(photos_dir, DataRequest(quiet=True))
    assert data.classes == ("ants", "bees")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 72, "val": 28}
    assert data.split("train").images.shape == (72, 64, 64, 3)
    assert not data.split("train").images.flags.writeable
    assert any("36 training images of 'ants' are few" in note for note in data.notes)
    names(data, "val")
