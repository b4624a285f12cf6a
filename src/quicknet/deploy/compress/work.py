"""The folder beside OUT in which a compression keeps its state until the file is written."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quicknet.core.errors import CheckFailed, CheckpointError
from quicknet.core.files import folder_lock, read_json, write_atomically

PREPARED = "prepared.json"  # what was measured first
_BEGUN = "settings.json"  # what is done there
_FAILED = "failed"  # it ended, but its target was not reached
# Another --target-size or --max-loss, where the first was not reached, trains nothing that is there again.
_GOES_ON = ("target_size", "max_loss")


def work_folder(out: Path) -> Path:
    """Return where a compression to `out` keeps its state.

    >>> work_folder(Path("runs/photos.qnz"))
    PosixPath('runs/photos.qnz.work')
    """
    return out.with_name(f"{out.name}.work")


def is_begun(work: Path) -> bool:
    """Return whether a compression was begun there."""
    return (work / _BEGUN).is_file()


@contextlib.contextmanager
def working(work: Path, asked: dict[str, Any]) -> Iterator[None]:
    """Hold the folder for the compression `asked`, which goes on with what is there; remove it at the end.

    Raises CheckpointError where another compression is under way there.
    """
    with folder_lock(work):
        _claim(work, asked)
        try:
            yield
        except CheckFailed:
            write_atomically(work / _FAILED, "")
            raise
        _remove(work)


def _claim(work: Path, asked: dict[str, Any]) -> None:
    """Write down what is done. What was left without a finished step, or failed, gives way to something else."""
    begun = read_json(work / _BEGUN, "the settings of the compression") if is_begun(work) else asked
    begun = begun if isinstance(begun, dict) else {}
    differ = [key for key in asked if begun.get(key) != asked[key]]
    if differ and (work / PREPARED).is_file():
        untrained = begun.get("epochs") == 0
        if not (work / _FAILED).is_file() and not (untrained and begun.get("qat_epochs") == 0):
            raise CheckpointError(
                f"{work} holds another compression (its {differ[0]} differs); give the same options to go on with it, "
                "name another --out, or remove that folder"
            )
        # without training the target decides what is fine-tuned
        if untrained or differ[1:] or differ[0] not in _GOES_ON or not _allows_more(begun[differ[0]], asked[differ[0]]):
            _empty(work)
    write_atomically(work / _BEGUN, json.dumps(asked, indent=1))
    (work / _FAILED).unlink(missing_ok=True)


def _allows_more(before: float | None, now: float | None) -> bool:
    return before is not None and now is not None and now > before


def _empty(work: Path) -> None:
    """Remove what is in the folder but its lock."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


def _remove(work: Path) -> None:
    """Remove the folder: at once for whoever begins anew, even if this process dies on the way."""
    gone = work.with_name(f"{work.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    work.rename(gone)
    shutil.rmtree(gone)
