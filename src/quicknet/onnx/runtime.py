"""An exported ONNX file as a classifier, by ONNX Runtime or OpenVINO: no torch.

Only bytes that were checked (`onnx_file`) go to the runtime; libraries of custom operators are
never loaded. If both runtimes are installed, `auto` measures both once and remembers the faster.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from quicknet.core.card import Card
from quicknet.core.choice import Images, Logits, Runner, faster, question, remembered
from quicknet.core.errors import (
    ConfigError,
    FormatError,
    QuickNetError,
    ToolError,
    install_command,
    require_package,
)
from quicknet.core.options import OnnxRuntime, checked_threads, environment_runtime
from quicknet.image.batches import in_batches
from quicknet.image.preprocess import check_images
from quicknet.image.vectors import draw_vectors
from quicknet.onnx.file import OnnxFile, parse_onnx, read_onnx

# Images per call of a runtime: the feature maps of a few images stay in cache. quicknet_s on one
# core, ms per image: 1.01 alone, 0.80 by 4, 1.10 by 16, 1.80 by 64.
_CHUNK = 8


class OnnxClassifier:
    """A file that `quicknet export` wrote, ready to run (the interface of `inference/classifier.py`).

    `runtime` `auto` is the one that the environment variable QUICKNET_RUNTIME names, else the
    fastest that is installed, measured once on this machine; `threads` is by default the number of
    cores. Threads may share one classifier; it pickles as the file's bytes, for other processes.
    Raises FormatError for a file that is foreign, damaged or refused by the runtime, ToolError for
    a runtime that is not installed, ConfigError for an unknown runtime.
    """

    def __init__(self, file: str | Path | OnnxFile, runtime: str = "auto", threads: int | None = None) -> None:
        self._open(file if isinstance(file, OnnxFile) else read_onnx(Path(file)), runtime, threads)

    def _open(self, file: OnnxFile, runtime: str, threads: int | None) -> None:
        if not file.intact:
            raise FormatError(f"{file.path} was changed or damaged since its export (sha256 differs); export it again")
        self.file = file
        self._asked_threads = threads
        self.threads = checked_threads(threads)
        self.runtime, self._run = _choose(file, runtime, self.threads)

    def __reduce__(self) -> tuple[Callable[..., OnnxClassifier], tuple[Any, ...]]:
        """Pickle with the chosen runtime: the logits of another one differ in their last digits."""
        return _unpickled, (self.file.blob, self.file.path, self.runtime, self._asked_threads)

    @property
    def card(self) -> Card:
        """The card in the file."""
        return self.file.card

    @property
    def source(self) -> Path:
        """The file."""
        return self.file.path

    @property
    def file_sha256(self) -> str:
        """The digest of the file's bytes."""
        return self.file.sha256

    def logits(self, images: Images) -> Logits:
        """Return (N, classes) float32 for (N, size, size, channels) uint8, for any N.

        Raises DataError for images of another shape or type.
        """
        return run_chunks(self._run, images, self.card)


def _unpickled(blob: bytes, path: Path, runtime: str, threads: int | None) -> OnnxClassifier:
    classifier = OnnxClassifier.__new__(OnnxClassifier)
    classifier._open(parse_onnx(blob, path), runtime, threads)
    return classifier


def run_chunks(run: Runner, images: Images, card: Card) -> Logits:
    """Return the logits of `images`, a few at a time. Raises DataError for images of another shape or type."""
    check_images(images, card.preprocess)
    return in_batches(run, images, _CHUNK, np.empty((len(images), len(card.classes)), np.float32))


def present() -> tuple[str, ...]:
    """Return the names of the runtimes that are installed."""
    return tuple(name for name in _RUNNERS if importlib.util.find_spec(name) is not None)


def require_runtimes() -> tuple[str, ...]:
    """Return the names of the runtimes that are installed. If there are none, raises ToolError naming the extra."""
    names = present()
    if not names:
        require_package("onnxruntime", "an ONNX file")
    return names


def import_onnxruntime() -> Any:
    """Return the package: the only place that imports it. Raises ToolError, naming the extra, without it.

    Its telemetry is off unless ORT_DISABLE_TELEMETRY says otherwise: version 1.32, for one,
    writes a device id under ~/.cache, and prints warnings in colour where it cannot. It reads the
    variable while it is loaded (its Privacy.md).
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    require_package("onnxruntime", "an ONNX file")
    return importlib.import_module("onnxruntime")


def open_runner(file: OnnxFile, name: str, threads: int) -> Runner:
    """Return a file's graph, compiled by the runtime `name`. Raises FormatError, ToolError, ConfigError."""
    if name not in _RUNNERS:
        raise ConfigError(f"no runtime is called {name!r}; use {', '.join(get_args(OnnxRuntime))}")
    if name not in present():
        raise ToolError(
            f"the runtime {name} is not installed; run {install_command(name)} or choose another with --runtime"
        )
    try:
        run = _RUNNERS[name](file.blob, threads)
    except QuickNetError:
        raise
    except Exception as error:  # each runtime has its own kinds
        raise FormatError(f"{name} does not take the graph ({file.path}: {_line(error)}); export it again") from error
    return _guarded(run, name, file.path)


def _guarded(run: Runner, name: str, path: Path) -> Runner:
    """Turn every exception of a runtime into one line of text."""

    def call(images: Images) -> Logits:
        try:
            return run(images)
        except Exception as error:
            raise FormatError(f"{name} failed on the graph ({path}: {_line(error)}); export it again") from error

    return call


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]


def _choose(file: OnnxFile, runtime: str, threads: int) -> tuple[str, Runner]:
    """Return a runtime's name and the graph compiled by it."""
    if runtime == "auto":
        runtime = environment_runtime(OnnxRuntime)
    if runtime != "auto":
        return runtime, open_runner(file, runtime, threads)
    names = require_runtimes()
    runners: dict[str, Runner] = {}

    def measure() -> str:
        runners.update({name: open_runner(file, name, threads) for name in names})
        spec = file.card.preprocess
        return faster(runners, draw_vectors(spec.size, spec.channels, 1), time.perf_counter)

    chosen = names[0] if len(names) == 1 else remembered(question(file.weights_sha256, threads, names), names, measure)
    return chosen, runners.get(chosen) or open_runner(file, chosen, threads)


# --- the runtimes --------------------------------------------------------------------------


def _open_onnxruntime(blob: bytes, threads: int) -> Runner:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # failures are raised; nothing else belongs on stderr
    session = onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])

    def run(images: Images) -> Logits:
        return cast(Logits, session.run(["logits"], {"images": images})[0])

    return run


def _open_openvino(blob: bytes, threads: int) -> Runner:
    return _OpenVino(blob, threads)


class _OpenVino:
    """One compiled graph for single images and, when first needed, one for any number.

    A fixed batch is faster: quicknet_s 1.18 ms instead of 1.41. An inference request serves one
    thread at a time, so each thread has its own.
    """

    def __init__(self, blob: bytes, threads: int) -> None:
        self._core: Any = importlib.import_module("openvino").Core()
        self._blob = blob
        # float32 as exported and verified: on CPUs with bf16, that would be the default
        self._settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._lock = threading.Lock()
        self._local = threading.local()
        self._single = self._compiled(fixed=True)
        self._any: Any = None

    def _compiled(self, fixed: bool) -> Any:
        model = self._core.read_model(self._blob, b"")
        if fixed:
            shape = model.input("images").partial_shape
            model.reshape({"images": [1, *(axis.get_length() for axis in list(shape)[1:])]})
        return self._core.compile_model(model, "CPU", self._settings)

    def __call__(self, images: Images) -> Logits:
        kind = "single" if len(images) == 1 else "any"
        request = getattr(self._local, kind, None)
        if request is None:
            with self._lock:
                if kind == "any" and self._any is None:
                    self._any = self._compiled(fixed=False)
            request = (self._single if kind == "single" else self._any).create_infer_request()
            setattr(self._local, kind, request)
        return np.array(request.infer([images])[0], np.float32)


_RUNNERS: dict[str, Callable[[bytes, int], Runner]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
}
