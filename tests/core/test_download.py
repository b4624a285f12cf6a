"""Fetching from servers that fail, lie or never end: what is kept is whole, and the loop ends."""

import errno
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quicknet.core.download import Download, fetch
from quicknet.core.errors import DataError, ToolError
from serving import Server

CONTENT = np.random.default_rng(0).bytes(1_000_000)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(CONTENT)
    yield server
    server.close()


def requested(server: Server, **changes: Any) -> Download:
    plain = Download(
        url=f"{server.url}/weights.qnz",
        algorithm="sha256",
        checksum=hashlib.sha256(CONTENT).hexdigest(),
        limit_bytes=len(CONTENT),
        what="file of weights",
        otherwise="put the file at PLACE",
        wrong="update QuickNet",
    )
    return replace(plain, **changes)


def get(what: Download, part: Path) -> None:
    fetch(what, part, quiet=True, sleep=lambda seconds: None)


def one_line(error: pytest.ExceptionInfo) -> str:
    (line,) = str(error.value).splitlines()
    return line


def test_a_file_arrives_whole(server: Server, tmp_path: Path):
    get(requested(server), tmp_path / "new folder" / "w.part")
    assert (tmp_path / "new folder" / "w.part").read_bytes() == CONTENT
    assert server.asked == [None]


def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, tmp_path: Path):
    part = tmp_path / "w.part"
    server.die_after = [300_000] + [0] * 20
    with pytest.raises(ToolError) as error:
        get(requested(server), part)
    assert "run the same command again to continue where it stopped, or put the file at PLACE" in one_line(error)
    assert part.read_bytes() == CONTENT[:300_000]
    server.die_after, server.asked = [], []
    get(requested(server), part)
    assert part.read_bytes() == CONTENT and server.asked == ["bytes=300000-"]


def test_what_cannot_be_resumed_is_fetched_from_the_start(server: Server, tmp_path: Path):
    """A beginning of another version, one that is too long, and a server without ranges."""
    part = tmp_path / "w.part"
    for beginning, ranges in ((b"x" * 500, True), (CONTENT + b"more", True), (CONTENT[:500], False)):
        part.write_bytes(beginning)
        server.ranges = ranges
        get(requested(server), part)
        assert part.read_bytes() == CONTENT


def test_another_content_is_refused_and_not_kept(server: Server, tmp_path: Path):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(DataError, match="wrong checksum") as error:
        get(requested(server), tmp_path / "w.part")
    assert "try again later, or update QuickNet" in one_line(error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("said", [-1, 10])
def test_a_truncated_answer_is_refused(said: int, server: Server, tmp_path: Path):
    """Cut where no length or a short one is said: only the checksum can tell."""
    server.content, server.length = CONTENT[:10], said
    with pytest.raises(DataError, match="wrong checksum"):
        get(requested(server), tmp_path / "w.part")
    assert not list(tmp_path.iterdir())


def test_a_length_that_promises_more_than_comes_does_no_harm(server: Server, tmp_path: Path):
    server.length = len(CONTENT) + 5_000
    get(requested(server, limit_bytes=2_000_000), tmp_path / "w.part")
    assert (tmp_path / "w.part").read_bytes() == CONTENT


def test_a_length_over_the_limit_is_refused_before_a_byte_is_written(server: Server, tmp_path: Path):
    server.length = 1 << 40
    with pytest.raises(ToolError, match="the file of weights has at most 1,000,000"):
        get(requested(server), tmp_path / "w.part")
    assert not list(tmp_path.iterdir())


def test_an_answer_without_end_is_cut_off(server: Server, tmp_path: Path):
    server.endless, server.length = True, -1
    with pytest.raises(ToolError, match="it goes on past 1,000,000 bytes") as error:
        get(requested(server), tmp_path / "w.part")
    one_line(error)
    assert (tmp_path / "w.part").stat().st_size <= 1_000_000


def test_a_server_that_all_but_stands_still_is_given_up(server: Server, tmp_path: Path):
    """By the clock: each reading of it is 61 s later, and 20 kB came."""
    server.content = CONTENT[:20_000]
    ticks = itertools.count(0, 61)
    with pytest.raises(ToolError, match="bytes a second"):
        fetch(requested(server), tmp_path / "w.part", quiet=True, clock=lambda: float(next(ticks)))


def test_connections_that_bring_a_byte_each_end_too(server: Server, tmp_path: Path):
    server.die_after = [1] * 100
    with pytest.raises(ToolError, match="the connection ended early"):
        get(requested(server), tmp_path / "w.part")
    assert len(server.asked) < 10


@pytest.mark.parametrize("url", ["file:///etc/passwd", "weights.qnz", "ftp://example.invalid/w", "", "http:///w"])
def test_an_address_that_is_none_is_refused(url: str, tmp_path: Path):
    with pytest.raises(ToolError, match="cannot download"):
        get(Download(url, "sha256", "0" * 64, 10, "file", "name a path", "update"), tmp_path / "w.part")


@pytest.mark.parametrize("url", ["http://127.0.0.1:port/w", "http://127.0.0.1:9/a b\n"])
def test_an_address_that_cannot_be_asked_is_one_line(url: str, tmp_path: Path):
    with pytest.raises(ToolError, match="cannot download") as error:
        get(Download(url, "sha256", "0" * 64, 10, "file", "name a path", "update"), tmp_path / "w.part")
    assert "Traceback" not in str(error.value)


def test_no_network_is_a_tool_error(tmp_path: Path):
    with pytest.raises(ToolError, match="cannot download") as error:
        get(Download("http://127.0.0.1:9/w", "sha256", "0" * 64, 10, "file", "name a path", "x"), tmp_path / "w.part")
    assert one_line(error).endswith("or name a path")


def test_a_full_disk_keeps_what_came_and_is_not_taken_for_the_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ToolError, match="No space left on device") as error:
        get(requested(server), tmp_path / "w.part")
    assert "continues where it stopped" in one_line(error)
    assert len(server.asked) == 1
