"""Decodes the files of a folder, a few at a time; each that fails is tried again, alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import DataError, FormatError
from quicknet.core.files import sha256_file
from quicknet.core.progress import progress
from quicknet.data import contents
from quicknet.data.cache import Decoded, Failure
from quicknet.image.walk import printable


class Decoder:
    """Decodes chosen ones of `files` (path, SHA-256), with progress: what `build_pack` calls.

    A failure counts as proven where the whole file was read, has that SHA-256, and its decoder
    says that it is broken, with no other image being decoded beside it.
    """

    def __init__(self, files: list[tuple[Path, str]], spec: PreprocessSpec, quiet: bool) -> None:
        self._files, self._spec, self._quiet = files, spec, quiet
        self._turns = _Turns()

    def __call__(self, positions: list[int]) -> Iterator[Decoded]:
        """Yield the image at each position of `files`, or why there is none, in order."""
        chosen = [self._files[i] for i in positions]
        with progress("decoding images", len(chosen), "images", self._quiet) as advance:
            for result in contents.in_threads(self._decode, chosen):
                advance(1)
                yield result

    def _decode(self, file: tuple[Path, str]) -> Decoded:
        from quicknet.image.formats import TransientImageError
        from quicknet.image.preprocess import load_image

        path, sha256 = file
        with self._turns.shared(), contextlib.suppress(DataError):
            return load_image(path, self._spec)
        try:
            with self._turns.alone():  # it may have failed for lack of memory
                return load_image(path, self._spec)
        except DataError as error:
            # the reason is stored by content, which may lie elsewhere next time: so the bare name
            reason = printable(str(error).replace(str(path), path.name))
            return Failure(reason, not isinstance(error, TransientImageError) and _holds(path, sha256))


def _holds(path: Path, sha256: str) -> bool:
    """Return whether the file can be read to its end and has this content."""
    try:
        return path.is_file() and sha256_file(path) == sha256
    except FormatError:
        return False


class _Turns:
    """Lets up to `most` threads work side by side, or one alone."""

    def __init__(self, most: int = contents.MAX_THREADS) -> None:
        self._most, self._free, self._one = most, threading.Semaphore(most), threading.Lock()

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        with self._free:
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._one:
            for _ in range(self._most):
                self._free.acquire()
            try:
                yield
            finally:
                self._free.release(self._most)
