"""THE image → array function: training, evaluation, calibration and prediction all come here.

Nothing here scales or normalizes; mean and std are part of the network. ICC profiles are
ignored, as training pipelines do. The orientation in a TIFF or HEIC file is part of the
format: the decoder applies it, whatever `spec.exif` says.
"""

from __future__ import annotations

import contextlib
import errno
import io
import mmap
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from quicknet.core.card import Mode, PreprocessSpec
from quicknet.core.errors import DataError
from quicknet.image._quiet import quiet_pillow
from quicknet.image.engine_scaling import one_block, scaled_by_engine
from quicknet.image.formats import FORMATS, MAX_PIXELS, TransientImageError, check_pixels, identify
from quicknet.image.sources import ImageSource, PlainSource, described, plain

_TRANSPOSED = {  # EXIF 2.3, tag 0x0112: the operation that undoes each orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_KEY_BITS = {"1": 1, "L;2": 2, "L;4": 4, "L": 8, "RGB": 8, "RGB;16B": 16}  # Pillow's raw modes of PNG
_BY_WAY_OF = {"LAB": "RGB", "La": "LA"}  # modes that Pillow converts to nothing else
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def load_image(source: ImageSource, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Return what the network takes: `source` decoded, upright, in the colour mode and size of `spec`.

    `source` is a file's path, an encoded file's bytes or what `read` gives them (an open file, an
    upload), a Pillow image (left as it is), or an array or tensor (H, W) or (H, W, 1 to 4). Returns
    (size, size, channels) uint8, contiguous, the caller's own. The first frame of an
    animation is used; transparency lies over white unless the mode is RGBA. The same input gives the
    same array from any thread.
    Raises DataError naming the image: not an image, cut short, over MAX_PIXELS; and of that
    TransientImageError where another try may succeed: a missing file, right or memory.
    """
    name = described(source)
    pixels = MAX_PIXELS  # until the header says how many
    try:
        with quiet_pillow(), one_block(), _opened(plain(source, name), name) as image:
            pixels = image.width * image.height
            loaded = _loaded(image)
            converted = to_mode(_upright(loaded) if spec.exif else loaded, spec.mode)
            scaled = scaled_by_engine(converted, spec)
            if scaled is None:
                resized = np.asarray(_resized(converted, spec), np.uint8)
                scaled = np.array(resized.reshape(spec.size, spec.size, spec.channels))
        return scaled
    except DataError:
        raise
    # Pillow's decoders raise SyntaxError, struct.error, zlib.error, KeyError and more on hostile files.
    except Exception as error:
        raise _failure(error, name, pixels) from error


def _failure(error: Exception, name: str, pixels: int) -> DataError:
    """Return what to say of an image that was not decoded: TransientImageError where its bytes prove nothing."""
    if isinstance(error, MemoryError):
        return TransientImageError(f"not enough memory for the image ({name}); free some memory or scale it down")
    if isinstance(error, Image.DecompressionBombError):
        return DataError(f"the image is over the limit of {MAX_PIXELS:,} pixels ({name}); scale it down")
    if isinstance(error, UnidentifiedImageError):
        return DataError(f"not a whole image of a known kind ({name}); use one of {', '.join(FORMATS)}")
    # EINVAL: damaged files send their reader to negative offsets
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return TransientImageError(f"cannot read the image ({name}: {error.strerror}); check the disk, then try again")
    reason = " ".join(str(error).split())  # libheif's has line ends
    if not _memory_for(pixels):
        return TransientImageError(
            f"the image cannot be decoded ({name}: {reason}), perhaps for lack of memory; free some, or scale it down"
        )
    return DataError(f"the image is damaged or cut short ({name}: {reason}); replace the file")


def _memory_for(pixels: int) -> bool:
    """Return whether there is memory to decode so many pixels.

    Decoders that lack it call the file broken: libjpeg and libwebp did in every case under `ulimit -v`.
    A progressive JPEG takes 10 bytes a pixel (coefficients, and Pillow's 4), the others less.
    """
    try:
        mmap.mmap(-1, 16 * pixels + (64 << 20)).close()  # reserved, not touched
    except (OSError, MemoryError):
        return False
    return True


def check_images(images: object, spec: PreprocessSpec) -> None:
    """Raise DataError for a batch that is not (N, size, size, channels) uint8, as `load_image` gives each."""
    shape = (spec.size, spec.size, spec.channels)
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[1:] == shape:
        return
    given = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else described(images)
    raise DataError(
        f"the model takes uint8 images (N, {', '.join(map(str, shape))}) as a numpy array, not {given}; "
        "decode them by the card's spec, or use quicknet.predict"
    )


def to_mode(image: Image.Image, mode: Mode) -> Image.Image:
    """Return `image` in 8 bits per channel and colour mode L, RGB or RGBA.

    Transparency of any kind is laid over white for L and RGB. 16-bit grey is scaled by its full
    range. 32-bit integers count as 16-bit ones where they fit, floats as 0..1 or 0..255 where
    they fit; beyond that the image's range is stretched to 0..255, with NaN as its lowest value.
    """
    if image.mode in _BY_WAY_OF:
        image = image.convert(_BY_WAY_OF[image.mode])
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.has_transparency_data:
        # By way of RGBA: from a palette with alpha, Pillow converts to RGB with a warning only.
        image = image.convert("RGBA")
        if mode != "RGBA":
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == mode else image.convert(mode)


@contextlib.contextmanager
def _opened(source: PlainSource, name: str) -> Iterator[Image.Image]:
    """Yield the image with its size checked; its pixels are decoded by `load()`, while the file is open."""
    if isinstance(source, np.ndarray):
        yield _from_array(source, name)
    elif isinstance(source, Image.Image):
        check_pixels(source.size, name)
        yield source
    elif isinstance(source, bytes):
        if not source:
            raise DataError(f"the image is empty ({name}); give the content of an image file")
        yield _with_deep_key(io.BytesIO(source), name)
    else:
        with _opened_file(source, name) as file:
            yield _with_deep_key(file, name)


def open_image(file: IO[bytes], name: str) -> Image.Image:
    """Return the image in an open file by its header; nothing is decoded yet. Raises DataError past MAX_PIXELS."""
    image = identify(file, name)
    check_pixels(image.size, name)
    return image


def _opened_file(path: Path, name: str) -> IO[bytes]:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise TransientImageError(f"a folder where an image file is expected ({name}); name the files in it")
        if not stat.S_ISREG(status.st_mode):  # a named pipe would wait for ever
            raise TransientImageError(f"not a regular file ({name}); name an image file")
        if status.st_size == 0:
            raise DataError(f"the file is empty ({name}); replace it")
        return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise TransientImageError(f"cannot read the image ({name}: {reason}); check its name and rights") from error


def _loaded(image: Image.Image) -> Image.Image:
    """Return the decoded image; a PNG's colour key is scaled as its pixels are, which Pillow leaves to us.

    https://www.w3.org/TR/png-3/#11tRNS: bits above the image's depth do not count. Of 16 bits in
    colour only the high ones are left here; `_with_deep_key` reads all.
    """
    bits = _KEY_BITS.get(_png_mode(image))
    image.load()
    key = image.info.get("transparency")
    if bits is None or not isinstance(key, int | tuple):
        return image
    top, levels = (1 << bits) - 1, key if isinstance(key, tuple) else (key,)
    scaled = tuple(level >> 8 if bits == 16 else (level & top) * 255 // top for level in levels)
    keyed = image.convert("L") if image.mode == "1" else image.copy()
    keyed.info["transparency"] = scaled if isinstance(key, tuple) else scaled[0]
    return keyed


def _png_mode(image: Image.Image) -> str:
    """Return in which mode a PNG file that is not decoded yet keeps its pixels; "" for other images."""
    from PIL import ImageFile  # as every decoder of Pillow imports it

    if not isinstance(image, ImageFile.ImageFile) or image.format != "PNG" or not image.tile:
        return ""
    return str(image.tile[0].args)


def _with_deep_key(file: IO[bytes], name: str) -> Image.Image:
    """Return the image in an open file; of an RGB PNG of 16 bits with a colour key, decoded and with alpha.

    Pillow keeps the high bytes only, by which other colours would be taken for the key. So the file
    is decoded once more, by the mode that takes the other byte of each two.
    """
    from PIL import ImageChops, ImageFile

    image = open_image(file, name)
    key = image.info.get("transparency")
    if _png_mode(image) != "RGB;16B" or not isinstance(key, tuple) or not isinstance(image, ImageFile.ImageFile):
        return image
    image.tile = [image.tile[0]._replace(args="RGB;16L")]
    image.load()
    low = image
    file.seek(0)
    high = open_image(file, name)
    high.load()
    bands = (*high.split(), *low.split())
    levels = (*(level >> 8 for level in key), *(level & 255 for level in key))
    others = Image.new("L", high.size, 0)  # 255 where the pixel is not of the key
    for band, level in zip(bands, levels, strict=True):
        others = ImageChops.lighter(others, band.point([0 if value == level else 255 for value in range(256)]))
    high.putalpha(others)
    del high.info["transparency"]
    return high


def _from_array(array: NDArray[Any], name: str) -> Image.Image:
    """Return an image that shares no memory with `array`. Raises DataError for what is not an image."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    colour = array.ndim == 3 and array.shape[2] in (2, 3, 4) and array.dtype == np.uint8
    grey = array.ndim == 2 and array.dtype.kind in "biuf"
    if not (colour or grey):
        expected = "(H, W) numbers or (H, W, 1 to 4) uint8 in 0..255, channels last"
        raise DataError(f"not an image ({name}, {array.dtype}); give {expected}")
    check_pixels((array.shape[1], array.shape[0]), name)
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
        array = _scaled_16_bit(array)
    elif array.dtype != np.uint8:
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
    return Image.fromarray(np.ascontiguousarray(array))


def _upright(image: Image.Image) -> Image.Image:
    """Undo the EXIF orientation. The image is loaded: TIFF's orientation is gone by now."""
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # the metadata is damaged (any error), the pixels are whole: as if there were no metadata
        return image
    method = _TRANSPOSED.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _scaled_16_bit(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return 0..65535 scaled to 0..255, rounded to nearest: 65535 / 255 = 257."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return deep grey (`I;16`, `I`, `F`) as L, scaled as `to_mode` says; as LA where one level is transparent."""
    values, key = np.asarray(image), image.info.get("transparency")
    grey = _scaled_grey(image.mode, values)
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def _scaled_grey(mode: str, values: NDArray[Any]) -> Image.Image:
    if mode.startswith("I;16") or (mode == "I" and 0 <= values.min() <= values.max() <= 65535):
        return Image.fromarray(_scaled_16_bit(values))
    levels = values.astype(np.float64)
    finite = np.isfinite(levels)
    low = float(levels[finite].min()) if finite.any() else 0.0
    high = float(levels[finite].max()) if finite.any() else 0.0
    levels = np.nan_to_num(levels, nan=low, posinf=high, neginf=low)
    if mode == "F" and low >= 0 and high <= 255:
        levels *= 255.0 if high <= 1 else 1.0
    else:
        levels = (levels - low) * (255.0 / max(high - low, 1e-30))
    return Image.fromarray(np.rint(np.clip(levels, 0, 255)).astype(np.uint8))


def _resized(image: Image.Image, spec: PreprocessSpec) -> Image.Image:
    """Bring to size x size. The crop comes before the scaling: a strip of 1x10,000,000 pixels
    scaled by its shorter side would fill the memory.
    """
    width, height = image.size
    size = spec.size
    if spec.resize == "stretch":
        return _scaled(image, (size, size), spec)
    if spec.resize == "pad":
        scale = size / max(width, height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        colour = (spec.fill,) * 3 + (255,)
        canvas = Image.new(spec.mode, (size, size), spec.fill if spec.mode == "L" else colour[: spec.channels])
        canvas.paste(_scaled(image, inner, spec), ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return canvas
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return _scaled(image.crop((left, top, left + side, top + side)), (size, size), spec)


def _scaled(image: Image.Image, size: tuple[int, int], spec: PreprocessSpec) -> Image.Image:
    """Scale to (width, height). Pillow widens the filter when it shrinks; otherwise `_sample` does the work."""
    shrinks = size[0] < image.width or size[1] < image.height
    if spec.filter == "nearest" or size == image.size:
        return image.resize(size, _FILTERS[spec.filter])
    mode = image.mode
    work = image.convert("RGBa") if mode == "RGBA" else image  # alpha-weighted, as Pillow's resize does
    if spec.antialias or not shrinks:
        # In two steps, as each rounds: in one, Pillow 13 scales tall pictures down before across, 12 never did.
        across = work.resize((size[0], work.height), _FILTERS[spec.filter])
        return across.resize(size, _FILTERS[spec.filter]).convert(mode)
    sampled = _sample(np.atleast_3d(np.asarray(work)), size, spec.filter)
    return Image.frombytes(work.mode, size, sampled.tobytes()).convert(mode)


def _sample(pixels: NDArray[np.uint8], size: tuple[int, int], name: str) -> NDArray[np.uint8]:
    """Interpolate at the new pixels' centres without antialiasing: (h, w, C) → (height, width, C).

    Separable: each new row is a weighted sum of a few old rows, each column likewise; memory
    is a few arrays of the new size, whatever the old one.
    """
    columns, x_weights = _taps(pixels.shape[1], size[0], name)
    rows, y_weights = _taps(pixels.shape[0], size[1], name)
    total = np.zeros((size[1], size[0], pixels.shape[2]), np.float64)
    for row, y_weight in zip(rows.T, y_weights.T, strict=True):
        for column, x_weight in zip(columns.T, x_weights.T, strict=True):
            total += pixels[row[:, None], column] * (y_weight[:, None] * x_weight)[:, :, None]
    return np.rint(np.clip(total, 0, 255)).astype(np.uint8)


_KERNELS: dict[str, tuple[int, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "bilinear": (1, lambda x: 1 - x),
    # Keys' cubic convolution with a = -0.5, as Pillow's resize
    "bicubic": (
        2,
        lambda x: np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2),
    ),
    "lanczos": (3, lambda x: np.sinc(x) * np.sinc(x / 3)),
}


def _taps(old: int, new: int, name: str) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the source indices (new, 2·support), repeated at edges, and their weights (sum 1)."""
    support, kernel = _KERNELS[name]
    centres = (np.arange(new) + 0.5) * (old / new) - 0.5
    indices = np.floor(centres).astype(np.intp)[:, None] + np.arange(1 - support, support + 1)
    weights = kernel(np.abs(centres[:, None] - indices))
    return np.clip(indices, 0, old - 1), weights / weights.sum(1, keepdims=True)
