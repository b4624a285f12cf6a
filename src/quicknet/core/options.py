"""The options for running an exported file, `.qnz` or ONNX: a runtime and a number of threads."""

from __future__ import annotations

import os
from typing import Literal, get_args

from quicknet.core.errors import ConfigError
from quicknet.core.machine import usable_cores

VARIABLE = "QUICKNET_RUNTIME"
MOST_THREADS = 256  # that the engine takes

OnnxRuntime = Literal["auto", "onnxruntime", "openvino"]
QnzRuntime = Literal["auto", "engine", "engine-portable", "reference"]


def environment_runtime(kind: object) -> str:
    """Return the runtime that QUICKNET_RUNTIME names for a kind of file, by default `auto`.

    A name that is not in `kind` (OnnxRuntime or QnzRuntime) but in the other one counts as `auto`:
    one setting serves both. A name in neither is returned, and the caller refuses it.
    """
    named = os.environ.get(VARIABLE, "").strip() or "auto"
    others = {*get_args(OnnxRuntime), *get_args(QnzRuntime)} - set(get_args(kind))
    return "auto" if named in others else named


def checked_threads(threads: int | None, most: int = 1024) -> int:
    """Return `threads`, by default the number of usable cores, `most` at most. Raises ConfigError outside 1..most."""
    if threads is None:
        return min(usable_cores(), most)
    if not 1 <= threads <= most:
        raise ConfigError(f"threads {threads} must lie in 1..{most}")
    return threads
