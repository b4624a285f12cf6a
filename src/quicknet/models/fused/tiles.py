"""Dense 3x3 convolutions in bfloat16 on CPUs with tile products (AMX), through torch's own.

There one instruction multiplies 16 x 32 by 32 x 16 numbers, and torch's direct convolutions run at five times
the rate of vectors; a quarter of the products by `dense.py` does not make up for that. Only narrow maps are
slow: a tile takes 32 neighbouring pixels of a row for the weights' gradient, 16 elsewhere, and rows of 3 or 7
leave most of it empty. So images are joined side by side, a column of zeros between them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["has_tiles"]

# Widths up to which joining pays, measured with batches of 512 on two cores (ms, as it is → joined by 16):
# the weights' gradient of 384 → 384 channels at 7x7 112 → 45, of 512 → 512 at 3x3 142 → 17, of 128 → 128 at
# 15x15 28 → 36; forward at 3x3 37 → 13, at 7x7 39 → 44.
_NARROW_FOR_WEIGHTS, _NARROW = 8, 4
_JOINED = 16  # images


def has_tiles() -> bool:
    """Return whether the CPU multiplies tiles of bfloat16."""
    return torch.cpu._is_amx_tile_supported()


class TileFunction(torch.autograd.Function):
    """(x (N, H, W, C), weight (O, C, 3, 3)) → y (N, H, W, O) of bfloat16; gradients of the arguments' types."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, weight = arguments
        ctx.given, ctx.width = x.dtype, x.shape[2]
        x, w = x.bfloat16(), weight.bfloat16().contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, w)
        joined = ctx.width <= _NARROW
        return _rows(torch.conv2d(_planes(x, joined), w, padding=1), joined, x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, w = ctx.saved_tensors
        dy = grads[0].bfloat16()
        dx, dw = None, None
        if ctx.needs_input_grad[0]:
            joined = ctx.width <= _NARROW
            planes = _gradients(_planes(dy, joined), _planes(x, joined), w, 0)
            dx = _rows(planes, joined, x.shape).to(ctx.given)
        if ctx.needs_input_grad[1]:
            joined = ctx.width <= _NARROW_FOR_WEIGHTS
            dw = _gradients(_planes(dy, joined), _planes(x, joined), w, 1).float()
        return dx, dw


def _gradients(dy: Tensor, x: Tensor, w: Tensor, which: int) -> Tensor:
    """Return the gradient of the input (which = 0) or of the weights (1) of a convolution of (N, C, H, W)."""
    mask = [which == 0, which == 1, False]
    ones, padding = [1, 1], [1, 1]
    gradients = torch.ops.aten.convolution_backward(dy, x, w, None, ones, padding, ones, False, [0, 0], 1, mask)
    result: Tensor = gradients[which]
    return result


def _planes(x: Tensor, joined: bool) -> Tensor:
    """(N, H, W, C) → (N, C, H, W), or joined."""
    return _join(x) if joined else x.permute(0, 3, 1, 2)


def _rows(x: Tensor, joined: bool, shape: torch.Size) -> Tensor:
    """Undo `_planes`; `shape` is that of the input (N, H, W, C)."""
    return _part(x, shape) if joined else x.permute(0, 2, 3, 1)


def _join(x: Tensor) -> Tensor:
    """(N, H, W, C) → (ceil(N / k), C, H, k (W + 1)): k images side by side, a column of zeros behind each."""
    n, height, width, channels = x.shape
    groups = -(-n // _JOINED)
    joined = x.new_zeros(groups, height, _JOINED, width + 1, channels)
    whole = n // _JOINED
    if whole:
        joined[:whole, :, :, :width] = x[: whole * _JOINED].reshape(whole, _JOINED, *x.shape[1:]).transpose(1, 2)
    if whole < groups:
        joined[whole, :, : n - whole * _JOINED, :width] = x[whole * _JOINED :].transpose(0, 1)
    return joined.flatten(2, 3).permute(0, 3, 1, 2)


def _part(joined: Tensor, shape: torch.Size) -> Tensor:
    """Return (N, H, W, O) of what `_join` put together; `shape` is that of the input (N, H, W, C)."""
    n, height, width = shape[:3]
    pixels = joined.permute(0, 2, 3, 1)  # (groups, H, k (W + 1), O)
    parts = pixels.reshape(len(pixels), height, _JOINED, width + 1, -1)[:, :, :, :width]
    return parts.transpose(1, 2).flatten(0, 1)[:n].contiguous()
