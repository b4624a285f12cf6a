"""Pictures of all sources, each checked by decoding it, written once as they are, with a thumbnail."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import DataError, ToolError
from quicknet.core.files import sha256_bytes, write_atomically
from quicknet.core.progress import progress
from quicknet.data.contents import in_threads
from quicknet.data.similar import SIDE
from quicknet.image.formats import image_suffixes
from quicknet.image.preprocess import load_image
from quicknet.study.choose import Judged
from quicknet.study.sources import Source, labelled, plain
from quicknet.study.trees import Tree, Unread, open_tree

_THUMBNAIL = PreprocessSpec(size=SIDE, resize="stretch", filter="bilinear")  # as `doctor` compares them
_NAMED = 5  # undecodable files that are named

Thumbnail = NDArray[np.uint8]  # (32, 32, 3)


class Picture(NamedTuple):
    """One picture of the set."""

    source: str
    label: str
    file: str  # its name in its class folder
    sha256: str


@dataclass(slots=True)
class Count:
    """What became of the picture files of one source."""

    listed: int = 0  # those that have a class
    without_class: int = 0
    absent: dict[str, int] = field(default_factory=dict)  # by reason
    undecodable: int = 0
    undecodable_named: list[str] = field(default_factory=list)
    repeated: int = 0  # equal to one before, of this source
    in_other_sources: int = 0  # equal to one before, of another
    other_class: int = 0  # of these two: under another class than the one before


class _Task(NamedTuple):
    picture: Picture
    path: str
    blob: bytes


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `out` at the end: whole, or not at all.

    Raises DataError for an `out` that is taken, ToolError for the disk.
    """
    if out.exists():
        raise DataError(f"{out} is there already; remove it or name another folder")
    work = out.with_name(f".{out.name}.building")  # of an earlier, interrupted build: begun again
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        yield work
        if hasattr(os, "sync"):  # not on Windows
            os.sync()  # one for all files: each on its own takes the disk milliseconds
        work.rename(out)
    except OSError as error:
        raise ToolError(
            f"cannot write {out} ({error.strerror or error}); free some space or name another folder"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write what is in the folder, from where and under which terms."""
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


class Gathering:
    """Pictures in the order in which they were met; row i of the thumbnails' file is of picture i."""

    def __init__(self, folder: Path, thumbnails: IO[bytes]) -> None:
        self.pictures: list[Picture] = []
        self.counts: dict[str, Count] = {}
        self.commits: dict[str, str] = {}
        self._folder, self._thumbnails = folder, thumbnails
        self._first: dict[str, tuple[str, str]] = {}  # content → source and class where it was first met
        self._names: set[tuple[str, str]] = set()

    def take(self, source: Source, place: Path, quiet: bool = False) -> None:
        """Add the pictures of a source, lying at `place`, that are whole and were not met before.

        Raises DataError where the source cannot be read or has no pictures, OSError for the disk.
        """
        if source.name in self.counts:
            raise DataError(f"{source.name} is named twice; give another name to one of them")
        tree = open_tree(place, source.commit)
        listed, without = labelled(source, tree)
        if not listed:
            raise DataError(f"{place} has no pictures of {source.name} where they are expected; name another place")
        count = self.counts[source.name] = Count(len(listed), without)
        self.commits[source.name] = tree.commit
        with progress(f"reading {source.name}", len(listed), "images", quiet) as advance:
            for task, thumbnail in in_threads(self._work, self._fresh(source, tree, listed, advance)):
                if isinstance(thumbnail, str):
                    count.undecodable += 1
                    if len(count.undecodable_named) < _NAMED:
                        count.undecodable_named.append(f"{task.path}: {thumbnail}")
                else:
                    self._thumbnails.write(thumbnail.tobytes())
                    self.pictures.append(task.picture)

    def _fresh(
        self, source: Source, tree: Tree, listed: list[tuple[str, str]], advance: Callable[[int], None]
    ) -> Iterator[_Task]:
        """Yield the files whose content is met for the first time."""
        count = self.counts[source.name]
        for (path, label), blob in zip(listed, tree.read(path for path, _ in listed), strict=True):
            advance(1)
            if isinstance(blob, Unread):
                count.absent[blob] = count.absent.get(blob, 0) + 1
                continue
            sha256 = sha256_bytes(blob)
            before = self._first.get(sha256)
            if before is None:
                self._first[sha256] = (source.name, label)
                yield _Task(Picture(source.name, label, self._name(source, label, path, sha256), sha256), path, blob)
                continue
            count.repeated += before[0] == source.name
            count.in_other_sources += before[0] != source.name
            count.other_class += before[1] != label

    def _name(self, source: Source, label: str, path: str, sha256: str) -> str:
        """Return a file name that is new in its class, by the file's own: its content tells namesakes apart."""
        file = PurePosixPath(path)
        stem, suffix = f"{source.name}_{plain(file.stem)}", file.suffix.lower().replace(".jpeg", ".jpg")
        if (label, f"{stem}{suffix}".lower()) in self._names:
            stem += f"_{sha256[:16]}"
        self._names.add((label, f"{stem}{suffix}".lower()))
        (self._folder / label).mkdir(exist_ok=True)
        return stem + suffix

    def _work(self, task: _Task) -> tuple[_Task, Thumbnail | str]:
        thumbnail = thumbnail_of(task.blob)
        if not isinstance(thumbnail, str):
            (self._folder / task.picture.label / task.picture.file).write_bytes(task.blob)
        return task._replace(blob=b""), thumbnail


def thumbnail_of(blob: bytes) -> Thumbnail | str:
    """Return the 32x32 RGB thumbnail of an encoded picture, or why it cannot be decoded."""
    try:
        return load_image(blob, _THUMBNAIL)
    except DataError as error:
        return str(error)


def take_judged(place: Path, thumbnails: IO[bytes], quiet: bool = False) -> Judged:
    """Append the thumbnails of all pictures at `place`, at any depth, to a file; return which rows they are.

    Raises DataError where there is no picture that can be decoded.
    """
    tree = open_tree(place)
    paths = [path for path in tree.paths() if PurePosixPath(path).suffix.lower() in image_suffixes()]
    start, digests, undecodable = thumbnails.tell(), set(), 0
    with progress(f"reading {place.name}", len(paths), "images", quiet) as advance:
        for sha256, thumbnail in in_threads(_judged_work, tree.read(paths)):
            advance(1)
            if isinstance(thumbnail, str):
                undecodable += 1
            else:
                digests.add(sha256)
                thumbnails.write(thumbnail.tobytes())
    if not digests:
        raise DataError(f"{place} has no pictures that can be read; name a folder of pictures to leave out")
    row_bytes = SIDE * SIDE * 3
    rows = (start // row_bytes, thumbnails.tell() // row_bytes)
    return Judged(place.name, tree.commit, *rows, frozenset(digests), undecodable)


def _judged_work(blob: bytes | Unread) -> tuple[str, Thumbnail | str]:
    return ("", str(blob)) if isinstance(blob, Unread) else (sha256_bytes(blob), thumbnail_of(blob))
