import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageEnhance

from quicknet.cli.doctor import doctor
from quicknet.core.errors import DataError
from quicknet.data import DataRequest, draw_scenes, examine
from quicknet.data.doctor import _SUFFIXES, _header
from quicknet.data.similar import groups_of, near_duplicates
from quicknet.image.formats import FORMATS, image_suffixes
from schema import follows

from .conftest import binary_batches

QUIET = DataRequest(quiet=True, download=False)


def kinds(findings):
    return {finding.kind: finding for finding in findings}


def photo(seed: int, size=(96, 80)) -> Image.Image:
    """Something like a photograph: smooth at large, with detail, its channels alike."""
    rng = np.random.default_rng(seed)
    grey, colour = rng.integers(20, 236, (12, 14, 1)), rng.integers(-20, 21, (12, 14, 3))
    image = Image.fromarray((grey + colour).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = np.repeat(rng.integers(0, 256, (48, 40, 1), np.uint8), 3, axis=2)
    return Image.blend(image, Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), 0.25)


@pytest.fixture
def healthy(tmp_path):
    root = tmp_path / "healthy"
    for number, (split, label) in enumerate((s, c) for s in ("train", "val") for c in ("ant", "bee")):
        (root / split / label).mkdir(parents=True)
        for i in range(22 if split == "train" else 4):
            photo(1000 * number + i).save(root / split / label / f"{i}.png")
    return root


def test_a_healthy_folder_has_no_findings(healthy):
    assert examine(healthy, QUIET) == []
    result = CliRunner().invoke(doctor, [str(healthy), "--quiet"])
    assert result.exit_code == 0
    train, val, end = result.stdout.splitlines()
    assert train == "train: 44 images of 2 classes: ant 22, bee 22"
    assert val == "val: 8 images of 2 classes: ant 4, bee 4"
    assert end == "no faults found"


def test_unreadable_files_are_all_listed(healthy):
    for i in range(20):
        (healthy / "train" / "ant" / f"bad{i}.jpg").write_bytes(b"bad %d" % i)
    by_kind = kinds(examine(healthy, QUIET))
    assert set(by_kind) == {"unreadable"}
    assert len(by_kind["unreadable"].paths) == 20 and "train/ant/bad0.jpg" in by_kind["unreadable"].paths
    assert "20 of 72" in by_kind["unreadable"].message


def test_what_is_wrong_with_a_file_stands_beside_its_name_once(healthy):
    (healthy / "train" / "ant" / "bad.jpg").write_bytes(b"")
    (healthy / "train" / "ant" / "word.jpg").write_bytes(b"not a picture")
    message = kinds(examine(healthy, QUIET))["unreadable"].message
    assert message.startswith("2 of 54 images cannot be read: train/ant/bad.jpg: the file is empty; replace it; ")
    assert "train/ant/word.jpg: not a whole image of a known kind; use one of" in message
    printed = CliRunner().invoke(doctor, [str(healthy), "--quiet"]).output
    assert printed.count("train/ant/word.jpg") == 1


def test_an_empty_class_that_training_would_refuse_is_an_error(healthy):
    (healthy / "train" / "cat").mkdir()
    found = kinds(examine(healthy, QUIET))["empty_class"]
    assert found.severity == "error" and found.paths == ("train/cat",)
    assert "1 class folder without pictures, which training refuses: train/cat; put pictures" in found.message


def test_a_very_large_picture_is_read_without_a_warning(healthy):
    """Pillow warns from 89 million pixels on; 100 million are taken."""
    Image.new("1", (9_600, 9_600)).save(healthy / "large.png")
    assert _header(healthy / "large.png") == ("PNG", 9_600)


def test_the_images_that_can_be_read_are_counted(healthy):
    (healthy / "val" / "bee" / "bad.jpg").write_bytes(b"")
    result = CliRunner().invoke(doctor, [str(healthy), "--quiet", "--json"])
    report = json.loads(result.stdout)
    follows("doctor", report)
    assert report["images"] == {"train": {"ant": 22, "bee": 22}, "val": {"ant": 4, "bee": 4}}


def test_the_same_image_in_one_class_in_two_classes_and_in_two_splits(healthy):
    train, val = healthy / "train", healthy / "val"
    shutil.copy(train / "ant" / "0.png", train / "ant" / "again.png")
    shutil.copy(train / "ant" / "1.png", train / "bee" / "astray.png")
    shutil.copy(train / "bee" / "2.png", val / "bee" / "leaked.png")
    by_kind = kinds(examine(healthy, QUIET))
    assert set(by_kind) == {"duplicate", "conflict", "leak"}
    assert set(by_kind["duplicate"].paths) == {"train/ant/0.png", "train/ant/again.png"}
    assert set(by_kind["conflict"].paths) == {"train/ant/1.png", "train/bee/astray.png"}
    assert set(by_kind["leak"].paths) == {"train/bee/2.png", "val/bee/leaked.png"}
    assert "1 of 9 images of val (11.1%) are in train" in by_kind["leak"].message
    assert by_kind["leak"].severity == "error"


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((64, 60)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.7),
        lambda image: ImageEnhance.Color(image).enhance(0.2),
        lambda image: image.crop((2, 2, 96, 80)),
        lambda image: image.convert("L"),
    ],
    ids=["scaled", "darker", "paler", "cropped", "grey"],
)
def test_near_duplicates_across_splits_are_found(healthy, change):
    with Image.open(healthy / "train" / "bee" / "3.png") as image:
        change(image).save(healthy / "val" / "bee" / "near.jpg", quality=60)
    by_kind = kinds(examine(healthy, QUIET))
    assert set(by_kind) == {"near_leak"}
    assert set(by_kind["near_leak"].paths) == {"train/bee/3.png", "val/bee/near.jpg"}


def test_small_and_unequal_classes_name_their_numbers(tmp_path):
    for label, count in (("many", 60), ("few", 5)):
        (tmp_path / label).mkdir()
        for i in range(count):
            photo(hash((label == "few", i)) % 10**6).save(tmp_path / label / f"{i}.png")
    by_kind = kinds(examine(tmp_path, QUIET))
    assert set(by_kind) == {"small_class", "imbalance"}
    assert "few (5)" in by_kind["small_class"].message and "under 20" in by_kind["small_class"].message
    assert "60 training images of many against 5 of few" in by_kind["imbalance"].message


def test_wrong_suffixes_and_tiny_images(healthy):
    shutil.move(healthy / "train" / "ant" / "4.png", healthy / "train" / "ant" / "4.jpg")
    photo(9999, (20, 90)).save(healthy / "train" / "ant" / "thin.png")
    by_kind = kinds(examine(healthy, QUIET))
    assert by_kind["suffix"].paths == ("train/ant/4.jpg",)
    assert by_kind["tiny"].paths == ("train/ant/thin.png",)
    assert set(by_kind) == {"suffix", "tiny"}


@pytest.mark.parametrize("form", ["AVIF", "JPEG2000", "WEBP", "GIF", "TIFF", "BMP", "PPM", "PNG"])
def test_every_format_under_the_name_of_another_is_flagged(healthy, form):
    target = healthy / "train" / "ant" / "another.jpg"
    photo(9999).save(target, form)
    by_kind = kinds(examine(healthy, QUIET))
    assert by_kind["suffix"].paths == ("train/ant/another.jpg",) and set(by_kind) == {"suffix"}
    target.unlink()


def test_every_format_that_is_read_has_its_suffixes():
    assert set(FORMATS) <= _SUFFIXES.keys()
    assert image_suffixes() <= {suffix for suffixes in _SUFFIXES.values() for suffix in suffixes}


def test_a_layout_that_cannot_be_used_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        examine(tmp_path, QUIET)


def test_cifar_is_examined_too(tmp_path):
    folder = binary_batches(tmp_path)
    train, test = folder / "data_batch_1.bin", folder / "test_batch.bin"
    test.write_bytes(train.read_bytes()[:3073] + test.read_bytes()[3073:])
    by_kind = kinds(examine(folder, QUIET))
    assert set(by_kind) == {"leak", "layout", "small_class"}
    assert by_kind["leak"].groups == (("train[0]", "test[0]"),)


def test_the_command_prints_json_and_exits_with_1(healthy):
    shutil.copy(healthy / "train" / "bee" / "2.png", healthy / "val" / "bee" / "leaked.png")
    result = CliRunner().invoke(doctor, [str(healthy), "--json", "--quiet"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["format"] == 1 and report["found"] is True and report["data"] == str(healthy)
    assert report["findings"][0]["kind"] == "leak"
    assert report["findings"][0]["groups"] == [["train/bee/2.png", "val/bee/leaked.png"]]
    text = CliRunner().invoke(doctor, [str(healthy), "--quiet"])
    assert text.exit_code == 1
    train, val, first = text.stdout.splitlines()[:3]
    assert train == "train: 44 images of 2 classes: ant 22, bee 22"
    assert val == "val: 9 images of 2 classes: bee 5, ant 4"
    assert first.startswith("error: the same image in two splits: 1 of 9 images of val")
    assert "train/bee/2.png  =  val/bee/leaked.png" in text.stdout


def test_notes_alone_are_no_fault(healthy):
    (healthy / "train" / "ant" / "list.txt").write_text("x")
    result = CliRunner().invoke(doctor, [str(healthy), "--quiet"])
    assert result.exit_code == 0 and result.stdout.splitlines()[2].startswith("note: 1 file in train")


def test_near_duplicates_are_found_among_many_and_unlike_images_are_not():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3000, 8, 8, 3), np.uint8)
    images = np.stack([np.asarray(Image.fromarray(c).resize((32, 32), Image.Resampling.BICUBIC)) for c in coarse])
    images = np.clip(images + rng.normal(0, 8, images.shape), 0, 255).astype(np.uint8)
    planted = rng.choice(3000, (20, 2), replace=False)
    for one, other in planted:
        noisy = np.roll(images[one], (1, -1), (0, 1)) * 0.8 + rng.normal(0, 4, (32, 32, 3)) + 20
        images[other] = np.clip(noisy, 0, 255).astype(np.uint8)
    pairs = {tuple(pair) for pair in near_duplicates(images).tolist()}
    expected = {(min(pair), max(pair)) for pair in planted.tolist()}
    assert pairs <= expected and len(pairs) >= 18


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_few_flat_images_are_no_near_duplicates(count):
    flat = (
        np.stack([np.full((32, 32, 3), 100 * i, np.uint8) for i in range(count)])
        if count
        else np.empty((0, 32, 32, 3), np.uint8)
    )
    assert near_duplicates(flat).shape == (0, 2)


def test_like_shapes_in_unlike_pictures_are_no_near_duplicates(tmp_path):
    folder = draw_scenes(tmp_path / "scenes", 60, seed=0)
    assert [f for f in examine(folder, QUIET) if f.kind.startswith("near")] == []


def test_groups_are_joined_through_common_members():
    assert groups_of(np.array([[4, 7], [1, 4], [2, 3], [3, 9], [9, 2]])) == [[1, 4, 7], [2, 3, 9]]


def test_real_photographs_have_no_faults(photos_dir):
    assert [f for f in examine(photos_dir, QUIET) if f.severity != "note"] == []


def test_a_pair_of_the_real_cifar10_that_cifair_lists(cifar10_dir):
    """Test image 159 and train image 25768, hidden among 3,000 others."""
    from quicknet.data.cifar import CIFAR10, read_cifar

    arrays = read_cifar(CIFAR10, cifar10_dir)
    images = np.concatenate(
        [arrays.images["train"][[25768]], arrays.images["train"][:3000], arrays.images["test"][[159]]]
    )
    assert [0, 3001] in near_duplicates(images).tolist()


@pytest.mark.slow
def test_the_real_cifar10_has_the_near_duplicates_that_are_known(cifar10_dir):
    """ciFAIR: 3.3% of the test images have one in train."""
    leak = kinds(examine(cifar10_dir, QUIET))["near_leak"]
    leaked = {name for name in leak.paths if name.startswith("test")}
    assert 270 < len(leaked) < 400
