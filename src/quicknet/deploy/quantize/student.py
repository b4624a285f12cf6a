"""An integer network that can be trained: the same numbers, each beside a small change that is learned."""

from __future__ import annotations

import dataclasses
from typing import Protocol, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.deploy.quantize import simulate
from quicknet.deploy.quantize.build import Quantized
from quicknet.deploy.quantize.rate import bits_of_values, cheaper
from quicknet.deploy.quantize.rounding import project
from quicknet.deploy.quantize.widths import Lanes, depthwise_lanes, pointwise_lanes, stem_lanes
from quicknet.image.batches import in_batches
from quicknet.qnz.bounds import shape_of
from quicknet.qnz.format import IMAGE_TOP, INT16_MAX, INT32_MAX, INT32_MIN, MAX_WEIGHT
from quicknet.qnz.network import IntegerNetwork, IntegerSeparable, IntegerStem, Requantization

_MULTIPLIER_UNIT = 0.3  # of a multiplier
_BIAS_UNIT = 10.0  # levels of the output
_BATCH = 64


Numbers = tuple[Tensor, ...]


class _Layer(Protocol):
    def numbers(self) -> Numbers: ...


class _Number(nn.Module):
    """start + unit · change: `change` is what is learned, and a step of 1 means the same for all numbers."""

    start: Tensor
    unit: Tensor

    def __init__(self, start: NDArray[np.generic], unit: Tensor | float) -> None:
        super().__init__()
        begin = torch.from_numpy(start.astype(np.float64))
        self.register_buffer("start", begin)
        self.register_buffer("unit", torch.as_tensor(unit, dtype=torch.float64).expand(begin.shape).float())
        self.change = nn.Parameter(torch.zeros(begin.shape))

    def real(self) -> Tensor:
        """Return the number as it was learned, float64."""
        return self.start + self.unit * self.change

    def whole(self, low: Tensor | float = -INT16_MAX, high: Tensor | float = INT16_MAX) -> Tensor:
        """Return it as an integer within low..high, float64."""
        real = self.real()
        ends = (torch.as_tensor(end, dtype=real.dtype) for end in (low, high))
        return simulate.straight(real, real.detach().round().clamp(*ends))


class _Filters(_Number):
    """Integer filters (R, K) within their lanes; a unit is the root mean square of a filter's weights.

    Weights that are not `kept` (R, K) are zero and stay it. `costs` (255,) is what each value -127..127
    costs beside its squared distance from what was learned; zeros where only that counts.
    """

    kept: Tensor | None
    costs: Tensor

    def __init__(self, weight: NDArray[np.int8], lanes: Lanes, kept: NDArray[np.bool_] | None = None) -> None:
        share = 1.0 if kept is None else np.maximum(kept.mean(1, keepdims=True), 1e-9)
        size = np.sqrt((weight.astype(np.float64) ** 2).mean(1, keepdims=True) / share)
        super().__init__(weight, torch.from_numpy(np.maximum(size, 1.0)))
        self.lanes = lanes
        self.register_buffer("kept", None if kept is None else torch.from_numpy(kept).float())
        self.register_buffer("costs", torch.zeros(2 * MAX_WEIGHT + 1))

    def integers(self) -> Tensor:
        """Return (R, K) float32, whole and within the lanes."""
        real = self.real().float()
        if self.kept is not None:
            real = real * self.kept
        return simulate.straight(real, self.whole_of(real.detach()))

    def whole_of(self, real: Tensor) -> Tensor:
        """Return the integers that stand for `real` (R, K)."""
        nearest = project(real, self.lanes)
        return cheaper(real, nearest, self.costs) if self.costs.any() else nearest

    @torch.no_grad()
    def weigh_bits(self, strength: float) -> None:
        """Choose from now on values that are cheap at the frequencies of now: a bit costs `strength` squared steps."""
        whole = self.integers()
        kept = torch.ones_like(whole) if self.kept is None else self.kept
        self.costs.copy_(strength * bits_of_values(whole, kept))


class _Output(nn.Module):
    """Shift, multipliers and clamp of a layer's output."""

    def __init__(self, output: Requantization) -> None:
        super().__init__()
        self.fixed = output
        self.positive, self.negative = (
            _Number(m, torch.from_numpy(np.abs(m.astype(np.float64)) * _MULTIPLIER_UNIT))
            for m in (output.positive, output.negative)
        )

    def numbers(self) -> Numbers:
        """Return the multipliers (O,) of accumulators from 0 on and below."""
        return self.positive.whole(), self.negative.whole()

    def forward(self, acc: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Return centred maps of accumulators."""
        fixed = self.fixed
        return simulate.requantize(acc, fixed.shift, positive, negative, (-fixed.zero, fixed.top - fixed.zero))

    def integers(self) -> Requantization:
        """Return it as learned."""
        positive, negative = (_numpy(number, np.int16) for number in self.numbers())
        return dataclasses.replace(self.fixed, positive=positive, negative=negative)


class _Product(nn.Module):
    """Filters (O, K) and biases of a stem or a pointwise layer, within 32 bits, whatever values are learned.

    The biases are kept centred: what FORMAT.md stores carries -zero · Σ weight as well. `zero`
    and `top` are the input's.
    """

    def __init__(self, layer: IntegerStem | IntegerSeparable, filters: _Filters, zero: int, top: int) -> None:
        super().__init__()
        self.zero, self.top = zero, top
        flat = layer.weight.reshape(len(layer.weight), -1)
        self.filters = filters
        per_level = 2.0 ** (15 + layer.output.shift) / np.maximum(np.abs(layer.output.positive.astype(np.float64)), 1)
        centred = layer.bias + zero * flat.sum(1, dtype=np.int64)
        self.bias = _Number(centred, torch.from_numpy(per_level * _BIAS_UNIT))

    def numbers(self) -> Numbers:
        """Return the integer filters (O, K) float32 and centred biases (O,) float64."""
        weight = self.filters.integers()
        fixed = weight.detach().double()
        positive, negative = fixed.clamp(min=0).sum(1), fixed.clamp(max=0).sum(1)
        carried = self.zero * (positive + negative)
        room = carried - self.top * negative + INT32_MIN, carried - self.top * positive + INT32_MAX
        return weight, self.bias.whole(*room)

    def integers(self, shape: tuple[int, ...]) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
        """Return weights of `shape` (O, ..) and biases as FORMAT.md stores them."""
        weight, bias = self.numbers()
        stored = bias - self.zero * weight.double().sum(1)
        return _numpy(weight, np.int8).reshape(shape), _numpy(stored, np.int32)


class _Stem(nn.Module):
    def __init__(self, stem: IntegerStem) -> None:
        super().__init__()
        self.fixed = stem
        _, kernel, _, channels = stem.weight.shape
        filters = _Filters(stem.weight.reshape(len(stem.weight), -1), stem_lanes(kernel, channels, stem.sums))
        self.product = _Product(stem, filters, 0, IMAGE_TOP)
        self.output = _Output(stem.output)

    def numbers(self) -> Numbers:
        return *self.product.numbers(), *self.output.numbers()

    def forward(self, pixels: Tensor, weight: Tensor, bias: Tensor, *multipliers: Tensor) -> Tensor:
        planes = weight.view(self.fixed.weight.shape).permute(0, 3, 1, 2)
        output: Tensor = self.output(simulate.stem(pixels, planes, bias, self.fixed.stride), *multipliers)
        return output

    def integers(self) -> IntegerStem:
        weight, bias = self.product.integers(self.fixed.weight.shape)
        return IntegerStem(self.fixed.stride, self.fixed.sums, weight, bias, self.output.integers())


class _Separable(nn.Module):
    def __init__(self, block: IntegerSeparable, top: int, kept: NDArray[np.bool_] | None) -> None:
        super().__init__()
        self.fixed = block
        kernel, _, channels = block.depthwise.shape
        self.depthwise = _Filters(block.depthwise.reshape(kernel**2, channels).T, depthwise_lanes(kernel**2, top))
        unit = torch.from_numpy(block.multiplier * _MULTIPLIER_UNIT)
        self.multiplier = _Number(block.multiplier, unit)
        lanes = pointwise_lanes(channels, block.sums, block.middle_top)
        filters = _Filters(block.weight, lanes, kept)
        self.product = _Product(block, filters, block.middle_zero, block.middle_top)
        self.output = _Output(block.output)

    def numbers(self) -> Numbers:
        return self.depthwise.integers(), self.multiplier.whole(0), *self.product.numbers(), *self.output.numbers()

    def forward(
        self, maps: Tensor, taps: Tensor, multiplier: Tensor, weight: Tensor, bias: Tensor, *multipliers: Tensor
    ) -> Tensor:
        block = self.fixed
        if block.pool:
            maps = F.max_pool2d(maps, 2)
        kernel = len(block.depthwise)
        total = simulate.depthwise(maps, taps.view(-1, kernel, kernel))
        ends = -block.middle_zero, block.middle_top - block.middle_zero
        middle = simulate.mulr(total, multiplier, ends)
        output: Tensor = self.output(simulate.pointwise(middle, weight, bias, max(-ends[0], ends[1])), *multipliers)
        return output

    def integers(self) -> IntegerSeparable:
        taps = _numpy(self.depthwise.integers(), np.int8)
        weight, bias = self.product.integers(self.fixed.weight.shape)
        return dataclasses.replace(
            self.fixed,
            depthwise=np.ascontiguousarray(taps.T).reshape(self.fixed.depthwise.shape),
            multiplier=_numpy(self.multiplier.whole(0), np.int16),
            weight=weight,
            bias=bias,
            output=self.output.integers(),
        )


class _Classifier(nn.Module):
    """Logits of the sums over all pixels, each 0..`top`; within 32 bits, whatever values are learned."""

    def __init__(self, quantized: Quantized, top: int) -> None:
        super().__init__()
        self.top = top
        network = quantized.network
        size = float(np.sqrt((network.weight.astype(np.float64) ** 2).mean()))
        self.weight = _Number(network.weight, max(size, 1.0))
        self.bias = _Number(network.bias, 1.0 / quantized.logit_scale)

    def numbers(self) -> Numbers:
        """Return weights (classes, F) and biases (classes,) float64."""
        weight, bias = self.weight.whole(), self.bias.whole(INT32_MIN, INT32_MAX)
        reach = self._reach(weight, bias)
        if reach > INT32_MAX:
            share = (INT32_MAX - len(bias)) / reach
            weight = simulate.straight(weight, (weight.detach() * share).trunc())
            bias = simulate.straight(bias, (bias.detach() * share).trunc())
        return weight, bias

    def _reach(self, weight: Tensor, bias: Tensor) -> float:
        fixed = weight.detach()
        high = bias.detach() + self.top * fixed.clamp(min=0).sum(1)
        low = bias.detach() + self.top * fixed.clamp(max=0).sum(1)
        return max(float(high.max()), -float(low.min()) - 1)

    def forward(self, sums: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return sums @ weight.T + bias


class Student(nn.Module):
    """An integer network, each of its numbers trainable; `forward` is the network's own arithmetic.

    All numbers keep to their bounds, whatever is learned: `integers()` is a network that FORMAT.md allows.
    """

    def __init__(self, quantized: Quantized) -> None:
        super().__init__()
        network = quantized.network
        self.fixed, self.logit_scale, self.kept = network, quantized.logit_scale, quantized.kept
        self.stem = _Stem(network.stem)
        tops = [network.stem.output.top, *(block.output.top for block in network.blocks)]
        kept = quantized.kept or (None,) * len(network.blocks)
        layers = zip(network.blocks, tops[:-1], kept, strict=True)
        self.blocks = nn.ModuleList(_Separable(*layer) for layer in layers)
        self.last = network.blocks[-1].output if network.blocks else network.stem.output
        self.classifier = _Classifier(quantized, shape_of(network).sides()[-1] ** 2 * self.last.top)

    def numbers(self) -> list[Numbers]:
        """Return the integers of stem, blocks and classifier as `forward` takes them, tied to what is learned.

        Making them takes a quarter to a half of the time of 32 images, so several calls share them.
        """
        return [cast(_Layer, layer).numbers() for layer in (self.stem, *self.blocks, self.classifier)]

    def forward(self, pixels: Tensor, numbers: list[Numbers] | None = None) -> Tensor:
        """Return the integer logits (N, classes) float64 of `pixels` (N, C, side, side), whole numbers 0..255."""
        stem, *blocks, classifier = numbers or self.numbers()
        maps = self.stem(pixels.contiguous(memory_format=torch.channels_last), *stem)
        for block, own in zip(self.blocks, blocks, strict=True):
            maps = block(maps, *own)
        sums = (maps.double() + self.last.zero).sum((2, 3))
        logits: Tensor = self.classifier(sums, *classifier)
        return logits

    @torch.no_grad()
    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Return the integer logits (N, classes) of images (N, side, side, C) uint8."""

        def answers(rows: NDArray[np.uint8]) -> NDArray[np.int32]:
            return _numpy(self(torch.from_numpy(np.array(rows)).permute(0, 3, 1, 2).float(), numbers), np.int32)

        numbers = self.numbers()

        return in_batches(answers, images, _BATCH, np.empty((len(images), len(self.fixed.bias)), np.int32))

    def weigh_bits(self, strength: float) -> None:
        """Have pointwise weights choose values that are cheap to code (`rate.py`); 0 ends that."""
        for block in self.blocks:
            cast(_Separable, block).product.filters.weigh_bits(strength)

    def quantized(self) -> Quantized:
        """Return the network as it is now, with its scale and masks."""
        return Quantized(self.integers(), self.logit_scale, self.kept)

    @torch.no_grad()
    def integers(self) -> IntegerNetwork:
        """Return the network as it is now."""
        weight, bias = self.classifier.numbers()
        return dataclasses.replace(
            self.fixed,
            stem=self.stem.integers(),
            blocks=tuple(cast(_Separable, block).integers() for block in self.blocks),
            weight=_numpy(weight, np.int16),
            bias=_numpy(bias, np.int32),
        )


T = TypeVar("T", bound=np.generic)


def _numpy(tensor: Tensor, dtype: type[T]) -> NDArray[T]:
    return tensor.detach().numpy().astype(dtype)
