"""Schedules and optimizers do what their names say, and give their state back."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quicknet.models.registry import create_model
from quicknet.training.ema import Ema
from quicknet.training.muon import Muon, orthogonalize
from quicknet.training.optim import Optimizer, factor
from quicknet.training.settings import OptimSettings, ScheduleSettings


@given(
    st.sampled_from(["cosine", "onecycle", "step"]),
    st.floats(0, 0.9),
    st.floats(0, 1),
    st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_every_schedule_rises_then_never_rises_again_and_stays_within_its_peak(name, warmup, final, points):
    settings = ScheduleSettings(name=name, warmup=warmup, final=final)
    points = sorted(points)
    rates = [factor(settings, p) for p in points]
    assert all(0 <= r <= 1 for r in rates)
    falling = [r for p, r in zip(points, rates, strict=True) if p >= warmup]
    assert all(a >= b - 1e-12 for a, b in pairwise(falling))


def test_schedules_end_where_they_should():
    assert factor(ScheduleSettings(name="cosine", final=0.1), 1.0) == pytest.approx(0.1)
    assert factor(ScheduleSettings(name="onecycle", final=0.0), 1.0) == pytest.approx(0.0)
    assert factor(ScheduleSettings(name="step", milestones=(0.2, 0.4), gamma=0.5), 1.0) == pytest.approx(0.25)
    assert factor(ScheduleSettings(name="cosine", warmup=0.2), 0.1) == pytest.approx(0.5)


def tiny():
    torch.manual_seed(0)
    return create_model("quicknet_xs", stem_width=4, widths=(4, 8, 8, 8), depths=(1,) * 4, dropout=0.0, num_classes=3)


def learn(model, optimizer, steps, start=0):
    for number in range(start, start + steps):
        torch.manual_seed(number)
        optimizer.zero_grad(model)
        loss = torch.nn.functional.cross_entropy(model(torch.randn(6, 3, 32, 32)), torch.arange(6) % 3)
        loss.backward()
        optimizer.step(0.5)
    return loss.item()


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_the_state_goes_out_and_in_bitwise(name):
    settings = OptimSettings(name=name, lr=0.01)
    whole = tiny()
    learn(whole, Optimizer(whole, settings), 6)

    first = tiny()
    optimizer = Optimizer(first, settings)
    learn(first, optimizer, 3)
    second = tiny()
    second.load_state_dict(first.state_dict())
    resumed = Optimizer(second, settings)
    resumed.load_state({k: v.clone() for k, v in optimizer.state().items()})
    learn(second, resumed, 3, start=3)
    for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_prelu_norms_and_biases_are_never_decayed(name):
    model = tiny()
    before = {k: v.clone() for k, v in model.named_parameters()}
    optimizer = Optimizer(model, OptimSettings(name=name, lr=0.1, weight_decay=0.5, vector_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(1.0)
    for key, parameter in model.named_parameters():
        if parameter.ndim < 2:
            assert torch.equal(parameter, before[key]), key
        else:
            assert parameter.norm() < before[key].norm(), key


def test_muon_steps_are_steps_on_the_filters_themselves():
    model = tiny()
    before = model.blocks[1].pointwise.weight.detach().clone()
    learn(model, Optimizer(model, OptimSettings(name="muon", lr=0.05, weight_decay=0.0)), 1)
    change = (model.blocks[1].pointwise.weight.detach() - before).flatten(1)
    # what sets Muon apart: the singular values of its step are all about equal
    values = torch.linalg.svdvals(change)
    assert values.min() > 0.4 * values.max()


def quintic(matrix):
    """The iteration as K. Jordan's page writes it, for one matrix, in float64."""
    x = matrix.double()
    x = x.mT if len(x) > x.shape[1] else x
    x = x / x.norm()
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if len(matrix) > matrix.shape[1] else x


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_a_batch_of_matrices_is_made_orthogonal_as_each_alone(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    for got, matrix in zip(orthogonalize(matrices, torch.float32), matrices, strict=True):
        assert torch.allclose(got.double(), quintic(matrix), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 5, 64])
def test_wide_matrices_of_few_directions_are_made_orthogonal_too(rank, dtype):
    """Their product with themselves has eigenvalues near zero, which rounding may make negative."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(64, rank, generator=generator) @ torch.randn(rank, 900, generator=generator)
    matrix += 1e-4 * torch.randn(64, 900, generator=generator)
    got = orthogonalize(matrix[None], dtype)[0].double()
    assert (got - quintic(matrix)).norm() < 1e-3 * got.norm()


def test_muon_steps_as_torchs_own():
    """Equal but for what bfloat16 rounds in torch's iteration."""
    torch.manual_seed(0)
    shapes = [(12, 12), (12, 12), (6, 20), (20, 6)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    starts = [p.detach().clone() for p in ours]
    settings: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05}
    optimizers = Muon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for _ in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other, start in zip(ours, theirs, starts, strict=True):
        assert (mine - other).norm() < 0.03 * (other - start).norm()


def test_the_average_follows_and_ends_on_a_network_that_stands_still():
    model = tiny()
    ema = Ema(model, 0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    gaps = []
    for step in range(60):
        ema.update(step)
        pairs = zip(ema.model.parameters(), model.parameters(), strict=True)
        gaps.append(max((a - b).detach().abs().max().item() for a, b in pairs))
    assert np.all(np.diff(gaps) <= 1e-7)
    assert gaps[-1] < 0.01
    assert not any(p.requires_grad for p in ema.model.parameters())
