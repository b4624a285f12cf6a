"""Logits of a torch network over uint8 images: the same few lines for validation and test."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from quicknet.core.card import PreprocessSpec, Vectors
from quicknet.data.augment import normalize
from quicknet.image.batches import in_batches
from quicknet.image.vectors import GENERATOR, draw_vectors, vectors_sha256
from quicknet.models.network import Network

_CHUNK = 256


def drawn_vectors(model: Network, spec: PreprocessSpec, device: torch.device) -> Vectors:
    """Return the test vectors of a card: drawn images, and the model's logits of them."""
    images = draw_vectors(spec.size, spec.channels)
    logits = predict_logits(model, images, spec, device)
    rows = tuple(tuple(float(value) for value in row) for row in logits)
    return Vectors(generator=GENERATOR, sha256=vectors_sha256(images), logits=rows)


@torch.no_grad()
def predict_logits(
    model: Network, images: NDArray[np.uint8], spec: PreprocessSpec, device: torch.device
) -> NDArray[np.float32]:
    """Return logits (N, classes) of images (N, H, W, C); the model is left in eval mode."""
    model.eval()

    def answers(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(np.array(rows)).to(device)
        return cast(NDArray[np.float32], model(normalize(pixels, spec.mean, spec.std)).float().cpu().numpy())

    logits = np.empty((len(images), model.config.num_classes), np.float32)
    return in_batches(answers, images, _CHUNK, logits)
