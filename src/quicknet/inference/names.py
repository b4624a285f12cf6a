"""What a name stands for: a video, a camera, or else a picture. Apart from `video`, which pictures need not load."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from quicknet.inference.address import is_picture_address

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"}
    | {".ogv", ".flv", ".wmv", ".mjpeg", ".mjpg"}
)
CAMERA_SCHEMES = ("rtsp", "rtsps", "rtp", "rtmp", "rtmps", "srt", "udp", "tcp", "http", "https")
_VIDEO_DEVICES = 81  # major number, Linux's Documentation/admin-guide/devices.txt: video4linux


def is_video(name: str) -> bool:
    """Return whether a name is a video's: by its suffix, a camera's device or address; not a picture's address."""
    return not is_picture_address(name) and (Path(name).suffix.lower() in VIDEO_SUFFIXES or is_live(name))


def is_live(name: str) -> bool:
    """Return whether a name is a camera's: an address (rtsp://…) or a device (/dev/video0)."""
    if is_camera_address(name) or name.startswith("/dev/video"):
        return True
    with contextlib.suppress(OSError, ValueError):
        status = Path(name).stat()
        return stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == _VIDEO_DEVICES
    return False


def is_camera_address(name: str) -> bool:
    """Return whether a name is an address that FFmpeg can open; a picture's web address is one too."""
    scheme, separator, _ = name.partition("://")
    return bool(separator) and scheme.lower() in CAMERA_SCHEMES
