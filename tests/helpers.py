"""What several tests need: a small learnable data set, a recipe over in seconds, comparisons."""

from pathlib import Path

import numpy as np
import torch

from quicknet.data import Dataset
from quicknet.training.checkpoint import read_tensors


def write_cifar(folder: Path, per_batch: int, seed: int = 0) -> Path:
    """Write ten classes told apart by colour and brightness of one half, with noise."""
    rng = np.random.default_rng(seed)
    target = folder / "cifar-10-batches-bin"
    target.mkdir(parents=True)
    for name in [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]:
        labels = np.arange(per_batch) % 10
        images = rng.integers(0, 120, (per_batch, 3, 32, 32))
        for image, label in zip(images, labels, strict=True):
            image[label % 3, :, 16 * (label % 2) : 16 * (label % 2) + 16] += 12 * label + 15
        records = np.empty((per_batch, 3073), np.uint8)
        records[:, 0] = labels
        records[:, 1:] = images.reshape(per_batch, -1)
        (target / name).write_bytes(records.tobytes())
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (target / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    return target


TINY = (
    "model.name=quicknet_xs",
    "model.overrides={stem_width = 8, widths = [8, 12, 16, 24], depths = [1, 1, 1, 1], dropout = 0.3}",
    "train.epochs=3",
    "train.batch_size=32",
    "train.ema_decay=0.9",
    "optim.name=sgd",
    "optim.lr=0.05",
)


def same_tensors(a: Path, b: Path) -> bool:
    """Return whether two safetensors files hold the same tensors, bit for bit."""
    first, second = read_tensors(a), read_tensors(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def paths_of(data: Dataset, part: str) -> tuple[str, ...]:
    """Return the pictures' paths of a folder's part, which data of other kinds has not."""
    paths = data.split(part).paths
    assert paths is not None
    return paths
