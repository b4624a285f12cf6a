"""Every frame of a file has its answer; of a camera the newest has, and the others are counted."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clips import BLUE, GREEN, RED, truncated, turned_clockwise, write_clip
from colours import Colours
from quicknet.core.errors import ConfigError, DataError, ToolError
from quicknet.inference import video
from quicknet.inference.names import is_video
from quicknet.inference.predict import PredictSettings
from quicknet.inference.video import FrameCounts, FramePrediction, VideoSettings, classify_video

pytest.importorskip("av", reason="videos need the package av (extra `video`)")

SEQUENCE = [RED] * 5 + [GREEN] * 5 + [BLUE] * 10
LABELS = ["red"] * 5 + ["green"] * 5 + ["blue"] * 10


class Slow(Colours):
    """Takes 0.12 s an answer."""

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(0.12)
        return super().logits(images)


def answers(name: Path | str, counts: FrameCounts | None = None, **settings: Any) -> list[FramePrediction]:
    return list(classify_video(Colours(), str(name), PredictSettings(), VideoSettings(**settings), counts))


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "ts"])
@pytest.mark.parametrize("batch", [1, 7, 32])
def test_every_frame_of_a_file_is_answered_in_order(kind: str, batch: int, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / f"clip.{kind}", SEQUENCE, codec="mpeg2video" if kind == "ts" else "mpeg4")
    model, counts = Colours(), FrameCounts()
    predictions = list(classify_video(model, str(clip), PredictSettings(batch=batch), counts=counts))
    assert [answer.label for answer in predictions] == LABELS
    assert [answer.frame for answer in predictions] == list(range(20))
    assert [answer.time_s for answer in predictions] == pytest.approx([n / 10 for n in range(20)], abs=1e-3)
    assert max(model.batches) == min(batch, 20)
    assert (counts.arrived, counts.classified, counts.dropped, counts.skipped, counts.damaged) == (20, 20, 0, 0, 0)
    assert counts.frames_per_second > 0


def test_some_frames_of_each_second(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", SEQUENCE)
    counts = FrameCounts()
    assert [answer.frame for answer in answers(clip, counts, fps=2.0)] == [0, 5, 10, 15]
    assert (counts.arrived, counts.classified, counts.skipped) == (20, 4, 16)
    assert [answer.frame for answer in answers(clip, fps=3.0)] == [0, 4, 7, 10, 14, 17]  # thirds fall between frames
    assert len(answers(clip, fps=30.0)) == 20


def test_a_file_in_real_time_takes_its_time_and_drops_what_comes_too_fast(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", SEQUENCE, fps=20)
    counts, started = FrameCounts(), time.perf_counter()
    predictions = list(classify_video(Slow(), str(clip), video=VideoSettings(realtime=True), counts=counts))
    assert 0.9 < time.perf_counter() - started < 5
    assert counts.arrived == 20 == counts.classified + counts.dropped
    assert counts.classified == len(predictions) <= 12  # 1 s of 0.12 s each, and what was left at the end
    assert counts.dropped >= 8
    frames = [answer.frame for answer in predictions]
    assert frames == sorted(set(frames))
    assert frames[-1] == 19  # the newest is never the one that is dropped
    assert [answer.label for answer in predictions] == [LABELS[frame] for frame in frames]


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[str]:
    """A network camera: sends a clip of 2 s in its own time over TCP."""
    blob = write_clip(tmp_path / "clip.ts", SEQUENCE, codec="mpeg2video").read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send() -> None:
            connection, _ = server.accept()
            with connection:
                for start in range(0, len(blob), len(blob) // 20):
                    connection.sendall(blob[start : start + len(blob) // 20])
                    time.sleep(0.03)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        thread.join(5)


def test_of_a_camera_the_newest_frame_is_answered_and_the_others_are_counted(camera: str) -> None:
    counts = FrameCounts()
    predictions = list(classify_video(Slow(), camera, counts=counts))
    assert counts.arrived == 20 == counts.classified + counts.dropped
    assert 1 <= len(predictions) == counts.classified < 20
    assert all(answer.label == LABELS[answer.frame] for answer in predictions)
    times = [answer.time_s for answer in predictions]
    assert times == sorted(times)


def test_a_source_ends_after_the_time_asked_for_and_every_frame_is_counted(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [RED] * 60)
    counts, started = FrameCounts(), time.perf_counter()
    predictions = answers(clip, counts, realtime=True, seconds=0.5)
    assert time.perf_counter() - started < 3
    assert 1 <= len(predictions) <= 7
    assert counts.arrived == counts.classified + counts.dropped


def test_who_leaves_early_leaves_no_thread_behind(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [RED] * 60, fps=30)
    frames = classify_video(Colours(), str(clip), video=VideoSettings(realtime=True))
    next(frames)
    frames.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "frames"]


def test_a_phones_video_is_turned_upright(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [RED] * 2, left_only=True)

    class Halves(Colours):
        def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            self.image = images[0].astype(int)
            return super().logits(images)

    def red(model: Halves, *part: slice) -> float:
        return float(model.image[part][..., 0].mean())

    model, half, rest = Halves(), slice(0, 6), slice(10, 16)
    list(classify_video(model, str(clip)))
    assert red(model, slice(None), half) > 200 > 60 > red(model, slice(None), rest)
    list(classify_video(model, str(turned_clockwise(clip))))
    assert red(model, half, slice(None)) > 200 > 60 > red(model, rest, slice(None))


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi"])
def test_what_was_read_of_a_truncated_video_has_its_answers_then_it_is_refused(kind: str, tmp_path: Path) -> None:
    clip = truncated(write_clip(tmp_path / f"clip.{kind}", SEQUENCE * 3), 0.6)
    counts, actual = FrameCounts(), []
    with pytest.raises(DataError, match=r"cut short|breaks off|not a video") as error:
        for answer in classify_video(Colours(), str(clip), counts=counts):
            actual.append(answer)
    assert str(clip) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(actual) == counts.classified < 60
    assert [answer.label for answer in actual] == (LABELS * 3)[: len(actual)]
    if kind != "avi":  # whose index lies at its end
        assert len(actual) > 10


def absurd(path: Path, first: int = 0) -> Path:
    """Write a motion JPEG whose frames from `first` on say 60000x60000 pixels."""
    blob = write_clip(path, SEQUENCE, codec="mjpeg").read_bytes()
    said, claimed = (b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", *size) for size in ((48, 64), (60000, 60000)))
    parts = blob.split(said)
    assert len(parts) == 21
    path.write_bytes(said.join(parts[: first + 1]) + claimed + claimed.join(parts[first + 1 :]))
    return path


def playlist(path: Path) -> Path:
    """Write what makes FFmpeg open another file than the one named."""
    target = write_clip(path.parent / "other.ts", SEQUENCE, codec="mpeg2video")
    path.write_text(f"#EXTM3U\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n")
    return path


def sized(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda folder: sized(folder / "a.mp4", b"not a video " * 999), "not a video of a known kind"),
        (lambda folder: sized(folder / "a.mp4", b""), "empty"),
        (lambda folder: sized(folder / "a.mp4", b"\0" * 100_000), "not a video of a known kind"),
        (lambda folder: folder / "none.mp4", "No such file"),
        (lambda folder: folder, "not a regular file"),
        (lambda folder: absurd(folder / "a.avi"), "no frame up to 100,000,000 pixels"),
        (lambda folder: absurd(folder / "a.avi", 10), "breaks off after"),
        (lambda folder: playlist(folder / "a.mp4"), "not a video of a known kind"),
        (lambda folder: "/dev/video-none", "cannot open the camera"),
        (lambda folder: "tcp://127.0.0.1:1", "cannot open the camera"),
        (lambda folder: "nul\0.mp4", "cannot read the video"),
    ],
)
def test_what_is_no_video_is_one_line_in_under_a_second(make, text: str, tmp_path: Path) -> None:
    name = str(make(tmp_path))
    started = time.perf_counter()
    with pytest.raises(DataError, match=text) as error:
        answers(name)
    assert time.perf_counter() - started < 1
    assert "\n" not in str(error.value)


def test_a_camera_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_SILENCE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(DataError, match="camera"):
        answers(f"tcp://127.0.0.1:{server.getsockname()[1]}")


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    clip = write_clip(tmp_path / "clip.mp4", [RED])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ToolError, match=r"quicknet-vision\[video\]"):
        answers(clip)


def test_what_is_taken_for_a_video() -> None:
    for name in ("a.mp4", "A.MOV", "b/c.webm", "rtsp://host/stream", "http://host/a", "/dev/video0"):
        assert is_video(name)
    for name in ("a.jpg", "a.gif", "-", "folder", "file:///a.jpg", "/dev/null", "mailto://a"):
        assert not is_video(name)


@pytest.mark.parametrize("fields", [{"fps": 0.0}, {"fps": -1.0}, {"fps": 1e9}, {"seconds": 0.0}])
def test_settings_that_mean_nothing_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        VideoSettings(**fields)
