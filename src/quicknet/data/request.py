"""How a data source is to be read, as one frozen group of settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from quicknet.core.card import CHANNELS, Card, Mode, PreprocessSpec
from quicknet.core.errors import ConfigError
from quicknet.core.settings import Settings, from_mapping

Protocol = Literal["standard", "paper"]

FOLDER_SIZE = 64  # pixels, the default for folders


class DataRequest(Settings, frozen=True, kw_only=True):
    """How `load_data` reads, splits and maps a source.

    `size` None means the source's default (32 for CIFAR, 64 for folders). `spec`, where given (a
    model's card), decides everything about decoding, and `size`, `mode`, `resize` are not used.
    `classes` is the class order of a model: labels are mapped onto it by name.
    `protocol`: `standard` holds `val_share` of train out as `val`; `paper` pools train and test
    and holds `val_share` of all out, as `val` and as `test` at once (paper §4). `split_seed`
    chooses which. `max_bad_share` of the images may be unreadable. Raises ConfigError.
    """

    size: int | None = None
    mode: Mode = "RGB"
    resize: Literal["shorter", "stretch", "pad"] = "shorter"
    protocol: Protocol = "standard"
    split_seed: int = 0
    val_share: float = 0.1
    max_bad_share: float = 0.05
    classes: tuple[str, ...] | None = None
    spec: PreprocessSpec | None = None
    download: bool = True
    cache_dir: str | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        """Refuse shares, sizes and class lists that are out of range."""
        if not 0 < self.val_share < 0.5:
            raise ConfigError(f"val_share {self.val_share} must lie between 0 and 0.5")
        if not 0 <= self.max_bad_share <= 1:
            raise ConfigError(f"max_bad_share {self.max_bad_share} must lie in 0..1")
        if self.size is not None and not 1 <= self.size <= 4096:
            raise ConfigError(f"size {self.size} must lie in 1..4096 pixels")
        if not 0 <= self.split_seed < 2**63:
            raise ConfigError(f"split_seed {self.split_seed} must lie in 0..2^63-1")
        if self.classes is not None and (not self.classes or len(set(self.classes)) < len(self.classes)):
            raise ConfigError("classes must hold one name or more, each once")

    def decoding(self, default_size: int) -> PreprocessSpec:
        """Return the spec to decode by; its mean and std are placeholders unless `spec` was given."""
        if self.spec is not None:
            return self.spec
        channels = CHANNELS[self.mode]
        return PreprocessSpec(
            size=self.size or default_size,
            mode=self.mode,
            resize=self.resize,
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
        )


def request_for(card: Card, changes: Mapping[str, Any]) -> DataRequest:
    """Return how to read data for a trained model: by its preprocessing, classes and protocol, with `changes`.

    Raises ConfigError for an unknown protocol or setting.
    """
    protocol = card.data.protocol if card.data is not None else "standard"
    fields = {"spec": card.preprocess.to_dict(), "classes": list(card.classes), "protocol": protocol}
    return from_mapping(DataRequest, {**fields, **changes}, "how the model's data is read")
