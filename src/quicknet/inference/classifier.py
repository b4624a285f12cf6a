"""One interface for every kind of model that is ready to run."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import Card
from quicknet.core.errors import ConfigError


def require_loaded(model: object) -> None:
    """Raise ConfigError where a model is a path, or something else that is not loaded yet."""
    if not hasattr(model, "card"):
        raise ConfigError(f"{model!r} is not a loaded model; load it first: quicknet.load(PATH)")


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

    @property
    def file_sha256(self) -> str:
        """The digest, as they were read, of the bytes that answer: a run folder's weights, or the whole file."""
        ...

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (N, classes) float32 for (N, size, size, channels) uint8."""
        ...
