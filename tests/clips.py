"""Small video clips that tests draw themselves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
_IDENTITY = b"".join(n.to_bytes(4, "big") for n in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
_CLOCKWISE = b"".join((n % (1 << 32)).to_bytes(4, "big") for n in (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30))


def write_clip(
    path: Path, colours: Sequence[tuple[int, int, int]], fps: int = 10, codec: str = "mpeg4", left_only: bool = False
) -> Path:
    """Write a frame of each colour, 64x48 pixels, all over or on its left half; its index comes first (.mp4)."""
    av = pytest.importorskip("av", reason="clips need the package av (extra `video`)")
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = 400_000
        for colour in colours:
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[:, : 32 if left_only else 64] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def turned_clockwise(path: Path) -> Path:
    """Have an .mp4 say, as a phone held upright does, that its pictures are to be turned by 90 degrees."""
    before, mark, after = path.read_bytes().rpartition(_IDENTITY)  # the track's; the first one is the file's
    assert mark
    path.write_bytes(before + _CLOCKWISE + after)
    return path


def truncated(path: Path, share: float) -> Path:
    blob = path.read_bytes()
    path.write_bytes(blob[: int(share * len(blob))])
    return path
