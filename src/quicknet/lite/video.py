"""Videos and cameras, frame by frame, through PyAV (the extra `video`): pixels in, answers out.

A file's frames are all classified, however long that takes. Of a camera, and of a file played in
real time, the newest frame counts: what arrives while another is being classified replaces the
one that waits, which is dropped and counted, never queued.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import stat
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import PreprocessSpec
from quicknet.core.clock import SYSTEM_CLOCK, Clock
from quicknet.core.errors import ConfigError, DataError, require_package
from quicknet.core.settings import Settings
from quicknet.lite.address import is_picture_address
from quicknet.lite.classifier import Classifier
from quicknet.lite.predict import Prediction, PredictSettings, classify_images
from quicknet.lite.preprocess import MAX_PIXELS, load_image
from quicknet.lite.sources import is_web_address

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"}
    | {".ogv", ".flv", ".wmv", ".mjpeg", ".mjpg"}
)
# FFmpeg's names of what those suffixes hold. It knows more, among it playlists (HLS, concat) that
# make it open other files and addresses than the one named.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,ogg,flv,live_flv,asf,mjpeg,mpjpeg,h264,hevc"
    ",rtsp,rtp,sdp,video4linux2,v4l2"
)
_SCHEMES = ("rtsp", "rtsps", "rtp", "rtmp", "rtmps", "srt", "udp", "tcp", "http", "https")
_PROTOCOLS = ",".join((*_SCHEMES, "tls", "rtcp", "httpproxy"))
_VIDEO_DEVICES = 81  # major number, Linux's Documentation/admin-guide/devices.txt: video4linux
_SILENCE_S = 10.0  # a camera that sends nothing for so long is gone
_SHORT_S, _SHORT_SHARE = 0.5, 0.02  # of its stated length, by which a whole file may end early
_STOP_S = 2.0


class VideoSettings(Settings, frozen=True, kw_only=True):
    """Which frames: about `fps` of each second (None: all), `realtime` a file as if a camera sent it.

    `seconds` ends a source after that much of the clock's time, None at its own end.
    """

    fps: float | None = None
    realtime: bool = False
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse what means nothing. Raises ConfigError."""
        if self.fps is not None and not 0 < self.fps <= 10_000:
            raise ConfigError(f"fps {self.fps} must lie above 0 and not above 10,000 frames a second")
        if self.seconds is not None and not 0 < self.seconds <= 1e9:
            raise ConfigError(f"seconds {self.seconds} must lie above 0 and not above a billion")


@dataclass
class FrameCounts:
    """What became of a source's frames so far: each that arrived is one of the four others, or still waits.

    `skipped` were not asked for (`fps`), `dropped` came faster than they could be classified,
    `damaged` could not be decoded whole. `seconds` is the clock's time since the start.
    """

    arrived: int = 0
    classified: int = 0
    dropped: int = 0
    skipped: int = 0
    damaged: int = 0
    seconds: float = 0.0

    @property
    def frames_per_second(self) -> float:
        """Frames classified per second of the clock's time."""
        return self.classified / self.seconds if self.seconds > 0 else 0.0


class FramePrediction(Prediction, frozen=True, kw_only=True):
    """A frame's answer: its number from 0 and its time (s), of a camera since it was opened."""

    frame: int
    time_s: float


class Frame(NamedTuple):
    """A decoded frame: number from 0, time (s), the decoder's picture."""

    number: int
    time_s: float
    picture: Any  # av.VideoFrame


def is_video(name: str) -> bool:
    """Return whether a name is a video's: by its suffix, a camera's device or address; not a picture's address."""
    return not is_picture_address(name) and (Path(name).suffix.lower() in VIDEO_SUFFIXES or is_live(name))


def is_live(name: str) -> bool:
    """Return whether a name is a camera's: an address (rtsp://…) or a device (/dev/video0)."""
    if _is_address(name) or name.startswith("/dev/video"):
        return True
    with contextlib.suppress(OSError, ValueError):
        status = Path(name).stat()
        return stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == _VIDEO_DEVICES
    return False


def _is_address(name: str) -> bool:
    scheme, found, _ = name.partition("://")
    return bool(found) and scheme.lower() in _SCHEMES


def classify_video(
    classifier: Classifier,
    name: str,
    settings: PredictSettings | None = None,
    video: VideoSettings | None = None,
    counts: FrameCounts | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Iterator[FramePrediction]:
    """Yield an answer per frame of a video file or camera, in order; `counts` is kept up to date.

    Frames of a file are classified `settings.batch` at a time, those of a camera one by one.
    Raises ToolError where PyAV is missing, DataError for what is no video, is cut short (after
    the answers to what could be read), is over MAX_PIXELS, or a camera that falls silent.
    """
    settings, video, counts = settings or PredictSettings(), video or VideoSettings(), counts or FrameCounts()
    live = video.realtime or is_live(name)
    batch = 1 if live else settings.batch
    started = clock.now()
    waiting: list[tuple[Frame, NDArray[np.uint8]]] = []
    spec = classifier.card.preprocess
    frames = _newest(name, video, counts, clock) if live else _read(name, video, counts, clock)
    with contextlib.closing(frames):
        try:
            for frame in frames:
                waiting.append((frame, _image(frame.picture, spec)))
                counts.seconds = clock.now() - started
                if len(waiting) == batch:
                    yield from _answers(classifier, name, waiting, settings, counts)
                    waiting = []
        except DataError:  # what was read before the damage has its answers
            yield from _answers(classifier, name, waiting, settings, counts)
            counts.seconds = clock.now() - started
            raise
        yield from _answers(classifier, name, waiting, settings, counts)
        counts.seconds = clock.now() - started


def _answers(
    classifier: Classifier,
    name: str,
    waiting: list[tuple[Frame, NDArray[np.uint8]]],
    settings: PredictSettings,
    counts: FrameCounts,
) -> Iterator[FramePrediction]:
    images = [image for _, image in waiting]
    answers = classify_images(classifier, [name] * len(images), images, settings)
    for (frame, _), answer in zip(waiting, answers, strict=True):
        counts.classified += 1
        fields = {field: getattr(answer, field) for field in Prediction.__struct_fields__}
        yield FramePrediction(**fields, frame=frame.number, time_s=frame.time_s)


def _image(picture: Any, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Return what the network takes of a frame, turned upright as the file says where the spec turns images."""
    pixels = picture.to_ndarray(format="rgb24")  # (height, width, 3)
    if spec.exif and picture.rotation % 90 == 0:
        pixels = np.rot90(pixels, picture.rotation // 90)  # both count counterclockwise
    return load_image(pixels, spec)


# --- decoding ------------------------------------------------------------------------------


def _read(name: str, settings: VideoSettings, counts: FrameCounts, clock: Clock) -> Generator[Frame, None, None]:
    """Yield the frames asked for, as fast as they are taken; a camera's by their time of arrival."""
    require_package("av", "a video or camera")
    av = importlib.import_module("av")
    live, started = is_live(name), clock.now()
    due_s = 0.0
    with _open(av, name, live) as container:
        stream = _video_stream(container, name)
        stream.thread_type = "SLICE" if live else "AUTO"  # AUTO gains speed by holding frames back
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        for number, picture in enumerate(_decoded(av, container, stream, name)):
            now_s = clock.now() - started
            if settings.seconds is not None and now_s >= settings.seconds:
                return
            counts.arrived += 1
            if picture is None or picture.is_corrupt:
                counts.damaged += 1
                continue
            time_s = now_s if live else _time_s(stream, picture, number)
            if settings.fps is not None and time_s < due_s:
                counts.skipped += 1
                continue
            if settings.fps is not None:  # the grid's next point after this frame
                due_s = (int(time_s * settings.fps + 1e-6) + 1) / settings.fps - 1e-6
            yield Frame(number, time_s, picture)


def _open(av: Any, name: str, live: bool) -> Any:
    """Return the opened container. Raises DataError for what is no video or not there."""
    device = live and not _is_address(name)
    options = {
        "format_whitelist": _FORMATS,
        "protocol_whitelist": _PROTOCOLS if _is_address(name) else "file",
        "max_pixels": str(MAX_PIXELS),  # for what is decoded in opening
    }
    if not live:
        _check_file(name)
    try:
        return av.open(
            name if live else str(Path(name).absolute()),  # a name such as "concat:a" is a name of a file here
            format="v4l2" if device else None,
            options=options,
            timeout=_SILENCE_S if live else None,
        )
    except (av.error.FFmpegError, ValueError) as error:
        what = "cannot open the camera" if live else "not a video of a known kind, or cut short"
        mend = "check its address and that nothing else uses it" if live else "replace the file"
        if is_web_address(name):
            mend += ", or give a picture's address, which ends in .jpg or another image's suffix"
        raise DataError(f"{what} ({name}: {_reason(error)}); {mend}") from error


def _check_file(name: str) -> None:
    try:
        status = Path(name).stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the video ({name}: {reason}); check its name and rights") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"not a regular file ({name}); name a video file, a camera's device or its address")
    if status.st_size == 0:
        raise DataError(f"the video is empty ({name}); replace it")


def _video_stream(container: Any, name: str) -> Any:
    """Return the first stream of pictures. Raises DataError where there is none."""
    if not container.streams.video:
        raise DataError(f"no pictures in the video ({name}); it is cut short, or sound only")
    return container.streams.video[0]


def _decoded(av: Any, container: Any, stream: Any, name: str) -> Iterator[Any]:
    """Yield every picture, None for one of a camera's that was lost on the way.

    Raises DataError where a file cannot be decoded or ends before its stated end, or a camera is gone.
    """
    live, n, end_s = is_live(name), 0, 0.0
    try:
        for packet in container.demux(stream):
            for picture in _pictures(av, packet, live):
                yield picture
                n += 1
                if picture is not None:
                    length = (picture.duration or 0) * (picture.time_base or 0)
                    end_s = _time_s(stream, picture, n) + float(length)
    except (av.error.FFmpegError, ValueError) as error:
        what = f"the video breaks off after {n} frames" if n else f"no frame up to {MAX_PIXELS:,} pixels in the video"
        mend = "check the camera" if live else "replace the file"
        raise DataError(f"{what} ({name}: {_reason(error)}); {mend}") from error
    if n == 0:
        raise DataError(f"no frame in the video ({name}); it is cut short, or not one")
    stated_s = None if live else _stated_seconds(container, stream)
    if stated_s is not None and end_s < stated_s - 2 / _rate(stream) - max(_SHORT_S, _SHORT_SHARE * stated_s):
        raise DataError(f"the video is cut short: {end_s:.1f} s of {stated_s:.1f} s ({name}); replace the file")


def _pictures(av: Any, packet: Any, live: bool) -> list[Any]:
    try:
        return list(packet.decode())
    except av.error.InvalidDataError:
        if not live:
            raise
        return [None]


def _stated_seconds(container: Any, stream: Any) -> float | None:
    """Return how long the file says that its pictures last; None where it does not, or that may be of its sound."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration) / 1e6
    return None


def _time_s(stream: Any, picture: Any, number: int) -> float:
    """Return a frame's time since the stream's start; by its number where it carries none."""
    if picture.pts is None or picture.time_base is None:
        return number / _rate(stream)
    return float((picture.pts - (stream.start_time or 0)) * picture.time_base)


def _rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]


# --- the newest frame only -----------------------------------------------------------------


class _Mailbox:
    """Room for one frame: the newest. Who reads waits for it; a newer one replaces it."""

    def __init__(self, counts: FrameCounts) -> None:
        self._counts = counts
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._error: Exception | None = None
        self._ended = self._closed = False

    def put(self, frame: Frame) -> bool:
        """Leave a frame in place of any other; returns whether there is still a reader."""
        with self._changed:
            self._counts.dropped += self._frame is not None or self._closed
            self._frame = None if self._closed else frame
            self._changed.notify()
            return not self._closed

    def end(self, error: Exception | None = None) -> None:
        """Say that no more frames come, and why."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify()

    def close(self) -> None:
        """Say that nothing is read any more; a frame that waits is dropped."""
        with self._changed:
            self._counts.dropped += self._frame is not None
            self._frame, self._closed = None, True

    def take(self, timeout_s: float | None) -> Frame | None:
        """Return the next frame, None at the end or when none came in time. Raises the reader's error."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended, timeout_s)
            frame, self._frame = self._frame, None
            if frame is None and self._error is not None:
                raise self._error
            return frame


def _newest(name: str, settings: VideoSettings, counts: FrameCounts, clock: Clock) -> Generator[Frame, None, None]:
    """Yield frames as they come, decoded by a thread of its own: the newest that waits, others are dropped."""
    mailbox = _Mailbox(counts)
    started = clock.now()

    def fill() -> None:
        try:
            frames = _read(name, settings, counts, clock)
            with contextlib.closing(frames):
                for frame in frames:
                    wait_s = started + frame.time_s - clock.now()
                    if not is_live(name) and wait_s > 0:
                        clock.sleep(wait_s)
                    if not mailbox.put(frame):
                        return
            mailbox.end()
        except Exception as error:  # raised where the frames are taken
            mailbox.end(error)

    reader = threading.Thread(target=fill, daemon=True, name="frames")
    reader.start()
    try:
        while True:
            left_s = None if settings.seconds is None else started + settings.seconds - clock.now()
            frame = mailbox.take(left_s) if left_s is None or left_s > 0 else None
            if frame is None:
                return
            yield frame
    finally:
        mailbox.close()
        reader.join(_STOP_S)  # one that a silent camera holds dies with the process
