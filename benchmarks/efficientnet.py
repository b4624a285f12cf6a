"""EfficientNet-Lite0 with its ImageNet weights, as people take it: features of 224 pixels, frozen or fine-tuned."""

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
from quicknet.data import load_data
from quicknet.data.augment import Augmenter, AugmentSettings, normalize
from quicknet.data.request import DataRequest
from quicknet.image.preprocess import load_image
from quicknet.models import fused
from quicknet.onnx.runtime import import_onnxruntime
from quicknet.study.efficientnet import feature_file, network_of

SPEC = PreprocessSpec(size=256)  # then the middle 224, as it was measured on ImageNet
SIDE = 224
_MARGIN = (SPEC.size - SIDE) // 2
_CHUNK = 16
_EPOCHS, _BATCH = 12, 32  # of fine-tuning


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


def fine_tuned(folder: Path, threads: int = 2) -> tuple[float, float]:
    """Learn from folder/train, all layers; return the share of folder/test answered rightly, and the seconds.

    The usual way: a new classifier on the ImageNet network, AdamW, a tenth of the classifier's rate for what is
    behind it, cosine, 12 epochs of random-resized crops, flips and jitter, batch 32; bfloat16 where the CPU has it.
    """
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    spec = PreprocessSpec(size=SIDE, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    data = load_data(folder, DataRequest(spec=spec, quiet=True))
    parts = [split for name, split in data.splits.items() if name != "test"]
    images = torch.from_numpy(np.concatenate([part.images for part in parts]))
    labels = torch.from_numpy(np.concatenate([part.labels for part in parts]))
    change = AugmentSettings(crop=0, flip="random", scale=(0.35, 1.0), jitter=0.2)
    augmenter = Augmenter(images, labels, spec, change, 0, len(data.classes))
    network, head = network_of().float(), torch.nn.Linear(1280, len(data.classes))
    network.to(memory_format=torch.channels_last)
    groups = [{"params": network.parameters(), "lr": 3e-4}, {"params": head.parameters(), "lr": 3e-3}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    steps = _EPOCHS * (len(labels) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    started = time.perf_counter()

    def logits(batch: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=fused.has_bf16()):
            return head(network.extract_features(batch).mean((2, 3))).float()

    for epoch in range(_EPOCHS):
        network.train()
        for indices in torch.randperm(len(labels))[: len(labels) // _BATCH * _BATCH].split(_BATCH):
            batch = augmenter.batch(indices, epoch)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits(batch.images), batch.labels, label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
    seconds = time.perf_counter() - started
    test = data.split("test")
    network.eval()
    with torch.inference_mode():
        rows = torch.from_numpy(np.array(test.images)).split(_BATCH)
        answers = torch.cat([logits(normalize(row, spec.mean, spec.std)).argmax(1) for row in rows])
    return float((answers.numpy() == test.labels).mean()), seconds
