"""A network at twice the width answers as before, and its two halves learn different things."""

import pytest
import torch
from click.testing import CliRunner

from quicknet.core.card import read_card
from quicknet.core.errors import ToolError
from quicknet.inference.shipped import locate
from quicknet.models.registry import create_model, model_record
from quicknet.study.widen import main, widen, widened
from quicknet.training.checkpoint import RunFolder, load_model


def test_the_paper_s_network_starts_with_the_answers_of_the_one_of_half_its_width(tmp_path):
    run = locate("quicknet_s.photos", "run")
    assert widen(run, "quicknet", tmp_path / "wide") < 1e-4
    wide, card = load_model(tmp_path / "wide")
    assert wide.config.to_dict()["widths"] == (128, 256, 512, 1024)
    assert card.model.name == "quicknet"
    assert card.lineage[-1].parent_weights_sha256 == read_card(run / "card.json").weights_sha256
    assert card.metrics == ()  # measured on other weights


def test_the_copies_of_a_channel_part_with_the_first_step(tmp_path):
    small = {"depths": (1, 1), "kernel_sizes": (3, 3), "image_size": 16}
    narrow = create_model("quicknet_s", stem_width=4, widths=(8, 16), **small)
    wide = create_model("quicknet_s", stem_width=8, widths=(16, 32), **small)
    wide.load_state_dict(widened(narrow, wide))
    wide(torch.randn(4, 3, 16, 16)).square().sum().backward()
    for name, weight in wide.named_parameters():
        if weight.shape[0] > 10:  # all but the classifier, whose rows are classes
            assert weight.grad is not None, name
            first, second = weight.grad.chunk(2)
            assert not torch.allclose(first, second, rtol=1e-3), name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("quicknet_xs", "would have"),
        ("quicknet_z", "quicknet_z"),
        ("resnet_20", "another family"),
        ("speedy", "another family"),
    ],
)
def test_another_network_is_refused_in_one_line_and_leaves_no_folder(name, says, tmp_path):
    result = CliRunner().invoke(main, ["quicknet_s.photos", name, str(tmp_path / "wide")])
    assert result.exit_code == 2
    assert says in result.output
    assert result.output.count("\n") == 1
    assert not (tmp_path / "wide").exists()


def test_a_folder_that_is_there_stays_as_it_is(tmp_path):
    result = CliRunner().invoke(main, ["quicknet_s.photos", "quicknet", str(tmp_path)])
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_options_that_read_channels_in_another_order_are_refused(tmp_path):
    """With dense connections a layer reads the channels of two others: its shares would go to the wrong ones."""
    _, card = load_model(locate("quicknet_xs.cifar10", "run"))
    model = create_model("quicknet_xs", options={"groups": 2})
    card = card.replace(model=model_record("quicknet_xs", model), costs=None, vectors=None)
    RunFolder(tmp_path / "run").save_model(model.state_dict(), card)
    with pytest.raises(ToolError, match="has the option groups"):
        widen(tmp_path / "run", "quicknet_s", tmp_path / "wide")
    assert not (tmp_path / "wide").exists()
