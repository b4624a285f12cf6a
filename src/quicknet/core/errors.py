"""Every failure that a user can cause or correct, as an exception with one line of text.

The text names what is wrong, where, and what to do; the command line prints it as
``quicknet: error: TEXT`` and exits with `exit_code`.

One `except QuickNetError` catches all of them:

QuickNetError                  exit code 2, unless one below has its own
├── ConfigError                a setting, recipe or network description
├── DataError                  a data set or an image
│   └── TransientImageError    an image that may be read at another time (quicknet.image.formats)
├── CheckpointError            a run folder or its tensors
├── FormatError                a file from outside that breaks its format
├── ToolError                  a package, disk or device that is missing or refuses
├── TrainingError              training that cannot go on
└── CheckFailed                a check that did not hold; exit code 1
    └── TargetMissed           a file that came out larger, or less accurate, than asked for; exit code 1
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import sys
from collections.abc import Callable, Iterable
from typing import ParamSpec

_Words = ParamSpec("_Words")


class QuickNetError(Exception):
    """Base of everything QuickNet raises on purpose; exit code 2 on the command line."""

    exit_code = 2


class ConfigError(QuickNetError):
    """A setting, recipe or network description that cannot be followed."""


class DataError(QuickNetError):
    """A data set or an image that cannot be used."""


class CheckpointError(QuickNetError):
    """A run folder or its tensors that cannot be believed or continued."""


class FormatError(QuickNetError):
    """A file from outside that breaks its format."""


class ToolError(QuickNetError):
    """Something of the environment that is missing or refuses: an extra, a disk, a device."""


class TrainingError(QuickNetError):
    """Training that cannot go on (a loss that is not a number, for one)."""


class CheckFailed(QuickNetError):
    """A check that did not hold (`verify`, `doctor`, `benchmark --fps`); exit code 1."""

    exit_code = 1


class TargetMissed(CheckFailed):
    """A file that is larger, or loses more, than was asked for: with other settings there may be one."""


def program(main: Callable[_Words, None]) -> Callable[_Words, int]:
    """Have a script's `main` return its exit code: 0, or after one line on standard error that of what it raised."""

    @functools.wraps(main)
    def run(*words: _Words.args, **more: _Words.kwargs) -> int:
        try:
            main(*words, **more)
        except QuickNetError as error:
            print(f"quicknet: error: {error}", file=sys.stderr)
            return error.exit_code
        return 0

    return run


# package → the extra of quicknet-vision that brings it
_EXTRAS = {
    "torch": "train",
    "safetensors": "train",
    "tomli_w": "train",
    "matplotlib": "report",
    "onnx": "export",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "av": "video",
    "pillow_heif": "heic",
}


def missing_extra(error: ModuleNotFoundError, what: str = "this") -> ToolError | None:
    """Return what to say where `what` needs a package that an extra brings; None for any other package.

    Of several packages of the extra that are missing, the first is named: torch, not safetensors.
    """
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRAS:
        return None
    same = [name for name, extra in _EXTRAS.items() if extra == _EXTRAS[package]]
    return _missing(next((name for name in same if importlib.util.find_spec(name) is None), package), what)


def require_package(package: str, what: str) -> None:
    """Raise ToolError, naming the extra, where `what` needs a package that is not installed."""
    if importlib.util.find_spec(package) is None:
        raise _missing(package, what)


def install_command(package: str) -> str:
    """Return the command that installs a package of an extra.

    >>> install_command("onnxruntime")
    "`pip install 'quicknet-vision[onnx]'`"
    """
    return f"`pip install 'quicknet-vision[{_EXTRAS[package]}]'`"


def _missing(package: str, what: str) -> ToolError:
    return ToolError(f"{what} needs {package}, which is not installed; run {install_command(package)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known word nearest to `word`, or the known ones.

    >>> nearest("batchsize", ["batch_size", "epochs"])
    " (did you mean 'batch_size'?)"
    >>> nearest("zzz", ["b", "a"])
    ' (known: a, b)'
    """
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"
