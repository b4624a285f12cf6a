"""Every number of FORMAT.md, once: a test holds the page, the engine's headers and its binding to these.

The format is frozen: what is here never changes within a major version.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

# --- bytes: the header, the table, the digest at the end -------------------------------------

MAGIC = b"\x89QNZ\r\n\x1a\n"
MAJOR, CODED_MAJOR, MINOR = 1, 2, 0  # CODED_MAJOR: of a file with CODE
CARD, NETW, TENS, CARZ, CODE = "CARD", "NETW", "TENS", "CARZ", "CODE"
REQUIRED, CODED_REQUIRED = (CARD, NETW, TENS), (CARZ, NETW, CODE)  # files of version 2 may have CARD for CARZ
RESERVED = ("SIGN",)  # for later versions
SKIPPABLE = 1  # the flag of a section that a reader need not know

HEADER = struct.Struct("<8sHHIQ8s")  # magic, major, minor, sections, length of the file, zeros
ENTRY = struct.Struct("<4sIQQ32s8s")  # kind, flags, offset, length, sha256, zeros
DIGEST_BYTES = 32
MAX_SECTIONS = 64
MAX_FILE_BYTES = 512 << 20

# --- CARZ: the card, compressed --------------------------------------------------------------

CARZ_HEADER = struct.Struct("<I")  # bytes of the text; a zlib stream follows

# --- NETW: the shape -------------------------------------------------------------------------

SHAPE = struct.Struct("<HBBHHII")  # side, channels, 0, layers, 0, classes, 0
LAYER = struct.Struct("<BBBBHBBBBBB4s")  # kind, kernel, stride, pool, channels, sums, shift, 2 zeros and tops, 0
STEM, SEPARABLE = 1, 2  # kinds of a layer

# least and largest
SIDES = (16, 1024)  # of the image, pixels
IMAGE_CHANNELS = (1, 4)
LAYERS = (1, 513)
CLASSES = (1, 100_000)
CHANNELS = (1, 8192)  # of a layer's output
SHIFTS = (0, 30)
STEM_KERNELS = (1, 11)
STEM_STRIDES = (1, 8)
MAX_WEIGHTS = 1 << 28
MAX_MAP = 1 << 26  # values of a feature map

# all that are allowed
KERNELS = (3, 5)  # of a separable layer
SUMS = (1, 2, 4)  # N: a lane is 2 N weights
TOPS = (127, 255)

# --- CODE: the numbers, coded ------------------------------------------------------------------

CODE_HEADER = struct.Struct("<B3s")  # coding, zeros
HUFFMAN, CONTEXTS = 1, 2  # codings
CODED_BLOCK = 4  # weights that are kept or absent together
# TENS has at most EXPANSION bytes for each byte of CODE, beside the first EXPANSION_FREE
EXPANSION, EXPANSION_FREE = 256, 1 << 20

MAX_CODE_BITS = 15  # of a symbol of a prefix code
LENGTH_BITS = 4  # of the length of a symbol's code
MAGNITUDE_BITS = 7  # of a layer's largest magnitude
COUNT_BITS = 32  # of a layer's number of kept blocks
GAP = 63  # the largest; no block comes after it

STATE_LOW = 1 << 16  # the state's least, and at the end
CHANCE_BITS, CODED_CHANCE_BITS = 16, 12  # of a chance as it is kept, and as it is coded with
FIRST_COUNT, LAST_COUNT = 8, 255  # decisions that a chance stands for
CLASSES_OF_DENSITY, CLASSES_OF_MAGNITUDE = 16, 16
DENSITY_SCALE, DENSITY_PRIOR = 24, 8
MAGNITUDE_SHIFT, MAGNITUDE_RATE = 4, 3

# --- arithmetic and bounds -------------------------------------------------------------------

IMAGE_TOP = 255
FRACTION_BITS = 15  # of a multiplier
UNIT = 1 << FRACTION_BITS  # the multiplier that would be 1
INT16_MIN, INT16_MAX = -(1 << 15), (1 << 15) - 1  # of a lane, of t, of a multiplier
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1  # of an accumulator
MAX_WEIGHT = 127  # magnitude

BLOCK = 16  # weights of a sequence, filled up with zeros
# of a block, the indices that are added up in one lane, by N
LANES = {
    1: ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 13), (14, 15)),
    2: ((0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)),
    4: ((0, 1, 4, 5, 8, 9, 12, 13), (2, 3, 6, 7, 10, 11, 14, 15)),
}

# --- width classes ---------------------------------------------------------------------------

Bits = Literal["w7a8", "w7a7", "w6a7", "w5a8"]


@dataclass(frozen=True, slots=True)
class WidthClass:
    """What `--bits` chooses: the top of every map, and N of pointwise layers and of the stem."""

    top: int
    sums: int
    stem_sums: int


WIDTHS: dict[Bits, WidthClass] = {
    "w7a8": WidthClass(top=255, sums=1, stem_sums=1),
    "w7a7": WidthClass(top=127, sums=2, stem_sums=1),
    "w6a7": WidthClass(top=127, sums=4, stem_sums=2),
    "w5a8": WidthClass(top=255, sums=4, stem_sums=2),
}
