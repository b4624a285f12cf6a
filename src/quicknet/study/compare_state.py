"""What `compare` has measured so far, in a file, so that a call that was interrupted can go on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

from quicknet import __version__
from quicknet.core.errors import FormatError, ToolError
from quicknet.core.files import read_json, sha256_bytes, write_atomically
from quicknet.core.settings import Settings
from quicknet.report.comparison import Speed

_METHOD = 2  # 2: ratios are medians over rounds


class Measured(Settings, frozen=True, kw_only=True):
    """What was measured of one network; None where it could not be, for which `notes` has the reason."""

    name: str
    float_bytes: int | None
    int8_bytes: int | None
    float32: Speed | None
    int8: Speed | None
    notes: tuple[str, ...]


class _Content(Settings, frozen=True, kw_only=True):
    format: Literal[1] = 1
    networks: dict[str, Measured] = {}


def key_of(asked: Any, machine: dict[str, Any], versions: dict[str, str]) -> str:
    """Return a digest of everything that a measurement depends on: `asked` says what is measured, and how."""
    same = {name: machine[name] for name in ("cpu", "cores", "flags", "system")}
    return sha256_bytes(json.dumps([__version__, _METHOD, asked, same, versions], sort_keys=True).encode())


class State:
    """Measurements by their key; without a path, they last as long as the object.

    What was measured elsewhere or of another version stays in the file, and is not used. Raises
    FormatError for a file that is not such a state, ToolError where it cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._networks: dict[str, Measured] = {}
        if path is None:
            return
        if path.is_dir():
            raise ToolError(f"{path} is a folder; name a file with --state")
        if path.exists():
            self._networks = _read(path).networks
        self.keep({})  # now rather than after minutes of measuring

    def find(self, keys: Iterable[str]) -> dict[str, Measured]:
        """Return what is known, by key."""
        return {key: self._networks[key] for key in keys if key in self._networks}

    def keep(self, measured: dict[str, Measured]) -> None:
        """Add measurements, and write them all."""
        self._networks |= measured
        if self._path is not None:
            text = json.dumps(_Content(networks=self._networks).to_dict(), indent=1)
            write_atomically(self._path, f"{text}\n")


def _read(path: Path) -> _Content:
    what = "the state of compare"
    try:
        return msgspec.convert(read_json(path, what), _Content)
    except (msgspec.ValidationError, FormatError) as error:
        raise FormatError(
            f"{path} is not a state that `quicknet compare` wrote ({error}); name another file"
        ) from error
