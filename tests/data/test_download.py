import gzip
import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from quicknet.core.errors import DataError, ToolError
from quicknet.data import DataRequest, load_data
from quicknet.data.cifar import CIFAR10
from quicknet.data.download import download, fetch_cifar, unpack
from serving import Server

from .conftest import binary_batches


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    folder = binary_batches(tmp_path / "for_archive")
    return packed({f"{folder.name}/{file.name}": file.read_bytes() for file in sorted(folder.iterdir())})


def packed(files: dict[str, bytes]) -> bytes:
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return blob.getvalue()


@pytest.fixture
def server(archive, monkeypatch):
    server = Server(archive)
    monkeypatch.setenv("QUICKNET_CIFAR_URL", server.url)
    yield server
    server.close()


def kind_of(content: bytes):
    return replace(CIFAR10, md5=hashlib.md5(content).hexdigest())


def fetch(server: Server, part: Path, sleep=lambda s: None) -> None:
    download(f"{server.url}/a.tar.gz", part, hashlib.md5(server.content).hexdigest(), True, sleep)


def test_download_unpacks_into_the_cache_and_leaves_no_archive(server, home, monkeypatch):
    kind = kind_of(server.content)
    monkeypatch.setitem(load_data.__globals__["CIFARS"], "cifar10", kind)
    data = load_data("cifar10", DataRequest(quiet=True))
    assert len(data.split("test")) == 20
    folder = home / "cache" / "cifar10"
    assert {p.name for p in folder.iterdir()} == {"cifar-10-batches-bin", ".download.lock"}
    load_data("cifar10", DataRequest(quiet=True))
    assert server.asked == [None]


def test_a_dying_connection_is_taken_up_where_it_died(server, tmp_path):
    part, cut = tmp_path / "a.part", len(server.content) // 3
    server.die_after = [cut, cut // 2]
    fetch(server, part)
    assert part.read_bytes() == server.content
    assert server.asked == [None, f"bytes={cut}-", f"bytes={cut + cut // 2}-"]


def test_a_partial_file_of_an_earlier_run_is_taken_up(server, tmp_path):
    part = tmp_path / "a.part"
    part.write_bytes(server.content[:1000])
    fetch(server, part)
    assert part.read_bytes() == server.content and server.asked == ["bytes=1000-"]


def test_a_partial_file_of_another_version_is_fetched_anew(server, tmp_path):
    part = tmp_path / "a.part"
    part.write_bytes(b"x" * 1000)
    fetch(server, part)
    assert part.read_bytes() == server.content and server.asked == ["bytes=1000-", None]


def test_a_partial_file_that_is_longer_is_fetched_anew(server, tmp_path):
    part = tmp_path / "a.part"
    part.write_bytes(server.content + b"more")
    fetch(server, part)
    assert part.read_bytes() == server.content


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    part = tmp_path / "a.part"
    part.write_bytes(server.content[:1000])
    fetch(server, part)
    assert part.read_bytes() == server.content


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server, home):
    with pytest.raises(DataError, match="wrong checksum"):
        fetch_cifar(CIFAR10, quiet=True)
    assert {p.name for p in (home / "cache" / "cifar10").iterdir()} == {".download.lock"}


def test_a_connection_that_never_brings_a_byte_ends_with_the_mend(server, tmp_path):
    server.die_after = [500] + [0] * 20
    waits: list[float] = []
    with pytest.raises(ToolError, match="run the same command again to continue"):
        fetch(server, tmp_path / "a.part", waits.append)
    assert (tmp_path / "a.part").stat().st_size == 500
    assert len(waits) < 10 and sum(waits) < 60


def test_a_missing_page_is_told_at_once(server, tmp_path):
    server.status = 404
    with pytest.raises(ToolError, match="HTTP 404"):
        fetch(server, tmp_path / "a.part")
    assert len(server.asked) == 1


def test_nobody_listening_is_a_tool_error(tmp_path):
    with pytest.raises(ToolError, match="cannot download"):
        download("http://127.0.0.1:9/a.tar.gz", tmp_path / "a.part", "0" * 32, True, lambda s: None)


def test_an_official_archive_that_lies_there_is_used(server, home):
    kind = kind_of(server.content)
    (home / "data").mkdir()
    (home / "data" / kind.archive).write_bytes(server.content)
    assert fetch_cifar(kind, quiet=True).name == kind.binary_folder
    assert not server.asked and (home / "data" / kind.archive).exists()


def test_a_damaged_archive_that_lies_there_is_named(server, home):
    (home / "data").mkdir()
    (home / "data" / CIFAR10.archive).write_bytes(server.content)
    with pytest.raises(DataError, match=r"data/cifar-10-binary\.tar\.gz is not the official archive"):
        fetch_cifar(CIFAR10, quiet=True)


# --- archives that were made to do harm ---------------------------------------------------


def unpack_bytes(content: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    return unpack(path, CIFAR10, tmp_path / "room" / "cifar-10-batches-bin")


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> bytes:
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, size
        tar.addfile(info, io.BytesIO(b"\0" * size))
    return blob.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        member("../../evil.bin", size=4),
        member("/tmp/evil.bin", size=4),
        member("cifar-10-batches-bin/../../test_batch.bin", size=4),
        member("cifar-10-batches-bin/test_batch.bin", tarfile.SYMTYPE, "/etc/passwd"),
        member("cifar-10-batches-bin/test_batch.bin", tarfile.LNKTYPE, "../../x"),
        member("cifar-10-batches-bin/test_batch.bin", tarfile.FIFOTYPE),
        member("a/b/c/test_batch.bin", size=4),
    ],
)
def test_members_outside_links_and_devices_are_refused(content, tmp_path):
    with pytest.raises(DataError, match=r"no official archive does"):
        unpack_bytes(content, tmp_path)
    assert not any((tmp_path / "room").iterdir())


def test_a_gzip_bomb_is_refused_by_its_claimed_size(tmp_path):
    info = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
    info.size = 1 << 40
    with pytest.raises(DataError, match=r"no official archive does"):
        unpack_bytes(gzip.compress(info.tobuf() + b"\0" * 4096), tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 500, 5000])
def test_a_truncated_archive_is_damaged_and_leaves_nothing(archive, tmp_path, keep):
    with pytest.raises(DataError, match=r"is damaged|lacks"):
        unpack_bytes(archive[:keep], tmp_path)
    assert not any((tmp_path / "room").iterdir())


def test_an_archive_that_lacks_a_batch_names_it(tmp_path):
    with pytest.raises(DataError, match=r"lacks batches\.meta\.txt"):
        unpack_bytes(packed({"cifar-10-batches-bin/readme.html": b"hello"}), tmp_path)
