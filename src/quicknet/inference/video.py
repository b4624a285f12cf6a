"""Videos and cameras, frame by frame, through PyAV (the extra `video`): pixels in, answers out.

All frames of a file are classified, however long that takes. Of a camera, or a file played in
real time, the newest frame is classified: a frame that arrives while another is being classified
replaces the one that waits, which is dropped and counted. Frames are never queued.
"""

from __future__ import annotations

import contextlib
import importlib
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
from quicknet.image.formats import MAX_PIXELS
from quicknet.image.preprocess import load_image
from quicknet.image.sources import is_web_address
from quicknet.inference.classifier import Classifier
from quicknet.inference.names import CAMERA_SCHEMES, is_camera_address, is_live
from quicknet.inference.predict import Prediction, PredictSettings, classify_images

# FFmpeg's names for the formats of those suffixes. It knows more formats, such as playlists (HLS,
# concat), which make it open files and addresses that were not named.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,ogg,flv,live_flv,asf,mjpeg,mpjpeg,h264,hevc"
    ",rtsp,rtp,sdp,video4linux2,v4l2"
)
_PROTOCOLS = ",".join((*CAMERA_SCHEMES, "tls", "rtcp", "httpproxy"))
_SILENCE_S = 10.0  # a camera that sends nothing for so long is lost
_SHORT_S, _SHORT_SHARE = 0.5, 0.02  # a whole file may end so much before its stated length: seconds, share
_STOP_S = 2.0


class VideoSettings(Settings, frozen=True, kw_only=True):
    """Which frames: about `fps` of each second (None: all); with `realtime`, a file as if a camera sent it.

    `seconds` ends a source after that much time on the clock; None: at the end of the source.
    """

    fps: float | None = None
    realtime: bool = False
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range. Raises ConfigError."""
        if self.fps is not None and not 0 < self.fps <= 10_000:
            raise ConfigError(f"fps {self.fps} must lie above 0 and not above 10,000 frames a second")
        if self.seconds is not None and not 0 < self.seconds <= 1e9:
            raise ConfigError(f"seconds {self.seconds} must lie above 0 and not above a billion")


@dataclass
class FrameCounts:
    """How a source's frames were handled so far: each that arrived is counted once below, or still waits.

    `skipped` frames were left out by `fps`, `dropped` ones arrived faster than they could be
    classified, `damaged` ones could not be decoded. `seconds` is the time since the start.
    """

    arrived: int = 0
    classified: int = 0
    dropped: int = 0
    skipped: int = 0
    damaged: int = 0
    seconds: float = 0.0

    @property
    def frames_per_second(self) -> float:
        """Frames classified per second."""
        return self.classified / self.seconds if self.seconds > 0 else 0.0


class FramePrediction(Prediction, frozen=True, kw_only=True):
    """A frame's answer, with its number from 0 and its time (s) in the file, or since the camera was opened."""

    frame: int
    time_s: float


class Frame(NamedTuple):
    """A decoded frame: number from 0, time (s), the decoder's picture."""

    number: int
    time_s: float
    picture: Any  # av.VideoFrame


def classify_video(
    classifier: Classifier,
    name: str,
    settings: PredictSettings | None = None,
    video: VideoSettings | None = None,
    counts: FrameCounts | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Generator[FramePrediction, None, None]:
    """Yield an answer per frame of a video file or camera, in order; `counts` is kept up to date.

    Frames of a file are classified `settings.batch` at a time, those of a camera one by one.
    Raises ToolError where PyAV is missing; DataError for a file that is not a video, is cut short
    (after the answers for the frames that could be read) or is over MAX_PIXELS, and for a camera
    that stops sending.
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
        except DataError:  # the frames before the damage are answered
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
    """Return the network's input for a frame, turned upright by the file's rotation if the spec turns images."""
    pixels = picture.to_ndarray(format="rgb24")  # (height, width, 3)
    if spec.exif and picture.rotation % 90 == 0:
        pixels = np.rot90(pixels, picture.rotation // 90)  # both count counterclockwise
    return load_image(pixels, spec)


# --- decoding ------------------------------------------------------------------------------


def _read(name: str, settings: VideoSettings, counts: FrameCounts, clock: Clock) -> Generator[Frame, None, None]:
    """Yield the selected frames, as fast as the caller takes them; a camera's have their time of arrival."""
    require_package("av", "a video or camera")
    av = importlib.import_module("av")
    live, started = is_live(name), clock.now()
    due_s = 0.0
    with _open(av, name, live) as container:
        stream = _video_stream(container, name)
        stream.thread_type = "SLICE" if live else "AUTO"  # AUTO is faster, but delivers frames late
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
            if settings.fps is not None:  # the next multiple of 1 / fps after this frame
                due_s = (int(time_s * settings.fps + 1e-6) + 1) / settings.fps - 1e-6
            yield Frame(number, time_s, picture)


def _open(av: Any, name: str, live: bool) -> Any:
    """Return the opened container. Raises DataError for a file that is missing or is not a video."""
    device = live and not is_camera_address(name)
    options = {
        "format_whitelist": _FORMATS,
        "protocol_whitelist": _PROTOCOLS if is_camera_address(name) else "file",
        "max_pixels": str(MAX_PIXELS),  # for the frames that are decoded while opening
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
    """Return the first stream of pictures. Raises DataError for a container without pictures."""
    if not container.streams.video:
        raise DataError(f"no pictures in the video ({name}); it is cut short, or sound only")
    return container.streams.video[0]


def _decoded(av: Any, container: Any, stream: Any, name: str) -> Iterator[Any]:
    """Yield every picture, or None for a camera's picture that was lost in transmission.

    Raises DataError if a file cannot be decoded or ends too early, or a camera stops sending.
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
        raise DataError(f"no frame in the video ({name}); it is cut short, or not a video")
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
    """Return the stated length of the pictures in seconds; None if there is none, or if it may be of the sound."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration) / 1e6
    return None


def _time_s(stream: Any, picture: Any, number: int) -> float:
    """Return a frame's time since the stream's start, computed from its number if it carries no time."""
    if picture.pts is None or picture.time_base is None:
        return number / _rate(stream)
    return float((picture.pts - (stream.start_time or 0)) * picture.time_base)


def _rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]


# --- the newest frame only -----------------------------------------------------------------


class _Mailbox:
    """Holds one frame, the newest. The reader waits for it; a newer frame replaces it."""

    def __init__(self, counts: FrameCounts) -> None:
        self._counts = counts
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._error: Exception | None = None
        self._ended = self._closed = False

    def put(self, frame: Frame) -> bool:
        """Replace the frame; return whether there is still a reader."""
        with self._changed:
            self._counts.dropped += self._frame is not None or self._closed
            self._frame = None if self._closed else frame
            self._changed.notify()
            return not self._closed

    def end(self, error: Exception | None = None) -> None:
        """Announce that no more frames come, and why."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify()

    def close(self) -> None:
        """Announce that the reader has left; a frame that waits is dropped."""
        with self._changed:
            self._counts.dropped += self._frame is not None
            self._frame, self._closed = None, True

    def take(self, timeout_s: float | None) -> Frame | None:
        """Return the next frame, or None at the end or after the time-out. Raises the error passed to `end`."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended, timeout_s)
            frame, self._frame = self._frame, None
            if frame is None and self._error is not None:
                raise self._error
            return frame


def _newest(name: str, settings: VideoSettings, counts: FrameCounts, clock: Clock) -> Generator[Frame, None, None]:
    """Yield the newest frame each time; a separate thread decodes them, and the others are dropped."""
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
        reader.join(_STOP_S)  # a thread that waits for a silent camera ends with the process
