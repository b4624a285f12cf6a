"""How coarse the integers are: each layer's step, and without training the one step for a size or a loss.

A weight that takes fewer values takes fewer bits. Filters are fitted anew to every step (`quantize/rounding.py`), so
much can go before the answers change: `quicknet_s.cifar10` in half the bytes, without training (results 0045).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from quicknet.core.errors import CheckFailed
from quicknet.deploy.compress.predict import size_at
from quicknet.deploy.compress.prepare import network_densities, plan_of, whole_shape
from quicknet.deploy.compress.sensitivity import LayerSensitivity
from quicknet.deploy.compress.settings import Point
from quicknet.deploy.quantize import Quantized
from quicknet.models.network import Network

_RANGE = (0.3, 1.6)  # of a layer's step to that of all, at most
_FINEST, _COARSEST = 0.05, 2.0  # beyond, bytes hardly change any more; beyond, most weights are zero
_HALVINGS = 5  # of the range, to find a step to a tenth
_FAR = 6  # times that a step is doubled at once, at most
_TRIES, _NEAR = 6, 0.96  # for a size; what is so much of it is near enough
_CHEAP = 0.6  # a step that loses up to 0.3 points without training (results 0044, 0045)


class Tried(NamedTuple):
    """Integers of one step, without training, their file's bytes and their share of right answers on `val`."""

    step: float
    quantized: Quantized
    size_bytes: int
    val_accuracy: float

    def point(self, density: float) -> Point:
        """Return what of it is reported; `density` is the run's own."""
        return Point(
            epoch=0,
            density=density,
            size_bytes=self.size_bytes,
            speed=None,
            val_accuracy=self.val_accuracy,
            step=self.step,
        )


Attempt = Callable[[float], Tried]


def layer_steps(network: Network, sensitivity: Sequence[LayerSensitivity], step: float) -> tuple[float, ...]:
    """Return the step of each pointwise layer's integers, in root mean squares of its weights; `step` on average.

    A step c moves the answers by about s·c² in a layer of sensitivity s, and saves log2 c bits of
    each of its n weights: the sum is least where c² is proportional to n / s.
    """
    densities, layers = network_densities(network), plan_of(network)[1:]
    kept = [density * layer.in_channels * layer.out_channels for density, layer in zip(densities, layers, strict=True)]
    costs = [row.divergence[0] for row in sensitivity if row.importance is not None]
    logs = [0.5 * math.log(max(n, 1.0) / max(cost, 1e-6)) for n, cost in zip(kept, costs, strict=True)]
    mean = sum(log * n for log, n in zip(logs, kept, strict=True)) / max(sum(kept), 1.0)
    return tuple(step * min(max(math.exp(log - mean), _RANGE[0]), _RANGE[1]) for log in logs)


def for_size(attempt: Attempt, limit: int, network: Network) -> Tried:
    """Return the most accurate integers that were tried whose file has at most `limit` bytes, of steps about as fine
    as that allows: neighbouring ones differ by chance.

    Raises CheckFailed, naming the least size, where none has.
    """
    shape, classes = whole_shape(network), int(network.config.num_classes)
    # bytes, at twice the step
    octave = sum(layer.in_channels * layer.out_channels for layer in shape.layers[1:]) / 8
    step = _FINEST
    while step < _COARSEST and size_at(shape, classes, step) > limit:
        step *= 1.02
    fits: Tried | None = None
    over: Tried | None = None
    tried: list[Tried] = []
    while len(tried) < _TRIES:
        last = attempt(_within(step, fits is None and len(tried) == _TRIES - 1))
        tried.append(last)
        over, fits = (last, fits) if last.size_bytes > limit else (over, last)
        if last.step >= _COARSEST if fits is None else fits.size_bytes >= _NEAR * limit or not fits.step:
            break
        step = _next_step(last, over, fits, (1 + _NEAR) / 2 * limit, octave)
    fitting = [one for one in tried if one.size_bytes <= limit]
    if not fitting:
        smallest = min(one.size_bytes for one in tried)
        raise CheckFailed(
            f"without training the file would be {smallest:,} bytes, over --target-size {limit:,}; "
            f"allow {math.ceil(smallest / 1000)}KB, or train for some --epochs"
        )
    return max(fitting, key=lambda one: (one.val_accuracy, one.size_bytes))


def _within(step: float, last: bool) -> float:
    """Return the step that is tried: below the finest 0, which is as fine as integers can be."""
    return _COARSEST if last else min(step, _COARSEST) if step > _FINEST else 0.0


def needs_no_training(network: Network, classes: int, limit: int | None) -> bool:
    """Return whether integers that lose little without training are to fit into `limit` bytes; None: not asked."""
    return limit is not None and size_at(whole_shape(network), classes, _CHEAP) <= limit


def _next_step(last: Tried, over: Tried | None, fits: Tried | None, size: float, octave: float) -> float:
    """Return the step of about a size: between two that are known bytes go by the step's logarithm."""
    if over is None or fits is None:
        return max(last.step, _FINEST) * 2 ** min(max((last.size_bytes - size) / octave, -_FAR), _FAR)
    share = (over.size_bytes - size) / (over.size_bytes - fits.size_bytes)
    fine = max(over.step, _FINEST)
    return float(fine * (fits.step / fine) ** min(max(share, 0.1), 0.9))


def for_loss(attempt: Attempt, usual: float, max_loss: float, images: int, tuned: bool = False) -> Tried:
    """Return the integers of about the coarsest step that loses at most `max_loss` points to `usual`, the run's top-1
    on the `images` of `val`; one image always may be lost.

    Raises CheckFailed, naming what the finest loses, where all lose more; if they are `tuned` afterwards, which may
    mend that, returns the finest.
    """
    least = usual - max(max_loss / 100, 1 / images) - 1e-9
    best, low, high = None, _FINEST, _COARSEST
    for _ in range(_HALVINGS):
        step = math.sqrt(low * high)
        tried = attempt(step)
        if tried.val_accuracy >= least:
            best, low = tried, step
        else:
            high = step
    best = best or attempt(0.0)
    if best.val_accuracy < least and not tuned:
        raise CheckFailed(
            f"without training {100 * (usual - best.val_accuracy):.2f} points are lost on val by the finest integers, "
            f"over --max-loss {max_loss:g}; fine-tune them with --qat 1, or allow more"
        )
    return best
