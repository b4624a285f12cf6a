"""Dense 3x3 convolutions in the compiled kernel compute what torch's do, and stand back where it does not apply."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from quicknet.models import fused
from quicknet.models.fused import dense, native, tiles
from quicknet.models.registry import create_model

pytestmark = pytest.mark.skipif(not fused.available(), reason=fused.status())


def convolution(ins: int, outs: int, dtype: torch.dtype = torch.float64, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(ins, outs, **{"kernel_size": 3, "padding": 1, "bias": False, **settings}).to(dtype)


def all_of(run: Callable[[nn.Conv2d, Tensor], Tensor], conv: nn.Conv2d, x: Tensor, seed: int) -> tuple[Tensor, ...]:
    """Output, and gradients of input and weight."""
    x = x.detach().requires_grad_()
    y = run(conv, x)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(y.dtype)
    return (y.detach(), *torch.autograd.grad(y, (x, conv.weight), g))


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


@settings(max_examples=25, deadline=None)
@given(
    images=st.integers(1, 5),
    sides=st.tuples(st.integers(1, 34), st.integers(1, 34)),
    channels=st.tuples(st.sampled_from([16, 48, 80]), st.sampled_from([16, 32, 112])),
    seed=st.integers(0, 999),
)
def test_output_and_gradients_are_torchs(
    images: int, sides: tuple[int, int], channels: tuple[int, int], seed: int
) -> None:
    """Any size of map, its last tiles cut in every way; few tiles are not worth it, and computed all the same."""
    torch.manual_seed(seed)
    conv, x = convolution(*channels), torch.randn(images, channels[0], *sides, dtype=torch.float64)

    def kernel(conv: nn.Conv2d, x: Tensor) -> Tensor:
        y: Tensor = dense.DenseFunction.apply(x.permute(0, 2, 3, 1), conv.weight, False)
        return y.permute(0, 3, 1, 2)

    for got, expected in zip(all_of(kernel, conv, x, seed), all_of(nn.Conv2d.__call__, conv, x, seed), strict=True):
        assert got.shape == expected.shape
        assert relative_error(got, expected) < 1e-13


def test_gradients_are_finite_differences() -> None:
    torch.manual_seed(0)
    conv, x = convolution(16, 16), torch.randn(1, 16, 5, 6, dtype=torch.float64, requires_grad=True)

    def scalar(x: Tensor, weight: Tensor) -> Tensor:
        y: Tensor = dense.DenseFunction.apply(x.permute(0, 2, 3, 1), weight, False)
        return y.tanh().sum()

    assert torch.autograd.gradcheck(scalar, (x, conv.weight), fast_mode=True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [(64, 128), (128, 64)])
def test_float32_keeps_five_to_six_digits(channels: tuple[int, int], layout: torch.memory_format) -> None:
    """The transforms add up larger numbers and take them away again: about 1e-6, where torch's own is 2e-7."""
    torch.manual_seed(0)
    exact, x = convolution(*channels), torch.randn(16, channels[0], 15, 15, dtype=torch.float64)
    conv, x32 = convolution(*channels, dtype=torch.float32), x.float().to(memory_format=layout)
    conv.load_state_dict(exact.state_dict())
    conv.to(memory_format=layout)  # type: ignore[call-overload]  # which torch leaves out
    expected = all_of(nn.Conv2d.__call__, exact, x, 1)
    for ours, torchs, double in zip(
        all_of(fused.convolve, conv, x32, 1), all_of(nn.Conv2d.__call__, conv, x32, 1), expected, strict=True
    ):
        assert not torch.equal(ours, torchs)
        assert relative_error(ours, double) < 3e-6


bf16_products = pytest.mark.skipif(not fused.has_bf16(), reason="this CPU or compiler has no AVX512-BF16")


@bf16_products
@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("shape", [(16, 64, 15, 15), (9, 32, 13, 17), (49, 16, 3, 3)])
def test_bfloat16_products_differ_by_their_rounding(
    shape: tuple[int, ...], tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By 1.1% in the mean square; a map's last tiles, and an odd one, are those of float32 too."""
    monkeypatch.setattr(dense, "has_tiles", lambda: tiles)
    torch.manual_seed(0)
    conv, x = convolution(shape[1], 48, torch.float32), torch.randn(shape)
    exact = all_of(fused.convolve, conv, x, 1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = all_of(fused.convolve, conv, x, 1)
        of_halves = fused.convolve(conv, x.bfloat16()).detach()
    assert [ours.dtype for ours in rounded] == [torch.bfloat16 if tiles else torch.float32, *2 * [torch.float32]]
    for ours, float32 in zip(rounded, exact, strict=True):
        assert 0.001 < relative_error(ours, float32) < 0.02
        worst = (ours - float32).abs().max() / float32.std()
        assert worst < 0.15
    assert relative_error(of_halves, exact[0]) < 0.02


@settings(max_examples=25, deadline=None)
@given(
    images=st.integers(1, 40),
    sides=st.tuples(st.integers(1, 9), st.integers(1, 17)),
    channels=st.tuples(st.sampled_from([16, 48]), st.sampled_from([16, 32])),
    seed=st.integers(0, 999),
)
def test_images_joined_side_by_side_do_not_touch(
    images: int, sides: tuple[int, int], channels: tuple[int, int], seed: int
) -> None:
    """Whatever the width, and however many images are left over."""
    torch.manual_seed(seed)
    conv, x = convolution(*channels), torch.randn(images, channels[0], *sides, dtype=torch.float64)

    def tiled(conv: nn.Conv2d, x: Tensor) -> Tensor:
        y: Tensor = tiles.TileFunction.apply(x.permute(0, 2, 3, 1), conv.weight)
        return y.permute(0, 3, 1, 2).double()

    for got, expected in zip(all_of(tiled, conv, x, seed), all_of(nn.Conv2d.__call__, conv, x, seed), strict=True):
        assert got.shape == expected.shape
        assert relative_error(got, expected) < 0.02


def test_float64_is_left_to_torch_under_autocast() -> None:
    conv, x = convolution(16, 16), torch.randn(8, 16, 16, 16, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fused.convolve(conv, x), conv(x))


@bf16_products
def test_under_autocast_a_networks_gradients_point_where_they_should() -> None:
    """Off by 0.2 of their length with 32 images; torch's bfloat16 by 0.13, in twice the time."""
    torch.manual_seed(0)
    net = create_model("speedy_s", **SMALL["speedy_s"])
    x, labels = torch.randn(32, 3, 32, 32), torch.arange(32) % 10

    def gradients() -> Tensor:
        loss = F.cross_entropy(net(x).float(), labels)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])

    exact = gradients()
    with torch.autocast("cpu", torch.bfloat16):
        ours, again = gradients(), gradients()
    assert torch.equal(ours, again)
    assert relative_error(ours, exact) < 0.35


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_number_of_threads_changes_no_bit(count: int) -> None:
    torch.manual_seed(0)
    conv, x = convolution(32, 48, torch.float32), torch.randn(9, 32, 13, 17)
    expected = all_of(fused.convolve, conv, x, 0)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        assert all(map(torch.equal, all_of(fused.convolve, conv, x, 0), expected))
    finally:
        torch.set_num_threads(before)


def test_nan_stays_where_it_came_from_and_reaches_the_output() -> None:
    x = torch.zeros(4, 16, 16, 16)
    x[2, 3, 9, 9] = torch.nan
    bad = fused.convolve(convolution(16, 16, torch.float32), x).isnan()
    assert bad[2, :, 8:11, 8:11].all()
    assert not bad[[0, 1, 3]].any()


REFUSED: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "stride": ({"stride": 2}, (8, 32, 16, 16)),
    "padding": ({"padding": 0}, (8, 32, 16, 16)),
    "padding mode": ({"padding_mode": "reflect"}, (8, 32, 16, 16)),
    "dilation": ({"dilation": 2}, (8, 32, 16, 16)),
    "groups": ({"groups": 2}, (8, 32, 16, 16)),
    "kernel": ({"kernel_size": 5}, (8, 32, 16, 16)),
    "bias": ({"bias": True}, (8, 32, 16, 16)),
    "channels": ({}, (8, 24, 16, 16)),
    "few pixels": ({}, (1, 32, 8, 8)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_convolutions_are_torchs(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, shape = REFUSED[what]
    monkeypatch.setattr(dense, "DenseFunction", None)
    conv, x = convolution(shape[1], 32, torch.float32, **settings), torch.randn(shape)
    assert torch.equal(fused.convolve(conv, x), conv(x))


def test_what_wants_to_see_single_operations_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = convolution(32, 32, torch.float32), torch.randn(8, 32, 16, 16)
    used = []

    def apply(*_: Tensor) -> Tensor:
        used.append(1)
        return torch.zeros(8, 16, 16, 32)

    monkeypatch.setattr(dense.DenseFunction, "apply", apply)
    fused.convolve(conv, x)
    assert used == [1]
    with fused.disabled():
        assert torch.equal(fused.convolve(conv, x), conv(x))
    with torch.autocast("cpu", torch.float16):
        assert fused.convolve(conv, x).dtype is torch.float16
    monkeypatch.setattr(native, "has_bf16", lambda: False)
    with torch.autocast("cpu", torch.bfloat16):
        assert fused.convolve(conv, x).dtype is torch.bfloat16
    with FlopCounterMode(display=False) as counter:
        fused.convolve(conv, x)
    assert counter.get_total_flops() == 2 * 8 * 16 * 16 * 9 * 32 * 32
    seen = []
    with conv.register_forward_hook(lambda *_: seen.append(1)):
        fused.convolve(conv, x)
    assert seen == [1]
    assert used == [1]


SMALL: dict[str, dict[str, Any]] = {
    "speedy_s": {"stem_width": 16, "widths": (32, 48, 32)},
    "resnet_20": {},
    "wide_resnet_16_8": {"widen": 1},
}


@pytest.mark.parametrize("name", SMALL)
def test_a_network_learns_the_same(name: str) -> None:
    """In float64: loss and every gradient, batch norm's included."""
    torch.manual_seed(0)
    net = create_model(name, **SMALL[name]).double()
    x, labels = torch.randn(8, 3, 32, 32, dtype=torch.float64), torch.arange(8)

    def step() -> dict[str, Tensor]:
        net.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        return {
            name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None
        }

    ours = step()
    with fused.disabled():
        expected = step()
    assert ours.keys() == expected.keys()
    assert any(not torch.equal(ours[key], expected[key]) for key in ours)
    assert max(relative_error(ours[key], expected[key]) for key in ours) < 1e-9
