"""Run folders for tests of what is exported: small networks that know their data, in a second."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from quicknet.core.card import Card
from quicknet.data import DataRequest, Dataset, load_data
from quicknet.data.augment import normalize
from quicknet.models.options.weight_norm import MeanOnlyNorm2d
from quicknet.models.registry import create_model, model_record
from quicknet.training.checkpoint import RunFolder, TorchClassifier

TINY = {"stem_width": 8, "widths": [8, 12, 16, 24], "depths": [1, 1, 2, 1]}


def write_pictures(root: Path, n: int = 10, seed: int = 0) -> Path:
    """Write three classes of n pictures a split, not square, told apart by their left, middle or right."""
    rng = np.random.default_rng(seed)
    for split in ("train", "val", "test"):
        for number, name in enumerate(("left", "middle", "right")):
            (root / split / name).mkdir(parents=True)
            for index in range(n):
                pixels = rng.integers(0, 200, (40, 60, 3), dtype=np.uint8)
                pixels[:, 4 + 18 * number : 20 + 18 * number, 0] = 255
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


def settled(model: Any, images: np.ndarray, data: Dataset, seed: int) -> Any:
    """Draw slopes of every kind, take batch norm's statistics from `images`, fit the classifier to them."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.3, 1.6)  # above 1 and below 0 too
        if isinstance(module, MeanOnlyNorm2d):
            module.momentum = 1.0
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of all that it sees
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    pixels = normalize(torch.from_numpy(np.array(images)), data.spec.mean, data.spec.std)
    with torch.no_grad():
        for _ in range(2):
            model.train()(pixels)
        model.eval()
        features = model.forward_head(model.forward_features(pixels), pre_logits=True)
        targets = 4.0 * nn.functional.one_hot(torch.from_numpy(np.array(data.split("train").labels)), len(data.classes))
        wide = torch.cat([features, torch.ones(len(features), 1)], 1).double()
        ridge = wide.T @ wide + 1e-2 * torch.eye(wide.shape[1])
        solved = torch.linalg.solve(ridge, wide.T @ targets.double()).T.float()
        model.classifier.weight.copy_(solved[:, :-1])
        model.classifier.bias.copy_(solved[:, -1])
    return model


def make_run(
    folder: Path,
    source: Path,
    name: str = "quicknet_xs",
    request: DataRequest | None = None,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Write a run folder whose network was fitted to the training images at `source`."""
    data = load_data(source, request or DataRequest(quiet=True))
    overrides = {
        **(TINY if name.startswith("quicknet") else {"widths": [8, 12, 16]}),
        "image_size": data.spec.size,
        "num_classes": len(data.classes),
        "in_channels": data.spec.channels,
        **config,
    }
    torch.manual_seed(seed)
    model = settled(create_model(name, **overrides), data.split("train").images, data, seed)
    card = Card(model=model_record(name, model), classes=data.classes, preprocess=data.spec, data=data.record())
    RunFolder(folder).save_model(dict(model.state_dict()), card)
    return folder


def torch_logits(run: Path, images: np.ndarray) -> np.ndarray:
    """Return what the run folder itself answers."""
    return TorchClassifier(run).logits(images)
