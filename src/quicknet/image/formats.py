"""Which formats of image files are read, and how a file in one of them is opened."""

from __future__ import annotations

import functools
import importlib.util
import re
import threading
from typing import IO, TYPE_CHECKING

from quicknet.core.errors import DataError, ToolError, require_package

if TYPE_CHECKING:
    from PIL.Image import Image

# 100 MP decode to 300 MB; a header that claims more is refused before anything is decoded.
MAX_PIXELS = 100_000_000

# What is decoded at all. Pillow knows more, among it formats that start other programs (EPS runs
# Ghostscript) and formats without a signature, which recognize nearly anything (TGA).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k"}
)
HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})  # pictures that phones take
_HEIF = "HEIF"  # pillow_heif's name of the format

# ISO/IEC 23008-12, annex B: HEVC in a still image or a sequence; then the brands of AVIF, which Pillow reads
_HEVC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_ANY_BRANDS = frozenset({b"mif1", b"msf1"})
_HEAD_BYTES = 256  # more than any writer's list of brands
_LIMIT_HEIF_BYTES = 256 << 20  # pillow_heif reads the whole file into memory
_LIMIT_BOXES = 1000  # of a file's outermost ones; phones write three

_registering = threading.Lock()


class TransientImageError(DataError):
    """An image that could not be read now, for a reason that its bytes do not prove: memory, disk, rights, an extra."""


@functools.cache
def reads_heif() -> bool:
    """Return whether the package that reads HEIC is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def image_suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of the files that can be read with what is installed."""
    return IMAGE_SUFFIXES | HEIC_SUFFIXES if reads_heif() else IMAGE_SUFFIXES


def heif_version() -> str:
    """Return the version of the package that reads HEIC, "" where it is not installed."""
    from importlib import metadata

    return metadata.version("pillow-heif") if reads_heif() else ""


def identify(file: IO[bytes], name: str) -> Image:
    """Return the image in an open file by its header, not decoded yet.

    Raises DataError naming the extra where the file is HEIF and its reader is not installed, and
    what Pillow raises.
    """
    from PIL import Image, UnidentifiedImageError

    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if not is_heif(head):
        return Image.open(file, formats=FORMATS)
    _register_heif(name)
    size_bytes = file.seek(0, 2)
    if size_bytes > _LIMIT_HEIF_BYTES:
        raise DataError(
            f"the image is {size_bytes:,} bytes ({name}), over the limit of {_LIMIT_HEIF_BYTES:,} for HEIF; "
            "scale it down"
        )
    for size in _coded_sizes(file, size_bytes):
        check_pixels(size, name)
    file.seek(0)
    try:
        return Image.open(file, formats=(_HEIF,))
    except UnidentifiedImageError as error:  # pillow_heif raises it for damage and for lack of memory
        raise ValueError("its HEIF structure cannot be read") from error


def _coded_sizes(file: IO[bytes], size_bytes: int) -> list[tuple[int, int]]:
    """Return every size that a HEIF file claims: (width, height) of each property `ispe`; it has at least one.

    The picture's own size tells less: it may be cut out of a coded one (`clap`), which is decoded whole.
    libheif decodes nothing larger than what `ispe` says. Raises ValueError where there is none.
    """
    sizes: list[tuple[int, int]] = []
    at = 0
    for _ in range(_LIMIT_BOXES):
        file.seek(at)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4]), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16])
        length = min(length or size_bytes, size_bytes - at)  # 0: to the end of the file
        if kind == b"meta":
            file.seek(at)
            meta = file.read(length)
            claims = re.finditer(rb"ispe\0{4}(.{4})(.{4})", meta, re.DOTALL)
            sizes += [(int.from_bytes(claim[1]), int.from_bytes(claim[2])) for claim in claims]
        at += length
        if length < 8 or at >= size_bytes:
            break
    if not sizes:
        raise ValueError("its HEIF structure does not name a size")
    return sizes


def check_pixels(size: tuple[int, int], name: str) -> None:
    """Raise DataError for an image without pixels, or with more than MAX_PIXELS."""
    width, height = size
    if width < 1 or height < 1:
        raise DataError(f"the image has no pixels ({name}); replace it")
    if width * height > MAX_PIXELS:
        raise DataError(
            f"the image is {width}x{height} pixels ({name}), over the limit of {MAX_PIXELS:,}; scale it down"
        )


def is_heif(head: bytes) -> bool:
    r"""Return whether a file that begins so is HEIF with HEVC in it, as phones take pictures.

    >>> is_heif(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    True
    >>> is_heif(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf")
    False
    """
    if head[4:8] != b"ftyp":
        return False
    size = min(int.from_bytes(head[:4]), len(head))
    major, others = head[8:12], {head[at : at + 4] for at in range(16, size - 3, 4)}
    if major in _HEVC_BRANDS:
        return True
    return major in _ANY_BRANDS and not others & _AVIF_BRANDS


def _register_heif(name: str) -> None:
    """Make Pillow read HEIF, on the first file that is. Raises TransientImageError naming the extra."""
    from PIL import Image

    try:
        require_package("pillow_heif", f"a HEIC picture ({name})")
        with _registering:
            if _HEIF not in Image.OPEN:
                import pillow_heif

                pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    except ToolError as error:
        raise TransientImageError(str(error)) from error
    except ImportError as error:
        raise TransientImageError(
            f"pillow_heif, which reads HEIC pictures, cannot be loaded ({name}: {error}); install it again"
        ) from error
