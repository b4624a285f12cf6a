"""The fused kernels compute what the plain modules compute: layer by layer, in float64."""

import contextlib
import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quicknet.models import fused
from quicknet.models.fused import autograd, native
from quicknet.models.fused.native import Norm
from quicknet.models.registry import create_model

pytestmark = pytest.mark.skipif(not fused.available(), reason=fused.status())


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def plain_features(net: Any, x: Tensor) -> Tensor:
    x = net.stem(x)
    for block in net.blocks:
        x = block(x)
    return x


@torch.no_grad()
def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


# --- one layer ------------------------------------------------------------------------------


def random_norm(channels: int, slope: Tensor, generator: torch.Generator) -> Norm:
    def draw() -> Tensor:
        return torch.randn(channels, generator=generator, dtype=torch.float64)

    vectors = (draw(), draw().square() + 0.5, draw(), draw(), slope)
    return norm_of([v.requires_grad_() for v in vectors])


def norm_of(vectors: Sequence[Tensor]) -> Norm:
    mean, variance, weight, bias, slope = vectors
    return Norm(mean, variance, weight, bias, slope, 1e-3)


def plain_layer(z: Tensor, norm: Norm, weights: tuple[Tensor, Tensor], pool: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The layer in torch's own operations; z and the result (N, h, w, C)."""
    n = (z - norm.mean) / (norm.variance + norm.epsilon).sqrt() * norm.weight + norm.bias
    y = torch.where(n > 0, n, n * norm.slope).permute(0, 3, 1, 2)
    y = F.max_pool2d(y, 2) if pool else y
    depthwise, pointwise = weights
    y = F.conv2d(y, depthwise, padding=depthwise.shape[-1] // 2, groups=len(depthwise))
    out = F.conv2d(y, pointwise).permute(0, 2, 3, 1)
    variance, mean = torch.var_mean(out, (0, 1, 2), correction=0)
    return out, mean, variance


def three(kept: autograd.Kept, channels: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return a layer's result without its padding, and its channels' means and variances."""
    assert kept.mean is not None and kept.variance is not None
    return kept.z[..., :channels], kept.mean, kept.variance


SLOPES = {
    "relu": lambda c: torch.zeros(c, dtype=torch.float64),
    "leaky_relu": lambda c: torch.full((c,), 0.25, dtype=torch.float64),
    "prelu": lambda c: torch.linspace(-0.5, 1.5, c, dtype=torch.float64),  # it may learn any slope
}
# (images, height, width, channels in and out): one chunk over several images, many chunks in
# one image, rows longer than a chunk, maps smaller than the kernel, widths off the vector
SIZES = [(5, 9, 9, 16, 32), (2, 33, 35, 5, 19), (1, 4, 301, 3, 8), (7, 3, 2, 24, 7), (3, 2, 2, 1, 1)]


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("size", SIZES)
def test_a_layer_and_all_its_gradients_equal_autograd(
    size: tuple[int, ...], slope: str, kernel: int, pool: bool
) -> None:
    images, height, width, ins, outs = size
    generator = torch.Generator().manual_seed(kernel)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    z = draw(images, height, width, ins).requires_grad_()
    norm = random_norm(ins, SLOPES[slope](ins), generator)
    weights = (draw(ins, 1, kernel, kernel).requires_grad_(), draw(outs, ins, 1, 1).requires_grad_())
    inputs = [z, *norm[:5], *weights]
    expected = plain_layer(z, norm, weights, pool)
    padding = native.padded(ins, z.dtype) - ins
    with threads(1 + kernel % 3):  # 1, 2 or 3, which backward keeps to
        got = three(autograd.separable(F.pad(z, (0, padding)), norm, weights, pool, False, True), outs)
    directions = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in expected]
    for a, b in zip(got, expected, strict=True):
        assert relative_error(a, b) < 1e-12
    actual_grads = torch.autograd.grad(got, inputs, directions)
    expected_grads = torch.autograd.grad(expected, inputs, directions)
    for a, b in zip(actual_grads, expected_grads, strict=True):
        assert a.shape == b.shape
        assert relative_error(a, b) < 1e-9


def test_a_layers_gradients_are_its_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    channels = 3

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    z = draw(2, 5, 4, native.padded(channels, torch.float64))
    norm = random_norm(channels, torch.tensor([0.25, 0.1, 0.6], dtype=torch.float64), generator)

    def layer(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return three(autograd.separable(inputs[0], norm_of(inputs[1:6]), (inputs[6], inputs[7]), True, False, True))

    assert torch.autograd.gradcheck(layer, (z, *norm[:5], draw(channels, 1, 3, 3), draw(2, channels, 1, 1)))


@pytest.mark.parametrize(("kernel", "stride", "channels"), [(5, 1, 3), (3, 2, 1), (7, 4, 4), (1, 1, 2)])
def test_the_stem_and_its_weights_gradient_equal_autograd(kernel: int, stride: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, channels, 37, 41, generator=generator, dtype=torch.float64)
    weight = torch.randn(11, channels, kernel, kernel, generator=generator, dtype=torch.float64)
    weight.requires_grad_()
    out = F.conv2d(x, weight, stride=stride).permute(0, 2, 3, 1)
    variance, mean = torch.var_mean(out, (0, 1, 2), correction=0)
    with threads(stride):
        kept = autograd.stem(x, weight, stride, False, True)
    got, expected = three(kept, 11), (out, mean, variance)
    directions = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in expected]
    for a, b in zip(got, expected, strict=True):
        assert relative_error(a, b) < 1e-12
    (a,), (b,) = (torch.autograd.grad(t, weight, directions) for t in (got, expected))
    assert relative_error(a, b) < 1e-9


bf16_products = pytest.mark.skipif(not fused.has_bf16(), reason="this CPU or compiler has no AVX512-BF16")


@bf16_products
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_a_layers_bfloat16_products_differ_by_their_rounding(size: tuple[int, ...], pool: bool) -> None:
    """Up to 0.4% a number, of which a gradient has up to four: kinks and pooling see the unrounded ones."""
    images, height, width, ins, outs = size
    generator = torch.Generator().manual_seed(0)
    padded = native.padded(ins, torch.float32)
    z = F.pad(torch.randn(images, height, width, ins, generator=generator), (0, padded - ins)).requires_grad_()
    norm = random_norm(ins, SLOPES["prelu"](ins), generator)
    norm = norm_of([t.detach().float().requires_grad_() for t in norm[:5]])
    depthwise = torch.randn(ins, 1, 3, 3, generator=generator)
    pointwise = torch.randn(outs, ins, 1, 1, generator=generator)
    inputs = [z, *norm[:5], depthwise.requires_grad_(), pointwise.requires_grad_()]
    actual = []
    for bf16 in (False, True):
        kept = autograd.separable(z, norm, (depthwise, pointwise), pool, bf16, True)
        sums = three(kept)
        grads = torch.autograd.grad(kept.z[..., :outs].square().mean() + sums[1].sum(), inputs)
        actual.append((*sums, *grads))
    for exact, rounded in zip(*actual, strict=True):
        assert relative_error(rounded, exact) < 0.016
    assert relative_error(actual[1][0], actual[0][0]) > 1e-5  # asked for, so done


@bf16_products
def test_under_autocast_a_networks_gradients_are_nearer_than_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net: Any = create_model("quicknet_xs", dropout=0.0).train()
    x, labels = torch.randn(32, 3, 32, 32), torch.arange(32) % 10

    def gradients(model: Any, images: Tensor) -> Tensor:
        loss = F.cross_entropy(model(images).double(), labels)
        return torch.cat([g.double().flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    with torch.autocast("cpu", torch.bfloat16):
        assert fused.usable(net.plan, (net.stem, *net.blocks), x)
        got = gradients(net, x)
        again = gradients(net, x)
    assert torch.equal(got, again)
    monkeypatch.setattr(fused, "usable", lambda *_: False)
    exact = gradients(copy.deepcopy(net).double(), x.double())
    with torch.autocast("cpu", torch.bfloat16):
        plain = gradients(net, x)
    assert relative_error(got, exact) < relative_error(plain, exact)


def test_the_variance_of_a_channel_far_from_zero_keeps_its_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 3, 32, 32, generator=generator) + torch.tensor([100.0, -100.0, 0.0]).view(3, 1, 1)
    kept = autograd.stem(x, torch.eye(3).view(3, 3, 1, 1), 1, False, True)
    expected = x.double().var((0, 2, 3), correction=0)
    assert ((three(kept)[2] - expected).abs() / expected).max() < 1e-5  # a float32 mean of squares: 1e-2


# --- whole networks -------------------------------------------------------------------------

NETWORKS = [
    {},
    {"activation": "prelu_shared", "kernel_sizes": (3, 5, 7, 3), "image_size": 37, "stem_stride": 1},
    {"activation": "leaky_relu", "widths": (20, 9, 33), "depths": (1, 2, 1), "kernel_sizes": (5, 3, 7)}
    | {"stem_width": 7, "stem_kernel": 3, "in_channels": 1, "image_size": 61},
    {"activation": "relu", "widths": (8,), "depths": (1,), "kernel_sizes": (3,), "image_size": 16},
]


def pair(dtype: torch.dtype = torch.float64, **overrides: Any) -> tuple[Any, Any, Tensor]:
    """A network with parameters off their starting values, its copy for the plain path, images."""
    torch.manual_seed(0)
    net: Any = create_model("quicknet_xs", **overrides).to(dtype)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "bn" in name or "act" in name:
                p.add_(torch.empty_like(p).uniform_(-0.2, 0.2))
    config = net.config
    x = torch.randn(5, config.in_channels, config.image_size, config.image_size, dtype=dtype)
    return net, copy.deepcopy(net), x


def assert_same_step(net: Any, reference: Any, x: Tensor) -> None:
    assert fused.usable(net.plan, (net.stem, *net.blocks), x)
    got, expected = net.forward_features(x), plain_features(reference, x)
    assert got.shape == expected.shape
    assert relative_error(got, expected) < 1e-11
    direction = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=got.dtype)
    if expected.requires_grad:
        got.backward(direction)
        expected.backward(direction)
    for (name, a), b in zip(net.named_parameters(), reference.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        assert a.grad is None or relative_error(a.grad, b.grad) < 1e-9, name
    for (name, a), b in zip(net.named_buffers(), reference.named_buffers(), strict=True):
        assert torch.allclose(a, b[1], rtol=1e-11, atol=1e-13), name


@pytest.mark.parametrize("overrides", NETWORKS, ids=lambda o: str(o.get("activation")))
def test_networks_of_the_family_train_and_evaluate_the_same(overrides: dict[str, Any]) -> None:
    net, reference, x = pair(**overrides)
    for _ in range(2):  # the second step has gradients and running statistics to add to
        assert_same_step(net, reference, x)
    net.eval(), reference.eval()
    with torch.no_grad():
        assert relative_error(net(x), reference.forward_head(plain_features(reference, x))) < 1e-11
    net.zero_grad()
    reference.zero_grad()
    assert_same_step(net, reference, x)  # gradients through the running statistics


@pytest.mark.parametrize("momentum", [0.3, None])
def test_running_statistics_follow_the_momentum(momentum: float | None) -> None:
    net, reference, x = pair()
    for model in (net, reference):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = momentum
    for _ in range(3):
        assert_same_step(net, reference, x)
    assert int(net.stem.bn.num_batches_tracked) == 3


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_layout_of_images_and_weights_does_not_matter(layout: torch.memory_format) -> None:
    net, reference, x = pair()
    assert_same_step(net.to(memory_format=layout), reference, x.contiguous(memory_format=layout))


def frozen_parts(net: Any) -> dict[str, list[Tensor]]:
    return {
        "front": [p for m in (net.stem, *net.blocks[:5]) for p in m.parameters()],
        "depthwise": [b.depthwise.weight for b in net.blocks],
        "pointwise": [b.pointwise.weight for b in net.blocks],
        "batch norm": [p for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()],
        "features": [p for m in (net.stem, *net.blocks) for p in m.parameters()],
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("part", ["front", "depthwise", "pointwise", "batch norm", "features"])
def test_fine_tuning_with_frozen_parts(part: str, training: bool) -> None:
    net, reference, x = pair()
    for model in (net, reference):
        model.train(training)
        for p in frozen_parts(model)[part]:
            p.requires_grad_(False)
    assert_same_step(net, reference, x)


@pytest.mark.parametrize("name", ["quicknet_xs", "quicknet_s"])
def test_float32_is_within_twice_torchs_own_error(name: str) -> None:
    torch.manual_seed(3)
    wide: Any = create_model(name).double()
    x = torch.randn(12, 3, 32, 32, dtype=torch.float64)
    direction = torch.randn(12, wide.num_features, 3, 3, dtype=torch.float64)

    def gradients(net: Any, features: Callable[[Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
        y = features(x.to(dtype))
        y.backward(direction.to(dtype))
        # each parameter on its own scale: the largest must not hide the others
        return [p.grad.double() for p in net.parameters() if p.grad is not None]

    ours, eager = copy.deepcopy(wide).float(), copy.deepcopy(wide).float()
    expected = gradients(wide, lambda v: plain_features(wide, v), torch.float64)
    got = gradients(ours, ours.forward_features, torch.float32)
    plain = gradients(eager, lambda v: plain_features(eager, v), torch.float32)

    def error(grads: list[Tensor]) -> float:
        return sum(relative_error(a, b) for a, b in zip(grads, expected, strict=True)) / len(expected)

    assert error(got) <= 2 * error(plain)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_same_input_gives_the_same_bits(count: int) -> None:
    results = []
    for _ in range(2):
        net, _, x = pair(torch.float32)
        with threads(count):
            features = net.forward_features(x[:2])  # fewer images than threads too
        features.sum().backward()
        results.append([features, *(p.grad for p in net.parameters() if p.grad is not None), *net.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Keep the first allowed core busy with another process."""
    code = "import os\nos.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity to look at")
@pytest.mark.parametrize("count", [2, 3])
def test_beside_other_work_the_bits_are_the_same_and_threads_may_run_where_they_might(count: int) -> None:
    """Which thread takes which piece then changes from call to call; the results must not."""

    def gradients() -> list[Tensor]:
        net.zero_grad()
        net(x).square().sum().backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    torch.manual_seed(0)
    net: Any = create_model("quicknet_xs", dropout=0.0).train()
    x = torch.randn(64, 3, 32, 32)
    allowed = os.sched_getaffinity(0)
    with threads(count):
        expected = gradients()
        with busy_core():
            for _ in range(5):
                for got, want in zip(gradients(), expected, strict=True):
                    assert torch.equal(got, want)
    for task in Path("/proc/self/task").iterdir():
        assert os.sched_getaffinity(int(task.name)) == allowed


def test_nan_reaches_the_loss_as_in_the_plain_path() -> None:
    net, reference, x = pair(torch.float32)
    net.eval(), reference.eval()
    x[1, 0, 14:18, 14:18] = float("nan")
    with torch.no_grad():
        got, expected = net(x), reference.forward_head(plain_features(reference, x))
    assert torch.equal(got.isnan(), expected.isnan())
    assert got.isnan().any(dim=1).tolist() == [False, True, False, False, False]
    net.train()
    with torch.no_grad():
        net.blocks[4].pointwise.weight[0, 0] = float("nan")
    assert net(x[2:]).isnan().all()


# --- where it steps aside -------------------------------------------------------------------


def test_what_wants_to_see_single_operations_gets_the_plain_path() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net, _, x = pair(torch.float32)
    assert fused.usable(net.plan, (net.stem, *net.blocks), x)
    assert not fused.usable(net.plan, (net.stem, *net.blocks), x.half())
    assert not fused.usable(net.plan, (net.stem, *net.blocks), x.double())
    assert not fused.usable(net.plan, (net.stem, *net.blocks), x.to("meta"))
    assert not fused.usable(net.plan, (net.stem, *net.blocks), x.clone().requires_grad_())
    with torch.autocast("cpu", torch.float16):
        assert not fused.usable(net.plan, (net.stem, *net.blocks), x)
    with torch.autocast("cpu", torch.bfloat16):
        assert fused.usable(net.plan, (net.stem, *net.blocks), x) == fused.has_bf16()
    with FlopCounterMode(display=False) as counter:
        net(x)
    assert counter.get_total_flops() > 1e6
    observed = []
    handle = net.blocks[2].bn.register_forward_hook(lambda *_: observed.append(1))
    net(x)
    handle.remove()
    assert observed == [1]
    net.blocks[3].act = nn.Tanh()
    assert not fused.usable(net.plan, (net.stem, *net.blocks), x)


def test_an_image_that_needs_its_gradient_gets_one() -> None:
    net, _, x = pair()
    x.requires_grad_()
    net(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
