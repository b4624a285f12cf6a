"""Post-training quantization: a folded network and calibration images become integers.

Layer by layer, each on what the integer layers before it deliver, with the float network's maps of
the same images beside: a filter is fitted to give what the float filter gives of the float input,
so that it corrects what the layers before it lost.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from quicknet.core.errors import ConfigError, DataError
from quicknet.deploy.graph import Array, Chain, Conv, Folded, Pool, chain
from quicknet.deploy.quantize import calibrate, simulate
from quicknet.deploy.quantize.calibrate import Feed
from quicknet.deploy.quantize.outputs import Output, classifier, requantization
from quicknet.deploy.quantize.ranges import choose_range
from quicknet.deploy.quantize.rounding import Mask, Rounded, fit_filters, round_filters
from quicknet.deploy.quantize.widths import depthwise_lanes, pointwise_lanes, stem_lanes
from quicknet.qnz.format import (
    IMAGE_CHANNELS,
    INT16_MAX,
    KERNELS,
    MAX_MAP,
    UNIT,
    WIDTHS,
    Bits,
    WidthClass,
)
from quicknet.qnz.network import IntegerNetwork, IntegerSeparable, IntegerStem

MIN_IMAGES = 16

_CHUNK_VALUES = 1 << 21  # of a feature map of the images done together
_RIDGE = 1e-2  # share of an input's variance by which a fitted filter is held to the float one
_MAX_BIAS = 1_000_000_000  # with any weights and shift that FORMAT.md allows, 32 bits hold the sum
_PATCH_IMAGES = 128
# How much coarser depthwise weights are where pointwise ones are coarse: two bits less each, 2.6% of the bytes of
# quicknet_xs and 1.6 of quicknet_s without training, at 0.02 and 0.06 points of test; by a factor of 8 0.2 points.
_COARSE_TAPS = 4


@dataclass(frozen=True, slots=True)
class Quantized:
    """An integer network, and the real value of a logit of 1.

    `kept`: of each separable layer, which pointwise weights (O, K) a pruned network has; None where it has all.
    """

    network: IntegerNetwork
    logit_scale: float
    kept: tuple[NDArray[np.bool_] | None, ...] | None = None


class _Block(NamedTuple):
    """A separable layer as it was folded."""

    pool: bool
    depthwise: Conv
    pointwise: Conv


class _Task(NamedTuple):
    """What is asked of a layer beside its filters: the class, who takes its output, and the least step of
    the weights, in root mean squares of those that are left (0: as fine as it can be).
    """

    width: WidthClass
    after: _Block | None
    coarse: float = 0.0

    @property
    def pool(self) -> bool:
        """Whether the output is pooled before it is used."""
        return self.after is not None and self.after.pool

    def importance(self, channels: int) -> Tensor:
        """Return how much an error in each output channel (C,) weighs: by the filters that take it."""
        if self.after is None:
            return torch.ones(channels, dtype=torch.float64)
        return _energy(self.after.depthwise.weight, 0) * _energy(self.after.pointwise.weight, 1)


def quantize(
    net: Folded,
    images: NDArray[np.uint8],
    bits: Bits,
    advance: Callable[[int], None] | None = None,
    coarse: Sequence[float] = (),
) -> Quantized:
    """Return the integer network of a folded QuickNet, in a width class, calibrated on training images.

    Pointwise weights that are exactly zero stay zero: they were pruned. `coarse` (one for each separable
    layer) is the least step of the integers, in root mean squares of the weights that are left: the
    coarser, the fewer bits a value takes; depthwise weights take two bits less then. Without it steps are as fine
    as they can be.

    `images` (N, side, side, C) uint8, at least 16, some hundred for ranges that hold;
    `advance(n)` is called after every n layers. The same images give the same network. Raises
    ConfigError for a network that FORMAT.md cannot express, DataError for too few images.
    """
    (stem, blocks), head = require_expressible(net, images.shape[1]), chain(net)
    if len(images) < MIN_IMAGES:
        raise DataError(
            f"{len(images)} images are too few to choose the ranges of integers from; "
            f"give at least {MIN_IMAGES} training images, better 500"
        )
    width = WIDTHS[bits]
    tell = advance or (lambda n: None)
    with torch.no_grad():
        integer_stem, feed = _stem(stem, _pixels(images, stem), _Task(width, blocks[0] if blocks else None))
        tell(1)
        done = []
        for index, block in enumerate(blocks):
            after = blocks[index + 1] if index + 1 < len(blocks) else None
            task = _Task(width, after, coarse[index] if coarse else 0.0)
            integer, feed = _separable(block, feed.pooled() if block.pool else feed, task)
            done.append(integer)
            tell(1)
        weight, bias, scale = classifier(head.weight, head.bias, feed)
    network = IntegerNetwork(images.shape[1], images.shape[3], integer_stem, tuple(done), weight, bias)
    kept = tuple(_kept(block.pointwise, bool(coarse)) for block in blocks)
    return Quantized(network, scale, None if all(mask is None for mask in kept) else kept)


def _kept(pointwise: Conv, coarse: bool) -> NDArray[np.bool_] | None:
    """Return which weights (O, K) are not pruned; None where all are there, with steps as fine as they can be."""
    mask = pointwise.weight[:, :, 0, 0] != 0
    return None if mask.all() and not coarse else mask


def require_expressible(net: Folded, side: int) -> tuple[Conv, list[_Block]]:
    """Return the stem and the separable layers of a QuickNet for images of `side` pixels.

    Raises ConfigError, naming the layer, for what FORMAT.md has no place for.
    """
    layers = chain(net)
    stem, *rest = layers.layers or (None,)
    if (
        net.scale is not None
        or not isinstance(stem, Conv)
        or stem.groups != 1
        or stem.padding
        or not _is_activated(stem)
    ):
        raise ConfigError("only QuickNets become integers, since a .qnz holds no other network; use --format onnx")
    if stem.weight.shape[1] > IMAGE_CHANNELS[1]:
        raise ConfigError(f"images of {stem.weight.shape[1]} channels do not fit a .qnz, which takes 1 to 4")
    if _largest_map(layers, side) > MAX_MAP:
        raise ConfigError(f"a feature map of over {MAX_MAP:,} values does not fit a .qnz; use --format onnx")
    blocks: list[_Block] = []
    following = iter(rest)
    for layer in following:
        pool = layer if isinstance(layer, Pool) else None
        depthwise = layer if pool is None else next(following, None)
        pointwise = next(following, None)
        if not (_is_depthwise(depthwise) and _is_pointwise(pointwise)):
            raise ConfigError(
                f"{(depthwise or layer).name} is not a depthwise convolution with a pointwise one and its "
                "activation behind it, and a .qnz holds no other layer; use --format onnx"
            )
        kernel = depthwise.weight.shape[-1]
        if kernel not in KERNELS:
            raise ConfigError(
                f"{depthwise.name} has a kernel of {kernel}, a .qnz takes 3 and 5; "
                "use --format onnx, or train with these"
            )
        blocks.append(_Block(pool is not None, depthwise, pointwise))
    return stem, blocks


def _is_activated(layer: Conv) -> bool:
    return layer.bias is not None and layer.slope is not None


def _is_depthwise(layer: Conv | Pool | None) -> TypeGuard[Conv]:
    """Return whether a layer keeps the map's side and channels, each channel by itself, with nothing behind it."""
    if not isinstance(layer, Conv) or layer.bias is not None or layer.slope is not None:
        return False
    channels, inner, kernel, _ = layer.weight.shape
    return layer.groups == channels and inner == 1 and layer.stride == 1 and layer.padding == kernel // 2


def _is_pointwise(layer: Conv | Pool | None) -> TypeGuard[Conv]:
    if not isinstance(layer, Conv) or not _is_activated(layer):
        return False
    return layer.weight.shape[2:] == (1, 1) and (layer.groups, layer.stride, layer.padding) == (1, 1, 0)


def calibration_count(net: Folded, side: int, budget_bytes: int = 512 << 20, most: int = 1024) -> int:
    """Return on how many images of `side` pixels to calibrate: as many as fit in memory, 16 to `most`."""
    bytes_each = (
        2 * 5 * _largest_map(chain(net), side)
    )  # a float32 and a u8 of each value, of a layer's input and output
    return max(MIN_IMAGES, min(most, budget_bytes // bytes_each))


def _largest_map(net: Chain, side: int) -> int:
    """Return how many values the largest feature map of an image has."""
    stem, *rest = net.layers
    assert isinstance(stem, Conv)
    out = (side - stem.weight.shape[-1]) // stem.stride + 1
    largest = out * out * len(stem.weight)
    for layer in rest:
        out = out // 2 if isinstance(layer, Pool) else out
        largest = max(largest, out * out * len(layer.weight) if isinstance(layer, Conv) else 0)
    return int(largest)


def _pixels(images: NDArray[np.uint8], stem: Conv) -> list[Tensor]:
    """Return the images as uint8 (n, C, side, side), in chunks for the stem's map."""
    values = len(stem.weight) * (images.shape[1] // stem.stride) ** 2
    step = max(1, _CHUNK_VALUES // values)
    planes = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    return list(torch.split(planes.contiguous(memory_format=torch.channels_last), step))


def _energy(weight: Array, axis: int) -> Tensor:
    """Return the sum of squares (n,) over all axes but one."""
    return torch.from_numpy(weight).square().sum([a for a in range(4) if a != axis])


def _activated(maps: Tensor, slope: Array | None) -> Tensor:
    if slope is None:
        return maps
    factor = torch.from_numpy(slope).to(maps.dtype).view(1, -1, 1, 1)
    return torch.where(maps >= 0, maps, maps * factor)


def _float32(array: Array | None) -> Tensor:
    return torch.zeros(1) if array is None else torch.from_numpy(array).float()


# --- layers --------------------------------------------------------------------------------


class _Outcome(NamedTuple):
    """A stem's or pointwise layer's numbers: whole biases, their rounding constant in, and its output."""

    bias: Tensor
    output: Output
    stored: list[Tensor]


def _stem(conv: Conv, pixels: list[Tensor], task: _Task) -> tuple[IntegerStem, Feed]:
    outputs, channels, kernel, _ = conv.weight.shape
    weight = torch.from_numpy(conv.weight).permute(0, 2, 3, 1).reshape(outputs, -1)  # (O, k k C)

    def patches() -> Iterator[Tensor]:
        for chunk in pixels:
            columns = F.unfold(chunk.float(), kernel, stride=conv.stride).view(len(chunk), channels, kernel**2, -1)
            yield columns.permute(0, 3, 2, 1).reshape(-1, weight.shape[1]).double()

    moments = calibrate.moments(patches(), patches())
    lanes = stem_lanes(kernel, channels, task.width.stem_sums)
    rounded = round_filters(weight, moments.covariance, lanes)
    filters = rounded.weight.view(outputs, kernel, kernel, channels)
    planes = filters.permute(0, 3, 1, 2)

    def sums(bias: Tensor) -> Iterator[Tensor]:
        return (simulate.stem(chunk, planes, bias, conv.stride) for chunk in pixels)

    outcome = _outcome(sums, rounded, weight @ moments.mean, moments.mean, conv, task)
    floats = [
        _activated(F.conv2d(chunk.float(), _float32(conv.weight), _float32(conv.bias), conv.stride), conv.slope)
        for chunk in pixels
    ]
    stem = IntegerStem(
        stride=conv.stride,
        sums=task.width.stem_sums,
        weight=filters.numpy().astype(np.int8),
        bias=outcome.bias.numpy().astype(np.int32),
        output=outcome.output.requantization,
    )
    return stem, _fed(floats, outcome)


def _separable(block: _Block, feed: Feed, task: _Task) -> tuple[IntegerSeparable, Feed]:
    depthwise, multiplier, middle = _depthwise(block, feed, task)
    weight = torch.from_numpy(block.pointwise.weight)[:, :, 0, 0]
    moments = calibrate.moments(map(calibrate.rows, middle.centred()), map(calibrate.rows, middle.floats))
    # what of the float filter's output these inputs explain best (least squares), held to the filter itself
    ridge = _RIDGE * moments.covariance.diagonal()
    target = weight @ moments.cross + weight * middle.scale * ridge
    mask = _kept(block.pointwise, task.coarse > 0)
    kept = None if mask is None else torch.from_numpy(mask)
    fitted = fit_filters(target, moments.covariance + torch.diag(ridge), kept)
    lanes = pointwise_lanes(weight.shape[1], task.width.sums, task.width.top)
    limits = None if kept is None else Mask(kept, _least(fitted, kept, task))
    rounded = round_filters(fitted, moments.covariance, lanes, limits)
    largest = max(middle.zero, middle.top - middle.zero)

    def sums(bias: Tensor) -> Iterator[Tensor]:
        return (simulate.pointwise(chunk, rounded.weight, bias, largest) for chunk in middle.centred())

    outcome = _outcome(sums, rounded, weight @ moments.float_mean, moments.mean, block.pointwise, task)
    filters, offset = _float32(block.pointwise.weight), _float32(block.pointwise.bias)
    floats = [_activated(F.conv2d(chunk, filters, offset), block.pointwise.slope) for chunk in middle.floats]
    layer = IntegerSeparable(
        pool=block.pool,
        depthwise=depthwise.permute(1, 2, 0).contiguous().numpy().astype(np.int8),
        multiplier=multiplier.numpy().astype(np.int16),
        middle_zero=middle.zero,
        middle_top=middle.top,
        sums=task.width.sums,
        weight=rounded.weight.numpy().astype(np.int8),
        bias=(outcome.bias - middle.zero * rounded.weight.sum(1)).numpy().astype(np.int32),
        output=outcome.output.requantization,
    )
    return layer, _fed(floats, outcome)


def _least(filters: Tensor, kept: Tensor, task: _Task) -> Tensor:
    """Return the finest scale (O,) of filters (O, K): one step for all at the layer's output, within a factor of two
    of what each filter's own size asks for.
    """
    size = (filters.square().sum(1) / kept.sum(1).clamp(min=1)).sqrt()
    weight = task.importance(len(filters)).sqrt().clamp(min=1e-30)
    alike = (size * weight).square().mean().sqrt() / weight
    return task.coarse * torch.minimum(torch.maximum(alike, size / 2), 2 * size)


def _depthwise(block: _Block, feed: Feed, task: _Task) -> tuple[Tensor, Tensor, Feed]:
    """Return integer filters (C, k, k), multipliers (C,) and what the pointwise layer takes."""
    width = task.width
    channels, _, kernel, _ = block.depthwise.weight.shape
    weight = torch.from_numpy(block.depthwise.weight).view(channels, -1) * feed.scale[:, None]
    some = max(1, _PATCH_IMAGES // len(feed.stored[0]))
    moments = calibrate.patch_moments(itertools.islice(feed.centred(), some), kernel)
    lanes = depthwise_lanes(kernel**2, feed.top)
    coarse = task.coarse > 0 and kernel == KERNELS[0]  # of 5 × 5 weights as many share a lane's sum
    rounded = round_filters(weight, moments, lanes.tighter(_COARSE_TAPS) if coarse else lanes)
    filters = rounded.weight.view(channels, kernel, kernel)
    # The channels share a zero point: let the longer side of each be the positive one. The
    # pointwise weights undo it.
    low, high = calibrate.extremes(lambda: (simulate.depthwise(chunk, filters) for chunk in feed.centred()))
    sign = torch.where(-low > high, -1.0, 1.0).double()
    filters, step = filters * sign[:, None, None], rounded.scale * sign

    def sums() -> Iterator[Tensor]:
        return (simulate.depthwise(chunk, filters) for chunk in feed.centred())

    importance = step.square() * _energy(block.pointwise.weight, 1)
    chosen = choose_range(calibrate.histogram(sums), width.top, importance)
    alive = (low < 0) | (high > 0)
    multiplier = (UNIT / chosen.scale).round().clamp(1, INT16_MAX) * alive
    ends = -chosen.zero, width.top - chosen.zero
    stored = [(simulate.mulr(total, multiplier, ends) + chosen.zero).to(torch.uint8) for total in sums()]
    kernels = _float32(block.depthwise.weight)
    floats = [F.conv2d(chunk, kernels, padding=kernel // 2, groups=channels) for chunk in feed.floats]
    scale = step * UNIT / multiplier.clamp(min=1) * alive
    return filters, multiplier, Feed(floats, stored, scale, chosen.zero, width.top)


def _outcome(
    sums: Callable[[Tensor], Iterator[Tensor]],
    rounded: Rounded,
    float_mean: Tensor,
    mean: Tensor,
    conv: Conv,
    task: _Task,
) -> _Outcome:
    """Return biases that restore each channel's mean, and the output's range and multipliers.

    `sums(bias)` yields accumulators (n, O, h, w); `float_mean` (O,) is the mean of what the float
    filters give without bias, `mean` (K,) that of the integer inputs.
    """
    assert conv.bias is not None  # batch norm's
    real_bias = torch.from_numpy(conv.bias)
    # a filter of zeros gives its bias and no more: in steps fine enough for that
    empty = (rounded.weight == 0).all(1)
    step = torch.where(empty, real_bias.abs().clamp(min=1e-6) / UNIT, rounded.scale)
    bias = (float_mean + real_bias) / step - rounded.weight @ mean
    bias = bias.round().clamp(-_MAX_BIAS, _MAX_BIAS)
    factor = step.float().view(1, -1, 1, 1)

    def activated() -> Iterator[Tensor]:
        for total in sums(bias):
            maps = _activated(total.float() * factor, conv.slope)
            yield F.max_pool2d(maps, 2) if task.pool else maps

    channels = len(bias)
    chosen = choose_range(calibrate.histogram(activated), task.width.top, task.importance(channels))
    slope = torch.from_numpy(np.broadcast_to(1.0 if conv.slope is None else conv.slope, (channels,)).copy())
    ends = calibrate.extremes(lambda: sums(bias))
    output = requantization(chosen, step, slope, ends, task.width.top)
    bias = bias + ((1 << output.requantization.shift) >> 1)
    return _Outcome(bias, output, [simulate.stored(total, output.requantization) for total in sums(bias)])


def _fed(floats: list[Tensor], outcome: _Outcome) -> Feed:
    output = outcome.output.requantization
    return Feed(floats, outcome.stored, outcome.output.scale, output.zero, output.top)
