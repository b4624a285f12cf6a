"""What is measured: a model in one of the runtimes that can run it, with a number of threads."""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quicknet.core.card import Card
from quicknet.core.errors import ConfigError, nearest
from quicknet.core.machine import usable_cores
from quicknet.core.settings import Settings
from quicknet.image.vectors import draw_vectors
from quicknet.inference.artifact import Artifact, load, open_artifact
from quicknet.inference.classifier import Classifier
from quicknet.onnx.runtime import require_runtimes

if TYPE_CHECKING:
    from quicknet.training.checkpoint import TorchClassifier


class Runtime(NamedTuple):
    """What runs a kind of model: the package it needs, and what its process's environment gets."""

    package: str
    environment: dict[str, str]
    note: str


# `torch` is a run folder as every command runs it; the two others are what the fused kernels replace.
FOLDER_RUNTIMES = {
    "torch": Runtime("torch", {}, "as QuickNet runs it, fused kernels where they are built"),
    "torch-eager": Runtime("torch", {"QUICKNET_FUSED": "0"}, "plain modules, torch's default layout"),
    "torch-channels-last": Runtime("torch", {"QUICKNET_FUSED": "0"}, "plain modules, channels_last"),
}
FILE_RUNTIMES = {
    "onnxruntime": Runtime("onnxruntime", {}, "ONNX Runtime, CPU"),
    "openvino": Runtime("openvino", {}, "OpenVINO, CPU"),
}
QNZ_RUNTIMES = {
    "engine": Runtime("quicknet", {}, "the engine by the best instructions of this CPU"),
    "engine-portable": Runtime("quicknet", {}, "the engine in plain C"),
    "reference": Runtime("quicknet", {}, "numpy, some hundred times slower: only where it is asked for"),
}
RUNTIMES = {**FOLDER_RUNTIMES, **QNZ_RUNTIMES, **FILE_RUNTIMES}
_RUNTIMES_OF = {"run folder": FOLDER_RUNTIMES, "qnz": QNZ_RUNTIMES, "onnx": FILE_RUNTIMES}

# Every library that a runtime or numpy may take its number of threads from.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class Subject(Settings, frozen=True, kw_only=True):
    """One variant: `model` a run folder or file, `runtime` of RUNTIMES, its number of threads.

    "auto" is what `quicknet.load` chooses for a file. "peak" has no model: it is the matrix product
    that the others are measured against.
    """

    model: str
    runtime: str
    threads: int

    def environment(self) -> dict[str, str]:
        """Return what the subject's process needs in its environment."""
        variables = RUNTIMES[self.runtime].environment if self.runtime in RUNTIMES else {}
        return {**dict.fromkeys(_THREAD_VARIABLES, str(self.threads)), **variables}


def find_subjects(models: Sequence[str | Path], runtimes: Sequence[str], threads: Sequence[int]) -> tuple[Subject, ...]:
    """Return every model in every runtime present with every number of threads.

    `runtimes` chooses among them, empty takes all. Raises ConfigError for an unknown runtime or
    one that does not run a model, CheckpointError where no model is, ToolError where a run folder
    needs torch. A runtime that is asked for but not installed is noticed when it is opened.
    """
    for name in runtimes:
        if name not in RUNTIMES:
            raise ConfigError(f"no runtime is called {name!r}{nearest(name, RUNTIMES)}")
    subjects: list[Subject] = []
    for model in models:
        artifact = open_artifact(model)
        chosen = _runtimes_of(artifact, runtimes)
        if not chosen:
            able = ", ".join(_RUNTIMES_OF[artifact.kind])
            raise ConfigError(f"{model} does not run in {', '.join(runtimes)}; name one of {able}")
        subjects += [Subject(model=str(model), runtime=name, threads=n) for name in chosen for n in threads]
    return tuple(subjects)


def _runtimes_of(artifact: Artifact, asked: Sequence[str]) -> list[str]:
    kinds = _RUNTIMES_OF[artifact.kind]
    if kinds is QNZ_RUNTIMES and not asked:
        from quicknet import engine  # compiled now, where that is needed, rather than in a cold start

        return ["engine", "engine-portable"] if engine.available() else ["reference"]
    absent = {name for name, kind in kinds.items() if importlib.util.find_spec(kind.package) is None}
    if artifact.kind == "run folder" and absent:
        artifact.classifier()  # raises, and names the extra that has torch
    if not asked and len(absent) == len(kinds):
        require_runtimes()  # raises, and names the extra that has one
    return [name for name in kinds if name in asked or (not asked and name not in absent)]


def own_runtime(model: str) -> str:
    """Return the runtime in which `quicknet.load` would open the model: "torch", or the faster of a file's."""
    return "torch" if open_artifact(model).kind == "run folder" else "auto"


def thread_counts(asked: Sequence[str]) -> tuple[int, ...]:
    """Return numbers of threads without repetition; "all" means the cores that this process may use.

    Raises ConfigError for anything else than a number within 1..cores.

    >>> thread_counts(["1", "1"])
    (1,)
    """
    cores = usable_cores()
    numbers: list[int] = []
    for word in asked:
        number = cores if word == "all" else int(word) if word.isdecimal() else 0
        if not 1 <= number <= cores:
            raise ConfigError(f"threads {word!r} must be 'all' or lie in 1..{cores}, this machine's usable cores")
        if number not in numbers:
            numbers.append(number)
    return tuple(numbers)


# --- in the subject's own process ---------------------------------------------------------


def open_subject(subject: Subject) -> Classifier:
    """Load the subject's model into its runtime. Raises what `quicknet.load` raises."""
    if subject.runtime not in FOLDER_RUNTIMES:
        return load(subject.model, runtime=subject.runtime, threads=subject.threads)
    classifier = load(subject.model)
    torch = importlib.import_module("torch")
    torch.set_num_threads(subject.threads)
    return classifier if subject.runtime == "torch" else _Plain(cast("TorchClassifier", classifier), subject.runtime)


def describe(subject: Subject, classifier: Classifier) -> dict[str, str]:
    """Return which runtime it is, "auto" resolved, with its version and what it says of itself."""
    name = str(getattr(classifier, "runtime", subject.runtime))
    package = RUNTIMES[name].package
    text = f"{package} {importlib.import_module(package).__version__}, {RUNTIMES[name].note}"
    if name == "engine":
        text += f" ({importlib.import_module('quicknet.engine').instruction_sets()[-1]})"
    if name == "torch":
        text += f" ({importlib.import_module('quicknet.models.fused').status()})"
    return {"runtime": name, "detail": text}


class _Plain:
    """A run folder's network by torch's own modules, in one memory layout."""

    def __init__(self, classifier: TorchClassifier, runtime: str) -> None:
        import torch

        self.source: Path = classifier.source
        self.card: Card = classifier.card
        self.file_sha256 = classifier.file_sha256
        self._layout = torch.channels_last if runtime == "torch-channels-last" else torch.contiguous_format
        self._model = classifier.model.to(memory_format=self._layout)  # type: ignore[call-overload]

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (N, classes) of (N, size, size, channels) uint8."""
        import torch

        from quicknet.data.augment import normalize

        spec = self.card.preprocess
        with torch.no_grad():
            x = normalize(torch.from_numpy(images), spec.mean, spec.std).contiguous(memory_format=self._layout)
            return cast(NDArray[np.float32], self._model(x).numpy())


def draw_jpegs(width: int, height: int, n: int) -> list[bytes]:
    """Return n JPEG files (quality 90, 4:2:0) of the project's own drawings, always the same pixels."""
    side = max(width, height)
    files = []
    for drawn in draw_vectors(side, 3, n)[:, :height, :width]:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(drawn)).save(file, "JPEG", quality=90, subsampling="4:2:0")
        files.append(file.getvalue())
    return files
