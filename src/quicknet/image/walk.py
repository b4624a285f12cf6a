"""One walk through folders: training, evaluation, doctor, `predict FOLDER` and --watch list the same files."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from quicknet.image.formats import HEIC_SUFFIXES

Identity = tuple[int, int]  # device and inode: the same for every path to one folder

# In lower case. They hold thumbnails, deleted files and fragments, some with the suffixes of images.
_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "network trash folder", "temporary items"}  # macOS
    | {"$recycle.bin", "system volume information", "$winreagent", "$sysreset"}  # Windows
    | {"@eadir", "@tmp", "#recycle", "#snapshot"}  # Synology
    | {"@recycle", "@recently-snapshot", "~snapshot"}  # QNAP, NetApp
    | {"lost+found", "lost.dir"}  # ext4, Android
)
_CHKDSK_FOLDER = re.compile(r"found\.\d{3}")  # fragments that Windows' chkdsk collects
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_SHOWN = 10  # how many names a message lists


class Entry(NamedTuple):
    """What a folder holds under one name.

    `kind`: file; folder; unlistable (a folder that cannot be read, `reason` says why); system (a
    folder that a system left); nowhere (a link to a folder that does not exist).
    """

    path: str
    kind: Literal["file", "folder", "unlistable", "system", "nowhere"]
    reason: str = ""


def printable(name: str | Path) -> str:
    r"""Return a file name as text that can be written anywhere: bytes that are not UTF-8 as codes.

    >>> printable(os.fsdecode(b"caf\xe9"))
    'caf\\xe9'
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_folder(folder: str) -> list[Entry]:
    """Return what is visible in a folder, by name. Raises OSError where it cannot be listed."""
    with os.scandir(folder) as entries:
        visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    return [_entry(entry) for entry in visible]


def _entry(entry: os.DirEntry[str]) -> Entry:
    try:
        if entry.is_dir():
            return Entry(entry.path, "system" if _is_system(entry.name) else "folder")
        if entry.is_symlink():
            entry.stat()
    except OSError as error:
        if not Path(entry.name).suffix:  # of a file, whoever opens it says what is wrong
            nowhere = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
            return Entry(entry.path, "nowhere" if nowhere else "unlistable", error.strerror or str(error))
    return Entry(entry.path, "file")


def _is_system(name: str) -> bool:
    return name.lower() in _SYSTEM_FOLDERS or _CHKDSK_FOLDER.fullmatch(name.lower()) is not None


def identity(folder: str | Path) -> Identity:
    """Return which folder this is. Raises OSError."""
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder; False where it cannot be looked at (Path.is_dir raises there)."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False


def ancestors(folder: str | Path) -> dict[Identity, str]:
    """Return the folders above `folder`, by its own path and by what it links to: a walk must not go there."""
    absolute, resolved = Path(folder).absolute(), Path(folder).resolve()
    above: dict[Identity, str] = {}
    for parent in {*absolute.parents, *resolved.parents}:
        try:
            above[identity(parent)] = str(parent)
        except OSError:  # it cannot be looked at, so no link can lead there
            continue
    return above


def walk(folder: str, visited: dict[Identity, str] | None = None) -> Iterator[Entry]:
    """Yield every entry under `folder` that is not a folder, by name; links are followed, each folder once.

    `visited` holds the folders that are not entered; every folder entered is added to it. Without
    it, these are the folders above. Hidden names are left out.
    """
    visited = ancestors(folder) if visited is None else visited
    stack = [iter([Entry(folder, "folder")])]  # not recursion: a tree may be deeper than Python's stack
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif entry.kind != "folder":
            yield entry
        else:
            try:
                folder_identity = identity(entry.path)
                if folder_identity not in visited:
                    visited[folder_identity] = entry.path
                    stack.append(iter(read_folder(entry.path)))
            except OSError as error:
                yield Entry(entry.path, "unlistable", error.strerror or str(error))


@dataclass
class LeftOut:
    """What a walk leaves out: files of other suffixes, folders that systems leave, links to nothing."""

    _files: dict[str, list[str]] = field(default_factory=dict)  # suffix → names
    _system: list[str] = field(default_factory=list)
    _nowhere: list[str] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        """Remember an entry that is not an image."""
        name = printable(Path(entry.path).name)
        if entry.kind == "system":
            self._system.append(name)
        elif entry.kind == "nowhere":
            self._nowhere.append(name)
        elif name.lower() not in _SYSTEM_FILES:
            self._files.setdefault(Path(name).suffix.lower(), []).append(name)

    def files(self, place: str) -> str:
        """Return "3 files in PLACE are not images by their suffix (.heic, such as IMG_1.heic)", or ""."""
        if not self._files:
            return ""
        # HEIC first: these are pictures, and the user can do something about them
        order = sorted(self._files, key=lambda suffix: (suffix not in HEIC_SUFFIXES, -len(self._files[suffix]), suffix))
        total = sum(len(names) for names in self._files.values())
        verb = "is not an image" if total == 1 else "are not images"
        suffixes = listed([suffix or "no suffix" for suffix in order])
        return f"{counted(total, 'file')} in {place} {verb} by suffix ({suffixes}, such as {self._files[order[0]][0]})"

    def advice(self) -> str:
        """Return what to do so that files of other suffixes can be read, or ""."""
        heic = sorted(HEIC_SUFFIXES & self._files.keys())
        return f"to read {heic[0]}, run `pip install 'quicknet-vision[heic]'`" if heic else ""

    def notes(self, place: str) -> list[str]:
        """Return a sentence for each kind of what was left out of `place`."""
        sentences = []
        if self._files:
            text = self.files(place) + "; left out"
            sentences.append(f"{text}; {self.advice()}" if self.advice() else text)
        if self._system:
            sentences.append(f"folders that systems leave in {place}; left out: {listed(self._system)}")
        if self._nowhere:
            sentences.append(f"links in {place} that lead to nothing; left out: {listed(self._nowhere)}")
        return sentences


def listed(names: Iterable[str]) -> str:
    """Return names in text, each once, the first few of many."""
    distinct = list(dict.fromkeys(names))
    return ", ".join(distinct[:_SHOWN]) + (f" and {len(distinct) - _SHOWN} more" if distinct[_SHOWN:] else "")


def counted(count: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "file"), counted(2000, "file")
    ('1 file', '2,000 files')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
