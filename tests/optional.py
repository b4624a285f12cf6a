"""Each option of the family by itself, and several together, at a size for tests."""

from typing import Any, Literal

Option = Literal["residual", "dense", "weight_norm", "pyramid", "transformer", "groups", "pool_ratio"]
OPTIONS: dict[Option, dict[str, Any]] = {
    "residual": {"residual": True},
    "dense": {"dense": True},
    "weight_norm": {"weight_norm": True},
    "pyramid": {"pyramid": [1, 3]},
    "transformer": {"transformer": 4},
    "groups": {"groups": 2},
    "pool_ratio": {"pool_ratio": 1.5},
}
# which go together, but for the transformer's, in two networks
TOGETHER: tuple[dict[str, Any], ...] = (
    {"dense": True, "weight_norm": True, "groups": 4, "pool_ratio": 1.4},
    {"residual": True, "weight_norm": True, "groups": 2, "pyramid": [2], "pool_ratio": 1.7},
)
SMALL: dict[str, Any] = {"stem_width": 8, "widths": [8, 16], "depths": [2, 3], "kernel_sizes": [3, 3]}
