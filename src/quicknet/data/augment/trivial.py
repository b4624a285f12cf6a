"""TrivialAugment: one operation of random strength for each image.

Source: Müller & Hutter 2021, "TrivialAugment: tuning-free yet state-of-the-art data
augmentation", the "wide" space of table 4, with 31 levels of strength. Shears and rotations
turn about the centre and interpolate; outside lies the image's reflection.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from quicknet.data.augment import ops
from quicknet.data.augment.draws import Draws, Stream

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
_LEVELS = 31
_MAX_SHEAR = 0.99
_MAX_SHIFT_PIXELS = 32
_MAX_DEGREES = 135
_MAX_ENHANCE = 0.99


def choose(draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each image: operation (int64), strength in 0..1, and the same with random sign."""
    operation = draws.below(Stream.TRIVIAL_OPERATION, len(OPERATIONS))
    strength = draws.below(Stream.TRIVIAL_LEVEL, _LEVELS).double() / (_LEVELS - 1)
    return operation, strength, torch.where(draws.coin(Stream.TRIVIAL_SIGN), -strength, strength)


def matrices(operation: Tensor, signed: Tensor) -> Tensor:
    """Return (B, 2, 3) float64 output-to-source matrices; the identity for other operations."""
    strength = {name: signed * (operation == i) for i, name in enumerate(OPERATIONS[:6])}
    angle = strength["rotate"] * _MAX_DEGREES
    shift_x, shift_y = ((strength[f"translate_{axis}"] * _MAX_SHIFT_PIXELS).round() for axis in "xy")
    shear_x, shear_y = (strength[f"shear_{axis}"] * _MAX_SHEAR for axis in "xy")
    matrix = rotation(angle)
    matrix[:, 0, 1] += shear_x
    matrix[:, 1, 0] += shear_y
    return torch.cat([matrix, torch.stack([shift_x, shift_y], 1)[:, :, None]], 2)


def rotation(degrees: Tensor) -> Tensor:
    """Return (B, 2, 2) float64 rotations; zero degrees gives the identity exactly."""
    radians = degrees.deg2rad()
    cos, sin = radians.cos(), radians.sin()
    return torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)


def recolour(images: Tensor, operation: Tensor, strength: Tensor, signed: Tensor) -> Tensor:
    """Return images (B, S, S, C) with the colour operations applied to those that drew them.

    Only the images are on the device: which images an operation takes is known without waiting.
    """
    result = images.clone()
    for name, change in _COLOUR.items():
        picked = (operation == OPERATIONS.index(name)).nonzero()[:, 0]
        if len(picked):
            apply = partial(change, strength=strength[picked], signed=signed[picked])
            there = picked.to(images.device)
            result.index_copy_(0, there, ops.on_planes(images.index_select(0, there), apply))
    return result


def _brightness(planes: Tensor, strength: Tensor, signed: Tensor) -> Tensor:
    nothing = torch.zeros_like(signed)
    return ops.blend(planes, 1 + _MAX_ENHANCE * signed, nothing, nothing)


def _color(planes: Tensor, strength: Tensor, signed: Tensor) -> Tensor:
    change = _MAX_ENHANCE * signed
    return ops.blend(planes, 1 + change, -change, torch.zeros_like(signed))


def _contrast(planes: Tensor, strength: Tensor, signed: Tensor) -> Tensor:
    change = _MAX_ENHANCE * signed
    return ops.blend(planes, 1 + change, torch.zeros_like(signed), -change)


def _sharpness(planes: Tensor, strength: Tensor, signed: Tensor) -> Tensor:
    return ops.sharpen(planes, 1 + _MAX_ENHANCE * signed)


def _posterize(planes: Tensor, strength: Tensor, signed: Tensor) -> Tensor:
    return ops.posterize(planes, 8 - (6 * strength).round().long())


def _solarize(planes: Tensor, strength: Tensor, signed: Tensor) -> Tensor:
    return ops.solarize(planes, (255 * (1 - strength)).round())


def _autocontrast(planes: Tensor, strength: Tensor, signed: Tensor) -> Tensor:
    return ops.autocontrast(planes)


def _equalize(planes: Tensor, strength: Tensor, signed: Tensor) -> Tensor:
    return ops.equalize(planes)


_COLOUR: dict[str, Callable[..., Tensor]] = {
    "brightness": _brightness,
    "color": _color,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
