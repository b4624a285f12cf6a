"""The kernels as differentiable functions, which compose with everything else in torch.

A layer's kept output `z` is its pointwise (or stem) output before batch norm, (N, h, w, C
padded to the vector). Its batch moments are outputs too, so that batch norm's backward passes
through them as through any other tensors (other processes' sums included).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from quicknet.models.fused import native
from quicknet.models.fused.native import Norm, norm_input, pointers

Moments = tuple[Tensor | None, Tensor | None]


class Kept(NamedTuple):
    """What a layer keeps: its output before batch norm, and where wanted its mean and variance."""

    z: Tensor
    mean: Tensor | None
    variance: Tensor | None


class SeparableShape(NamedTuple):
    """Sizes that a tensor's shape does not say."""

    in_channels: int
    out_channels: int
    kernel: int
    pool: bool
    bf16: bool


def _dense(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.contiguous() for t in tensors)


def _moments(channels: int, dtype: torch.dtype, with_moments: bool) -> Moments:
    if not with_moments:
        return None, None
    return torch.empty(channels, dtype=dtype), torch.empty(channels, dtype=dtype)


def _separable_input(z: Tensor, norm: Norm, depthwise: Tensor, pointwise: Tensor) -> native.SeparableInput:
    given = pointers(z.dtype, z=z, depthwise=depthwise, pointwise=pointwise)
    return native.SeparableInput(norm=norm_input(z.dtype, norm), **given)


def _output_input(z: Tensor, norm: Norm) -> native.OutputInput:
    return native.OutputInput(norm=norm_input(z.dtype, norm), **pointers(z.dtype, z=z))


def _layer_output(z: Tensor, moments: Moments) -> native.LayerOutput:
    return native.LayerOutput(**pointers(z.dtype, z=z, mean=moments[0], variance=moments[1]))


def _layer_kept(out: Tensor, mean: Tensor | None, grads: tuple[Tensor, ...]) -> native.LayerKept:
    g, d_mean, d_variance = grads
    mean = d_mean if mean is None else mean  # not wanted, so that it counts for nothing
    return native.LayerKept(**pointers(out.dtype, g=g, z=out, mean=mean, d_mean=d_mean, d_variance=d_variance))


def _gradients(grads: tuple[Tensor | None, ...], out: Tensor, channels: int) -> tuple[Tensor, ...]:
    """Return those of z, mean and variance, zeros where nothing came."""
    g, *moments = grads
    g = torch.zeros_like(out) if g is None else g
    filled = (torch.zeros(channels, dtype=out.dtype) if m is None else m for m in moments)
    return _dense(g, *filled)


class SeparableFunction(torch.autograd.Function):
    """One separable layer on the previous layer's kept output.

    (z (N, H, W, C'), norm vectors (C,) x 5, epsilon, depthwise (C, 1, k, k), pointwise
    (O, C, 1, 1), shape, whether moments are wanted) → z (N, h, w, O'), and mean (O,) and biased
    variance (O,) or None.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor | None, ...]:  # noqa: D102
        *tensors, epsilon, depthwise, pointwise, shape, with_moments = arguments
        z, *vectors, depthwise, pointwise = _dense(*tensors, depthwise, pointwise)
        norm = Norm._make((*vectors, epsilon))
        n, height, width, _ = z.shape
        h, w = (height // 2, width // 2) if shape.pool else (height, width)
        out = torch.empty(n, h, w, native.padded(shape.out_channels, z.dtype), dtype=z.dtype)
        moments = _moments(shape.out_channels, z.dtype, with_moments)
        ctx.sizes = native.Separable(
            images=n, in_height=height, in_width=width, threads=torch.get_num_threads(), **shape._asdict()
        )
        ctx.epsilon = epsilon
        given = _separable_input(z, norm, depthwise, pointwise)
        native.call("separable_forward", z.dtype, ctx.sizes, given, _layer_output(out, moments))
        ctx.save_for_backward(z, *vectors, depthwise, pointwise, out, moments[0])
        ctx.set_materialize_grads(False)
        return out, *moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        z, *vectors, depthwise, pointwise, out, out_mean = ctx.saved_tensors
        norm = Norm._make((*vectors, ctx.epsilon))
        came = _gradients(grads, out, pointwise.shape[0])
        needs = ctx.needs_input_grad
        d_z, d_norm = None, None
        d_vectors: tuple[Tensor | None, ...] = (None,) * 5
        if any(needs[:6]):
            d_z, d_norm = torch.empty_like(z), norm.mean.new_empty(5, norm.mean.numel())
            d_vectors = d_norm.unbind(0)
        d_depthwise = torch.empty_like(depthwise) if needs[7] else None
        d_pointwise = torch.empty_like(pointwise) if needs[8] else None
        given, kept = _separable_input(z, norm, depthwise, pointwise), _layer_kept(out, out_mean, came)
        wanted = native.SeparableGradients(
            **pointers(z.dtype, z=d_z, norm=d_norm, depthwise=d_depthwise, pointwise=d_pointwise)
        )
        native.call("separable_backward", z.dtype, ctx.sizes, given, kept, wanted)
        return (d_z, *d_vectors, None, d_depthwise, d_pointwise, None, None)


class StemFunction(torch.autograd.Function):
    """The first convolution, without padding.

    (x (N, H, W, C), weight (O, k, k, C), stride, whether products run in bfloat16, whether moments
    are wanted) → z (N, h, w, O'),
    and mean (O,) and biased variance (O,) or None. The image gets no gradient.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, weight, stride, bf16, with_moments = arguments
        n, height, width, channels = x.shape
        outs, kernel = weight.shape[0], weight.shape[1]
        h, w = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        x, weight = _dense(x, weight)
        out = torch.empty(n, h, w, native.padded(outs, x.dtype), dtype=x.dtype)
        moments = _moments(outs, x.dtype, with_moments)
        ctx.sizes = native.Stem(
            images=n,
            in_height=height,
            in_width=width,
            in_channels=channels,
            out_channels=outs,
            kernel=kernel,
            stride=stride,
            bf16=bf16,
            threads=torch.get_num_threads(),
        )
        given = native.StemInput(**pointers(x.dtype, x=x, weight=weight))
        native.call("stem_forward", x.dtype, ctx.sizes, given, _layer_output(out, moments))
        ctx.save_for_backward(x, weight, out, moments[0])
        ctx.set_materialize_grads(False)
        return out, *moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, weight, out, out_mean = ctx.saved_tensors
        came = _gradients(grads, out, weight.shape[0])
        d_weight = torch.empty_like(weight)
        given = native.StemInput(**pointers(x.dtype, x=x, weight=weight))
        wanted = native.StemGradients(**pointers(x.dtype, weight=d_weight))
        native.call("stem_backward", x.dtype, ctx.sizes, given, _layer_kept(out, out_mean, came), wanted)
        return None, d_weight, None, None, None


class OutputFunction(torch.autograd.Function):
    """Batch norm and activation of the last kept output.

    (z (N, h, w, C'), norm vectors (C,) x 5, epsilon) → y (N, h, w, C').
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # noqa: D102
        *tensors, ctx.epsilon = arguments
        z, *vectors = _dense(*tensors)
        pixels, channels = z.numel() // z.shape[-1], vectors[0].numel()
        ctx.sizes = native.Output(pixels=pixels, channels=channels, threads=torch.get_num_threads())
        y = torch.empty_like(z)
        given = _output_input(z, Norm._make((*vectors, ctx.epsilon)))
        native.call("output_forward", z.dtype, ctx.sizes, given, native.OutputResult(**pointers(z.dtype, y=y)))
        ctx.save_for_backward(z, *vectors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        z, *vectors = ctx.saved_tensors
        grad = grad.contiguous()
        d_z, d_norm = torch.empty_like(z), grad.new_empty(5, vectors[0].numel())
        given = _output_input(z, Norm._make((*vectors, ctx.epsilon)))
        wanted = native.OutputGradients(**pointers(z.dtype, dy=grad, z=d_z, norm=d_norm))
        native.call("output_backward", z.dtype, ctx.sizes, given, wanted)
        return (d_z, *d_norm.unbind(0), None)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    return function.apply(*arguments)  # type: ignore[no-untyped-call]


def stem(x: Tensor, weight: Tensor, stride: int, bf16: bool, moments: bool) -> Kept:
    """Return `StemFunction` of an image batch (N, C, H, W) and torch's weight (O, C, k, k)."""
    return Kept(*_apply(StemFunction, x.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1), stride, bf16, moments))


def separable(z: Tensor, norm: Norm, weights: tuple[Tensor, Tensor], pool: bool, bf16: bool, moments: bool) -> Kept:
    """Return `SeparableFunction` with torch's depthwise and pointwise weights."""
    outs, channels = weights[1].shape[:2]
    shape = SeparableShape(channels, outs, weights[0].shape[-1], pool, bf16)
    return Kept(*_apply(SeparableFunction, z, *norm, *weights, shape, moments))


def output(z: Tensor, norm: Norm) -> Tensor:
    """Return the activated features (N, C, h, w), channels last in memory."""
    y: Tensor = _apply(OutputFunction, z, *norm)
    channels = norm.mean.numel()
    y = y if channels == y.shape[-1] else y[..., :channels]
    return y.permute(0, 3, 1, 2)
