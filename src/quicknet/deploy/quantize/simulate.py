"""The integer network's arithmetic in torch: whole numbers carried in floating point, exactly, with gradients.

Maps are NCHW in channels_last and centred: a value is the stored u8 less its zero point, so that
padding is zero and no zero point enters a product. Float32 holds every integer below 2**24;
where a layer's sums could pass that, it computes in float64. On CPU: a GPU's default convolutions
(TF32, Winograd) round products.

That `mulr` is exact in float32: t·m below 2**24 is an exact product, and its sum with 1/2 after
the division by 2**15 needs 24 bits; from 2**24 on, t·m / 2**15 is at least 512 and clamped,
however it was rounded.

Gradients are straight-through (Bengio et al. 2013): rounding passes them on, a clamp that holds
stops them. Those of the multipliers are what LSQ calls the step size's (Esser et al. 2020, §2.1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from quicknet.models.fused import native
from quicknet.models.fused.switch import switched_off
from quicknet.qnz.format import IMAGE_TOP, INT16_MAX, INT16_MIN, UNIT
from quicknet.qnz.network import Requantization

_EXACT = float(1 << 24)
_ONE = 1 / UNIT


def depthwise(maps: Tensor, weight: Tensor) -> Tensor:
    """Return Σ maps·weight (N, C, H, W) for `weight` (C, k, k): whole numbers of 16 bits, always exact."""
    kernel = weight.shape[-1]
    return F.conv2d(maps, weight.to(maps.dtype)[:, None], padding=kernel // 2, groups=len(weight))


def pointwise(maps: Tensor, weight: Tensor, bias: Tensor, largest: int) -> Tensor:
    """Return bias + Σ maps·weight (N, O, H, W), exactly; `largest` bounds the magnitude of `maps`."""
    dtype = exact_dtype(weight, bias, largest)
    return F.conv2d(maps.to(dtype), weight.to(dtype)[:, :, None, None], bias.to(dtype))


def stem(pixels: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Return bias + Σ pixels·weight (N, O, h, w) for `pixels` (N, C, H, W) of 0..255, exactly."""
    dtype = exact_dtype(weight, bias, IMAGE_TOP)
    return F.conv2d(pixels.to(dtype), weight.to(dtype), bias.to(dtype), stride=stride)


def exact_dtype(weight: Tensor, bias: Tensor, largest: int) -> torch.dtype:
    """Return a type in which no partial sum of bias + Σ weight·x, |x| <= largest, is rounded."""
    reach = (weight.detach().abs().flatten(1).sum(1) * largest + bias.detach().abs()).max()
    return torch.float32 if float(reach) < _EXACT else torch.float64


def stored(acc: Tensor, output: Requantization) -> Tensor:
    """Return a layer's u8 output (N, C, H, W) of its accumulators, which are overwritten."""
    positive, negative = torch.from_numpy(output.positive), torch.from_numpy(output.negative)
    centred = requantize(acc, output.shift, positive, negative, (-output.zero, output.top - output.zero))
    return (centred + output.zero).to(torch.uint8)


def mulr(values: Tensor, multiplier: Tensor, ends: tuple[int, int]) -> Tensor:
    """Return clamp((values·multiplier + 2**14) >> 15) (N, C, H, W) between `ends`; `values` has 16 bits."""
    if _compiled():
        return _apply(_Requantize, values, multiplier, None, 0, ends)
    result: Tensor = _Multiply.apply(values, multiplier, None, ends)  # type: ignore[no-untyped-call]
    return result


def requantize(acc: Tensor, shift: int, positive: Tensor, negative: Tensor, ends: tuple[int, int]) -> Tensor:
    """Return the layer's centred output (N, C, H, W) of its accumulators, which are overwritten."""
    if _compiled():
        return _apply(_Requantize, acc, positive, negative, shift, ends)
    t: Tensor = _Shift.apply(acc, shift)  # type: ignore[no-untyped-call]
    result: Tensor = _Multiply.apply(t, positive, negative, ends)  # type: ignore[no-untyped-call]
    return result


def _compiled() -> bool:
    return native.available() and not switched_off()


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


class _Requantize(torch.autograd.Function):
    """`_Shift` and `_Multiply` by the compiled kernel, in two passes over memory where they take forty.

    Equal numbers, and gradients but for the order in which those of the multipliers are added.
    """

    @staticmethod
    def forward(
        ctx: Any, acc: Tensor, positive: Tensor, negative: Tensor | None, shift: int, ends: tuple[int, int]
    ) -> Tensor:
        sums = acc.detach().contiguous(memory_format=torch.channels_last)
        above = (positive * _ONE).to(acc.dtype)
        below = above if negative is None else (negative * _ONE).to(acc.dtype)
        count, channels, height, width = acc.shape
        ctx.sizes = native.Requantize(
            pixels=count * height * width,
            channels=channels,
            shift=shift,
            low=ends[0],
            high=ends[1],
            threads=torch.get_num_threads(),
        )
        y = torch.empty_like(sums)
        given = native.RequantizeInput(**_pointers(sums=sums, positive=above, negative=below))
        native.call(
            "requantize_forward", acc.dtype, ctx.sizes, given, native.RequantizeResult(**_pointers(t=sums, y=y))
        )
        ctx.save_for_backward(sums, y, above, below)
        ctx.one = negative is None
        return y.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        t, y, above, below = ctx.saved_tensors
        dy = grad.to(t.dtype).contiguous(memory_format=torch.channels_last)
        moved, of_positive, of_negative = torch.empty_like(t), torch.empty_like(above), torch.empty_like(below)
        given = native.RequantizeInput(**_pointers(sums=t, positive=above, negative=below))
        wanted = native.RequantizeGradients(
            **_pointers(dy=dy, t=t, y=y, sums=moved, positive=of_positive, negative=of_negative)
        )
        native.call("requantize_backward", t.dtype, ctx.sizes, given, wanted)
        if ctx.one:
            return moved, (of_positive + of_negative).mul_(_ONE), None, None, None
        return moved, of_positive.mul_(_ONE), of_negative.mul_(_ONE), None, None


def _pointers(**tensors: Tensor) -> dict[str, int | None]:
    """Return the fields of a struct; maps (N, C, H, W) lie in channels_last."""
    dense = {name: value.permute(0, 2, 3, 1) if value.ndim == 4 else value for name, value in tensors.items()}
    return native.pointers(next(iter(tensors.values())).dtype, **dense)


class _Shift(torch.autograd.Function):
    """sat16(acc >> shift) as float32, in place. Where it saturates, `_Multiply`'s clamp mostly stops the gradient."""

    @staticmethod
    def forward(ctx: Any, acc: Tensor, shift: int) -> Tensor:
        ctx.factor, ctx.dtype = 2.0**-shift, acc.dtype
        return acc.detach().mul_(ctx.factor).floor_().clamp_(INT16_MIN, INT16_MAX).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.mul_(ctx.factor).to(ctx.dtype), None


class _Multiply(torch.autograd.Function):
    """clamp(mulr(t, t >= 0 ? positive : negative)) for whole t (N, C, H, W), multipliers (C,).

    Where `negative` is None there is one multiplier. Works on rows of W C numbers: over the C of
    one pixel it would be several times slower.
    """

    @staticmethod
    def forward(ctx: Any, t: Tensor, positive: Tensor, negative: Tensor | None, ends: tuple[int, int]) -> Tensor:
        flat, width = _rows(t), t.shape[3]
        if negative is None:
            result = flat * _over(positive, width)
        else:
            result = flat.clamp(min=0).mul_(_over(positive, width)).addcmul_(flat.clamp(max=0), _over(negative, width))
        result.add_(0.5).floor_().clamp_(*ends)
        ctx.save_for_backward(t, positive, negative)
        ctx.result, ctx.ends = result, ends
        return _maps(result, t)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        t, positive, negative = ctx.saved_tensors
        flat, width, channels = _rows(t), t.shape[3], t.shape[1]
        inside = torch.ops.aten.hardtanh_backward(_rows(grad), ctx.result, *ctx.ends)
        products = inside * flat
        every = _by_channel(products, channels)
        if negative is None:
            return _maps(inside.mul_(_over(positive, width)), t), every, None, None
        above = torch.ops.aten.threshold_backward(products, flat, -0.5)  # t >= 0
        of_positive = _by_channel(above, channels)
        above = torch.ops.aten.threshold_backward(inside, flat, -0.5)
        below = inside.sub_(above)
        moved = above.mul_(_over(positive, width)).addcmul_(below, _over(negative, width))
        return _maps(moved, t), of_positive, every - of_positive, None


def _rows(maps: Tensor) -> Tensor:
    """Return (N, C, H, W) as (N H, W C); a view where the maps lie in channels_last."""
    count, channels, height, width = maps.shape
    return maps.permute(0, 2, 3, 1).reshape(count * height, width * channels)


def _maps(rows: Tensor, like: Tensor) -> Tensor:
    """Return rows as maps (N, C, H, W) in channels_last."""
    count, channels, height, width = like.shape
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def _over(multiplier: Tensor, width: int) -> Tensor:
    """Return m / 2**15 for a row of pixels, float32."""
    return (multiplier * _ONE).float().repeat(width)


def _by_channel(rows: Tensor, channels: int) -> Tensor:
    """Return the sums (C,) of rows (.., W C), over 2**15."""
    return rows.sum(0).view(-1, channels).sum(0).mul_(_ONE)


def straight(value: Tensor, whole: Tensor) -> Tensor:
    """Return `whole`, whose gradient goes to `value`."""
    result: Tensor = _Straight.apply(value, whole)  # type: ignore[no-untyped-call]
    return result


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, whole: Tensor) -> Tensor:
        return whole.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
