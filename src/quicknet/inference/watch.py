"""Watching a folder: every picture that appears or changes there is classified, once it is complete.

The folder is listed again and again, which works on every file system (network shares report no
changes). A picture is complete when its size and time did not change between two looks and it can
be decoded; otherwise it is tried again when it changes or after GIVE_UP_S.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quicknet.core.clock import SYSTEM_CLOCK, Clock
from quicknet.core.errors import DataError
from quicknet.inference.classifier import Classifier
from quicknet.inference.predict import Prediction, PredictSettings, Unreadable, predict, walk_images

LOOK_S = 0.1  # between two looks, or ten times as long as a look takes
GIVE_UP_S = 2.0  # a half-written picture that has not grown for so long is reported

_Signature = tuple[int, int, int]  # bytes, time of change (ns), inode: a rename brings another one


@dataclass
class _Picture:
    """A file's last signature, since when it has that, and whether it was tried or is finished."""

    signature: _Signature
    since_s: float
    tried: bool = False
    done: bool = False


def watch(
    classifier: Classifier,
    folder: str | Path,
    settings: PredictSettings | None = None,
    seconds: float | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Iterator[Prediction | Unreadable]:
    """Yield an answer for every picture that is new in `folder` or changed, for `seconds` or without end.

    Files with an image's suffix count, in subfolders too; hidden files are left out. Pictures that
    are there at the start are not classified until they change. Raises DataError if `folder` is not
    a folder or disappears.
    """
    settings, started = settings or PredictSettings(), clock.now()
    place = str(folder)
    known = {path: _Picture(mark, started, done=True) for path, mark in _listing(place).items()}
    while seconds is None or clock.now() - started < seconds:
        looked = clock.now()
        ready = _ready(known, _listing(place), looked)
        took_s = clock.now() - looked
        for path, answer in zip(ready, predict(classifier, ready, settings), strict=True):
            picture = known[path]
            picture.tried = True
            if isinstance(answer, Prediction) or looked - picture.since_s >= GIVE_UP_S:
                picture.done = True
                yield answer
        clock.sleep(max(LOOK_S, 10 * took_s))


def _listing(folder: str) -> dict[str, _Signature]:
    """Return every picture under `folder`. Raises DataError where that cannot be listed."""
    try:
        with os.scandir(folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot watch the folder ({folder}: {reason}); check its name and rights") from error
    signatures = {}
    for path in walk_images(folder):
        if isinstance(path, Unreadable):  # a subfolder that was just deleted, or without the right to read it
            continue
        try:
            status = Path(path).stat()
        except OSError:  # deleted since it was listed
            continue
        signatures[path] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return signatures


def _ready(known: dict[str, _Picture], listing: dict[str, _Signature], now_s: float) -> list[str]:
    """Update `known` and return the pictures to try now."""
    for path in known.keys() - listing.keys():
        del known[path]
    ready = []
    for path, signature in listing.items():
        picture = known.get(path)
        if picture is None or picture.signature != signature:
            known[path] = _Picture(signature, now_s)
        elif not picture.done and (not picture.tried or now_s - picture.since_s >= GIVE_UP_S):
            ready.append(path)
    return ready
