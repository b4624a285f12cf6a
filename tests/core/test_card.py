"""The card goes out and in whole, keeps what it does not know, and refuses what does not hold."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicknet.core.card import (
    Card,
    Costs,
    DataRecord,
    IntegerRecord,
    Metric,
    ModelRecord,
    PreprocessSpec,
    UnknownRecord,
    Vectors,
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


@given(st.floats(1e-12, 1e12), st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3).map(tuple), max_size=3))
def test_an_integer_networks_record_survives_json(scale, rows):
    vectors = Vectors(generator=1, sha256="c" * 64, logits=(), integers=tuple(rows))
    written = card(integer=IntegerRecord(bits="w7a8", logit_scale=scale), vectors=vectors)
    assert card_from_dict(json.loads(written.to_json()), "test") == written


def test_a_card_from_before_integer_networks_is_read():
    fields = card(vectors=Vectors(generator=1, sha256="c" * 64, logits=((0.5, 1.0),))).to_dict()
    del fields["integer"], fields["vectors"]["integers"]
    read = card_from_dict(fields, "old")
    assert read.integer is None
    assert read.vectors.integers is None
    assert read.vectors.logits == ((0.5, 1.0),)


def test_a_threshold_survives_json_and_a_card_without_it_is_written_as_it_was():
    assert "unknown" not in card().to_dict()
    record = UnknownRecord(min_confidence=0.5, split="val", n=100, kept=0.95)
    written = card(unknown=record)
    assert card_from_dict(json.loads(written.to_json()), "test") == written
    fields = {**written.to_dict(), "unknown": {**record.to_dict(), "min_confidence": 1.5}}
    with pytest.raises(FormatError, match=r"must lie in 0\.\.1"):
        card_from_dict(fields, "bad")


def test_costs_survive_json_and_a_card_without_them_is_written_as_it_was():
    costs = Costs(parameters=3, macs=9, activation_bytes=40, peak_activation_bytes=12)
    written = card(costs=costs)
    assert card_from_dict(json.loads(written.to_json()), "test") == written
    older = {name: value for name, value in written.to_dict().items() if name != "costs"}
    assert card_from_dict(older, "old").to_dict() == older
    with pytest.raises(FormatError, match="costs must not be negative"):
        card_from_dict({**older, "costs": {**costs.to_dict(), "macs": -1}}, "bad")


def test_unknown_fields_of_a_newer_minor_version_are_passed_on(tmp_path):
    fields = {**card().to_dict(), "minor": 7, "watermark": {"by": "someone"}}
    (tmp_path / "card.json").write_text(json.dumps(fields))
    read = read_card(tmp_path / "card.json")
    assert json.loads(read.replace(notes="x").to_json())["watermark"] == {"by": "someone"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format 2 is newer"),
        ({"format": "1"}, "is not valid"),
        ({"classes": ["a", "a"]}, "repeated"),
        ({"classes": []}, "missing"),
        ({"classes": [1, 2]}, "is not valid"),
        ({"model": None}, "is not valid"),
        ({"preprocess": {"size": 0}}, "does not hold|size"),
        ({"preprocess": {"std": [0, 0, 0]}}, "std must be positive"),
        ({"preprocess": {"mode": "L"}}, "need 1 values"),
        ({"temperature": "hot"}, "is not valid"),
        ({"integer": {"bits": "w7a8", "logit_scale": 0}}, "logit scale 0.0 is not a positive"),
        ({"integer": {"bits": "w7a8", "logit_scale": -1.0}}, "logit scale -1.0"),
        ({"integer": {"bits": "w7a8"}}, "is not valid"),
        ({"vectors": {"generator": 1, "sha256": "", "logits": [], "integers": [[2**31]]}}, "do not fit 32 bits"),
        ({"vectors": {"generator": 1, "sha256": "", "logits": [], "integers": [[0.5]]}}, "is not valid"),
    ],
)
def test_a_card_that_does_not_hold_is_refused(change, words):
    with pytest.raises(FormatError, match=words) as refused:
        card_from_dict({**card().to_dict(), **change}, "some/card.json")
    assert "some/card.json" in str(refused.value)


def test_a_card_that_is_no_object():
    with pytest.raises(FormatError, match="not a JSON object"):
        card_from_dict([1], "card.json")


def test_settings_name_what_is_wrong_deep_inside():
    with pytest.raises(ConfigError, match=r"unknown setting 'sizes' .*did you mean 'size'"):
        from_mapping(PreprocessSpec, {"sizes": 3}, "here")
    with pytest.raises(ConfigError, match="expected"):
        from_mapping(PreprocessSpec, {"size": "big"}, "here")
