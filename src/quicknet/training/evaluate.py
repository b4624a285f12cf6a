"""Logits of a torch network over uint8 images: the same few lines for validation and test."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quicknet.core.card import PreprocessSpec
from quicknet.data.augment import normalize

_CHUNK = 256


@torch.no_grad()
def predict_logits(
    model: nn.Module, images: NDArray[np.uint8], spec: PreprocessSpec, device: torch.device
) -> NDArray[np.float32]:
    """Return logits (N, classes) of images (N, H, W, C); the model is left in eval mode."""
    model.eval()
    logits = [np.empty((0, 0), np.float32)] if len(images) == 0 else []
    for start in range(0, len(images), _CHUNK):
        chunk = torch.from_numpy(np.array(images[start : start + _CHUNK])).to(device)
        logits.append(model(normalize(chunk, spec.mean, spec.std)).float().cpu().numpy())
    return np.concatenate(logits)
