"""Every registered network, narrow and shallow enough for a test of all of them."""

from typing import Any

from quicknet.models.registry import base_config
from quicknet.models.zoo.blocks import ZooConfig

_SHALLOW: dict[str, dict[str, Any]] = {
    "wide_resnet_16_8": {"depth": 10, "widen": 1},
    "wide_resnet_28_10": {"depth": 16, "widen": 1},
    "speedy": {"stem_width": 8, "widths": [8, 16]},
    "speedy_s": {"stem_width": 6, "widths": [8, 16, 24]},
    "darknet": {"widths": [4, 8, 8, 8], "pools": 3},
    "darknet_32": {"widths": [8, 16, 32, 8]},
    "resnet_56": {"depths": [2, 2, 2]},
    "resnet_50": {"depths": [1, 2, 1, 1]},
    "densenet_bc_100_12": {"depth": 16},
    "condensenet_50": {"depths": [2, 2, 2]},
    "condensenet_122": {"depths": [2, 3, 2]},
    "xception": {"middle": 1},
    "repvgg_a0": {"depths": [1, 2, 1, 1, 1]},
    "repvgg_a0_folded": {"depths": [1, 2, 1, 1, 1]},
    "fractional": {"levels": 1, "passes": 2},
    "mobilenet_v2_x1": {"last_width": 64},
    "mobilenet_v2_x05": {"last_width": 64},
}


def narrow(name: str, **overrides: Any) -> dict[str, Any]:
    """Settings of a small network of the family of `name`, for 32 pixels where it takes them, else the least."""
    width = {"width": 0.125} if isinstance(base_config(name), ZooConfig) else {}
    size = {"image_size": 63 if name == "alexnet" else 32}
    return {**width, **size, **_SHALLOW.get(name, {}), **overrides}
