"""Data that cannot be used: archives, folders, images."""

import gzip
import io
import os
import shutil
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from helpers import TINY
from quicknet.cli.main import run

from .conftest import Refused

ARCHIVE = "cifar-10-binary.tar.gz"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any data set; downloads are refused at once by a port where nobody listens."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / ".cache"))
    monkeypatch.setenv("QUICKNET_CIFAR_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return folder


def pictures(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        noise = np.random.default_rng((seed, number)).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def test_an_archive_that_is_nowhere_and_cannot_be_fetched(home: Path, refused: Refused):
    refused(["train", "cifar10", "--quiet"], "cannot download", ARCHIVE, "again", "unpack the archive by hand")
    refused(["doctor", "cifar10", "--no-download"], "cifar10 is not on this machine", "QUICKNET_DATA")


@pytest.mark.parametrize("damage", ["wrong checksum", "truncated", "empty"])
def test_an_archive_that_is_not_the_official_one(damage: str, home: Path, tmp_path: Path, refused: Refused):
    archive = tmp_path / "data" / ARCHIVE
    archive.parent.mkdir()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin"))
    blob = {"wrong checksum": buffer.getvalue(), "truncated": buffer.getvalue()[:40], "empty": b""}[damage]
    archive.write_bytes(blob)
    refused(["train", "cifar10", "--quiet"], ARCHIVE, "not the official archive", "delete it", keeps=archive.parent)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "data_batch_3.bin").unlink(), ("data_batch_3.bin", "unpack the whole")),
        (lambda folder: os.truncate(folder / "data_batch_2.bin", 3073 * 5 + 100), ("data_batch_2.bin", "truncated")),
        (lambda folder: (folder / "test_batch.bin").write_bytes(b""), ("test_batch.bin", "truncated")),
        (lambda folder: (folder / "test_batch.bin").write_bytes(b"\xff" * 3073), ("label 255", "official archive")),
        (lambda folder: os.truncate(folder / "data_batch_1.bin", 3073 * 10_001), ("more than the official 10,000",)),
        (lambda folder: (folder / "batches.meta.txt").write_text("cat\ndog\n"), ("does not name the classes",)),
    ],
    ids=["missing", "cut", "empty", "label", "too-many", "other-classes"],
)
def test_batches_that_do_not_hold(damage, words: tuple[str, ...], tiny_data: Path, tmp_path: Path, refused: Refused):
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    shutil.copytree(tiny_data, folder)
    damage(folder)
    refused(["train", folder, "--quiet"], *words, keeps=folder)


def test_a_pickle_that_would_run_something(tmp_path: Path, refused: Refused):
    """The Python version is read, never executed: `os.system` in a batch stays a name."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    planted = b"cos\nsystem\n(S'touch " + str(tmp_path / "executed").encode() + b"'\ntR."
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        (folder / name).write_bytes(planted)
    refused(["train", folder, "--quiet"], "data_batch_1", "os.system")
    assert not (tmp_path / "executed").exists()


def test_folders_that_hold_no_data_set(tmp_path: Path, refused: Refused):
    (tmp_path / "empty").mkdir()
    refused(["train", tmp_path / "empty", "--quiet"], "holds no images", "make a folder per class")
    flat = pictures(tmp_path / "flat", 3)
    refused(["train", flat, "--quiet"], "3 images but no class folders", "flat/cat/1.jpg")
    pictures(tmp_path / "one" / "cat", 10)
    refused(["train", tmp_path / "one", "--quiet"], "only one class ('cat')", "add a folder")
    refused(["doctor", tmp_path / "empty"], "holds no images", "make a folder per class")


@pytest.mark.parametrize("verb", ["train", "doctor"])
def test_names_that_are_no_folder(verb: str, tmp_path: Path, refused: Refused):
    (tmp_path / "photos").mkdir()
    (tmp_path / "file").write_text("x")
    refused([verb, tmp_path / "fotos"], "does not exist", "did you mean 'photos'?")
    refused([verb, tmp_path / "file"], "is not a folder", "give cifar10, cifar100 or a folder")
    refused([verb, "cifar11"], "does not exist", "did you mean 'cifar10'?")
    refused([verb, "~nobody-has-this-name/x"], "~nobody-has-this-name/x", "does not exist")


def test_names_that_would_drive_the_terminal_are_shown_as_codes(tmp_path: Path, refused: Refused):
    line = refused(["train", "no\nsuch\x1b[2J\rfolder", "--quiet"], "does not exist")
    assert "\x1b" not in line
    odd = pictures(tmp_path / "a\x1b]0;title\x07\nb" / "cat", 4).parent
    line = refused(["train", odd, "--quiet"], "only one class")
    assert line.isprintable()


def test_a_name_that_is_no_text_is_refused_before_it_is_lost_in_the_recipe(tmp_path: Path, refused: Refused):
    refused(["train", os.fsdecode(b"photos\xff"), "--quiet"], "not UTF-8", "rename it")


def test_too_many_unreadable_images_stop_the_run(tmp_path: Path, refused: Refused):
    folder = tmp_path / "photos"
    for label, name in enumerate(("ants", "bees")):
        pictures(folder / name, 12, label)
    for name in ("broken", "bomb"):
        (folder / "bees" / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n, or so it says")
    (folder / "bees" / "bomb.png").write_bytes(_png_header(60_000, 60_000))
    (folder / "ants" / "cut.png").write_bytes((folder / "ants" / "0.png").read_bytes()[:200])
    refused(["train", folder, "--quiet"], "unreadable", ".png", "max_bad_share", keeps=folder)


def _png_header(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that claims to have so many pixels."""
    image = io.BytesIO()
    Image.new("L", (1, 1)).save(image, "PNG")
    blob = bytearray(image.getvalue())
    blob[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    blob[29:33] = zlib.crc32(bytes(blob[12:29])).to_bytes(4, "big")
    return bytes(blob)


def test_images_that_cannot_be_classified_are_named_and_the_rest_is_done(
    finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    from quicknet.cli.main import run

    pictures(tmp_path / "in", 1)
    (tmp_path / "in" / "bomb.png").write_bytes(_png_header(60_000, 60_000))
    (tmp_path / "in" / "zip.png").write_bytes(gzip.compress(b"x"))
    os.mkfifo(tmp_path / "in" / "pipe.png")
    assert run(["predict", str(finished_run), str(tmp_path / "in")]) == 2
    said = capfd.readouterr()
    assert len(said.out.splitlines()) == 1
    lines = said.err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("quicknet: unreadable: ") for line in lines)
    for name in ("bomb.png", "zip.png", "pipe.png"):
        assert sum(name in line for line in lines) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "file"))
    for label, name in enumerate(("ants", "bees")):
        pictures(tmp_path / "photos" / name, 4, label)
    refused(["train", tmp_path / "photos", "--quiet"], "cannot write", "QUICKNET_CACHE", keeps=tmp_path / "photos")


def test_a_run_whose_pictures_cannot_all_be_read_now(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch):
    """What fails in passing is not kept: the run is refused while it fails, and goes on afterwards."""
    for number, name in enumerate(("cat", "dog")):
        pictures(tmp_path / "pets" / name, 30, number)
    settings = [word for setting in (*TINY, "train.epochs=1") for word in ("--set", setting)]
    assert run(["train", "pets", "--from", "none", "--run", "run", "--quiet", "--set", "data.size=32", *settings]) == 0
    shutil.rmtree(tmp_path / "cache")
    real = PngImagePlugin.PngImageFile.load

    def short_of_memory(image):
        if image.fp is not None and Path(image.fp.name).name == "7.png":
            raise MemoryError
        return real(image)

    with monkeypatch.context() as patch:
        patch.setattr(PngImagePlugin.PngImageFile, "load", short_of_memory)
        refused(
            ["train", "--resume", "run", "--quiet"],
            "other data than pets",
            "2 of its images cannot be read now",
            "doctor",
        )
    assert run(["train", "--resume", "run", "--quiet"]) == 0
