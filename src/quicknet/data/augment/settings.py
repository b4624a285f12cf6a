"""The [augment] section of a recipe."""

from __future__ import annotations

from typing import Literal

from quicknet.core.errors import ConfigError
from quicknet.core.settings import Settings

REFERENCE_SIDE = 32


class AugmentSettings(Settings, frozen=True, kw_only=True):
    """What may happen to a training image, in the order in which it happens.

    Lengths (`crop`, `cutout`) are pixels of an image of 32 x 32 and grow with the image: 4 is an
    eighth of the side at any size. Everything beyond the image's edge is its reflection.

    - `crop`: shift by up to this many pixels each way (pad by reflection and crop at random).
    - `flip`: left to right with probability 1/2; `alternating` tosses the coin once per image and
      then turns it every epoch (K. Jordan 2024, "94% on CIFAR-10 in 3.29 seconds", §3.2).
    - `scale`: area of the window that is taken, as a share of the image's, placed at random and
      brought to the image's size; above 1 it reaches into the reflection.
    - `rotate`: by up to this many degrees each way.
    - `jitter`: brightness, contrast and saturation, each times 1 - jitter .. 1 + jitter.
    - `trivial`: one operation of random strength (`trivial.OPERATIONS`).
    - `cutout`: side of a square set to the mean, centred anywhere, so that part of it may lie
      outside (DeVries & Taylor 2017, §3).
    - `mixup`, `cutmix`: alpha of Beta(alpha, alpha); with both, either has an equal chance.
      `mix_prob` is the share of images that are mixed at all.

    Raises ConfigError for a value outside its range.
    """

    crop: int = 4
    flip: Literal["none", "random", "alternating"] = "random"
    scale: tuple[float, float] = (1.0, 1.0)
    rotate: float = 0.0
    jitter: float = 0.0
    trivial: bool = False
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, NaN among them."""
        ranges = {
            "crop": 16,
            "cutout": 32,
            "rotate": 180,
            "jitter": 1,
            "mixup": 100,
            "cutmix": 100,
            "mix_prob": 1,
        }
        for name, highest in ranges.items():
            if not 0 <= getattr(self, name) <= highest:
                raise ConfigError(f"augment.{name} {getattr(self, name)} must lie in 0..{highest}")
        low, high = self.scale
        if not 0.01 <= low <= high <= 4:
            raise ConfigError(f"augment.scale {self.scale} must be two areas, rising, within 0.01..4; (1, 1) is off")

    @property
    def mixes(self) -> bool:
        """Whether any image is mixed with another."""
        return self.mix_prob > 0 and (self.mixup > 0 or self.cutmix > 0)
