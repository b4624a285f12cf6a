"""The plan is what the network does: each layer takes what the plan says, and who asks the plan is answered truly."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from optional import OPTIONS, SMALL, Option
from quicknet.models import fused
from quicknet.models.config import IMAGE, Layer, QuickNetConfig, is_chain, plan
from quicknet.models.predicates import options_of, runs_fused
from quicknet.models.quicknet import QuickNet
from quicknet.models.registry import MODELS, create_model
from quicknet.models.topology import Step, topology

TINY: dict[str, Any] = {"stem_width": 8, "widths": (8, 16), "depths": (2, 2), "kernel_sizes": (3, 3)}


def layer_of(step: Step, network: QuickNet) -> str:
    return network.layer_name(step.path.rpartition(".")[0]) if step.path.startswith(("stem", "blocks")) else ""


def planned_inputs(layers: Iterable[Layer]) -> dict[str, set[str]]:
    """Of each layer with convolutions, those that the plan says its input is made of: sums are more than one."""
    hands_on: dict[str, set[str]] = {IMAGE: {IMAGE}}
    inputs: dict[str, set[str]] = {}
    for layer in layers:
        inputs[layer.name] = set[str]().union(*(hands_on[name] for name in layer.inputs))
        hands_on[layer.name] = {layer.name} | (inputs[layer.name] if layer.adds else set())
    return inputs


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
    assert not options_of(network.plan)


@pytest.mark.parametrize("option", [name for name in OPTIONS if name != "transformer"])
def test_each_layer_takes_what_the_plan_says_with_an_option(option: Option) -> None:
    network: Any = create_model("quicknet_xs", **SMALL, options=OPTIONS[option])
    planned = planned_inputs(network.layers)
    assert traced_inputs(network) == planned
    assert planned_inputs(network.plan) == planned | ({"pyramid": {"stage2.2"}} if option == "pyramid" else {})


def test_a_plan_tells_sums_and_concatenations() -> None:
    summed, dense = ({**SMALL, "options": {name: True}} for name in ("residual", "dense"))
    layers = plan(create_model("quicknet_xs", **summed).config)  # type: ignore[arg-type]
    assert [layer.name for layer in layers if layer.adds] == ["stage1.0", "stage1.1", "stage2.1", "stage2.2"]
    assert planned_inputs(layers)["stage1.1"] == {"stem", "stage1.0"}
    layers = plan(create_model("quicknet_xs", **dense).config)  # type: ignore[arg-type]
    assert [layer.inputs for layer in layers if layer.stage == 2] == [
        ("stage1.1",),
        ("stage2.0",),
        ("stage2.0", "stage2.1"),
    ]
    assert [layer.in_channels for layer in layers] == [3, 8, 8, 8, 16, 32]


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
    assert not runs_fused(layers)
    network.plan = layers
    assert not fused.usable(network.plan, (network.stem, *network.blocks), x)
    monkeypatch.setattr(fused, "forward_features", None)  # may not be called
    with torch.no_grad():
        assert network(x).shape == (2, 10)


def test_a_plan_of_other_layers_never_runs_fused() -> None:
    layers = plan(QuickNetConfig(**TINY))
    assert runs_fused(layers)
    assert not runs_fused((layers[0], layers[1]._replace(kind="stem"), *layers[2:]))
    assert not runs_fused(())
