"""Other people's figures: each has a source, and names a network of ours only where there is one."""

from typing import Any

import pytest

from quicknet.models.registry import MODELS
from quicknet.study.references import paper_table, read_references

KNOWN: dict[str, Any] = read_references()
KEYS = {"name", "network", "accuracy", "spread", "parameters", "macs", "picture", "passes", "note", "source"}


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


def test_every_row_of_the_papers_table_has_its_trap() -> None:
    rows = paper_table()
    assert {row.network for row in rows} <= {*MODELS}
    assert all(row.trap for row in rows)
    said = {row.name: row.top1 for row in rows}
    assert (said["QuickNet"], said["AlexNet"], said["All-CNN"]) == (0.957, 0.8196, 0.9275)
    assert (said["Fractional max pooling"], said["Maxout"]) == (0.9653, None)
