import io
import sys

import pytest

from quicknet.core import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_live_line(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress("decoding", 40, "images") as advance:
        advance(40)
    assert "decoding" in screen.getvalue() and "40/40 images" in screen.getvalue()


def test_elsewhere_a_line_every_30_seconds_with_rate_and_time_left(capsys):
    times = iter([0.0, 10.0, 40.0, 50.0])
    lines = progress._Lines("downloading", 100_000_000, "bytes", lambda: next(times))
    for _ in range(3):
        lines.advance(20_000_000)
    out, err = capsys.readouterr()
    assert out == "" and err == "downloading: 40/100 MB, 1.0 MB/s, 60 s left\n"


def test_what_has_no_known_end_shows_no_time_left(capsys, monkeypatch):
    times = iter([0.0, 40.0])
    progress._Lines("downloading", 0, "bytes", lambda: next(times)).advance(20_000_000)
    assert capsys.readouterr().err == "downloading: 20 MB, 0.5 MB/s\n"
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress("downloading", 0, "bytes") as advance:
        advance(20_000_000)
    assert "20 MB" in screen.getvalue() and "20/0" not in screen.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_and_short_work_show_nothing(monkeypatch, terminal):
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress.progress("decoding", 1, "images", quiet=terminal) as advance:
        advance(1)
    assert screen.getvalue() == ""
