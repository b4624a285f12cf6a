"""A new network is one file and one line of the registry's table: every command takes it, or refuses it by name."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import write_cifar
from quicknet.cli.main import run
from quicknet.core.card import read_card
from quicknet.inference.artifact import open_artifact
from quicknet.models.costs import count_costs
from quicknet.models.registry import MODELS, create_model, model_from_record
from quicknet.training.checkpoint import TorchClassifier

# the first edit: a file
FILE = '''
"""Two convolutions and a sum without parameters."""

from torch import Tensor, nn

from quicknet.core.errors import ConfigError
from quicknet.models.config import NetworkConfig
from quicknet.models.network import Network


class ResidualConfig(NetworkConfig, frozen=True, kw_only=True):
    width: int = 8

    def __post_init__(self) -> None:
        NetworkConfig.__post_init__(self)
        if not 1 <= self.width <= 512:
            raise ConfigError(f"width {self.width} must lie in 1..512")


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.sigmoid()


class Residual(Network):
    def __init__(self, config: ResidualConfig) -> None:
        super().__init__(config)
        self.conv = nn.Conv2d(config.in_channels, config.width, 5, stride=2, bias=False)
        self.bn, self.act = nn.BatchNorm2d(config.width), ACT
        self.inner = nn.Conv2d(config.width, config.width, 3, padding=1)
        self.add_head(config.width)
        self.feature_info = [{"stage": 0, "num_chs": config.width, "reduction": 2}]

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))
        return x + self.inner(x)


NETWORK = Residual
residual = ResidualConfig()
'''
# the second edit: a line of the table
LINE = {"residual": "zoo.residual:residual"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar(tmp_path_factory.mktemp("tiny"), 40)


@pytest.fixture
def act() -> str:
    return "nn.PReLU(config.width)"


@pytest.fixture
def added(act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make both edits."""
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "residual.py").write_text(FILE.replace("ACT", act))
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("zoo", "zoo.residual"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name, path in LINE.items():
        monkeypatch.setitem(MODELS, name, path)


@pytest.fixture
def trained(added: None, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    folder = tmp_path / "run"
    one_step = ["--recipe", "fast", "--epochs", "1", "--batch-size", "180", "--device", "cpu", "--quiet"]
    assert run(["train", str(data), "--model", "residual", "--run", str(folder), *one_step]) == 0
    capfd.readouterr()
    return folder


def refused(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    assert run(words) == 2
    error = capfd.readouterr().err
    assert error.startswith("quicknet: error: ")
    assert error.count("\n") == 1
    return error


def test_it_is_created_with_its_settings_checked(added: None) -> None:
    network = create_model("residual", width=4, num_classes=3).eval()
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(Exception, match=r"width 0 must lie in 1\.\.512"):
        create_model("residual", width=0)
    with pytest.raises(Exception, match="did you mean 'width'"):
        create_model("residual", widht=3)
    with pytest.raises(Exception, match="did you mean 'residual'"):
        create_model("residuall")


def test_its_costs_are_counted(added: None) -> None:
    costs = count_costs(lambda: create_model("residual"))
    assert costs.parameters == 3 * 8 * 25 + 3 * 8 + 8 * 8 * 9 + 8 + 80 + 10
    assert costs.macs == 14 * 14 * (3 * 8 * 25 + 8 * 8 * 9) + 80
    assert [layer.name for layer in costs.layers] == ["conv", "inner", "classifier"]
    # the first map is needed until the sum; the image beside it is larger
    assert costs.peak_activation_bytes == 4 * max(3 * 32 * 32 + 8 * 14 * 14, 2 * 8 * 14 * 14)


def test_every_command_takes_it(trained: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    card = read_card(trained / "card.json")
    assert (card.model.family, card.model.name) == ("residual", "residual")
    assert card.costs == count_costs(lambda: model_from_record(card.model))
    assert run(["inspect", str(trained), "--json"]) == 0
    assert [layer["name"] for layer in json.loads(capfd.readouterr().out)["layers"]] == ["conv", "inner", "classifier"]

    out = tmp_path / "residual.onnx"
    assert run(["export", str(trained), "--format", "onnx", "--out", str(out), "--quiet"]) == 0
    assert run(["verify", str(out), "--data", str(data), "--quiet"]) == 0
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    expected = TorchClassifier(trained).logits(images)
    assert np.abs(open_artifact(out).classifier().logits(images) - expected).max() <= 1e-4
    assert run(["inspect", str(out)]) == 0
    assert "inner" in capfd.readouterr().out
    plain = tmp_path / "plain.qnz"
    assert "add takes 2 inputs, and a .qnz holds a chain of layers only; use --format onnx" in refused(
        ["export", str(trained), "--out", str(plain), "--quiet"], capfd
    )
    assert not plain.exists()


@pytest.mark.parametrize("act", ["Gate()"])
def test_an_unknown_module_is_refused_by_name_where_no_rule_is_for_it(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What runs the network itself takes it; what rewrites it does not."""
    assert run(["inspect", str(trained)]) == 0
    assert "inner" in capfd.readouterr().out
    for name in ("gate.onnx", "gate.qnz"):
        error = refused(["export", str(trained), "--out", str(tmp_path / name), "--quiet"], capfd)
        assert "Residual cannot be exported: no rule folds Gate (act) where it stands" in error
        assert not (tmp_path / name).exists()
