import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import quicknet.image.preprocess as preprocess
from quicknet.core.errors import ToolError
from quicknet.core.files import sha256_file
from quicknet.data import DataRequest, cache, contents, decoding, load_data

QUIET = DataRequest(quiet=True, size=16)


@pytest.fixture
def folder(tmp_path, pictures, monkeypatch):
    for name in ("a", "b"):
        pictures(tmp_path / "data" / name, 6)
    for path in (tmp_path / "data").rglob("*.png"):
        os.utime(path, (1e9, 1e9))
    # as if written long ago: younger files are read again each time
    monkeypatch.setattr(contents, "_SETTLED_NS", -(10**18))
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that were decoded, in a list that grows."""
    names: list[str] = []
    real = preprocess.load_image

    def counted(source, spec):
        names.append(Path(source).name)
        return real(source, spec)

    monkeypatch.setattr(preprocess, "load_image", counted)
    return names


def packs(home: Path) -> list[Path]:
    return sorted((home / "cache" / "decoded").glob("*.pack"))


def same(one, other) -> bool:
    return one.sha256 == other.sha256 and all(
        np.array_equal(one.split(n).images, other.split(n).images) for n in one.splits
    )


def test_the_second_start_decodes_nothing_and_reads_no_image(folder, decoded, monkeypatch):
    first = load_data(folder, QUIET)
    assert len(decoded) == 12 and isinstance(first.split("train").images, np.memmap)
    read: list[Path] = []
    monkeypatch.setattr(contents, "sha256_file", read.append)
    assert same(first, load_data(folder, QUIET))
    assert len(decoded) == 12 and not read


def test_a_file_just_written_is_read_again(tmp_path, pictures, monkeypatch):
    for name in ("a", "b"):
        pictures(tmp_path / name, 3)
    load_data(tmp_path, QUIET)
    read: list[Path] = []

    def reading(path: Path) -> str:
        read.append(path)
        return sha256_file(path)

    monkeypatch.setattr(contents, "sha256_file", reading)
    load_data(tmp_path, QUIET)
    assert len(read) == 6


def test_changed_added_and_removed_pictures_are_noticed_and_only_they_are_decoded(folder, decoded, pictures, home):
    first = load_data(folder, QUIET)
    decoded.clear()
    Image.new("RGB", (40, 48), "red").save(folder / "a" / "0.png")
    os.utime(folder / "a" / "0.png", (1e9, 1e9))  # the old time: the change time tells
    changed = load_data(folder, QUIET)
    assert decoded == ["0.png"] and changed.sha256 != first.sha256
    row = changed.split("all").paths.index(str(folder / "a" / "0.png"))
    assert (changed.split("all").images[row] == (255, 0, 0)).all()
    pictures(folder / "b", 7)
    decoded.clear()
    assert len(load_data(folder, QUIET).split("all")) == 13 and len(decoded) == 7
    (folder / "b" / "6.png").unlink()
    decoded.clear()
    assert len(load_data(folder, QUIET).split("all")) == 12 and not decoded
    assert len(packs(home)) == 1


def test_a_moved_folder_and_another_mean_need_no_decoding(folder, decoded, tmp_path):
    first = load_data(folder, QUIET)
    shutil.move(folder, tmp_path / "moved")
    decoded.clear()
    moved = load_data(tmp_path / "moved", QUIET)
    assert same(first, moved) and not decoded
    load_data(tmp_path / "moved", QUIET.replace(spec=first.spec.replace(mean=(0.1, 0.1, 0.1)).to_dict()))
    assert not decoded
    load_data(tmp_path / "moved", QUIET.replace(resize="pad"))
    assert len(decoded) == 12


# --- what fails for a reason that may pass ------------------------------------------------------


def failing_once(monkeypatch, name: str, error: Exception, where=PngImagePlugin.PngImageFile, call: str = "load"):
    """Make every try at the picture `name` fail until `monkeypatch.undo`."""
    real = getattr(where, call)

    def fails(self, *arguments, **options):
        if Path(getattr(self, "filename", "") or getattr(self.fp, "name", "")).name == name:
            raise error
        return real(self, *arguments, **options)

    monkeypatch.setattr(where, call, fails)


@pytest.mark.parametrize(
    ("error", "memory", "reason"),
    [
        (MemoryError(), True, "not enough memory"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), True, "Input/output error"),
        (OSError("broken data stream when reading image file"), False, "for lack of memory"),  # as libjpeg says it
    ],
)
def test_a_failure_that_may_pass_is_not_kept(folder, home, error, memory, reason):
    (folder / "a" / "0.png").rename(folder / "a" / "once.png")
    whole = load_data(folder, QUIET)
    images = {name: np.array(split.images) for name, split in whole.splits.items()}
    shutil.rmtree(home / "cache")
    for again in range(2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(contents, "_SETTLED_NS", -(10**18))
            patch.setattr(preprocess, "_memory_for", lambda pixels: memory)
            failing_once(patch, "once.png", error)
            data = load_data(folder, QUIET.replace(max_bad_share=0.5))
            assert len(data.split("all")) == 11 and data.unread == 1, again
            assert any("once.png" in note and reason in note for note in data.notes)
    with pytest.MonkeyPatch.context() as patch:
        tries: list[str] = []
        real = preprocess.load_image

        def trying(source: Path, spec: Any) -> Any:
            tries.append(source.name)
            return real(source, spec)

        patch.setattr(preprocess, "load_image", trying)
        data = load_data(folder, QUIET)
        assert tries == ["once.png"] and data.unread == 0 and data.sha256 == whole.sha256
        assert all(np.array_equal(images[name], data.split(name).images) for name in images)
        load_data(folder, QUIET)
        assert len(tries) == 1
    assert len(packs(home)) == 1


def test_a_right_that_is_missing_once(folder, monkeypatch):
    whole = load_data(folder, QUIET)
    os.utime(folder / "a" / "0.png", (2e9, 1e9))  # another change time: it is hashed again
    real = Path.open

    def refuses(path, *arguments, **options):
        if path == folder / "a" / "0.png":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuses)
        data = load_data(folder, QUIET.replace(max_bad_share=0.5))
        assert data.unread == 1 and data.sha256 != whole.sha256
    assert same(whole, load_data(folder, QUIET))


def test_a_failure_that_the_bytes_prove_is_kept(folder, decoded):
    (folder / "a" / "0.png").write_bytes((folder / "a" / "0.png").read_bytes()[:200])
    (folder / "a" / "1.png").write_bytes(b"")
    request = QUIET.replace(max_bad_share=0.5)
    first = load_data(folder, request)
    decoded.clear()
    again = load_data(folder, request)
    assert same(first, again) and first.notes == again.notes
    assert again.unread == 0 and not decoded


def test_a_picture_that_is_being_copied_is_read_again(folder, monkeypatch):
    """Its bytes are not those that were hashed: they prove nothing of those."""
    whole = load_data(folder, QUIET)
    path, blob = folder / "a" / "0.png", (folder / "a" / "0.png").read_bytes()
    real = preprocess.load_image
    with monkeypatch.context() as patch:
        patch.setattr(preprocess, "load_image", lambda source, spec: path.write_bytes(blob[:99]) and real(source, spec))
        data = load_data(folder, QUIET.replace(max_bad_share=0.5, resize="pad"))
        assert len(data.split("all")) == 11 and data.unread == 1
    path.write_bytes(blob)
    assert load_data(folder, QUIET.replace(resize="pad")).sha256 == whole.sha256


@pytest.mark.parametrize("unread", ["first", "second"])
def test_copies_of_which_one_cannot_be_read_mix_up_no_rows(folder, unread):
    shutil.copy(folder / "a" / "3.png", folder / "a" / "first.png")
    shutil.copy(folder / "a" / "3.png", folder / "a" / "second.png")
    request = QUIET.replace(max_bad_share=0.5)
    with pytest.MonkeyPatch.context() as patch:
        failing_once(patch, f"{unread}.png", MemoryError())
        first = load_data(folder, request)
    for data in (first, load_data(folder, request)):
        split = data.split("all")
        assert split.paths is not None
        for path, image in zip(split.paths, split.images, strict=True):
            assert np.array_equal(image, preprocess.load_image(path, data.spec))
    assert len(split) == 14


def test_decoding_one_image_alone_waits_for_the_others():
    turns, running, most = decoding._Turns(4), 0, 0
    gate = threading.Lock()

    def work(number: int) -> int:
        nonlocal running, most
        with turns.alone() if number % 5 == 0 else turns.shared():
            with gate:
                running += 1
                most = max(most, running)
            time.sleep(0.002)
            if number % 5 == 0:
                assert running == 1
            with gate:
                running -= 1
        return number

    assert list(contents.in_threads(work, range(40))) == list(range(40))
    assert most > 1 or os.cpu_count() == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "head", "longer", "foreign"])
def test_a_damaged_pack_is_built_again(folder, home, decoded, damage):
    first = load_data(folder, QUIET)
    copy = [np.array(first.split(name).images) for name in first.splits]
    pack = packs(home)[0]
    blob = bytearray(pack.read_bytes())
    if damage == "flip":
        blob[5000] ^= 1
    elif damage == "cut":
        del blob[-100:]
    elif damage == "empty":
        blob.clear()
    elif damage == "head":
        blob[:4096] = blob[:4096].replace(b'"rows": 12', b'"rows": -2')
    elif damage == "longer":
        blob += b"x"
    else:
        blob[:4096] = b'{"format": 1}'.ljust(4096)
    pack.unlink()
    pack.write_bytes(bytes(blob))
    decoded.clear()
    again = load_data(folder, QUIET)
    assert len(decoded) == 12
    assert all(np.array_equal(a, again.split(n).images) for a, n in zip(copy, again.splits, strict=True))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"files": 3, "packs": {}}', '{"files": {"a/0.png": 7}, "packs": {"x": 3}}']
)
def test_a_damaged_index_only_costs_time(folder, home, text):
    first = load_data(folder, QUIET)
    for index in (home / "cache" / "index").iterdir():
        index.write_text(text)
    assert same(first, load_data(folder, QUIET))


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(folder, home, monkeypatch):
    def full(handle, offset, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ToolError, match=r"No space left.*QUICKNET_CACHE"):
        load_data(folder, QUIET)
    assert not [p for p in (home / "cache" / "decoded").iterdir() if p.suffix != ".lock"]


def test_a_disk_that_fills_up_in_the_middle(folder, home, monkeypatch):
    real = cache._rows

    def rows(*arguments):
        for number, row in enumerate(real(*arguments)):
            if number == 5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield row

    monkeypatch.setattr(cache, "_rows", rows)
    with pytest.raises(ToolError, match="No space left"):
        load_data(folder, QUIET)
    assert not [p for p in (home / "cache" / "decoded").iterdir() if p.suffix != ".lock"]


def test_a_cache_that_cannot_be_written_names_the_mend(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "file"))
    with pytest.raises(ToolError, match="cannot write"):
        load_data(folder, QUIET)


_BUILD = """
import os, sys, time
import quicknet.image.preprocess as preprocess
from quicknet.data import DataRequest, load_data
real = preprocess.load_image
def slow(source, spec):
    os.write(1, b"decoding\\n")  # whole, though several threads come here at once
    time.sleep(0.05)
    return real(source, spec)
preprocess.load_image = slow
load_data(sys.argv[1], DataRequest(quiet=True, size=16))
"""


def test_a_build_that_is_killed_leaves_nothing_that_is_read(folder, home, decoded):
    child = subprocess.Popen([sys.executable, "-c", _BUILD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "decoding\n"
    time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    left = [p for p in (home / "cache" / "decoded").iterdir() if p.suffix == ".tmp"]
    assert left and not packs(home)
    data = load_data(folder, QUIET)
    assert len(decoded) == 12 and len(data.split("all")) == 12
    assert not [p for p in (home / "cache" / "decoded").iterdir() if p.suffix == ".tmp"]


def _load(folder: str, results) -> None:
    data = load_data(folder, QUIET)
    results.put((data.sha256, int(data.split("all").images.sum())))


def test_two_processes_at_once_build_the_same(folder, home):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    processes = [context.Process(target=_load, args=(str(folder), results)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    actual = {results.get() for _ in processes}
    results.close()
    data = load_data(folder, QUIET)
    assert actual == {(data.sha256, int(data.split("all").images.sum()))}
    assert len(packs(home)) == 1
