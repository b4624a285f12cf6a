import copy
from typing import Any

import pytest
import torch

from interrupted import interrupt
from quicknet import training
from quicknet.core.errors import ConfigError
from quicknet.models import fused
from quicknet.models.config import QuickNetConfig
from quicknet.models.registry import create_model
from quicknet.training.channels import GROUP, ChannelPruner, channel_masks, choose_channels, narrowed
from quicknet.training.checkpoint import load_model, read_tensors
from quicknet.training.prune import separable_layers
from quicknet.training.recipe import load_recipe
from quicknet.training.settings import PruneSettings

SHAPE = {"stem_width": 8, "widths": [24, 32, 40, 48], "depths": [1, 1, 2, 1]}
CPU = torch.device("cpu")


def network(activation: str = "prelu") -> Any:
    torch.manual_seed(0)
    return create_model("quicknet_xs", **SHAPE, activation=activation)


def trained(pruner_of: Any, model: Any, average: Any, steps: int = 20) -> list[list[torch.Tensor]]:
    """Return which channels there are after each of some steps of a training."""
    pruner = pruner_of((model, average))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    masks = []
    for step in range(steps):
        model(torch.randn(8, 3, 32, 32)).square().sum().backward()
        pruner.before_step()
        optimizer.step()
        optimizer.zero_grad()
        for mean, now in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            mean.copy_(now)
        pruner.after_step(step, (step + 1) / steps)
        masks.append(channel_masks(model))
    assert pruner.density() <= 0.3
    return masks


@pytest.mark.parametrize("activation", ["prelu", "prelu_shared", "leaky_relu", "relu"])
def test_the_narrow_network_answers_as_the_pruned_one(activation: str) -> None:
    model = network(activation)
    average = copy.deepcopy(model)
    masks = trained(
        lambda both: ChannelPruner(both, PruneSettings(density=0.3, ramp=0.5, pattern="channel")), model, average
    )
    for now, earlier in zip(masks[1:], masks, strict=False):
        assert all(bool((a <= b).all()) for a, b in zip(now, earlier, strict=True))  # none comes back
    for one in (model, average):
        narrow = narrowed(one.double().eval())
        assert isinstance(narrow.config, QuickNetConfig)
        widths = narrow.config.widths
        assert all(width % GROUP == 0 for width in widths)
        assert list(widths) == [int(masks[-1][layer].sum()) for layer in (0, 1, 2, 4)]
        assert sum(p.numel() for p in narrow.parameters()) < 0.5 * sum(p.numel() for p in one.parameters())
        images = torch.randn(4, 3, 32, 32).double()
        with torch.no_grad(), fused.disabled():
            assert torch.allclose(narrow(images), one(images), rtol=0, atol=1e-12)


def test_a_whole_network_stays_as_it_is() -> None:
    model = network().eval()
    assert narrowed(model).config == model.config
    assert all(
        torch.equal(a, b)
        for a, b in zip(narrowed(model).state_dict().values(), model.state_dict().values(), strict=True)
    )


def test_the_stage_that_matters_keeps_its_channels() -> None:
    model = network()
    there = channel_masks(model)
    scores = [torch.rand(len(mask)) for mask in there]
    scores[2] *= 1000  # a layer of the third stage
    masks = choose_channels(model.config, scores, there, 0.45, 0.02)
    assert [int(mask.sum()) for mask in masks[2:4]] == [40, 40]
    assert sum(int(mask.sum()) for mask in masks) < sum(map(len, masks))
    for score, mask in zip(scores, masks, strict=True):
        assert mask.all() or score[mask].min() >= score[~mask].max()


def test_no_stage_vanishes() -> None:
    model = network()
    there = channel_masks(model)
    masks = choose_channels(model.config, [torch.rand(len(mask)) for mask in there], there, 1e-6, 1e-6)
    assert [int(mask.sum()) for mask in masks] == [GROUP] * 5


def test_refused_settings() -> None:
    with pytest.raises(ConfigError, match="2 numbers for 5"):
        ChannelPruner((network(),), PruneSettings(density=0.5, pattern="channel", importance=(1.0, 2.0)))
    with pytest.raises(ConfigError, match="cannot be pruned"):
        ChannelPruner((create_model("darknet_32"),), PruneSettings(density=0.5, pattern="channel"))


def test_a_run_goes_on_bitwise_after_an_interruption(tiny_cifar: Any, tmp_path: Any) -> None:
    changes = [
        "model.name=quicknet_xs",
        "model.overrides={stem_width = 8, widths = [16, 24, 32, 32], depths = [1, 1, 1, 1]}",
        f"data.source={str(tiny_cifar)!r}",
        "train.epochs=2",
        "train.batch_size=32",
        "train.keep=last",
        "prune.density=0.3",
        "prune.pattern=channel",
    ]

    def run(name: str, stop_at: int | None) -> Any:
        current = training.start(load_recipe("fast", changes), tmp_path / name, CPU)
        if stop_at is not None:
            interrupt(current, stop_at)
            current = training.resume(tmp_path / name, CPU)
        list(training.fit(current))
        return current

    whole, resumed = run("whole", None), run("resumed", 7)
    assert whole.constraint.density() == resumed.constraint.density() <= 0.3
    first, second = (read_tensors(tmp_path / name / "last.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    saved, _ = load_model(tmp_path / "whole")
    assert sum(map(int, (mask.sum() for mask in channel_masks(saved)))) < sum(
        layer.pointwise.out_channels for layer in separable_layers(saved)
    )
