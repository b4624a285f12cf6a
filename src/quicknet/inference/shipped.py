"""Weights by name, such as `quicknet_s.cifar10`: in the package, in the user's cache, or downloaded.

`quicknet/weights/index.json` lists them: NAME.qnz is the file that runs, NAME/ the run folder that
training starts from. Small ones lie in the package; of others the index has the name in the
project's release, and the sha256, so that it does not matter where they are fetched from.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from quicknet.core.errors import FormatError, ToolError
from quicknet.core.files import read_json, sha256_bytes, sha256_file
from quicknet.core.places import locked, user_cache
from quicknet.core.settings import Settings
from quicknet.qnz.format import MAX_FILE_BYTES

PACKAGED = Path(__file__).resolve().parent.parent / "weights"
# Nothing is released yet: until there is an address, a name that never resolves (RFC 2606).
RELEASE_URL = "https://weights.quicknet.invalid/1"

_LIMIT_INDEX_BYTES = 1 << 20
_LONGEST_NAME = 100
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
RUN_FILES = ("card.json", "model.safetensors")

_Name = Annotated[str, msgspec.Meta(pattern=rf"\A{_NAME.pattern}\Z", max_length=_LONGEST_NAME)]


class Part(Settings, frozen=True, kw_only=True):
    """One file below the weights' folder; `url` is its name in the release, None if it is in the package."""

    file: str
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]
    url: _Name | None = None


class Shipped(Settings, frozen=True, kw_only=True):
    """The files of one kind of a name, and the accuracy in its card (a share of n images)."""

    top1: Annotated[float, msgspec.Meta(ge=0, le=1)]
    n: Annotated[int, msgspec.Meta(ge=1)]
    split: str
    parts: tuple[Part, ...]


class Weights(Settings, frozen=True, kw_only=True):
    """One name of the index: the network and its data; `file` is a `.qnz`, `run` a run folder."""

    network: str
    data: str
    protocol: str
    file: Shipped | None = None
    run: Shipped | None = None


class Index(Settings, frozen=True, kw_only=True):
    """The content of `index.json`."""

    format: Literal[1] = 1
    weights: dict[_Name, Weights] = {}


def read_index(folder: Path) -> Index:
    """Return the index of a folder of weights. Raises FormatError for a damaged one."""
    path = folder / "index.json"
    return index_from_dict(read_json(path, "QuickNet's list of weights", _LIMIT_INDEX_BYTES), path)


def index_from_dict(fields: Any, path: Path) -> Index:
    """Return a checked index from parsed JSON; `path` is for messages. Raises FormatError."""
    try:
        index = msgspec.convert(fields, Index)
    except msgspec.ValidationError as error:
        raise FormatError(f"QuickNet's list of weights is damaged: {error} ({path}); install it again") from error
    for name, weights in index.weights.items():
        _check_files(weights.file, [f"{name}.qnz"], path)
        _check_files(weights.run, [f"{name}/{file}" for file in RUN_FILES], path)
    return index


def _check_files(artifact: Shipped | None, expected: list[str], path: Path) -> None:
    """Refuse any files but those of the name, since they decide where bytes are written."""
    parts = artifact.parts if artifact else ()
    if artifact and [part.file for part in parts] != expected:
        raise FormatError(f"QuickNet's list of weights lacks {expected[-1]} ({path}); install it again")
    if len({part.url is None for part in parts}) > 1:
        raise FormatError(f"QuickNet's list of weights has {expected[-1]} in two places ({path}); install it again")


def list_weights(pattern: str = "*") -> list[str]:
    """Return the names of shipped weights that match a shell pattern, sorted. Raises FormatError."""
    return sorted(fnmatch.filter(read_index(PACKAGED).weights, pattern))


def names_with_run() -> list[str]:
    """Return the names that ship as a run folder, which training starts from, sorted. Raises FormatError."""
    return sorted(name for name, weights in read_index(PACKAGED).weights.items() if weights.run)


def or_names_with_run(near: str = "") -> str:
    """Return the end of a message, ``, or shipped weights that have one: …``: `near` alone where it is such a name."""
    names = names_with_run()
    names = [near] if near in names else names
    return f", or shipped weights that have one: {' or '.join(names)}" if names else ""


def is_name(model: str) -> bool:
    """Return whether a word could name weights: NETWORK.DATA, not a path.

    >>> is_name("quicknet_s.cifar10"), is_name("quicknet_s"), is_name("../quicknet_s.cifar10")
    (True, False, False)
    """
    return len(model) <= _LONGEST_NAME and _NAME.fullmatch(model) is not None


def near_weights(model: str | Path) -> list[str]:
    """Return the names of shipped weights that are similar to `model`, the nearest first."""
    return difflib.get_close_matches(str(model), list_weights(), n=2, cutoff=0.6)


def did_you_mean(model: str | Path) -> str:
    """Return `` (did you mean …?)`` with the names of `near_weights`, or an empty text."""
    near = near_weights(model)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def locate(model: str | Path, want: Literal["file", "run", "any"], quiet: bool = False) -> Path:
    """Return the path of a model: `model` itself if it exists or is not a name of shipped weights.

    A name gives its `.qnz` ("file"), its run folder ("run"), or the first of these that it has
    ("any"). It is downloaded into the user's cache if neither the package nor the cache has it;
    $QUICKNET_WEIGHTS_URL, an address or a folder, replaces the release. Raises FormatError for a damaged
    index, ToolError if the network or the disk fails or the name has no such kind, DataError for a
    wrong checksum.
    """
    name = str(model)
    if not is_name(name) or os.path.lexists(name):
        return Path(model)
    weights = read_index(PACKAGED).weights.get(name)
    if weights is None:
        return Path(model)
    if want == "any":
        want = "file" if weights.file else "run"
    artifact = weights.file if want == "file" else weights.run
    if artifact is None:
        if want == "file":
            raise ToolError(
                f"{name} holds weights to start a training from, not to classify with; name the run folder that "
                "quicknet train FOLDER makes of them"
            )
        raise ToolError(f"{name} ships without a run folder; name a run folder{or_names_with_run()}")
    root = _fetched(name, artifact, quiet) if artifact.parts[0].url else _installed(name, artifact)
    return root / (f"{name}.qnz" if want == "file" else name)


def _installed(name: str, artifact: Shipped) -> Path:
    """Return the package's folder. The readers of the files check their digests."""
    for part in artifact.parts:
        if not (PACKAGED / part.file).is_file():
            raise ToolError(f"a file of the weights {name} is missing ({PACKAGED / part.file}); install it again")
    return PACKAGED


def _fetched(name: str, artifact: Shipped, quiet: bool) -> Path:
    """Return the cache's folder for exactly this content: another release may have other weights under the name."""
    digest = sha256_bytes("".join(part.sha256 for part in artifact.parts).encode())
    root = user_cache() / "weights" / digest[:16]
    for part in artifact.parts:
        if not _is_there(root / part.file, part):
            _download(part, root / part.file, name, quiet)
    return root


def _is_there(path: Path, part: Part) -> bool:
    return path.is_file() and path.stat().st_size == part.size_bytes and sha256_file(path) == part.sha256


def _release() -> str:
    """Return where the release's files are: an address, or a folder, as a checkout has them."""
    checkout = PACKAGED.parents[2] / "release"
    return os.environ.get("QUICKNET_WEIGHTS_URL") or (str(checkout) if checkout.is_dir() else RELEASE_URL)


def _download(part: Part, target: Path, name: str, quiet: bool) -> None:
    """Fetch one file; if several processes want it, one fetches and the others wait."""
    from quicknet.core.download import Download, copy, fetch  # 25 ms that a file in the package should not wait for

    base = _release()
    download = Download(
        url=f"{base.rstrip('/')}/{part.url}",
        algorithm="sha256",
        checksum=part.sha256,
        limit_bytes=part.size_bytes,
        what=f"file of {name}",
        otherwise=f"put the file at {target}",
        wrong="update QuickNet, whose newer releases may know the file",
    )
    with locked(target.parent / ".download.lock"):
        if _is_there(target, part):  # another process has fetched it meanwhile
            return
        beside = target.with_name(f"{target.name}.part")
        if Path(base).is_dir():
            copy(download, beside)
        else:
            fetch(download, beside, quiet)
        try:
            beside.replace(target)
        except OSError as error:
            raise ToolError(f"cannot write {target} ({error.strerror or error}); make it writable") from error
