import concurrent.futures
import io
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from quicknet.core.card import Mode, PreprocessSpec
from quicknet.core.errors import DataError
from quicknet.image import preprocess
from quicknet.image.preprocess import load_image, to_mode

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def spec(size: int = 16, mode: Mode = "RGB", **changes: Any) -> PreprocessSpec:
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    changes = {"mean": (0.5,) * channels, "std": (0.25,) * channels, **changes}
    return PreprocessSpec(size=size, mode=mode, **changes)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def quarters() -> Image.Image:
    """32x32: red and green above blue and white, so that every turn and flip shows."""
    image = Image.new("RGB", (32, 32), WHITE)
    image.paste(RED, (0, 0, 16, 16))
    image.paste(GREEN, (16, 0, 32, 16))
    image.paste(BLUE, (0, 16, 16, 32))
    return image


def test_an_image_of_the_right_size_passes_unchanged_by_every_road(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    image = Image.fromarray(pixels)
    path = tmp_path / "a.png"
    image.save(path)
    for source in (pixels, image, path, str(path), path.read_bytes()):
        actual = load_image(source, spec())
        assert actual.dtype == np.uint8
        assert actual.flags.writeable
        np.testing.assert_array_equal(actual, pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation: int) -> None:
    upright = quarters()
    undo = preprocess._TRANSPOSED.get(orientation)
    stored = upright
    if undo is not None:  # store it turned the other way: rotations by 90 undo each other
        swap = {Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270}
        swap |= {b: a for a, b in swap.items()}
        stored = upright.transpose(swap.get(undo, undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    blob = encoded(stored, "JPEG", exif=exif, quality=100, subsampling=0)
    actual = load_image(blob, spec()).astype(int)
    corners = [actual[2, 2], actual[2, -3], actual[-3, 2], actual[-3, -3]]
    for corner, colour in zip(corners, (RED, GREEN, BLUE, WHITE), strict=True):
        assert abs(corner - colour).max() < 40
    if orientation > 1:
        assert abs(load_image(blob, spec(exif=False)).astype(int) - actual).max() > 100


def test_tiff_orientation_is_undone_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = quarters().transpose(Image.Transpose.ROTATE_90)
    actual = load_image(encoded(turned, "TIFF", exif=exif), spec())
    np.testing.assert_array_equal(actual, load_image(quarters(), spec()))


def test_transparency_lies_over_white_whatever_its_kind() -> None:
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    keyed = Image.new("RGB", (16, 16), (1, 2, 3))
    blobs = [
        encoded(clear),
        encoded(Image.new("LA", (16, 16), (0, 0))),
        encoded(palette, transparency=0),
        encoded(palette, transparency=bytes([0, 255])),
        encoded(keyed, transparency=(1, 2, 3)),
        encoded(palette, "GIF", transparency=0),
    ]
    for blob in blobs:
        assert (load_image(blob, spec()) == 255).all()
        assert (load_image(blob, spec(mode="L")) == 255).all()
        assert (load_image(blob, spec(mode="RGBA"))[..., 3] == 0).all()
    half = encoded(Image.new("RGBA", (16, 16), (0, 0, 0, 128)))
    assert abs(int(load_image(half, spec())[0, 0, 0]) - 127) <= 1


def test_colour_modes_come_out_as_what_they_show() -> None:
    for blob in (
        encoded(Image.new("P", (9, 9), 0).convert("P")),
        encoded(Image.new("1", (9, 9), 0)),
        encoded(Image.new("L", (9, 9), 0)),
        encoded(Image.new("CMYK", (9, 9), (0, 0, 0, 255)), "JPEG"),
        encoded(Image.new("CMYK", (9, 9), (0, 0, 0, 255)), "TIFF"),
        encoded(Image.new("YCbCr", (9, 9), (0, 128, 128)), "JPEG"),
    ):
        assert load_image(blob, spec()).max() <= 3
    assert (load_image(encoded(Image.new("1", (9, 9), 1)), spec()) == 255).all()
    mode: Mode
    for mode in ("L", "RGB", "RGBA"):
        white = encoded(Image.new("LAB", (9, 9), (255, 128, 128)), "TIFF")
        assert load_image(white, spec(mode=mode)).min() >= 253


@pytest.mark.parametrize("target", ["L", "RGB", "RGBA"])
def test_every_mode_that_pillow_has_is_converted(target: Mode) -> None:
    modes = ("1", "L", "P", "LA", "La", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
    for mode in (*modes, "I", "F", "I;16", "I;16B", "I;16L"):
        assert to_mode(Image.new(mode, (3, 2)), target).mode == target


def test_deep_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    expected = np.arange(256).reshape(16, 16)
    as_png = encoded(Image.fromarray(ramp))
    as_pgm = b"P5 16 16 65535\n" + ramp.astype(">u2").tobytes()
    as_float = encoded(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF")
    as_int = encoded(Image.fromarray(ramp.astype(np.int32)), "TIFF")
    for source in (as_png, as_pgm, as_float, as_int, ramp, ramp / 65535.0, ramp.astype(np.int64)):
        actual = load_image(source, spec(mode="L"))[..., 0]
        assert abs(actual.astype(int) - expected).max() <= 1
    wide = np.array([[np.nan, -1000.0], [0.0, np.inf]], np.float32)
    assert load_image(wide, spec(2, "L", filter="nearest"))[..., 0].tolist() == [[0, 0], [255, 255]]


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        blob = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert abs(load_image(blob, spec()).astype(int) - RED).max() < 10


@pytest.mark.parametrize("resize", ["shorter", "stretch", "pad"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (10, 4000), (4000, 10), (31, 33), (2, 3)])
def test_every_shape_gives_the_size_asked_for(shape: tuple[int, int], antialias: bool, resize: str) -> None:
    flat = np.full((*shape, 3), 77, np.uint8)
    actual = load_image(flat, spec(24, resize=resize, antialias=antialias, fill=77))
    assert actual.shape == (24, 24, 3)
    assert (actual == 77).all()


def test_resize_keeps_what_it_says_it_keeps() -> None:
    wide = Image.new("RGB", (96, 32), BLUE)
    wide.paste(RED, (32, 0, 64, 32))  # the middle third
    assert (load_image(wide, spec(32)) == RED).all()
    stretched = load_image(wide, spec(32, resize="stretch", filter="nearest"))
    assert (stretched[:, :10] == BLUE).all()
    assert (stretched[:, 12:20] == RED).all()
    padded = load_image(wide, spec(33, resize="pad", fill=9, filter="nearest"))
    assert (padded[:11] == 9).all()
    assert (padded[22:] == 9).all()
    assert (padded[11:22, 12:20] == RED).all()


def test_antialias_averages_and_its_absence_samples() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))  # one pixel wide
    smooth = load_image(stripes, spec(8, "L", filter="bilinear"))
    assert abs(smooth.astype(int) - 127).max() < 25
    sampled = load_image(stripes[:, :63], spec(9, "L", filter="bilinear", antialias=False, resize="stretch"))
    assert {0, 255} >= set(np.unique(sampled))  # 63 / 9 is odd: every sample is a pixel's centre
    for name in ("nearest", "bilinear", "bicubic", "lanczos"):
        grey = np.full((50, 70), 200, np.uint8)
        assert (load_image(grey, spec(8, "L", filter=name, antialias=False)) == 200).all()


@settings(max_examples=30, deadline=None)
@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    size=st.integers(40, 64),
    name=st.sampled_from(["bilinear", "bicubic", "lanczos"]),
    seed=st.integers(0, 99),
)
def test_our_sampling_equals_pillows_where_both_are_defined(
    width: int, height: int, size: int, name: str, seed: int
) -> None:
    """Enlarging needs no antialiasing; Pillow differs within a filter's reach of the edges only."""
    # away from 0 and 255: Pillow clips between its two passes
    pixels = np.random.default_rng(seed).integers(80, 176, (height, width, 3), np.uint8)
    ours = preprocess._sample(pixels, (size, size), name).astype(int)
    theirs = np.asarray(Image.fromarray(pixels).resize((size, size), preprocess._FILTERS[name])).astype(int)
    edge_x, edge_y = -(-3 * size // width), -(-3 * size // height)
    inside = abs(ours - theirs)[edge_y : size - edge_y, edge_x : size - edge_x]
    assert inside.size == 0 or inside.max() <= 2


def keyed_png(samples: np.ndarray, depth: int, key: tuple[int, ...]) -> bytes:
    """A PNG of grey or RGB samples with a colour key; rows of whole bytes by filter 1 (less the left pixel)."""
    height, width = samples.shape[:2]
    rows = []
    for row in samples.reshape(height, -1):
        if depth < 8:
            bits = "".join(format(level, f"0{depth}b") for level in row)
            rows.append(b"\0" + bytes(int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8)))
            continue
        plain = np.frombuffer(row.astype(">u2" if depth == 16 else "u1").tobytes(), np.uint8)
        step = len(key) * depth // 8
        left = np.concatenate([np.zeros(step, np.uint8), plain[:-step]])
        rows.append(b"\1" + (plain - left).tobytes())
    header = struct.pack(">IIBBBBB", width, height, depth, 0 if len(key) == 1 else 2, 0, 0, 0)
    parts = {b"IHDR": header, b"tRNS": struct.pack(f">{len(key)}H", *key), b"IDAT": zlib.compress(b"".join(rows))}
    return (
        b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in parts.items()) + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize(("depth", "channels"), [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3)])
def test_the_key_of_a_png_is_transparent_and_no_other_colour(
    depth: int, channels: int, from_file: bool, tmp_path: Path
) -> None:
    top = (1 << depth) - 1
    rng = np.random.default_rng(depth)
    for key in ((0,) * channels, (top,) * channels, tuple(rng.integers(0, top + 1, channels).tolist())):
        samples = rng.integers(0, top + 1, (16, 16, channels)).astype(np.uint16)
        for at in range(0, 16, 3):
            samples[at, at] = key
            samples[at, at - 1] = key
            samples[at, at - 1, -1] ^= 1  # its neighbour, which in 16 bits has the same high byte
        is_key = (samples == key).all(2)
        blob = keyed_png(samples, depth, key)
        if from_file:
            (tmp_path / "key.png").write_bytes(blob)
        source = tmp_path / "key.png" if from_file else blob
        assert np.array_equal(load_image(source, spec(mode="RGBA"))[..., 3], np.where(is_key, 0, 255))
        shown = np.where(depth == 16 and channels == 3, samples >> 8, np.rint(samples * (255 / top)))
        shown[is_key] = 255
        actual = load_image(source, spec())
        assert abs(actual.astype(int) - shown).max() <= 1
        assert (actual[is_key] == 255).all()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_key_in_an_image_that_pillow_opened() -> None:
    """Read before or after it was decoded; of 16 bits in colour Pillow has kept the high bytes."""
    samples = np.zeros((16, 16, 3), np.uint16)
    samples[:, 8:] = (0x1234, 0x5678, 0x9ABC)
    blob = keyed_png(samples, 16, (0x1234, 0x5678, 0x9ABC))
    image = Image.open(io.BytesIO(blob))
    actual = load_image(image, spec())
    assert (actual[:, 8:] == 255).all() and (actual[:, :8] == 0).all()
    assert image.info["transparency"] == (0x1234, 0x5678, 0x9ABC)  # the caller's own stays as it was
    grey = Image.open(io.BytesIO(keyed_png(samples[..., 0], 16, (0x1234,))))
    grey.load()
    assert (load_image(grey, spec(mode="L"))[:, 8:] == 255).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and which holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_001, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(*size))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=r"bomb\.png"):
            load_image(path, spec())


def test_each_broken_file_is_named_with_its_mend(tmp_path: Path) -> None:
    whole = encoded(Image.effect_noise((64, 64), 90).convert("RGB"), "JPEG")
    cases = {
        "empty.jpg": (b"", "empty"),
        "cut.jpg": (whole[: len(whole) // 2], "damaged or cut short"),
        "text.png": (b"hello, I am no picture", "not a whole image of a known kind"),
        "head.png": (encoded(Image.new("RGB", (9, 9)))[:40], "not a whole image"),
        "eps.jpg": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
            "not a whole image of a known kind",
        ),
    }
    for name, (blob, text) in cases.items():
        path = tmp_path / name
        path.write_bytes(blob)
        with pytest.raises(DataError) as caught:
            load_image(path, spec())
        assert name in str(caught.value)
        assert text in str(caught.value)
        assert ";" in str(caught.value)  # what to do
        assert "\n" not in str(caught.value)
    for name, text in {"": "folder", "missing.png": "No such file", "a\0b": "null"}.items():
        with pytest.raises(DataError, match=text):
            load_image(f"{tmp_path}/{name}", spec())
    with pytest.raises(DataError, match="not a regular file"):
        load_image("/dev/zero", spec())


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_an_array_or_a_data_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"]))
    blob = bytearray(encoded(quarters(), kind))
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(blob) - 1), st.integers(0, 255)), max_size=8)
    ):
        blob[position] = value
    blob = blob[: data.draw(st.integers(1, len(blob)))]
    try:
        actual = load_image(bytes(blob), spec())
    except DataError:
        return
    assert actual.shape == (16, 16, 3)


def test_arrays_that_are_no_image_are_refused() -> None:
    for array in (
        np.zeros((3, 16, 16), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4), np.uint8),
        np.zeros(4),
    ):
        with pytest.raises(DataError, match="shape"):
            load_image(array, spec())
    assert (load_image(np.ones((4, 4), bool), spec()) == 255).all()


def test_the_callers_image_and_array_stay_as_they_were() -> None:
    image = quarters()
    before = image.tobytes()
    load_image(image, spec(8)).fill(0)
    assert (image.tobytes(), image.size, image.mode) == (before, (32, 32), "RGB")
    pixels = np.asarray(image).copy()
    load_image(pixels, spec(32)).fill(0)
    assert pixels.tobytes() == before


def test_many_threads_give_the_same_arrays_and_leave_the_warning_filters_alone() -> None:
    """Pillow warns of each of these: a palette with byte transparency and a large image's header."""
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    blobs = [
        encoded(palette, transparency=bytes([0, 128])),
        encoded(quarters(), "JPEG"),
        bomb(10_001, 10_000),
    ]

    def work(number: int) -> bytes | str:
        try:
            return load_image(blobs[number % 3], spec()).tobytes()
        except DataError as error:
            return str(error)

    alone = [work(number) for number in range(3)]
    before, threads = list(warnings.filters), threading.active_count()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        actual = list(pool.map(work, range(240)))
    assert actual == [alone[number % 3] for number in range(240)]
    assert list(warnings.filters) == before
    assert threading.active_count() == threads


def test_real_photographs_keep_their_look(photos_dir: Path) -> None:
    paths = sorted(photos_dir.glob("val/*/*.jpg"))[:6]
    assert paths
    for path in paths:
        actual = load_image(path, spec(64))
        with Image.open(path) as image:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            box = (left, top, left + side, top + side)
            expected = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC, box))
        assert abs(actual.astype(int) - expected).mean() < 1.0


def test_to_mode_returns_what_is_already_right_untouched() -> None:
    image = quarters()
    assert to_mode(image, "RGB") is image
