"""Files of a git directory or a plain folder by path: listed once, then read as one stream."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Protocol

from quicknet.core.errors import DataError

MAX_FILES = 5_000_000  # a few objects can name any number of files: a tree that holds one tree many times
MAX_FILE_BYTES = 32 << 20
_CHUNK = 1 << 20
_POINTER = b"version https://git-lfs.github.com/spec/"
_COMMIT = re.compile(r"[0-9A-Fa-f]{4,64}|HEAD")


class Unread(str):
    """Why a listed file gives no bytes; a word that is counted."""


Content = bytes | Unread
MISSING = Unread("not in the repository's objects")
LARGE = Unread(f"over {MAX_FILE_BYTES:,} bytes")
POINTER = Unread("a pointer to Git LFS")


class Tree(Protocol):
    """Regular files by path (`/` between folders); links and submodules are not among them."""

    commit: str  # of 40 or 64 hex digits; empty for a folder

    def paths(self) -> list[str]:
        """Return the paths of all files, in a fixed order. Raises DataError where they cannot be listed."""
        ...

    def read(self, paths: Iterable[str]) -> Iterator[Content]:
        """Yield the content of each of these, in order, or why there is none. Raises DataError."""
        ...


def open_tree(place: Path, commit: str = "") -> Tree:
    """Return the tree at `place`: a commit of a git directory, or a folder.

    A bare git directory is read at `commit`, or at HEAD where none is named; a work tree at
    `commit`, or as it lies; a plain folder as it lies. Raises DataError where there is no
    folder or no such commit.
    """
    if not place.is_dir():
        raise DataError(f"{place} is not a folder; name a git directory or a folder of pictures")
    if _is_git_directory(place):
        return GitTree(place, commit or "HEAD")
    if commit and _is_git_directory(place / ".git"):
        return GitTree(place / ".git", commit)
    return FolderTree(place)


def _is_git_directory(place: Path) -> bool:
    return (place / "HEAD").is_file() and (place / "objects").is_dir()


class FolderTree:
    """A plain folder; links are not followed."""

    commit = ""

    def __init__(self, root: Path) -> None:
        self._root = root

    def paths(self) -> list[str]:
        """Return all regular files in order of their paths."""
        paths: list[str] = []
        try:
            for where, folders, names in os.walk(self._root, onerror=_raise):
                folders[:] = [name for name in folders if name != ".git"]
                base = Path(where).relative_to(self._root)
                paths += [(base / name).as_posix() for name in names]
                _check_count(len(paths), self._root)
        except OSError as error:
            raise DataError(f"cannot list {error.filename} ({error.strerror}); check its rights") from error
        return sorted(paths)

    def read(self, paths: Iterable[str]) -> Iterator[Content]:
        """Yield the content of each file."""
        for path in paths:
            yield self._content(self._root / path)

    def _content(self, path: Path) -> Content:
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                return Unread("not a regular file")
            return LARGE if status.st_size > MAX_FILE_BYTES else _content(path.read_bytes())
        except OSError as error:
            return Unread(error.strerror or "cannot be read")


class GitTree:
    """One commit of a git directory, read by two git processes in all, which fetch nothing."""

    def __init__(self, folder: Path, commit: str) -> None:
        self._folder = folder
        if not _COMMIT.fullmatch(commit):
            raise DataError(f"{commit!r} names no commit; give its hex digits")
        try:
            self.commit = self._text("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").strip()
        except subprocess.CalledProcessError as error:
            raise DataError(f"{folder} has no commit {commit}; fetch it, or name a repository that has it") from error
        self._blobs: dict[str, str] = {}

    def paths(self) -> list[str]:
        """Return all regular files in git's order."""
        command = self._command("ls-tree", "-r", "-z", "--full-tree", self.commit)
        with _running(command, self._folder) as out:
            for line in _lines(out):
                head, _, path = line.partition(b"\t")
                mode, kind, blob = head.decode().split(" ")
                if kind == "blob" and mode.startswith("100"):
                    self._blobs[os.fsdecode(path)] = blob
                    _check_count(len(self._blobs), self._folder)
        return list(self._blobs)

    def read(self, paths: Iterable[str]) -> Iterator[Content]:
        """Yield the content of each file, from one `git cat-file --batch`."""
        if not self._blobs:
            self.paths()
        with tempfile.TemporaryFile() as names:
            count = 0
            for path in paths:
                names.write(f"{self._blobs[path]}\n".encode())
                count += 1
            names.seek(0)
            with _running(self._command("cat-file", "--batch", "--buffer"), self._folder, names) as out:
                for _ in range(count):
                    yield self._next(out)

    def _next(self, out: IO[bytes]) -> Content:
        head = out.readline(200).split()
        if len(head) == 2 and head[1] == b"missing":
            return MISSING
        if len(head) != 3 or head[1] != b"blob":
            raise DataError(f"git stopped in the middle of {self._folder}; `git fsck` says what is damaged")
        left = int(head[2]) + 1  # a line end follows
        if left > MAX_FILE_BYTES + 1:
            while left:
                left -= len(out.read(min(left, _CHUNK))) or left
            return LARGE
        blob = out.read(left)
        if len(blob) != left:
            raise DataError(f"git stopped in the middle of {self._folder}; `git fsck` says what is damaged")
        return _content(blob[:-1])

    def _command(self, *arguments: str) -> list[str]:
        # A repository from outside may say where to fetch what it lacks, by any program: nothing is fetched.
        return ["git", "-c", "protocol.allow=never", f"--git-dir={self._folder}", *arguments]

    def _text(self, *arguments: str) -> str:
        with _git_needed():
            run = subprocess.run(self._command(*arguments), env=_environment(), check=True, capture_output=True)
        return run.stdout.decode()


def _raise(error: OSError) -> None:
    raise error


def _content(blob: bytes) -> Content:
    return POINTER if blob.startswith(_POINTER) else blob


def _check_count(count: int, place: Path) -> None:
    if count > MAX_FILES:
        raise DataError(f"{place} holds over {MAX_FILES:,} files; name a part of it")


def _environment() -> dict[str, str]:
    return {**os.environ, "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}


@contextlib.contextmanager
def _git_needed() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError("git is not installed, and a git directory is to be read; install it") from error


@contextlib.contextmanager
def _running(command: list[str], folder: Path, given: IO[bytes] | None = None) -> Iterator[IO[bytes]]:
    """Yield the output of a git command; it is ended where its reader leaves early. Raises DataError where it fails."""
    with _git_needed():
        process = subprocess.Popen(
            command,
            stdin=given or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            bufsize=_CHUNK,
        )
    assert process.stdout is not None
    try:
        yield process.stdout
    except BaseException:
        process.kill()
        raise
    finally:
        process.stdout.close()
        code = process.wait()
    if code:
        raise DataError(f"git cannot read {folder} (exit code {code}); `git fsck` says what is damaged")


def _lines(out: IO[bytes]) -> Iterator[bytes]:
    """Yield what lies between NUL bytes."""
    rest = b""
    while chunk := out.read(_CHUNK):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole
