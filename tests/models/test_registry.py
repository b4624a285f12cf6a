"""The networks are the ones that the design fixes: counts, shapes, the usual interface."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from narrowed import narrow
from quicknet.core.errors import ConfigError
from quicknet.models.config import QuickNetConfig, plan
from quicknet.models.registry import MODELS, create_model, list_models, model_from_record, model_record

COUNTS = {  # name: (parameters, multiply-adds at the model's own size)
    "quicknet": (3_557_322, 127_863_040),
    "quicknet_s": (908_266, 33_948_800),
    "quicknet_xs": (236_538, 9_478_720),
    # 28 MB as published: 7.3 million parameters
    "darknet": (7_319_416, None),
    # 36.5 M and 11.0 M parameters as published
    "wide_resnet_28_10": (36_479_194, None),
    "wide_resnet_16_8": (10_961_370, None),
    # 9.97 M and 0.50 G: a probe of this shape, from which its speed is known
    "speedy": (9_965_450, 496_711_424),
    "speedy_s": (3_190_490, 160_651_552),
}


def macs(model: torch.nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("name", "counts"), COUNTS.items())
def test_parameters_and_multiply_adds_are_the_published_ones(name, counts):
    model: Any = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == counts[0]
    if counts[1] is not None:
        assert macs(model, 32) == counts[1]


def test_every_registered_model_keeps_the_usual_interface():
    names = list_models()
    assert len(names) == len(MODELS) >= 5
    for name in names:
        model: Any = create_model(name, **narrow(name, num_classes=7, image_size=64, in_channels=1)).eval()
        x = torch.randn(2, 1, 64, 64)
        features = model.forward_features(x)
        assert features.shape[:2] == (2, model.feature_info[-1]["num_chs"])
        pooled = model.forward_head(features, pre_logits=True)
        assert pooled.shape == (2, model.num_features)
        assert model(x).shape == (2, 7)
        assert model.num_features % features.shape[1] == 0  # a classifier may take every pixel of the last map
        model.reset_classifier(3)
        assert model(x).shape == (2, 3)
        assert model.config.num_classes == 3


@pytest.mark.parametrize("name", list_models())
def test_a_network_is_rebuilt_from_its_record_alone(name):
    model: Any = create_model(name, **narrow(name, num_classes=4, image_size=64))
    record = model_record(name, model)
    again = model_from_record(record)
    again.load_state_dict(model.state_dict())
    x = torch.randn(1, model.config.in_channels, 64, 64)
    assert torch.equal(model.eval()(x), again.eval()(x))


@pytest.mark.parametrize("size", [16, 17, 31, 32, 47, 48, 64, 96, 111, 112, 160, 224])
def test_any_size_from_16_up_ends_between_1_and_7(size):
    config = QuickNetConfig(stem_width=4, widths=(4, 8, 8, 8), depths=(1, 1, 1, 1), image_size=size, num_classes=2)
    last = plan(config)[-1].side
    assert 1 <= last <= 7
    assert size < 32 or last >= 2
    from quicknet.models.quicknet import QuickNet

    model = QuickNet(config).eval()
    assert model.forward_features(torch.zeros(1, 3, size, size)).shape[-1] == last


def test_224_pixels_leave_55_after_the_stem():
    assert plan(QuickNetConfig(image_size=224))[0].side == 55


def test_an_explicit_stride_wins():
    assert plan(QuickNetConfig(image_size=224, stem_stride=2))[0].side == 110


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"widhts": (1, 2, 3, 4)}, "did you mean 'widths'"),
        ({"image_size": 15}, "16..1024"),
        ({"image_size": 16, "stem_stride": 4}, "too small"),
        ({"kernel_sizes": (3, 3, 3, 4)}, "3, 5 or 7"),
        ({"dropout": 1.5}, "dropout"),
        ({"widths": (1 << 40,) * 4}, "8192"),
        ({"activation": "gelu"}, "activation"),
    ],
)
def test_a_config_that_cannot_be_a_network_is_refused_by_name(overrides, words):
    with pytest.raises(ConfigError, match=words):
        create_model("quicknet_xs", **overrides)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"widths": ()}, "1 to 8 widths"),
        ({"widths": (64,) * 9}, "1 to 8 widths"),
        ({"stem_width": 0}, "within 1..8192"),
        ({"widths": (64, 8193)}, "within 1..8192"),
        ({"widths": (8192,) * 8, "image_size": 1024}, "over the limit"),
        ({"image_size": 16, "widths": (64,) * 4}, "too small for 4 poolings"),
        ({"width": 64}, "did you mean 'widths'"),
    ],
)
def test_a_dense_network_that_cannot_be_is_refused_by_name(overrides, words):
    with pytest.raises(ConfigError, match=words):
        create_model("speedy", **overrides)


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'quicknet_xs'"):
        create_model("quicknet_xss")


def test_prelu_starts_at_a_quarter_and_has_a_slope_per_channel():
    model: Any = create_model("quicknet_xs")
    slopes = [m.weight for m in model.modules() if isinstance(m, torch.nn.PReLU)]
    assert len(slopes) == 13
    assert all(bool((s == 0.25).all()) for s in slopes)
    assert slopes[-1].shape == (256,)


def test_activations_differ_only_in_their_slopes():
    sizes = {
        a: sum(p.numel() for p in create_model("quicknet_xs", activation=a).parameters())
        for a in ("prelu", "prelu_shared", "leaky_relu", "relu")
    }
    channels = 16 + 3 * (32 + 64 + 128 + 256)
    assert sizes["prelu"] - sizes["relu"] == channels
    assert sizes["prelu_shared"] - sizes["relu"] == 13
    assert sizes["leaky_relu"] == sizes["relu"]
