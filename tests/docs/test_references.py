"""Other people's figures: each has a source, and names a network of ours only where there is one."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from quicknet.models.registry import MODELS

FILE = Path(__file__).resolve().parents[2] / "docs" / "references.toml"
KNOWN: dict[str, Any] = tomllib.loads(FILE.read_text(encoding="utf-8"))
KEYS = {"name", "network", "accuracy", "spread", "parameters", "macs", "picture", "note", "source"}


@pytest.mark.parametrize("entry", KNOWN["network"], ids=lambda entry: entry["name"])
def test_a_figure_has_a_source_and_can_be_one(entry: dict[str, Any]) -> None:
    assert entry.keys() <= KEYS
    assert entry["source"].startswith("https://")
    assert 50 <= entry["accuracy"] <= 100
    assert 0 < entry.get("macs", 1) < 1e11
    assert entry.get("network", "quicknet") in MODELS
    assert not entry.get("picture", True) or 1e4 < entry["parameters"] < 1e9


def test_no_name_stands_twice() -> None:
    names = [entry["name"] for entry in KNOWN["network"]]
    assert len(names) == len({*names}) > 20


def test_the_rivals_that_the_registry_has_are_there() -> None:
    rivals = {entry["network"] for entry in KNOWN["network"] if "network" in entry}
    assert rivals >= {"resnet_20", "resnet_56", "vgg_16", "mobilenet_v2_x05", "all_cnn_c", "nin", "fractional"}
