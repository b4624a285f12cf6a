"""The card goes out and in whole, keeps what it does not know, and refuses what does not hold."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicknet.core.card import (
    Card,
    DataRecord,
    Metric,
    ModelRecord,
    PreprocessSpec,
    card_from_dict,
    read_card,
)
from quicknet.core.errors import ConfigError, FormatError
from quicknet.core.settings import from_mapping

names = st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=8, unique=True)


def card(classes=("cat", "dog"), **fields):
    return Card(
        model=ModelRecord(family="quicknet", name="quicknet_xs", config={"num_classes": len(classes)}),
        classes=tuple(classes),
        preprocess=PreprocessSpec(),
        **fields,
    )


@given(names, st.floats(0.05, 20), st.integers(1, 10**6))
def test_a_card_survives_json(classes, temperature, n):
    metric = Metric(name="top1", value=0.5, split="test", protocol="standard", n=n, file_sha256="a" * 64)
    data = DataRecord(name="x", protocol="standard", counts={"train": n}, sha256="b" * 64)
    written = card(classes, temperature=temperature, metrics=(metric,), data=data)
    assert card_from_dict(json.loads(written.to_json()), "test") == written


def test_unknown_fields_of_a_newer_minor_version_are_passed_on(tmp_path):
    fields = {**card().to_dict(), "minor": 7, "watermark": {"by": "someone"}}
    (tmp_path / "card.json").write_text(json.dumps(fields))
    read = read_card(tmp_path / "card.json")
    assert json.loads(read.replace(notes="x").to_json())["watermark"] == {"by": "someone"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format 2 is newer"),
        ({"format": "1"}, "does not hold"),
        ({"classes": ["a", "a"]}, "repeated"),
        ({"classes": []}, "missing"),
        ({"classes": [1, 2]}, "does not hold"),
        ({"model": None}, "does not hold"),
        ({"preprocess": {"size": 0}}, "does not hold|size"),
        ({"preprocess": {"std": [0, 0, 0]}}, "std must be positive"),
        ({"preprocess": {"mode": "L"}}, "need 1 values"),
        ({"temperature": "hot"}, "does not hold"),
    ],
)
def test_a_card_that_does_not_hold_is_refused(change, words):
    with pytest.raises(FormatError, match=words):
        card_from_dict({**card().to_dict(), **change}, "card.json")


def test_a_card_that_is_no_object():
    with pytest.raises(FormatError, match="not a JSON object"):
        card_from_dict([1], "card.json")


def test_settings_name_what_is_wrong_deep_inside():
    with pytest.raises(ConfigError, match=r"unknown setting 'sizes' .*did you mean 'size'"):
        from_mapping(PreprocessSpec, {"sizes": 3}, "here")
    with pytest.raises(ConfigError, match="expected"):
        from_mapping(PreprocessSpec, {"size": "big"}, "here")
