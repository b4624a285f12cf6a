import copy
from typing import Any

import pytest
import torch

from interrupted import interrupt
from quicknet import training
from quicknet.core.errors import ConfigError
from quicknet.models.registry import create_model
from quicknet.training.checkpoint import load_model, read_tensors
from quicknet.training.prune import Pruner, block_sums, choose_masks, density_at, scores, separable_layers, spread
from quicknet.training.recipe import load_recipe
from quicknet.training.settings import PruneSettings

SHAPE = {"stem_width": 8, "widths": [8, 12, 16, 24], "depths": [1, 1, 2, 1]}
CPU = torch.device("cpu")


def network(seed: int = 0):
    torch.manual_seed(seed)
    return create_model("quicknet_xs", **SHAPE)


def test_the_density_falls_along_a_cubic_curve_and_stays() -> None:
    settings = PruneSettings(density=0.2, start=0.8, ramp=0.5)
    shares = [density_at(settings, step / 100) for step in range(101)]
    assert shares[0] == pytest.approx(0.8)
    assert shares == sorted(shares, reverse=True)
    assert set(shares[50:]) == {0.2}
    assert density_at(settings, 0.25) == pytest.approx(0.2 + 0.6 / 8)
    assert density_at(settings.replace(ramp=0.0), 0.0) == 0.2


def test_blocks_are_neighbouring_inputs_of_one_output() -> None:
    values = torch.arange(12.0).view(2, 6)  # the last block of each row has two
    assert block_sums(values, 4).tolist() == [[6.0, 9.0], [30.0, 21.0]]
    kept = torch.tensor([[True, False], [False, True]])
    assert spread(kept, 4, 6).int().tolist() == [[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]


def test_one_threshold_for_all_layers_and_something_of_each() -> None:
    weak, strong = torch.rand(8, 10), 10 + torch.rand(8, 10)
    masks = choose_masks([weak, strong], 0.5, 0.1)
    assert [int(mask.sum()) for mask in masks] == [8, 72]  # the weak layer keeps a tenth of its 80
    assert weak[masks[0]].min() >= weak[~masks[0]].max()


@pytest.mark.parametrize("pattern", ["block", "element"])
def test_what_is_absent_is_exactly_zero_and_stays_zero(pattern: Any) -> None:
    model = network()
    average = copy.deepcopy(model)
    pruner = Pruner((model, average), PruneSettings(density=0.25, ramp=0.5, pattern=pattern))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before: list[torch.Tensor] = [torch.zeros_like(layer.pointwise.weight) for layer in separable_layers(model)]
    for step in range(20):
        model(torch.randn(4, 3, 32, 32)).square().sum().backward()
        pruner.before_step()
        optimizer.step()
        optimizer.zero_grad()
        pruner.after_step(step, (step + 1) / 20)
        absent = [(layer.pointwise.weight == 0).float() for layer in separable_layers(model)]
        assert all(bool((now >= earlier).all()) for now, earlier in zip(absent, before, strict=True))
        before = absent
    assert pruner.density() == pytest.approx(0.25, abs=0.02)
    for one, other in zip(separable_layers(model), separable_layers(average), strict=True):
        assert torch.equal(one.pointwise.weight == 0, other.pointwise.weight == 0)
        blocks = block_sums((one.pointwise.weight[:, :, 0, 0] != 0).float(), pruner.size)
        assert set(blocks.unique().tolist()) <= {0.0, float(pruner.size)}


def test_importance_moves_what_is_kept_from_layer_to_layer() -> None:
    kept = []
    for factor in (1.0, 1e6):
        model = network()
        pruner = Pruner((model,), PruneSettings(density=0.3, ramp=0.0, importance=(factor, 1.0, 1.0, 1.0, 1.0)))
        pruner.after_step(0, 0.0)
        kept.append(float(pruner.masks[0].mean()))
    assert kept[1] == 1.0 > kept[0]


def test_scores_do_not_depend_on_the_scale_that_batch_norm_undoes() -> None:
    model = network().train()
    model(torch.randn(16, 3, 32, 32))
    layer = separable_layers(model)[1]
    before = scores(layer, 4)
    with torch.no_grad():
        layer.pointwise.weight.mul_(3.0)
        layer.bn.running_var.mul_(9.0)
    assert torch.allclose(scores(layer, 4), before, rtol=1e-3)


def test_refused_settings() -> None:
    for changes in ({"density": 0.0}, {"density": 0.5, "start": 0.4}, {"ramp": 2.0}, {"importance": (0.0,)}):
        with pytest.raises(ConfigError, match="prune"):
            PruneSettings(**changes)
    with pytest.raises(ConfigError, match="2 numbers for 5"):
        Pruner((network(),), PruneSettings(density=0.5, importance=(1.0, 2.0)))
    with pytest.raises(ConfigError, match="cannot be pruned"):
        Pruner((create_model("darknet_32"),), PruneSettings(density=0.5))


def test_a_run_that_is_pruned_goes_on_bitwise_after_an_interruption(tiny_cifar, tmp_path) -> None:
    changes = [
        "model.name=quicknet_xs",
        "model.overrides={stem_width = 8, widths = [8, 12, 16, 24], depths = [1, 1, 1, 1]}",
        f"data.source={str(tiny_cifar)!r}",
        "train.epochs=2",
        "train.batch_size=32",
        "train.keep=last",
        "prune.density=0.3",
    ]

    def run(name: str, stop_at: int | None):
        current = training.start(load_recipe("fast", changes), tmp_path / name, CPU)
        if stop_at is not None:
            interrupt(current, stop_at)
            current = training.resume(tmp_path / name, CPU)
        list(training.fit(current))
        return current

    whole, resumed = run("whole", None), run("resumed", 7)
    assert whole.constraint.density() == resumed.constraint.density() == pytest.approx(0.3, abs=0.02)
    first, second = (read_tensors(tmp_path / name / "last.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    saved, _ = load_model(tmp_path / "whole")
    absent = sum(int((layer.pointwise.weight == 0).sum()) for layer in separable_layers(saved))
    assert absent / sum(layer.pointwise.weight.numel() for layer in separable_layers(saved)) > 0.65


def test_layers_keep_the_shares_that_are_asked_for_whatever_they_weigh() -> None:
    model = network()
    shares = (0.1, 0.5, 0.9, 0.3, 0.05)
    counts = [layer.pointwise.weight.numel() for layer in separable_layers(model)]
    density = sum(share * count for share, count in zip(shares, counts, strict=True)) / sum(counts)
    pruner = Pruner((model,), PruneSettings(density=density, ramp=0.5, least=0.01, shares=shares))
    kept: list[list[float]] = []
    for step in range(40):
        with torch.no_grad():  # one layer comes to weigh more than all others
            separable_layers(model)[0].pointwise.weight *= 1.2
        pruner.after_step(step, step / 40)
        kept.append([float(mask.mean()) for mask in pruner.masks])
    assert shares[0] + 0.1 < kept[8][0] < 0.9
    assert kept[-1] == pytest.approx(shares, abs=0.04)
    assert pruner.density() == pytest.approx(density, abs=0.01)
    with pytest.raises(ConfigError, match=r"prune.shares has 2 numbers for 5 pointwise layers"):
        Pruner((model,), PruneSettings(density=0.5, shares=(0.5, 0.5)))
    with pytest.raises(ConfigError, match=r"prune.shares must lie in"):
        PruneSettings(density=0.5, shares=(0.0, 0.5))
