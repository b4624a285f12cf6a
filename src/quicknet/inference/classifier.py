"""One interface for every kind of model file, and the table of what opens which."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import Card, require_run_folder
from quicknet.core.errors import CheckpointError, ConfigError, FormatError, missing_extra
from quicknet.inference.shipped import locate, near_weights
from quicknet.onnx.file import looks_like_onnx
from quicknet.qnz.file import looks_like_qnz

# kind of model → (a test for it, "module:function" that opens it). Named here, not imported: a run
# folder needs torch, and the light part must work without torch.
_OPENERS: dict[str, tuple[Callable[[Path], bool], str]] = {
    "a run folder (card.json and model.safetensors)": (
        Path.is_dir,
        "quicknet.training.checkpoint:load_classifier",
    ),
    "a .qnz file": (looks_like_qnz, "quicknet.qnz.file:load_qnz"),
    "an exported ONNX file": (looks_like_onnx, "quicknet.onnx.runtime:load_onnx"),
}


class Classifier(Protocol):
    """A model that is ready to run."""

    @property
    def card(self) -> Card:
        """What the model is: classes, preprocessing, measured metrics."""
        ...

    @property
    def source(self) -> Path:
        """The run folder or file it was loaded from."""
        ...

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (N, classes) float32 for (N, size, size, channels) uint8."""
        ...


def load(path: str | Path, runtime: str = "auto", threads: int | None = None) -> Classifier:
    """Return the classifier in a run folder or an exported file, recognized by content, or of shipped weights.

    A name such as "quicknet_s.cifar10" opens the `.qnz` of the weights that ship under it, as
    `quicknet.inference.shipped.locate` finds it; a path that exists goes first.
    `runtime` and `threads` are for exported files, as `OnnxClassifier` (`auto`, `onnxruntime`,
    `openvino`) and `QnzClassifier` (`auto`, `engine`, `engine-portable`, `reference`) say.
    Raises CheckpointError if nothing is at `path` or a folder is not a run folder, FormatError for
    any other file, ToolError if the package that opens it is not installed, ConfigError if a run
    folder is given `runtime` or `threads`.
    """
    path = locate(path, "file")
    options: dict[str, Any] = {"runtime": runtime} if runtime != "auto" else {}
    options |= {} if threads is None else {"threads": threads}
    if not path.exists():
        raise CheckpointError(
            f"no model at {path}{_near(path)}; name a run folder, an exported file or shipped weights"
        )
    if path.is_dir():
        require_run_folder(path)
    if options and path.is_dir():
        raise ConfigError(f"{' and '.join(options)} can be chosen for exported files only; {path} is a run folder")
    for accepts, opener in _OPENERS.values():
        if accepts(path):
            return cast(Classifier, _attribute(opener)(path, **options))
    raise FormatError(f"{path} is not a model that QuickNet reads; give {' or '.join(_OPENERS)}")


def _near(path: Path) -> str:
    """Return `` (did you mean …?)`` with a similar name beside the missing one and similar shipped weights, if any."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        names = []
    beside = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    near = [str(path.parent / name) for name in beside] + near_weights(path)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _attribute(name: str) -> Any:
    """Import "module:attribute". Raises ToolError naming the extra of a missing package."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        missing = missing_extra(error, "a run folder")  # the other openers import nothing of an extra
        if missing is None:
            raise
        raise missing from error
