"""Writing is all or nothing; a record and its tensors always belong together."""

import errno
import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicknet.core.errors import CheckpointError, FormatError, ToolError
from quicknet.core.files import (
    folder_lock,
    read_bounded,
    read_json,
    read_pair,
    settle_pair,
    sha256_bytes,
    sha256_file,
    write_atomically,
    write_pair,
)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_atomically(target, "old")
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ToolError, match="No space left"):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EROFS, "read-only medium, so copy the folder to one that can be written"),
        (errno.EACCES, "make it writable for this user"),
        (errno.EPERM, "make it writable for this user"),
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EIO, "check the disk"),
    ],
)
def test_what_to_do_follows_from_why_nothing_can_be_written(number, advice, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    write_pair(tmp_path / "a.json", {}, tmp_path / "a", b"1")
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for call in ("os.open", "os.replace", "os.fsync", "os.mkdir", "io.open"):
        monkeypatch.setattr(call, refuse)
    for write in (
        lambda: write_atomically(tmp_path / "a", b"2"),
        lambda: write_pair(tmp_path / "a.json", {}, tmp_path / "a", b"2"),
        lambda: folder_lock(tmp_path).__enter__(),
        lambda: folder_lock(tmp_path / "new").__enter__(),
    ):
        with pytest.raises(ToolError, match=advice) as caught:
            write()
        assert advice == "free some space" or "free some space" not in str(caught.value)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole


def test_what_is_written_can_be_read_by_others(tmp_path):
    write_atomically(tmp_path / "deep" / "file", b"x")
    assert stat.S_IMODE((tmp_path / "deep" / "file").stat().st_mode) == 0o644


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolError, match="cannot write"):
        write_atomically(tmp_path / "file" / "inside", b"x")


@given(st.binary(max_size=3_000_000))
def test_hashes_of_files_and_bytes_agree(tmp_path_factory, blob):
    path = tmp_path_factory.mktemp("hash") / "file"
    path.write_bytes(blob)
    assert sha256_file(path) == sha256_bytes(blob)


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FormatError, match="over the limit"):
        read_bounded(path, 1 << 20, "the card")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
def test_what_is_not_json_is_refused_by_name(tmp_path, text):
    (tmp_path / "card.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError, match=r"card\.json"):
        read_json(tmp_path / "card.json", "the card")


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours may run after it."""


@pytest.mark.parametrize("call", range(1, 4))
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_rename_leaves_a_pair_that_belongs_together(tmp_path, monkeypatch, call, after):
    record, blob = tmp_path / "last.json", tmp_path / "last.safetensors"
    write_pair(record, {"epoch": 1}, blob, b"one")
    real, count = os.replace, 0

    def dying(*args):
        nonlocal count
        count += 1
        if count == call and not after:
            raise Killed
        real(*args)
        if count == call:
            raise Killed

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(Killed):
        write_pair(record, {"epoch": 2}, blob, b"two")
    monkeypatch.undo()
    actual, content = read_pair(record, blob, "sha256", 100)
    assert (actual, content) == (settle_pair(record, blob), blob.read_bytes())
    assert (actual["epoch"], blob.read_bytes()) in [(1, b"one"), (2, b"two")]
    assert actual["sha256"] == sha256_file(blob)
    # once the record is in place the new pair is what counts
    assert actual["epoch"] == (1 if (call, after) in [(1, False), (1, True), (2, False)] else 2)


@pytest.mark.parametrize("record", ["[]", "{}", '{"sha256": 3}', json.dumps({"sha256": "0" * 64})])
def test_a_pair_that_does_not_belong_together_is_refused(tmp_path, record):
    (tmp_path / "a.json").write_text(record)
    (tmp_path / "b").write_bytes(b"tensors")
    with pytest.raises(CheckpointError):
        settle_pair(tmp_path / "a.json", tmp_path / "b")
    with pytest.raises(CheckpointError):
        read_pair(tmp_path / "a.json", tmp_path / "b", "sha256", 100)
