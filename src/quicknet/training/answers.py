"""The file in which a teacher's answers are kept: written once, read by every run that shows the same views.

`NAME.f16` holds logits (epochs, images, classes), float16, little-endian, in that order. `NAME.json` says
what they answer (`key`; NAME is its digest) and the SHA-256 of each part of up to 2,048 images that is
written. A part is durable before it is named there, so that a kill at any moment costs one part at most.
Processes that need the same answers take turns, a part each.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from quicknet.core.errors import CheckpointError, FormatError, ToolError, TrainingError
from quicknet.core.files import read_json, reserve_space, sha256_bytes, write_advice, write_atomically
from quicknet.core.places import locked

_FORMAT = 1
_PART_IMAGES = 2048
ASKED_IMAGES = 256  # of a question; fixed, since sums may round otherwise in another batch
_TYPE = np.dtype("<f2")
_LIMIT_BYTES = 1 << 28  # of the record: 67 bytes a part

# indices (B,) int64 of images, and an epoch whose views are meant → float32 logits (B, classes)
Ask = Callable[[NDArray[np.int64], int], NDArray[np.float32]]


class AnswerFile:
    """A teacher's answers to views of `images` images, as many epochs of them as were asked for so far.

    `key` is everything that they depend on, as JSON. Parts are counted from the first epoch on.
    """

    def __init__(self, folder: Path, key: dict[str, Any], images: int, classes: int) -> None:
        self.key = json.loads(json.dumps({"format": _FORMAT, **key, "shape": [images, classes]}))
        self.path = folder / f"{sha256_bytes(json.dumps(self.key, sort_keys=True).encode())[:40]}.f16"
        self.images, self.classes = images, classes
        self.parts = -(-images // _PART_IMAGES)  # of an epoch

    @property
    def record(self) -> Path:
        """The file that says what is there."""
        return self.path.with_suffix(".json")

    def size_bytes(self, epochs: int) -> int:
        """Return the bytes of so many epochs."""
        return epochs * self.images * self.classes * _TYPE.itemsize

    def rows(self, part: int) -> range:
        """Return the images that a part answers for."""
        first = part % self.parts * _PART_IMAGES
        return range(first, min(first + _PART_IMAGES, self.images))

    def missing(self, views: Iterable[int]) -> tuple[list[int], str | None]:
        """Return the parts of these epochs that are not there or not whole, and what to say of damage, if any."""
        needed = [view * self.parts + part for view in sorted(views) for part in range(self.parts)]
        try:
            digests = self._digests()
        except FormatError:
            return needed, f"what the teacher answered before cannot be used ({self.record}): it is asked again"
        missing = [part for part in needed if not self._holds(part, digests)]
        damaged = sum(part in digests for part in missing)
        note = f"{damaged} of {len(needed)} parts of the teacher's answers are damaged ({self.path}): it is asked again"
        return missing, note if damaged else None

    def complete(self, missing: Iterable[int], ask: Ask) -> Iterator[int]:
        """Write parts that are missing; yields the number of images after each question.

        Whoever stops in between loses one part. Raises ToolError for a disk without room, naming what is
        needed, and TrainingError for answers that float16 cannot hold.
        """
        missing = list(missing)
        if missing:
            self._reserve(max(missing) // self.parts + 1)
        for part in missing:
            rows = np.arange(self.images)[self.rows(part).start : self.rows(part).stop]
            with locked(self.path.with_suffix(".lock")):
                if self._holds(part, self._readable_digests()):  # another process wrote it meanwhile
                    yield len(rows)
                    continue
                answers: list[NDArray[np.float32]] = []
                for chunk in np.split(rows, range(ASKED_IMAGES, len(rows), ASKED_IMAGES)):
                    answers.append(ask(chunk, part // self.parts))
                    yield len(chunk)
                self._write(part, self._rounded(np.concatenate(answers)))

    def epoch(self, view: int) -> NDArray[np.float16]:
        """Return the answers (images, classes) to an epoch's views: read now, and checked.

        They are copied, 0.9 MB for CIFAR-10: were they mapped, a file that is cut meanwhile would end the
        process by a bus error. Raises CheckpointError where they are not whole.
        """
        digests = self._readable_digests()
        whole = np.empty((self.images, self.classes), np.float16)
        for part in range(view * self.parts, (view + 1) * self.parts):
            blob, rows = self._read(part, digests), self.rows(part)
            if blob is None:
                raise CheckpointError(
                    f"the teacher's answers are damaged or gone since the run began ({self.path}); "
                    "go on with --resume, which asks again"
                )
            whole[rows.start : rows.stop] = np.frombuffer(blob, _TYPE).reshape(len(rows), self.classes)
        return whole

    # --- parts ----------------------------------------------------------------------------

    def _digests(self) -> dict[int, str]:
        """Return the digest of each part that was written. Raises FormatError for another file's record."""
        if not self.record.exists():
            return {}
        fields = read_json(self.record, "the record of the answers", _LIMIT_BYTES, None)
        parts = fields.get("parts") if isinstance(fields, dict) and fields.get("key") == self.key else None
        if not isinstance(parts, list) or not all(isinstance(digest, str) for digest in parts):
            raise FormatError(f"{self.record} is not the record of these answers; delete it")
        return {number: digest for number, digest in enumerate(parts) if digest}

    def _readable_digests(self) -> dict[int, str]:
        try:
            return self._digests()
        except FormatError:
            return {}

    def _holds(self, part: int, digests: dict[int, str]) -> bool:
        return self._read(part, digests) is not None

    def _read(self, part: int, digests: dict[int, str]) -> bytes | None:
        """Return a part's bytes; None where it is not there or not whole."""
        if part not in digests:
            return None
        try:
            with self.path.open("rb") as file:
                file.seek(self._begin(part))
                blob = file.read(self._bytes(part))
        except OSError:
            return None
        return blob if sha256_bytes(blob) == digests[part] else None

    def _begin(self, part: int) -> int:
        return self.size_bytes(part // self.parts) + self.rows(part).start * self.classes * _TYPE.itemsize

    def _bytes(self, part: int) -> int:
        return len(self.rows(part)) * self.classes * _TYPE.itemsize

    # --- writing --------------------------------------------------------------------------

    def _reserve(self, epochs: int) -> None:
        """Take the room of so many epochs, so that a full disk is an error now and not after an hour."""
        size, folder = self.size_bytes(epochs), self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            needed = size - (self.path.stat().st_size if self.path.exists() else 0)
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise ToolError(
                    f"the teacher's answers need {needed:,} bytes, and {free:,} are free ({folder}); "
                    "free some space, set QUICKNET_CACHE to a folder on another disk, or lower distill.kept"
                )
            with self._opened() as file:
                reserve_space(file.fileno(), size)
        except OSError as error:
            raise self._unwritten(error) from error

    def _write(self, part: int, blob: bytes) -> None:
        """Write a part, then name it in the record."""
        try:
            with self._opened() as file:
                file.seek(self._begin(part))
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritten(error) from error
        digests = {**self._readable_digests(), part: sha256_bytes(blob)}
        parts = [digests.get(number, "") for number in range(max(digests) + 1)]
        write_atomically(self.record, json.dumps({"key": self.key, "parts": parts}))

    def _opened(self) -> IO[bytes]:
        """Return the file, open for writing anywhere in it; it is made where there is none."""
        return os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644), "r+b")

    def _rounded(self, answers: NDArray[np.float32]) -> bytes:
        with np.errstate(over="ignore"):
            rounded = answers.astype(_TYPE)
        if not np.isfinite(rounded).all():
            raise TrainingError(
                "the teacher answers with numbers that float16 does not hold, so they cannot be kept; "
                "use another teacher, or ask it every time (distill.kept=0)"
            )
        return rounded.tobytes()

    def _unwritten(self, error: OSError) -> ToolError:
        return ToolError(
            f"cannot write the teacher's answers ({self.path}: {error.strerror or error}); {write_advice(error)} "
            "(QUICKNET_CACHE), then run the same command again: what was written before is kept"
        )
