"""The folder beside OUT in which a compression keeps its state until the file is written."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quicknet.core.errors import CheckFailed, CheckpointError, ConfigError
from quicknet.core.files import folder_lock, read_json, write_atomically

PREPARED = "prepared.json"  # what was measured first
_BEGUN = "settings.json"  # what is done there
_FAILED = "failed"  # it ended, but its target was not reached
# What may differ from a compression that missed its target, so that nothing that was trained is trained again:
# what only the integers depend on, and a target that allows more.
_INTEGERS = ("qat_epochs", "bits", "rate", "keep")
_SIZE_ALLOWED = 1.25  # times the size that was missed; with more, more of the weights could be kept


def work_folder(out: Path) -> Path:
    """Return where a compression to `out` keeps its state.

    >>> work_folder(Path("runs/photos.qnz"))
    PosixPath('runs/photos.qnz.work')
    """
    return out.with_name(f"{out.name}.work")


def begun(work: Path) -> dict[str, Any]:
    """Return what the compression that was begun there was asked for; {} where there is none."""
    path = work / _BEGUN
    asked = read_json(path, "the settings of the compression") if path.is_file() else {}
    return asked if isinstance(asked, dict) else {}


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
        except ConfigError:  # a target out of reach: nothing was trained
            if not (work / PREPARED).is_file():
                _remove(work)
            raise
        _remove(work)


def _claim(work: Path, asked: dict[str, Any]) -> None:
    """Write down what is done. What was left without a finished step, or failed, gives way to something else."""
    before = begun(work) if (work / _BEGUN).is_file() else asked
    differ = [key for key in asked if before.get(key) != asked[key]]
    if differ and (work / PREPARED).is_file():
        if not (work / _FAILED).is_file() and not (before.get("epochs") == 0 and before.get("qat_epochs") == 0):
            raise CheckpointError(
                f"{work} holds another compression (its {differ[0]} differs); give the same options to go on with it, "
                "name another --out, or remove that folder"
            )
        if not all(_goes_on(key, before, asked) for key in differ):
            _empty(work)
    write_atomically(work / _BEGUN, json.dumps(asked, indent=1))
    (work / _FAILED).unlink(missing_ok=True)


def _goes_on(key: str, was: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Return whether what was trained for one setting is what would be trained for another."""
    before, now = was.get(key), asked[key]
    if was.get("epochs") == 0:  # the target decides what is fine-tuned
        return False
    if key in _INTEGERS:
        return key != "bits" or asked["target_speed"] is None  # the speed is that of a width class
    if before is None or now is None:
        return False
    if key == "target_size":
        return bool(before < now <= _SIZE_ALLOWED * before)
    return bool(key == "max_loss" and now > before)


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
