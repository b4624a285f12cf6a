"""The family's options: what each computes, what it costs, and who may not compute it otherwise."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import quicknet
from optional import OPTIONS, SMALL, TOGETHER, Option
from parts import by_modules
from quicknet.core.card import read_card
from quicknet.core.errors import ConfigError
from quicknet.core.settings import from_mapping
from quicknet.models import fused
from quicknet.models.config import QuickNetConfig, plan
from quicknet.models.costs import count_costs
from quicknet.models.norm import BatchNorm2d
from quicknet.models.options.fractional_pool import FractionalPool
from quicknet.models.options.pyramid import Level
from quicknet.models.options.settings import Options
from quicknet.models.options.transformer import Transformer
from quicknet.models.options.weight_norm import MeanOnlyNorm2d, WeightNormConv2d
from quicknet.models.predicates import (
    options_of,
    require_exported,
    require_in_format,
    require_pruned,
    runs_compiled,
    runs_fused,
)
from quicknet.models.registry import create_model, model_from_record, model_record

EVERY = [*OPTIONS.values(), *TOGETHER]
WEIGHTS = Path(quicknet.__file__).parent / "weights"


def network(options: dict[str, Any], **config: Any) -> Any:
    torch.manual_seed(5)
    return create_model("quicknet_xs", **{**SMALL, **config}, options=options)


# --- the config ----------------------------------------------------------------------------


def test_configs_of_before_stay_as_they_are() -> None:
    written = read_card(WEIGHTS / "quicknet_xs.cifar10" / "card.json").model.config
    assert "options" not in written
    config = from_mapping(QuickNetConfig, written, "card")
    assert json.loads(json.dumps(config.to_dict())) == json.loads(json.dumps(written))
    assert config.options == Options() == from_mapping(QuickNetConfig, {"options": {}}, "card").options
    assert not options_of(plan(config))


@pytest.mark.parametrize("options", EVERY)
def test_a_network_with_options_is_rebuilt_from_its_record_alone(options: dict[str, Any]) -> None:
    model = network(options)
    record = model_record("quicknet_xs", model)
    assert json.loads(json.dumps(record.config))["options"] == options
    again = model_from_record(record)
    again.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.eval()(x), again.eval()(x))
    assert model.config.replace(num_classes=3).options == model.config.options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"residuals": True}, r"unknown setting 'options.residuals'.*did you mean 'residual'"),
        ({"residual": True, "dense": True}, "residual and dense both say .*choose one"),
        ({"groups": 3}, r"options.groups 3 must divide stem_width 8 and widths \(8, 16\)"),
        ({"groups": 0}, r"options.groups 0 must lie in 1\.\.64"),
        ({"pool_ratio": 1.0}, r"options.pool_ratio 1.0 must lie in 1.1\.\.2"),
        ({"pyramid": [0]}, "options.pyramid"),
        ({"pyramid": [1, 2, 3, 4, 5]}, "at most 4 levels"),
        ({"pyramid": [15]}, "image size 32 leaves a last map of 14x14 pixels, fewer than .*use larger images"),
        ({"transformer": 257}, "options.transformer 257"),
        ({"residual": 1}, "options.residual"),
    ],
)
def test_options_that_no_network_has_are_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        network(options)


# --- who may compute what -------------------------------------------------------------------

# option → may the kernels run it, is it exported, has FORMAT.md a place for it
ABLE: dict[Option, tuple[bool, bool, bool]] = {
    "residual": (False, True, False),
    "dense": (False, True, False),
    "weight_norm": (False, True, True),
    "pyramid": (True, True, False),
    "transformer": (False, False, False),
    "groups": (False, True, False),
    "pool_ratio": (False, True, False),
}


def allowed(require: Any, layers: Any, option: str) -> bool:
    try:
        require(layers)
    except ConfigError as error:
        assert f"the network has the option {option} (options.{option})" in str(error)
        assert "train without it" in str(error)
        return False
    return True


@pytest.mark.parametrize("option", OPTIONS)
def test_predicates_on_the_plan_say_who_may_compute_it(option: Option) -> None:
    layers = plan(network(OPTIONS[option]).config)
    assert options_of(layers) == (option,)
    may = (
        runs_fused(layers),
        allowed(require_exported, layers, option),
        allowed(require_in_format, layers, option),
    )
    assert may == ABLE[option]
    assert not allowed(require_pruned, layers, option)
    assert runs_compiled(layers) == (option != "pool_ratio")
    assert set(ABLE) == set(Options.__struct_fields__)


def test_an_option_that_changes_no_layer_is_none() -> None:
    layers = plan(network({"residual": True, "pool_ratio": 1.5}, widths=[16], depths=[1], kernel_sizes=[3]).config)
    assert options_of(layers) == ()
    assert runs_fused(layers)


@pytest.mark.parametrize("options", EVERY)
def test_the_kernels_never_run_what_they_cannot(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network(options).eval(), torch.randn(2, 3, 32, 32)
    layers, modules = net.plan, (net.stem, *net.blocks)
    assert fused.usable(layers, modules, x) == (runs_fused(layers) and fused.available())
    if not runs_fused(layers):
        monkeypatch.setattr(fused, "forward_features", None)  # may not be called
    with torch.no_grad():
        assert torch.allclose(net(x), by_modules(net, x), rtol=1e-4, atol=1e-5)


# a sum in the last layer only is in no other layer's inputs
LAST_ONLY = {"stem_width": 8, "widths": [16], "depths": [2], "kernel_sizes": [3]}


@pytest.mark.parametrize("config", [SMALL, LAST_ONLY])
def test_a_sum_without_parameters_is_not_dropped(config: dict[str, Any]) -> None:
    """Its modules and state are the plain network's: only the plan tells."""
    plain, net = network({}, **config).eval(), network({"residual": True}, **config).eval()
    net.load_state_dict(plain.state_dict())
    assert [type(m) for m in net.modules()] == [type(m) for m in plain.modules()]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = net.stem(x)
        for block in net.blocks:
            y = block(expected)
            expected = expected + y if y.shape == expected.shape else y
        assert torch.allclose(net.forward_features(x), expected, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(plain.forward_features(x), expected, rtol=1e-2)


def test_dense_layers_take_the_outputs_side_by_side() -> None:
    net, x = network({"dense": True}).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        first = net.blocks[0](net.stem(x))
        outputs = [net.blocks[2](net.blocks[1](first))]
        outputs.append(net.blocks[3](outputs[0]))
        expected = net.blocks[4](torch.cat(outputs, 1))
        assert torch.equal(net.forward_features(x), expected)


def test_groups_see_each_others_channels_after_a_shuffle() -> None:
    net = network({"groups": 2}).eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        first = net.blocks[0](net.stem(x))
        second = Separable(net.blocks[1])(first[:, [0, 4, 1, 5, 2, 6, 3, 7]])
        assert torch.allclose(net.blocks[1](first), second)
    assert [block.pointwise.groups for block in net.blocks] == [2] * 5
    assert isinstance(net.blocks[0].shuffle, nn.Identity)  # the stem has no groups


class Separable(nn.Module):
    """A block's convolutions alone."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.parts = nn.Sequential(block.depthwise, block.pointwise, block.bn, block.act)

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)


# --- costs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("options", EVERY)
def test_multiply_adds_are_half_of_torchs_own(options: dict[str, Any], size: int) -> None:
    with FlopCounterMode(display=False) as flops:
        costs = count_costs(lambda: create_model("quicknet_xs", options=options, image_size=size))
    assert 2 * costs.macs == flops.get_total_flops() > 0
    model = create_model("quicknet_xs", options=options, image_size=size)
    assert costs.parameters == sum(p.numel() for p in model.parameters())
    assert sum(layer.parameters for layer in costs.layers) == costs.parameters
    assert sum(layer.macs for layer in costs.layers) == costs.macs
    assert len({layer.name for layer in costs.layers}) == len(costs.layers)


# at 32 pixels: parameters, multiply-adds, bytes of all maps, bytes of those that are needed at one time
COSTS: dict[Option, tuple[int, int, int, int]] = {
    "residual": (236_538, 9_478_720, 604_672, 200_704),
    "dense": (327_898, 12_892_864, 604_672, 301_056),  # three maps of 28 x 28 x 32 at one time
    "weight_norm": (236_538 + 1_200, 9_478_720, 604_672, 200_704),  # a length for each depthwise filter more
    "pyramid": (236_538 + 9 * 2_560, 9_478_720 + 9 * 2_560, 604_672, 200_704),
    "groups": (127_738, 5_730_880, 604_672, 200_704),
}


@pytest.mark.parametrize("option", COSTS)
def test_costs_of_each(option: Option) -> None:
    costs = count_costs(lambda: create_model("quicknet_xs", options=OPTIONS[option]))
    assert tuple(costs.replace(layers=()).to_dict().values())[:4] == COSTS[option]


# --- what each of them is -------------------------------------------------------------------


def test_a_weight_normalized_filter_has_the_length_of_its_gain() -> None:
    conv = WeightNormConv2d(6, 4, 3, padding=1, groups=2, bias=False)
    nn.init.uniform_(conv.gain, 0.5, 2)
    assert torch.allclose(conv.filters().flatten(1).norm(dim=1), conv.gain)
    x = torch.randn(2, 6, 5, 5)
    before = conv(x)
    assert torch.allclose(before, F.conv2d(x, conv.filters(), padding=1, groups=2))
    with torch.no_grad():
        conv.weight.mul_(torch.rand(4, 1, 1, 1) + 0.5)
    assert torch.allclose(conv(x), before, atol=1e-6)


def test_mean_only_norm_centres_and_divides_by_nothing() -> None:
    ours, usual = MeanOnlyNorm2d(5), BatchNorm2d(5)
    nn.init.normal_(ours.bias)
    x = torch.randn(8, 5, 6, 6) * 3 + 2
    y = ours(x)
    assert torch.allclose(y.mean((0, 2, 3)), ours.bias, atol=1e-5)
    assert torch.allclose(y.std((0, 2, 3)), x.std((0, 2, 3)))
    usual(x)
    assert usual.running_mean is not None
    assert torch.allclose(ours.running_mean, usual.running_mean)
    centred = x - ours.running_mean[:, None, None] + ours.bias[:, None, None]
    assert torch.allclose(ours.eval()(x), centred, atol=1e-5)


@pytest.mark.parametrize("activation", ["prelu", "relu"])
def test_weight_normalized_maps_start_neither_dying_nor_growing(activation: str) -> None:
    torch.manual_seed(0)
    net: Any = create_model("quicknet_xs", activation=activation, options={"weight_norm": True})
    deviations: list[float] = []
    for block in net.blocks:
        block.bn.register_forward_hook(lambda module, taken, given: deviations.append(float(given.detach().std())))
    net(F.interpolate(torch.randn(16, 3, 8, 8), 32, mode="bicubic"))
    assert len(deviations) == 12
    assert all(0.2 < deviation < 5 for deviation in deviations), deviations


def test_fractional_regions_are_drawn_anew_in_training_and_the_same_in_eval_mode() -> None:
    pool = FractionalPool(1.5, 28)
    x = torch.randn(2, 3, 28, 28)
    torch.manual_seed(1)
    first, second = pool(x), pool(x)
    assert first.shape == (2, 3, 18, 18)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(first, pool(x))
    assert torch.equal(pool.eval()(x), pool(x))
    rows, columns = pool.regions(28)
    for row, (a, b) in enumerate(pairwise(rows)):
        for column, (c, d) in enumerate(pairwise(columns)):
            assert torch.equal(pool(x)[:, :, row, column], x[:, :, a : b + 1, c : d + 1].amax((2, 3)))


def test_fractional_pools_take_every_side_that_a_plan_leaves_them() -> None:
    for ratio in (1.1, 1.26, 1.5, 1.9, 1.999):
        for side in range(2, 80):
            if int(side / ratio) < side:
                rows, columns = FractionalPool(ratio, side).regions(side, seed=3)
                assert len(rows) == len(columns) == int(side / ratio) + 1
                assert (rows[0], rows[-1]) == (0, side - 1)


def test_a_pyramids_bins_cover_the_map() -> None:
    for side in range(1, 20):
        for bins in range(1, side + 1):
            kernel, stride = Level(bins, side).window(side)
            assert stride == side // bins
            assert kernel + (bins - 1) * stride == side
            assert Level(bins, side)(torch.zeros(1, 1, side, side)).shape[-2:] == (bins, bins)
    x = torch.randn(1, 2, 7, 7)
    for bins in (1, 2, 3):  # where the published windows reach the end, they are these
        assert torch.equal(Level(bins, 7)(x), F.adaptive_max_pool2d(x, bins))


def test_a_transformer_starts_as_the_identity_and_learns() -> None:
    part = Transformer(3, 4)
    part.start()
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(part(x), x, atol=1e-5)
    part(x).square().sum().backward()
    assert part.affine.weight.grad is not None
    assert part.affine.weight.grad.abs().max() > 0
    with torch.no_grad():
        part.affine.bias[2] = 2 / 32 * 4  # four pixels
    assert torch.allclose(part(x)[..., :28], x[..., 4:], atol=1e-5)


@pytest.mark.parametrize("options", EVERY)
def test_other_image_sizes_are_taken(options: dict[str, Any]) -> None:
    net = network(options).eval()
    for size in (24, 47):
        assert net(torch.randn(1, 3, size, size)).shape == (1, 10)
        assert plan(net.config, size)[-1].kind in ("separable", "pyramid")
        features = net.forward_features(torch.randn(1, 3, size, size))
        assert features.shape[-1] == [layer.side for layer in plan(net.config, size) if layer.stage][-1]
