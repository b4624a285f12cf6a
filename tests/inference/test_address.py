"""A picture's address on the command line: fetched and classified, or named while the rest is done."""

import itertools
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from colours import Colours, write_image
from quicknet.cli.main import run
from quicknet.core.errors import DataError
from quicknet.inference import address, artifact
from quicknet.inference.address import fetch_picture, is_picture_address
from quicknet.inference.names import is_video
from quicknet.inference.predict import Unreadable, predict
from serving import Server


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return write_image(tmp_path / "a.png", "lime")


@pytest.fixture
def server(picture: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server(picture.read_bytes())
    yield server
    server.close()


def test_which_addresses_are_of_pictures() -> None:
    for name in ("http://h/a.jpg", "HTTPS://h/b/A.PNG", "https://h:80/a.webp?x=1&y=/z.mp4", "https://h/a.jpg#top"):
        assert is_picture_address(name)
        assert not is_video(name)
    streams = (
        "rtsp://h/a.jpg",
        "http://h/a",
        "http://h/video.mjpg",
        "https://h/x.mp4?p=a.jpg",
        "http://h.jpg",
        "rtp://h",
    )
    for name in streams:
        assert not is_picture_address(name)
        assert is_video(name)
    assert not is_picture_address("a.jpg")


def test_addresses_are_answered_beside_files(
    server: Server, picture: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(artifact, "load", lambda *_: Colours())
    server.files["/page.jpg"] = b"<html>not found</html>"
    server.redirects = {
        "/moved.png": f"{server.url}/a.png",
        "/file.png": f"file://{picture}",
        "/ftp.png": "ftp://h/a.png",
    }
    names = [f"{server.url}/{name}" for name in ("ä b.png", "page.jpg", "moved.png?size=2", "file.png", "ftp.png")]
    server.redirects["/moved.png?size=2"] = server.redirects["/moved.png"]
    assert run(["predict", "m", str(picture), *names, "http://127.0.0.1:1/a.png", str(picture), "--json"]) == 2
    captured = capfd.readouterr()
    printed = [json.loads(line) for line in captured.out.splitlines()]
    answers = [answer for answer in printed if "error" not in answer]
    assert len(printed) == len(answers) + 4
    assert [answer["name"] for answer in answers] == [str(picture), names[0], names[2], str(picture)]
    assert {answer["label"] for answer in answers} == {"green"}
    assert server.paths[:2] == ["/%C3%A4%20b.png", "/page.jpg"]
    lines = captured.err.splitlines()
    assert len(lines) == 4
    for line, name, word in zip(
        lines,
        (names[1], names[3], names[4], "http://127.0.0.1:1/a.png"),
        ("not a whole image of a known kind", "not allowed", "ftp", "refused"),
        strict=True,
    ):
        assert line.startswith("quicknet: unreadable: ")
        assert name in line
        assert word in line


def refused(url: str, *words: str) -> None:
    with pytest.raises(DataError) as error:
        fetch_picture(url)
    (line,) = str(error.value).splitlines()
    for word in (url, *words):
        assert word in line


def test_what_a_server_sends_is_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{server.url}/a.png"
    assert fetch_picture(url).getvalue() == server.content
    server.length = 1 << 40
    refused(url, "over the limit of 104,857,600 bytes")
    server.length = len(server.content) + 1
    refused(url, "breaks off after")
    server.length, server.endless = -1, True
    monkeypatch.setattr(address, "LIMIT_BYTES", 1_000_000)
    refused(url, "over the limit of 1,000,000 bytes")
    monkeypatch.setattr(address, "LIMIT_BYTES", 1 << 40)
    ticks = itertools.count(step=50)
    with pytest.raises(DataError, match="takes over 120 s"):
        fetch_picture(url, lambda: next(ticks))


def test_what_a_server_says_is_named(server: Server) -> None:
    server.headers = {"Content-Type": "multipart/x-mixed-replace; boundary=b"}
    refused(f"{server.url}/a.jpg", "a stream where a picture is expected")
    server.status = 404
    refused(f"{server.url}/a.jpg", "HTTP 404 Not Found", "check its address")
    refused("http://[/a.jpg", "check its address")
    refused("http://h:port/a.jpg", "check its address")
    server.status = 200
    server.redirects = {"/a.jpg": f"{server.url}/a.jpg"}
    refused(f"{server.url}/a.jpg", "infinite loop")


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "SILENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        refused(f"http://127.0.0.1:{silent.getsockname()[1]}/a.jpg", "timed out")


def test_the_library_fetches_nothing(server: Server) -> None:
    (answer,) = predict(Colours(), f"{server.url}/a.png")
    assert isinstance(answer, Unreadable)
    assert "an address where a file is expected" in answer.error
    assert server.paths == []
