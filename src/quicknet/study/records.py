"""Records under `results/`: a figure with everything that is needed to measure it again."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quicknet.core.card import Card
from quicknet.core.errors import ConfigError, ToolError
from quicknet.core.files import read_json, write_atomically
from quicknet.core.lineage import DistillStep, FineTuneStep
from quicknet.core.machine import machine_card, versions

ROOT = Path(__file__).resolve().parents[3]  # of the checkout that holds results/


def git_state(folder: Path) -> dict[str, Any]:
    """Return the commit of a checkout and whether its tree was clean; None outside of one."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "clean": None if status is None else status == ""}


def teacher_sha256(card: Card) -> str | None:
    """Return the digest of the weights that taught a network, of several with commas, None without a teacher.

    It is the one of the training: the teacher's name may have come to mean others since.
    """
    taught = list[str]()
    for step in card.lineage:
        if isinstance(step, FineTuneStep):
            taught = []
        elif isinstance(step, DistillStep):
            taught.append(step.weights_sha256)
    return ",".join(taught) or None


def one_teacher(cards: Sequence[Card]) -> str | None:
    """Return `teacher_sha256` of all. Raises ToolError where a teacher was replaced under its name between them."""
    teachers = {teacher_sha256(card) for card in cards}
    if len(teachers) > 1:
        raise ToolError("the runs learned from different teachers of one name; train or record them apart")
    return teachers.pop()


def write_record(results: Path, name: str, command: str, fields: dict[str, Any]) -> Path:
    """Write `results/NNNN-name/record.json` and return its folder.

    A record of that name is replaced under its old number, a new one gets the next. `command`
    measures the figures in `fields` again. Raises ConfigError for a name with other characters.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ConfigError(f"a record's name consists of small letters, digits, - and _, not {name!r}")
    taken = {folder.name[5:]: folder for folder in results.glob("[0-9][0-9][0-9][0-9]-*")}
    numbers = [int(folder.name[:4]) for folder in taken.values()]
    folder = taken.get(name, results / f"{max(numbers, default=0) + 1:04d}-{name}")
    record = {
        "name": name,
        "command": command,
        **fields,
        "versions": versions(),
        "machine": machine_card(),
        **git_state(results.parent),
    }
    write_atomically(folder / "record.json", json.dumps(record, indent=1) + "\n")
    return folder


def read_records(results: Path) -> dict[str, dict[str, Any]]:
    """Return all records by name. Raises FormatError for one that is not JSON."""
    paths = sorted(results.glob("[0-9][0-9][0-9][0-9]-*/record.json"))
    return {path.parent.name[5:]: read_json(path, "the record") for path in paths}
