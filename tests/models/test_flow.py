"""Which layer takes which layer's map: named cases of the zoo, what must hold for every network, QuickNet's options."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optional import OPTIONS, SMALL, TOGETHER
from quicknet.core.flow import IMAGE, Flow, Join, Node, chain
from quicknet.models.config import IMAGE as IMAGE_NAME
from quicknet.models.config import NetworkConfig, plan
from quicknet.models.costs import count_costs, trace_flow
from quicknet.models.network import Network
from quicknet.models.registry import create_model, list_models


@functools.cache
def flow_of(name: str) -> Flow:
    return trace_flow(lambda: create_model(name))


def named(flow: Flow, name: str) -> int:
    return next(i for i, node in enumerate(flow) if not isinstance(node.what, Join) and node.what.name == name)


def called(flow: Flow, number: int) -> Any:
    """What a node is called: a join by its kind and what it takes."""
    if number == IMAGE:
        return "image"
    what = flow[number].what
    return (what.kind, *(called(flow, i) for i in flow[number].inputs)) if isinstance(what, Join) else what.name


def takes(name: str, layer: str) -> Any:
    flow = flow_of(name)
    return [called(flow, i) for i in flow[named(flow, layer)].inputs]


@pytest.mark.parametrize("name", list_models())
def test_every_network_is_a_graph_from_the_image_to_the_logits(name: str) -> None:
    flow = flow_of(name)
    assert (
        tuple(node.what for node in flow if not isinstance(node.what, Join))
        == count_costs(functools.partial(create_model, name)).layers
    )
    taken = {source for node in flow for source in node.inputs}
    assert taken == {IMAGE, *range(len(flow) - 1)}  # every map but the logits is taken
    for number, node in enumerate(flow):
        assert node.inputs and max(node.inputs) < number and len({*node.inputs}) == len(node.inputs) == len(node.taken)
        if isinstance(node.what, Join):
            check_join(flow, node)
        else:
            assert len(node.inputs) == 1
            flattened = node.what.kind == "linear"
            assert flattened or node.taken == (node.what.in_channels,)


def check_join(flow: Flow, node: Node) -> None:
    """All of a sum's operands are as wide as it is; a concatenation has all their channels."""
    assert isinstance(node.what, Join) and node.what.kind in ("sum", "concat", "maximum")
    assert len(node.inputs) > 1
    if node.what.kind == "concat":
        assert sum(node.taken) == node.channels
    else:
        assert {*node.taken} == {node.channels}


def test_parallel_layers_take_one_map() -> None:
    first = ("sum", "block0.three", "block0.one")
    assert takes("repvgg_a0", "block0.one") == takes("repvgg_a0", "block0.three") == ["image"]
    assert takes("repvgg_a0", "block1.one") == takes("repvgg_a0", "block1.three") == [first]
    assert takes("repvgg_a0", "block2.three") == [("sum", "block1.three", "block1.one", first)]
    assert takes("shufflenet_v2_x05", "block0.branch.0") == ["stem"] == takes("shufflenet_v2_x05", "block0.short.0")
    both = ("concat", "block0.short.1", "block0.branch.2")
    assert takes("shufflenet_v2_x05", "block1.branch.0") == [both]
    assert takes("shufflenet_v2_x05", "block2.branch.0") == [("concat", both, "block1.branch.2")]
    flow = flow_of("shufflenet_v2_x05")
    assert flow[named(flow, "block1.branch.0")].taken == (24,)  # of 48
    second = ("maximum", "features.4.pieces.0", "features.4.pieces.1")
    assert takes("maxout", "features.7.pieces.0") == [second] == takes("maxout", "features.7.pieces.1")
    (largest,) = takes("maxout", "classifier")
    assert largest == ("maximum", *(f"features.10.pieces.{piece}" for piece in range(5)))


def test_the_sums_of_residual_networks() -> None:
    first = ("sum", "block0.conv2", "stem")
    assert takes("resnet_20", "block1.conv1") == [first]
    assert takes("resnet_20", "block2.conv1") == [("sum", "block1.conv2", first)]
    sums = [node for node in flow_of("resnet_20") if isinstance(node.what, Join) and node.what.kind == "sum"]
    assert len(sums) == 9
    flow = flow_of("resnet_20")
    wider = flow[flow[named(flow, "block4.conv1")].inputs[0]]  # half of block3.conv2 has a shortcut
    assert wider.what == Join("concat", 32, 16) and wider.taken == (16, 16)
    assert [called(flow, i) for i in wider.inputs][1] == "block3.conv2"
    assert takes("resnet_50", "block0.shortcut") == ["stem"] == takes("resnet_50", "block0.conv1")
    assert takes("resnet_50", "block1.conv1") == [("sum", "block0.conv3", "block0.shortcut")]
    assert takes("factorized", "block0.pointwise") == [("sum", "stem", "block0.depthwise")]


def test_branches_side_by_side() -> None:
    branches = ("one", "three.1", "five.1", "pooled.1")
    (joined,) = takes("googlenet", "features.8.five.0")
    assert joined == ("concat", *(f"features.7.{branch}" for branch in branches))
    assert takes("googlenet", "features.7.pooled.1") == ["features.4"]
    assert takes("squeezenet", "block1.expand3") == ["block1.squeeze"] == takes("squeezenet", "block1.expand1")
    grown = ("concat", "stem", "block0.grow")
    assert takes("densenet_bc_100_12", "block1.squeeze") == [grown] == takes("condensenet_50", "block1.squeeze")
    assert takes("densenet_bc_100_12", "block2.squeeze") == [("concat", grown, "block1.grow")]


CHAINS = ("quicknet", "quicknet_s", "quicknet_xs", "darknet_32", "vgg_16", "nin", "alexnet_cifar", "mobilenet_v1")


@pytest.mark.parametrize("name", [*CHAINS, "all_cnn_c", "fractional_s", "repvgg_a0_folded"])
def test_a_chain_is_one(name: str) -> None:
    layers = count_costs(functools.partial(create_model, name)).layers
    assert [(node.what, node.inputs) for node in flow_of(name)] == [(node.what, node.inputs) for node in chain(layers)]


@pytest.mark.parametrize("options", [*OPTIONS.values(), *TOGETHER, {"residual": True, "transformer": 4}], ids=str)
def test_a_quicknet_with_options_is_what_its_plan_says(options: dict[str, Any]) -> None:
    network = create_model("quicknet_xs", **SMALL, options=options)
    flow = trace_flow(lambda: create_model("quicknet_xs", **SMALL, options=options))
    outputs: dict[str, Any] = {IMAGE_NAME: "image"}
    for layer in plan(network.config):  # type: ignore[arg-type]
        inputs = [outputs[name] for name in layer.inputs]
        if layer.kind == "transformer":
            outputs[layer.name] = ("sampling", "image", "transformer.affine")
        elif layer.kind == "pyramid":
            one = len(network.config.options.pyramid) == 1  # type: ignore[attr-defined]
            outputs[layer.name] = inputs[0] if one else ("concat", inputs[0])
        else:
            taken = inputs[0] if len(inputs) == 1 else ("concat", *inputs)
            assert [called(flow, i) for i in flow[named(flow, layer.name)].inputs] == [taken]
            outputs[layer.name] = ("sum", inputs[0], layer.name) if layer.adds else layer.name
        last = outputs[layer.name]
    assert [called(flow, i) for i in flow[-1].inputs] == [last]


class Odd(Network):
    """Sums of three, a sum of a map with itself normed, sums in place, and one that is taken twice."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, 4, 1) for _ in range(4))
        self.bn, self.e, self.f = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.add_head(4)

    def forward_features(self, x: Tensor) -> Tensor:
        three = self.a(x) + self.b(x) + self.c(x)
        three += self.d(x)
        three.relu_()
        twice = three + self.bn(three)
        return torch.stack([self.e(twice), self.f(twice)]).mean(0) + twice.relu()


def test_sums_are_one_only_where_they_are() -> None:
    flow = trace_flow(lambda: Odd(NetworkConfig()))
    four = ("sum", "a", "b", "c", "d")
    twice = ("sum", four)  # of two that come from one node
    assert [called(flow, i) for i in flow[named(flow, "e")].inputs] == [twice]
    assert [called(flow, i) for i in flow[-1].inputs] == [("sum", ("stack", "e", "f"), twice)]
