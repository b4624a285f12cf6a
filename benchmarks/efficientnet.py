"""EfficientNet-Lite0 with its ImageNet weights, as people take it: features of 224 pixels, frozen."""

from __future__ import annotations

import functools
import hashlib
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quicknet.core.card import PreprocessSpec
from quicknet.image.preprocess import load_image
from quicknet.onnx.runtime import import_onnxruntime
from quicknet.study.efficientnet import feature_file

SPEC = PreprocessSpec(size=256)  # then the middle 224, as it was measured on ImageNet
SIDE = 224
_MARGIN = (SPEC.size - SIDE) // 2
_CHUNK = 16


@functools.cache
def graph() -> bytes:
    """Return the features' graph as an ONNX file. Raises ToolError where a package is not installed."""
    return feature_file(SIDE)


@functools.cache
def session(threads: int) -> Any:
    """Return the graph in ONNX Runtime."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(graph(), options, providers=["CPUExecutionProvider"])


def features(folder: Path, names: list[str], cache: Path) -> tuple[Tensor, Tensor]:
    """Return the features (N, 1280) of folder/NAME/*, and labels (N,); each picture's are kept in `cache`."""
    cache.mkdir(exist_ok=True)
    rows, labels = [], []
    paths = [(label, path) for label, name in enumerate(names) for path in sorted((folder / name).iterdir())]
    for start in range(0, len(paths), _CHUNK):
        chunk = paths[start : start + _CHUNK]
        keys = [cache / f"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}.npy" for _, path in chunk]
        missing = [number for number, key in enumerate(keys) if not key.exists()]
        if missing:
            images = [load_image(chunk[number][1], SPEC) for number in missing]
            for number, row in zip(missing, _answers(np.stack(images)), strict=True):
                np.save(keys[number], row)
        rows += [np.load(key) for key in keys]
        labels += [label for label, _ in chunk]
    return torch.from_numpy(np.stack(rows)), torch.tensor(labels)


def _answers(images: Any, threads: int = 2) -> Any:
    """Return features (N, 1280) of uint8 images (N, 256, 256, 3)."""
    middle = images[:, _MARGIN : _MARGIN + SIDE, _MARGIN : _MARGIN + SIDE]
    return session(threads).run(None, {"images": np.ascontiguousarray(middle)})[0]


@functools.cache
def milliseconds() -> float:
    """Return the median time of one image on one thread."""
    image, times = np.zeros((1, SPEC.size, SPEC.size, 3), np.uint8), []
    for _ in range(25):
        started = time.perf_counter()
        _answers(image, threads=1)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[5:])
