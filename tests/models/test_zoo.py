"""The published networks have the published counts, take every size that they can, and refuse the others."""

import functools
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from narrowed import narrow
from quicknet.core.errors import ConfigError
from quicknet.core.settings import from_mapping
from quicknet.models.costs import count_costs
from quicknet.models.registry import MODELS, base_config, create_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "networks.md"
COUNTS = {  # name: (parameters, multiply-adds), each at its own image size; beside it what is published
    "darknet": (7_319_416, 387_211_264),  # 0.81 G operations with 15/16 more of the classifier's
    "darknet_32": (6_304_666, 103_081_984),
    "wide_resnet_28_10": (36_479_194, 5_243_328_768),  # 36.5 M, 5.2 G
    "wide_resnet_16_8": (10_961_370, 1_548_145_664),  # 11.0 M, 1.55 G
    "speedy": (9_965_450, 496_711_424),
    "speedy_s": (3_190_490, 160_651_552),
    "resnet_20": (269_722, 40_551_040),  # 0.27 M
    "resnet_56": (853_018, 125_485_696),  # 0.85 M
    "resnet_50": (25_557_032, 3_857_973_248),  # 3.8 G
    "mobilenet_v1": (4_231_976, 568_740_352),  # 4.2 M, 569 M
    "mobilenet_v2_x1": (2_236_682, 87_976_448),  # 2.24 M, 88 M
    "mobilenet_v2_x05": (700_490, 27_969_024),  # 0.70 M, 28 M
    "shufflenet_v2_x1": (1_263_854, 45_002_112),  # 1.26 M, 45 M
    "shufflenet_v2_x05": (352_042, 10_902_016),  # 0.35 M, 11 M
    "squeezenet": (1_235_496, 263_135_936),  # 1,235,496 (torchvision)
    "vgg_16": (15_249_354, 313_725_952),  # 15.25 M, 314 M
    "all_cnn_c": (1_369_738, 270_731_136),
    "nin": (966_986, 222_365_568),
    "lenet_5": (60_850, 328_096),  # 60,000, and 850 of the classifier
    "alexnet": (60_965_224, 724_406_816),  # 60 M; as counted of Caffe's
    "alexnet_cifar": (89_578, 12_298_240),
    "densenet_bc_100_12": (769_162, 287_929_692),  # 0.8 M
    "condensenet_50": (214_186, 27_183_376),  # 0.22 M; 28.6 M with other operations: see the test below
    "condensenet_122": (939_754, 110_548_528),  # 0.95 M; 116.7 M with them
    "googlenet": (6_998_552, 1_582_671_872),  # 6,998,552 (Caffe's), 1.5 G
    "xception": (22_855_952, 8_357_403_496),  # 22,855,952
    "repvgg_a0": (7_840_874, 489_075_200),  # 7.84 M, 489 M
    "repvgg_a0_folded": (7_041_194, 440_168_960),
    "maxout": (16_247_830, 732_290_696),
    "factorized": (328_714, 51_816_960),
    "fractional": (79_247_530, 14_843_687_680),
    "fractional_s": (271_482, 12_975_872),
}


def test_no_network_of_the_zoo_is_left_out() -> None:
    assert {name for name, path in MODELS.items() if ".zoo." in path} == {*COUNTS}


def test_the_page_says_what_is_counted() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| \d+[^|]* \| ([\d,]+) \| ([\d,]+) \| [^\d]", PAGE.read_text(encoding="utf-8"), re.M
    )
    counted = {name: (int(parameters.replace(",", "")), int(macs.replace(",", ""))) for name, parameters, macs in rows}
    assert len(counted) == 26
    assert counted == {name: COUNTS[name] for name in counted}


@pytest.mark.parametrize("name", MODELS)
def test_counts_are_the_published_ones_and_multiply_adds_half_of_torchs_own(name: str) -> None:
    with FlopCounterMode(display=False) as flops:
        costs = count_costs(functools.partial(create_model, name))
    assert (costs.parameters, costs.macs) == COUNTS.get(name, (costs.parameters, costs.macs))
    assert 2 * costs.macs == flops.get_total_flops()
    assert sum(layer.parameters for layer in costs.layers) == costs.parameters
    assert len({layer.name for layer in costs.layers}) == len(costs.layers)


# name: the least size it takes
LEAST = {"alexnet": 63, "vgg_16": 32, "lenet_5": 32, "squeezenet": 17, "googlenet": 31}


@pytest.mark.parametrize("name", COUNTS)
def test_any_size_from_the_least_is_taken_and_smaller_ones_are_refused(name: str) -> None:
    least = LEAST.get(name, 16)
    base_config(name).replace(image_size=1024 if name != "fractional" else 400)
    for size in (least, least + 1, 71):
        model: Any = create_model(name, **narrow(name, image_size=size, num_classes=3)).eval()
        x = torch.randn(1, model.config.in_channels, size, size)
        assert model(x).isfinite().all()
    if least > 16:
        with pytest.raises(ConfigError, match=f"image size {least - 1} is too small: this network needs at least"):
            create_model(name, image_size=least - 1)


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("resnet_20", {"width": 0.0}, "width 0.0 must lie in 1/64..4"),
        ("resnet_20", {"widths": (32, 16, 64)}, "must rise"),
        ("resnet_20", {"depths": (3, 3)}, "as many depths"),
        ("resnet_20", {"depths": (3, 3, 65)}, "depths"),
        ("mobilenet_v2_x1", {"stem_stride": 3}, "stem_stride"),
        ("shufflenet_v2_x1", {"widths": (24, 48)}, "must be 5"),
        ("squeezenet", {"stem_stride": 0}, "stem_stride"),
        ("vgg_16", {"image_size": 1024, "hidden": (8192, 8192)}, "over the limit"),
        ("vgg_16", {"image_size": 64, "map_side": 3}, "image size 64 leaves a map of 2 x 2 pixels.*3 x 3"),
        ("vgg_16", {"hidden": (0,)}, "at most 4 entries"),
        ("all_cnn_c", {"image_dropout": 1.0}, "image_dropout"),
        ("nin", {"inner_dropout": -0.1}, "inner_dropout"),
        ("alexnet", {"width": 4.0}, "over the limit"),
        ("alexnet_cifar", {"map_side": 3}, "image size 32 leaves a map of 4 x 4"),
        ("alexnet_cifar", {"num_classes": 100_000, "image_size": 1024}, "over the limit"),
        ("densenet_bc_100_12", {"depth": 99}, "6 n \\+ 4"),
        ("densenet_bc_100_12", {"growth": 0}, "growth"),
        ("condensenet_50", {"depths": (8, 8)}, "one for each block"),
        ("condensenet_50", {"depths": (0, 8, 8)}, "depths .* must lie in 1..64"),
        ("condensenet_50", {"groups": 0}, "groups 0"),
        ("condensenet_50", {"groups": 3}, "must be multiples of 3"),
        ("xception", {"middle": 65}, "middle"),
        ("repvgg_a0", {"strides": (1, 1, 2, 2)}, "one entry for each"),
        ("repvgg_a0", {"strides": (1, 1, 2, 2, 3)}, "1 or 2"),
        ("repvgg_a0", {"widths": (2561,) * 5}, "2560"),
        ("maxout", {"image_dropout": -0.1}, "image_dropout"),
        ("maxout", {"map_side": 6}, "image size 32 leaves a map of 5 x 5"),
        ("factorized", {"widths": (8,)}, "one entry for each"),
        ("factorized", {"depths": (0, 1, 1)}, "depths in 1..32"),
        ("fractional", {"levels": 16}, "16 levels make a field of 242 pixels.*choose fewer levels"),
        ("fractional", {"levels": 23}, "levels in 1..22"),
        ("fractional", {"passes": 0}, "passes"),
        ("fractional", {"filters": 512, "width": 4.0}, "over the limit"),
        ("fractional", {"inner_dropout": 1.0}, "inner_dropout"),
    ],
)
def test_a_config_that_cannot_be_a_network_is_refused_by_name(name: str, overrides: dict[str, Any], words: str) -> None:
    base = base_config(name)
    with pytest.raises(ConfigError, match=words):
        from_mapping(type(base), {**base.to_dict(), **overrides}, "model settings")


@pytest.mark.parametrize(("name", "parameters", "operations"), [("50", 0.22, 28.6), ("122", 0.95, 116.7)])
def test_condensenets_published_counts_are_these_and_what_else_its_authors_count(
    name: str, parameters: float, operations: float
) -> None:
    """As their utils.py: a whole classifier, and one operation for each value of a ReLU and each one pooled."""
    model: Any = create_model(f"condensenet_{name}").eval()
    counts, macs = COUNTS[f"condensenet_{name}"]
    values: list[int] = []
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.AvgPool2d):  # a ReLU follows each norm
            module.register_forward_hook(lambda _, taken, given: values.append(taken[0].numel()))
    model(torch.zeros(1, 3, 32, 32))
    classifier = 10 * (model.bn.num_features - model.num_features)
    pooled = 64 * model.bn.num_features
    assert round((counts + classifier) / 1e6, 2) == parameters
    assert round((macs + classifier + 10 + sum(values) + pooled) / 1e6, 1) == operations


def test_every_group_of_a_condensed_layer_takes_channels_from_everywhere_and_no_channel_is_left_out() -> None:
    model: Any = create_model("condensenet_50", **narrow("condensenet_50"))
    layer = model.blocks[1]
    indices = layer.select.indices
    assert sorted(indices) == [*range(len(indices))]
    each = len(indices) // 4
    assert [indices[group * each] for group in range(4)] == [0, 1, 2, 3]
    assert {b - a for a, b in itertools.pairwise(indices[:each])} == {4}


@pytest.mark.parametrize("name", ["fractional", "fractional_s"])
def test_fractional_regions_are_drawn_anew_in_training_and_the_same_in_every_test(name: str) -> None:
    model: Any = create_model(name, **narrow(name, inner_dropout=0.0, dropout=0.0))
    x = torch.randn(2, 3, 32, 32)
    model.train()
    torch.manual_seed(1)
    first, second = model(x), model(x)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(first, model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_more_passes_are_averaged() -> None:
    settings = narrow("fractional_s")
    many: Any = create_model("fractional_s", **{**settings, "passes": 3}).eval()
    x = torch.randn(2, 3, 32, 32)
    each = [many.forward_head(many._features(x, number)) for number in range(3)]
    assert not torch.allclose(each[0], each[1])
    assert torch.allclose(many(x), torch.stack(each).mean(0), atol=1e-6)


def test_a_residual_shortcut_without_parameters_is_padded_with_zeros() -> None:
    model: Any = create_model("resnet_20", **narrow("resnet_20", width=0.25)).eval()
    down = model.blocks[3]
    x = torch.randn(2, down.ins, 8, 8)
    missing = torch.zeros(2, down.outs - down.ins, 4, 4)
    expected = (down.conv2(down.conv1(x)) + torch.cat([x[:, :, ::2, ::2], missing], 1)).relu()
    assert down.ins < down.outs
    assert torch.equal(down(x), expected)


def test_other_image_sizes_are_held_to_what_a_layer_takes() -> None:
    """As in training on sizes that grow: the config of the network itself is asked."""
    for name, size, smaller in (
        ("vgg_16", 224, 192),
        ("maxout", 32, 24),
        ("alexnet", 128, 96),
        ("alexnet_cifar", 32, 24),
    ):
        model: Any = create_model(name, **narrow(name, image_size=size)).eval()
        with pytest.raises(ConfigError, match="map_side"):
            model.config.replace(image_size=smaller)
        if name != "alexnet_cifar":
            larger = model.config.replace(image_size=size + 32)
            assert larger.side == model.config.side
            assert model(torch.randn(1, 3, size + 32, size + 32)).isfinite().all()


def test_fractional_pools_take_images_of_a_size_nearby() -> None:
    model: Any = create_model("fractional_s", **narrow("fractional_s"))
    for size in (28, 32, 40):
        assert model.train()(torch.randn(2, 3, size, size)).shape == (2, 10)
    with pytest.raises(ConfigError, match="cannot become"):
        model(torch.randn(2, 3, 96, 96))


def test_lenets_units_are_squashed_up_to_f6() -> None:
    """LeCun et al. 1998, §II.B: convolutions, too, not the averages behind them alone."""
    model, seen = create_model("lenet_5").eval(), list[float]()
    for layer in (model.s2, model.s4, model.c5, model.f6):
        layer.register_forward_hook(lambda _, inputs, __: seen.append(float(inputs[0].abs().max())))
    with torch.no_grad():
        model(100 * torch.randn(2, 1, 32, 32))
    assert len(seen) == 4
    assert max(seen) <= 1
