"""HEIC from phones: read with the extra, named without it, bounded by its header."""

import importlib.util
import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from quicknet.cli.main import run
from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import DataError
from quicknet.data import DataRequest, load_data
from quicknet.data.doctor import examine
from quicknet.image import formats
from quicknet.image.formats import MAX_PIXELS, TransientImageError, image_suffixes
from quicknet.image.preprocess import load_image

SPEC = PreprocessSpec(size=32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))


def heic(image: Image.Image, **options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()  # so that the tests can open what they wrote
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=90, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def blob() -> bytes:
    """64 x 48 pixels, the left half red, the right half blue."""
    image = Image.new("RGB", (64, 48), "red")
    image.paste((0, 0, 255), (32, 0, 64, 48))
    return heic(image)


def claiming(blob: bytes, width: int, height: int) -> bytes:
    """Return the file with another size in its header (`ispe`)."""
    at = blob.index(b"ispe") + 8
    return blob[:at] + struct.pack(">II", width, height) + blob[at + 8 :]


def test_a_heic_picture_is_read_from_bytes_and_by_any_name(blob: bytes, tmp_path: Path) -> None:
    for name in ("a.heic", "a.HEIF", "a.jpg"):
        (tmp_path / name).write_bytes(blob)
        for source in (tmp_path / name, str(tmp_path / name), blob):
            actual = load_image(source, SPEC).astype(int)
            assert abs(actual[:, :12] - (255, 0, 0)).max() < 12
            assert abs(actual[:, 20:] - (0, 0, 255)).max() < 12
    assert {".heic", ".heif", ".hif", ".jpg"} <= image_suffixes()


def test_one_in_tiles_is_read_as_phones_write_it() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8)[:, None], (1, 320))
    tiled = heic(Image.fromarray(np.stack([ramp, ramp.T[:256, :256].repeat(2, 1)[:, :320], ramp], 2)), tile_size=128)
    assert b"grid" in tiled
    actual = load_image(tiled, SPEC.replace(resize="stretch"))[..., 0].astype(int)
    assert abs(actual[:, 16] - (np.arange(32) * 8 + 4)).max() < 8


def test_it_is_upright_whatever_turns_it(blob: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (64, 48), "red")
    image.paste((0, 0, 255), (32, 0, 64, 48))
    turned = heic(image, exif=exif.tobytes())
    with Image.open(io.BytesIO(turned), formats=["HEIF"]) as opened:
        assert opened.size in ((64, 48), (48, 64))
    for exif_is_honoured in (True, False):
        actual = load_image(turned, SPEC.replace(exif=exif_is_honoured)).astype(int)
        plain = load_image(blob, SPEC).astype(int)
        assert min(abs(actual - np.rot90(plain, turns)).mean() for turns in range(4)) < 3


def test_nothing_is_loaded_before_the_first_heic_picture(blob: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(blob)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    program = (
        "import sys; from quicknet.core.card import PreprocessSpec; from quicknet.image.preprocess import load_image\n"
        "load_image('a.png', PreprocessSpec()); assert 'pillow_heif' not in sys.modules\n"
        "load_image('a.heic', PreprocessSpec()); assert 'pillow_heif' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


def test_a_folder_of_them_is_loaded_and_looked_over(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(3):
            noise = Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8))
            (tmp_path / "pets" / name / f"IMG_{number}.HEIC").write_bytes(heic(noise))
    (tmp_path / "pets" / "cat" / "IMG_0.HEIC").rename(tmp_path / "pets" / "cat" / "IMG_0.jpg")
    data = load_data(tmp_path / "pets", DataRequest(quiet=True, size=16))
    assert len(data.split("all")) == 6
    findings = {finding.kind: finding for finding in examine(tmp_path / "pets", DataRequest(quiet=True))}
    assert findings["suffix"].paths == ("cat/IMG_0.jpg",)
    assert "unreadable" not in findings


@pytest.mark.usefixtures("without_heic")
def test_without_the_extra_it_is_named(blob: bytes, tmp_path: Path) -> None:
    assert not image_suffixes() & formats.HEIC_SUFFIXES
    (tmp_path / "a.heic").write_bytes(blob)
    with pytest.raises(TransientImageError, match=r"a\.heic.*pillow_heif.*pip install 'quicknet-vision\[heic\]'"):
        load_image(tmp_path / "a.heic", SPEC)


def test_without_the_extra_predict_names_it(
    blob: bytes, without_heic: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.heic").write_bytes(blob)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "b.png")
    assert run(["predict", "quicknet_xs.cifar10", str(tmp_path / "a.heic"), str(tmp_path / "b.png")]) == 2
    said = capfd.readouterr()
    assert "a.heic" in said.err and "quicknet-vision[heic]" in said.err
    assert "b.png" in said.out


def test_what_could_not_be_read_without_the_extra_is_read_with_it(
    blob: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HEIC named .jpg, as some transfers leave it: the failure is not kept in the cache."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(3):
            noise = rng.integers(0, 256, (40, 48, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / "pets" / name / f"{number}.png")
    (tmp_path / "pets" / "cat" / "phone.jpg").write_bytes(blob)
    request = DataRequest(quiet=True, size=16, max_bad_share=0.5)
    real = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "pillow_heif" else real(name))
        formats.reads_heif.cache_clear()
        without = load_data(tmp_path / "pets", request)
    formats.reads_heif.cache_clear()
    assert without.unread == 1 and any("cat/phone.jpg" in note and "[heic]" in note for note in without.notes)
    assert len(load_data(tmp_path / "pets", request).split("all")) == 7


def test_what_the_picture_is_cut_from_counts(blob: bytes) -> None:
    """The encoder pads 64x48 to 64x64, of which the picture is cut out: libheif decodes all of it."""
    with Image.open(io.BytesIO(blob), formats=["HEIF"]) as image:
        assert image.size == (64, 48)
    at = blob.index(b"ispe") + 8
    assert struct.unpack(">II", blob[at : at + 8]) == (64, 64)
    without = blob.replace(b"ispe", b"free")
    with pytest.raises(DataError, match="does not name a size"):
        load_image(without, SPEC)


@pytest.mark.parametrize("size", [(10_001, 10_000), (2**31 - 1, 2**31 - 1)])
def test_a_size_past_the_limit_is_refused_by_the_header(blob: bytes, size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=f"{size[0]}x{size[1]} pixels.* over the limit of {MAX_PIXELS:,}"):
        load_image(claiming(blob, *size), SPEC)


def test_pixels_that_the_header_does_not_claim_are_not_decoded() -> None:
    """libheif decodes no more than the header says; else 447 bytes could fill the memory."""
    big = heic(Image.new("RGB", (1024, 1024)))
    with pytest.raises(DataError, match="damaged or cut short"):
        load_image(claiming(big, 16, 16), SPEC)


def test_damaged_ones_are_named(blob: bytes, tmp_path: Path) -> None:
    for cut in (20, len(blob) // 2, len(blob) - 5):
        (tmp_path / "a.heic").write_bytes(blob[:cut])
        with pytest.raises(DataError, match=r"a\.heic"):
            load_image(tmp_path / "a.heic", SPEC)
    rng = np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(blob)
        for at in rng.integers(16, len(blob), 3):
            changed[at] = rng.integers(256)
        try:
            assert load_image(bytes(changed), SPEC).shape == (32, 32, 3)
        except DataError as error:
            assert "\n" not in str(error)


def test_a_huge_file_is_not_read_into_memory(blob: bytes, tmp_path: Path) -> None:
    with (tmp_path / "huge.heic").open("wb") as file:
        file.write(blob)
        file.truncate(1 << 40)  # a hole: it takes no room
    with pytest.raises(DataError, match=r"huge\.heic.*over the limit"):
        load_image(tmp_path / "huge.heic", SPEC)


def test_avif_stays_pillows() -> None:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "AVIF")
    assert not formats.is_heif(file.getvalue()[:256])
    assert abs(load_image(file.getvalue(), SPEC).astype(int) - (255, 0, 0)).max() < 12
