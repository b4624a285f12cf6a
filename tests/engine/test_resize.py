"""The picture's way into the network in C: bit for bit `image/preprocess.py`, which is Pillow's."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from native import compile_c, run
from quicknet.core.card import CHANNELS, Mode, PreprocessSpec
from quicknet.core.errors import DataError
from quicknet.engine import available, instruction_sets
from quicknet.engine.resize import prepare
from quicknet.image import preprocess
from quicknet.image.preprocess import load_image

pytestmark = pytest.mark.skipif(not available(), reason="no engine here")

FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
RESIZES: tuple[Any, ...] = ("shorter", "stretch", "pad")
MODES: tuple[Mode, ...] = get_args(Mode)


def spec_of(mode: Mode, **fields: Any) -> PreprocessSpec:
    n = CHANNELS[mode]
    return PreprocessSpec(mode=mode, mean=(0.5,) * n, std=(0.5,) * n, **fields)


specs = st.builds(
    spec_of,
    mode=st.sampled_from(MODES),
    size=st.integers(1, 70),
    resize=st.sampled_from(RESIZES),
    filter=st.sampled_from(FILTERS),
    antialias=st.booleans(),
    fill=st.integers(0, 255),
)
sides = st.one_of(st.integers(1, 80), st.integers(1, 400))
# where pixels are black, white and clear, sums are clipped, and alpha is 0 and 255
kinds = st.sampled_from(("noise", "extreme"))


def by_pillow(pixels: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "scaled_by_engine", lambda image, spec: None)
        return load_image(pixels, spec)


def picture(seed: int, height: int, width: int, channels: int, kind: str) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return np.where(pixels > 127, 255, 0).astype(np.uint8) if kind == "extreme" else pixels


@given(specs, st.integers(0, 1 << 30), sides, sides, st.sampled_from((1, 3, 4)), kinds)
@settings(max_examples=250, deadline=None)
def test_equal_to_pillow(spec: PreprocessSpec, seed: int, height: int, width: int, channels: int, kind: str) -> None:
    pixels = picture(seed, height, width, channels, kind)
    assert np.array_equal(prepare(pixels, spec), by_pillow(pixels, spec))
    assert np.array_equal(load_image(pixels, spec), by_pillow(pixels, spec))  # from Pillow's memory


def test_a_picture_that_pillow_keeps_in_blocks() -> None:
    """Over 16 MB: what `load_image` decodes it lets Pillow keep in one, the caller's own it takes as it is."""
    pixels = np.repeat(picture(3, 2500, 20, 3, "noise"), 100, axis=1)
    for mode in MODES:
        spec = spec_of(mode, size=64)
        expected = by_pillow(pixels, spec)
        assert np.array_equal(load_image(pixels, spec), expected)
        assert np.array_equal(load_image(Image.fromarray(pixels), spec), expected)


@pytest.mark.parametrize("filter_", FILTERS)
@pytest.mark.parametrize("antialias", [True, False])
def test_equal_where_sums_lie_halfway(filter_: Any, antialias: bool) -> None:
    """Whole ratios put new pixels between old ones: halves, which the last bit of a sine would decide."""
    for size, ratio, height in ((7, 2, 1), (32, 4, 2), (64, 4, 1), (96, 4, 1), (32, 8, 32), (64, 3, 64)):
        spec = PreprocessSpec(size=size, filter=filter_, antialias=antialias, resize="stretch")
        pixels = picture(size, height, size * ratio, 3, "noise")
        for turned in (pixels, pixels.transpose(1, 0, 2)):
            assert np.array_equal(prepare(turned, spec), by_pillow(turned, spec))


def test_equal_on_large_and_extreme_shapes() -> None:
    for height, width in ((1, 30_000), (30_000, 1), (900, 1300)):
        for resize in RESIZES:
            spec = PreprocessSpec(size=33, resize=resize)
            pixels = picture(1, height, width, 3, "noise")
            assert np.array_equal(prepare(pixels, spec), by_pillow(pixels, spec))


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 4, 2), (4, 4, 5), (4, 4)])
def test_what_is_not_a_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="picture"):
        prepare(np.zeros(shape, np.uint8), PreprocessSpec())


def test_more_than_100_megapixels_are_refused() -> None:
    pixels = np.broadcast_to(np.zeros((1, 1, 1), np.uint8), (10_001, 10_000, 1))
    with pytest.raises(DataError, match="100 megapixels"):
        prepare(pixels, PreprocessSpec())


def test_under_sanitizers(tmp_path: Path) -> None:
    """Arrays as short as resize.h allows; AVX2 and plain C give the same."""
    sources = ("resize.c", "filter.c", "colour.c", "resize_avx2.c", Path(__file__).with_name("resize_all.c"))
    flags = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    program = compile_c(tmp_path / "resize_all", sources, *flags)
    plain = run(program, "plain")
    assert int(plain) > 0
    if "avx2" in instruction_sets():
        assert run(program, "avx2") == plain
