"""Which options a QuickNet has."""

from __future__ import annotations

from quicknet.core.errors import ConfigError
from quicknet.core.settings import Settings

MAX_BINS = 16  # a side of a pyramid's level
MAX_LEVELS = 4


class Options(Settings, frozen=True, kw_only=True, omit_defaults=True):
    """What the paper hopes for in its §7, all of it off in the paper's network.

    `residual` adds a layer's input to its output where both have one shape (He et al. 2015); `dense` gives every
    layer all earlier outputs of its stage, side by side (Huang et al. 2016). `weight_norm` is weight normalization
    with mean-only batch norm (Salimans and Kingma 2016). `pyramid` are the bins a side of each level of spatial
    pyramid pooling in place of the global average, such as 1 2 (He et al. 2014). `transformer` is the width of the
    network that turns, scales and shifts the image first (Jaderberg et al. 2015), 0 for none. `groups` of the
    pointwise convolutions, their channels shuffled in between (Zhang et al. 2017). A `pool_ratio` under 2 is
    fractional max pooling in place of the 2x2 pools (Graham 2014). Raises ConfigError for what no network has.
    """

    residual: bool = False
    dense: bool = False
    weight_norm: bool = False
    pyramid: tuple[int, ...] = ()
    transformer: int = 0
    groups: int = 1
    pool_ratio: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what no network has."""
        if self.residual and self.dense:
            raise ConfigError("options residual and dense both say what a layer does with earlier outputs; choose one")
        if len(self.pyramid) > MAX_LEVELS or not all(1 <= bins <= MAX_BINS for bins in self.pyramid):
            raise ConfigError(
                f"options.pyramid {self.pyramid} must have at most {MAX_LEVELS} levels of 1..{MAX_BINS} bins"
            )
        if not 0 <= self.transformer <= 256:
            raise ConfigError(f"options.transformer {self.transformer} must lie in 0..256, the width of its layers")
        if not 1 <= self.groups <= 64:
            raise ConfigError(f"options.groups {self.groups} must lie in 1..64")
        if not 1.1 <= self.pool_ratio <= 2:
            raise ConfigError(f"options.pool_ratio {self.pool_ratio} must lie in 1.1..2; 2 is the plain 2x2 pool")
