"""What may be done with a network, read from its plan alone: who rewrites one, or computes it otherwise, asks here.

Modules do not tell: a residual sum has none, and a plan that is not a chain may consist of a chain's modules.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from quicknet.core.errors import ConfigError
from quicknet.models.config import Layer, is_chain

# option → what it makes of a layer
_MARKS: dict[str, Callable[[Layer], bool]] = {
    "residual": lambda layer: layer.adds,
    "dense": lambda layer: len(layer.inputs) > 1,
    "weight_norm": lambda layer: layer.weight_norm,
    "pyramid": lambda layer: layer.kind == "pyramid",
    "transformer": lambda layer: layer.kind == "transformer",
    "groups": lambda layer: layer.groups > 1,
    "pool_ratio": lambda layer: layer.fractional,
}
_EXPORTED = frozenset(_MARKS) - {"transformer"}  # ONNX Runtime has a GridSample; no graph of ours does
_IN_FORMAT = frozenset({"weight_norm"})  # which is no more there once it is folded


def options_of(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Return the names of the options that a plan shows.

    >>> from quicknet.models.config import QuickNetConfig, plan
    >>> from quicknet.models.options.settings import Options
    >>> options_of(plan(QuickNetConfig())), options_of(plan(QuickNetConfig(options=Options(groups=2))))
    ((), ('groups',))
    """
    return tuple(name for name, marked in _MARKS.items() if any(marked(layer) for layer in layers))


def runs_fused(layers: Sequence[Layer]) -> bool:
    """Return whether a plan's features are what the kernels compute: a stem, then separable layers, in a chain.

    A pyramid stands behind the features.
    """
    features = tuple(layer for layer in layers if layer.kind != "pyramid")
    kinds = ["stem", *["separable"] * (len(features) - 1)]
    return is_chain(features) and [layer.kind for layer in features] == kinds and not options_of(features)


def runs_compiled(layers: Sequence[Layer]) -> bool:
    """Return whether `torch.compile` takes a plan's network: not one whose regions are drawn anew for every batch."""
    return "pool_ratio" not in options_of(layers)


def require_exported(layers: Sequence[Layer]) -> None:
    """Raise ConfigError, naming it, for an option that no exported file holds."""
    _require(layers, _EXPORTED, "no exported file has a place for it; train without it")


def require_in_format(layers: Sequence[Layer]) -> None:
    """Raise ConfigError, naming it, for an option that FORMAT.md has no place for."""
    require_exported(layers)
    _require(layers, _IN_FORMAT, "a .qnz has no place for it; use --format onnx, or train without it")


def require_pruned(layers: Sequence[Layer]) -> None:
    """Raise ConfigError, naming it, for an option with which layers are not pruned, permuted or shared."""
    _require(layers, (), "its layers cannot be pruned; train without it")


def _require(layers: Sequence[Layer], expressed: Collection[str], reason: str) -> None:
    for name in options_of(layers):
        if name not in expressed:
            raise ConfigError(f"the network has the option {name} (options.{name}), and {reason}")
