"""Frames come in real time: every one is answered or counted as dropped."""

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicknet.core.clock import Clock
from quicknet.core.errors import ConfigError
from quicknet.measure.frames import Paced, count_late, holds, latency_ms, pace
from quicknet.measure.realtime import FrameSettings, hold_frames, smallest


class FakeTime:
    """A clock that stands still but for sleeping and working."""

    def __init__(self):
        self.now = 100.0

    def clock(self):
        return Clock(lambda: self.now, self.sleep)

    def sleep(self, seconds):
        self.now += seconds

    def worker(self, seconds, answered):
        def answer(frame):
            answered.append(frame)
            self.now += seconds[len(answered) % len(seconds)]

        return answer


@given(st.floats(1, 200), st.integers(1, 80), st.lists(st.floats(0.0001, 0.2), min_size=1, max_size=9))
def test_every_frame_is_answered_once_in_order_or_dropped(fps, frames, work_s):
    time = FakeTime()
    answered: list[Any] = []
    paced = pace(time.worker(work_s, answered), fps, frames, time.clock())
    assert answered == sorted(set(answered))
    assert all(0 <= frame < frames for frame in answered)
    assert len(answered) == len(paced.latencies_s)
    assert len(answered) + paced.dropped == frames
    # none is answered before it has come
    assert min(paced.latencies_s) >= min(work_s) - 1e-6


def test_a_fast_model_answers_every_frame_in_its_own_time():
    time = FakeTime()
    answered: list[Any] = []
    paced = pace(time.worker([0.004], answered), 60, 120, time.clock())
    assert (paced.dropped, len(answered)) == (0, 120)
    assert paced.latencies_s == pytest.approx([0.004] * 120)
    assert time.now == pytest.approx(100 + 119 / 60 + 0.004)
    assert holds(paced, 60)
    assert latency_ms(paced) == pytest.approx((4, 4, 4))


def test_a_model_that_takes_two_and_a_half_frames_drops_the_stale_ones():
    time = FakeTime()
    answered: list[Any] = []
    paced = pace(time.worker([2.5 / 60], answered), 60, 60, time.clock())
    assert answered[:4] == [0, 2, 5, 7]  # the newest that has come each time
    assert not holds(paced, 60)
    assert count_late(paced.latencies_s, 60) == len(answered)


def test_one_hiccup_in_hundreds_of_frames_is_forgiven_and_many_are_not():
    def paced(dropped, late, frames=200):
        times = (0.01,) * (frames - dropped - late) + (0.02,) * late
        return Paced(frames=frames, dropped=dropped, latencies_s=times)

    assert holds(paced(dropped=2, late=8), 60)
    assert not holds(paced(dropped=3, late=0), 60)
    assert not holds(paced(dropped=0, late=11), 60)
    assert not holds(paced(dropped=2, late=9), 60)


@pytest.mark.parametrize(
    "fields",
    [
        {"fps": 0.0},
        {"fps": float("nan")},
        {"fps": 1.0, "seconds": 0.1},
        {"fps": 60.0, "cpu_share": 0.0},
        {"fps": 60.0, "threads": 0},
    ],
)
def test_frames_that_cannot_be_paced_are_refused(fields):
    with pytest.raises(ConfigError):
        FrameSettings(**fields)


def test_a_model_holds_a_slow_camera_and_not_an_impossible_one(tiny_onnx):
    (slow,) = hold_frames([tiny_onnx], FrameSettings(fps=2, seconds=1.5))
    assert slow.holds
    assert (slow.frames, slow.dropped, slow.late) == (3, 0, 0)
    assert slow.runtime in ("onnxruntime", "openvino")
    assert (slow.jpeg, slow.cpu_share, slow.cpu_share_used) == ("32x32", None, None)
    (fast,) = hold_frames([tiny_onnx], FrameSettings(fps=10_000, seconds=0.2, runtimes=("onnxruntime",)))
    assert not fast.holds
    assert fast.dropped > 0
    assert fast.answered + fast.dropped == fast.frames == 2000


@pytest.mark.skipif(sys.platform != "linux", reason="a CPU share needs Linux")
def test_a_quota_slows_frames_down_and_is_kept(tiny_onnx):
    settings = FrameSettings(fps=2000, seconds=0.6, cpu_share=0.05, runtimes=("onnxruntime",), jpeg=(160, 120))
    (row,) = hold_frames([tiny_onnx], settings)
    assert not row.holds
    assert row.cpu_share == 0.05
    assert row.cpu_share_used is not None and 0 < row.cpu_share_used < 0.1
    assert row.quota != "none"
    assert row.jpeg == "160x120"


@given(st.integers(1, 100))
def test_the_smallest_number_that_holds_is_found_and_asked_for_twice(least: int) -> None:
    asked: list[int] = []

    def holds_with(number: int) -> bool:
        asked.append(number)
        return number >= least

    assert smallest(holds_with) == least
    assert len(asked) <= 10
    assert asked.count(least) == 2 or least == 100


def test_one_lucky_trial_is_not_believed() -> None:
    lucky = iter([True])
    assert smallest(lambda number: number >= 40 or (number == 37 and next(lucky, False))) == 40
    assert smallest(lambda number: False) is None
