"""The plan is what the network does: each layer takes what the plan says, and who asks the plan is told the truth."""

from typing import Any

import pytest
import torch

from quicknet.models import fused
from quicknet.models.config import IMAGE, Layer, QuickNetConfig, is_chain, plan
from quicknet.models.quicknet import QuickNet
from quicknet.models.registry import MODELS, create_model
from quicknet.models.topology import Step, topology

TINY: dict[str, Any] = {"stem_width": 8, "widths": (8, 16), "depths": (2, 2), "kernel_sizes": (3, 3)}


def layer_of(step: Step, network: QuickNet) -> str:
    return network.layer_name(step.path.rpartition(".")[0]) if step.path.startswith(("stem", "blocks")) else ""


def traced_inputs(network: QuickNet) -> dict[str, set[str]]:
    """Of each layer, the layers whose outputs its steps take: read from what its forward does."""
    steps = topology(network)
    sources: list[set[str]] = []  # of each step without a layer (a pool, a sum), what it hands on
    inputs: dict[str, set[str]] = {}
    for step in steps:
        taken = set[str]()
        for number in step.inputs:
            name = IMAGE if number < 0 else layer_of(steps[number], network)
            taken |= {name} if name else sources[number]
        sources.append(taken)
        name = layer_of(step, network)
        if name:
            inputs.setdefault(name, set()).update(taken - {name})
    return inputs


@pytest.mark.parametrize("name", [name for name, path in MODELS.items() if ".quicknet:" in path])
def test_each_layer_takes_what_the_plan_says(name: str) -> None:
    network: Any = create_model(name)
    assert traced_inputs(network) == {layer.name: {*layer.inputs} for layer in network.plan}
    assert is_chain(network.plan)


class Summed(QuickNet):
    """A sum that its plan does not tell."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x) if block is self.blocks[1] else block(x)
        return x


def test_the_comparison_would_see_a_sum_that_no_plan_tells() -> None:
    network = Summed(QuickNetConfig(**TINY))
    told = {layer.name: {*layer.inputs} for layer in network.plan}
    assert traced_inputs(network) == told | {"stage2.0": {"stage1.0", "stage1.1"}}


def with_inputs(layers: tuple[Layer, ...], index: int, *names: str) -> tuple[Layer, ...]:
    return (*layers[:index], layers[index]._replace(inputs=names), *layers[index + 1 :])


@pytest.mark.parametrize(
    "inputs", [("stage1.0", "stage1.1"), ("stage1.0",), ("stem",), (IMAGE,), (), ("stage1.1", "stage1.1")]
)
def test_what_is_no_chain_by_its_plan_never_runs_fused(
    inputs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its modules are: a residual sum has none."""
    x = torch.randn(2, 3, 32, 32)
    network = QuickNet(QuickNetConfig(**TINY)).eval()
    assert fused.usable(network.plan, (network.stem, *network.blocks), x) == fused.available()
    layers = with_inputs(plan(QuickNetConfig(**TINY)), 3, *inputs)
    assert not is_chain(layers)
    assert not fused.runs_fused(layers)
    network.plan = layers
    assert not fused.usable(network.plan, (network.stem, *network.blocks), x)
    monkeypatch.setattr(fused, "forward_features", None)  # may not be called
    with torch.no_grad():
        assert network(x).shape == (2, 10)


def test_a_plan_of_other_layers_never_runs_fused() -> None:
    layers = plan(QuickNetConfig(**TINY))
    assert fused.runs_fused(layers)
    assert not fused.runs_fused((layers[0], layers[1]._replace(kind="stem"), *layers[2:]))
    assert not fused.runs_fused(())
