"""Dense 3x3 convolutions on CPU through minimal filtering: a quarter of the products, as torch's to rounding.

Source: A. Lavin, S. Gray 2015, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308),
F(4x4, 3x3). torch has no such path on CPUs; its direct one runs near the peak of the products, so fewer of
them is the only way to a faster step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from quicknet.models.fused import native
from quicknet.models.fused.native import autocast_to_bf16, pointers
from quicknet.models.fused.switch import observed, switched_off
from quicknet.models.fused.tiles import TileFunction, has_tiles

__all__ = ["convolve"]

# Maps with fewer tiles than this have too few pixels for each transformed weight.
_TILES = 48


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return what `conv` makes of `x` (N, C, H, W): in the compiled kernel where it applies, else as torch does it.

    It applies to 3x3 convolutions of stride 1 with padding 1 and no bias in float32 or float64 on CPU, outside
    tracing, compiling and whatever else wants to see torch's own operations. Under autocast to bfloat16 it
    applies where the CPU multiplies that fast: transformed numbers are rounded to it, sums and outputs are float32.
    """
    if autocast_to_bf16(torch.float32) and x.dtype is torch.bfloat16 and not has_tiles():
        x = x.float()
    if not _usable(conv, x):
        y: Tensor = conv(x)
        return y
    bf16 = autocast_to_bf16(conv.weight.dtype)
    if bf16 and has_tiles():
        tiled: Tensor = TileFunction.apply(x.permute(0, 2, 3, 1), conv.weight)  # type: ignore[no-untyped-call]
        return tiled.permute(0, 3, 1, 2)
    out: Tensor = DenseFunction.apply(x.permute(0, 2, 3, 1), conv.weight, bf16)  # type: ignore[no-untyped-call]
    return out.permute(0, 3, 1, 2)


def _usable(conv: nn.Conv2d, x: Tensor) -> bool:
    if type(x) is not Tensor or type(conv) is not nn.Conv2d or x.ndim != 4:
        return False
    unit = 16  # of every vector length
    tiles = x.shape[0] * -(-x.shape[2] // 4) * -(-x.shape[3] // 4)
    return (
        x.device.type == conv.weight.device.type == "cpu"
        and x.dtype in (conv.weight.dtype, torch.bfloat16)
        and conv.weight.dtype in (torch.float32, torch.float64)
        and conv.kernel_size == (3, 3)
        and conv.stride == conv.padding == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and conv.bias is None
        and x.shape[1] == conv.in_channels
        and conv.in_channels % unit == conv.out_channels % unit == 0
        and tiles >= _TILES
        and not observed(conv)
        and (not torch.is_autocast_enabled("cpu") or autocast_to_bf16(conv.weight.dtype))
        and not switched_off()
        and native.available()
    )


class DenseFunction(torch.autograd.Function):
    """(x (N, H, W, C), weight (O, C, 3, 3), whether products run in bfloat16) → y (N, H, W, O)."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, weight, ctx.bf16 = arguments
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        return _forward(x, weight.permute(2, 3, 1, 0), ctx.bf16)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        dy = grads[0].contiguous()
        dx, dw = None, None
        if ctx.needs_input_grad[0]:  # the convolution with every kernel turned round, from outputs to inputs
            dx = _forward(dy, weight.flip(2, 3).permute(2, 3, 0, 1), ctx.bf16)
        if ctx.needs_input_grad[1]:
            d = torch.empty(3, 3, x.shape[3], dy.shape[3], dtype=x.dtype)
            kept = native.DenseKept(**pointers(x.dtype, x=x, dy=dy))
            sizes = _sizes(x, dy.shape[3], ctx.bf16)
            native.call(
                "dense_weight_gradient", x.dtype, sizes, kept, native.DenseGradients(**pointers(x.dtype, weight=d))
            )
            dw = d.permute(3, 2, 0, 1)
        return dx, dw, None


def _sizes(x: Tensor, out_channels: int, bf16: bool) -> native.Dense:
    n, height, width, channels = x.shape
    threads = torch.get_num_threads()
    return native.Dense(
        images=n,
        height=height,
        width=width,
        in_channels=channels,
        out_channels=out_channels,
        bf16=bf16,
        threads=threads,
    )


def _forward(x: Tensor, weight: Tensor, bf16: bool) -> Tensor:
    """(N, H, W, C) * (3, 3, C, O) → (N, H, W, O)."""
    weight = weight.contiguous()
    y = x.new_empty(*x.shape[:3], weight.shape[3])
    given = native.DenseInput(**pointers(x.dtype, x=x, weight=weight))
    native.call(
        "dense_forward", x.dtype, _sizes(x, y.shape[3], bf16), given, native.DenseOutput(**pointers(x.dtype, y=y))
    )
    return y
