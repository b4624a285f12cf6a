"""The steps of a lineage go out as they came in: those of today, of newer versions, and odd ones."""

import json
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quicknet.core.card import Card, card_from_dict, read_card
from quicknet.core.lineage import Compared, ExportStep, FineTuneStep, Fp16Step, OtherStep, Predictions, step_from_dict
from quicknet.qnz.file import read_qnz
from quicknet.qnz.format import CARD, CARZ, CARZ_HEADER

ROOT = Path(__file__).parents[2]
CARDS = sorted([*ROOT.glob("results/*/*/card.json"), *ROOT.glob("src/quicknet/weights/*/card.json")])
FILES = sorted([*ROOT.glob("src/quicknet/weights/*.qnz"), *ROOT.glob("tests/golden/*.qnz")])
PREDICTIONS = {"data": "bars", "data_sha256": "b" * 64, "split": "test", "protocol": "standard", "n": 30, "correct": 20}
PREDICTIONS |= {"class_order_sha256": "c" * 64, "sha256": "d" * 64, "classes": ""}
ROW = {"split": "val", "protocol": "standard", "n": 9, "top1": 0.5, "parent_top1": 0.6}
ROW |= {"lost_points": 10.0, "different": 2}
EXPORT: dict[str, Any] = {"step": "export", "format": "qnz", "quicknet": "0.1.0", "parent_weights_sha256": "a" * 64}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_card_of_a_kept_file_is_written_again_byte_by_byte(path: Path) -> None:
    file = read_qnz(path)
    (section,) = (section for section in file.sections if section.kind in (CARD, CARZ))
    if section.kind == CARD:
        assert file.card.to_json().encode() == bytes(section.data)
    else:
        assert file.card.to_json(indent=None).encode() == zlib.decompress(section.data[CARZ_HEADER.size :])
    assert not any(isinstance(step, OtherStep) or step.extra for step in file.card.lineage)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.parent.name + "/" + path.parent.name)
def test_a_kept_card_is_written_again_as_it_is(path: Path) -> None:
    """A run folder's card has its digest last: the pair of card and weights is written as one step."""
    text, card = path.read_text(), read_card(path)
    again = json.loads(card.to_json())
    if list(json.loads(text))[-1] == "weights_sha256":
        again["weights_sha256"] = again.pop("weights_sha256")
    assert json.dumps(json.loads(text)) == json.dumps(again)
    assert not any(isinstance(step, OtherStep) or step.extra for step in card.lineage)


def test_there_are_kept_cards_and_files() -> None:
    assert len(CARDS) >= 6 and len(FILES) >= 5


@pytest.mark.parametrize(
    "fields",
    [
        {"step": "fine-tune", "from": "quicknet_s", "weights_sha256": "a" * 64},
        {"step": "fine-tune", "from": "quicknet_s", "weights_sha256": "a" * 64, "extra": {"source": 1}, "tag": "x"},
        {"step": "fp16", "parent_weights_sha256": "a" * 64, "split": None},
        {**EXPORT, "predictions": {**PREDICTIONS, "weights": [1, {"a": None}]}, "entropy_bits": 3.5},
        {**EXPORT, "compared": [ROW, {**ROW, "split": "test", "top5": 0.9}], "predictions": None},
        {**EXPORT, "compared": [ROW, 7]},
        {**EXPORT, "tolerance": "0.1"},
        {**EXPORT, "calibration": {"n": 10**5000}},
        {"step": "export"},
        {"step": "prune", "share": 0.8, "mask": {"deep": [1]}},
        {"step": ["fp16"]},
        {"step": None},
        {},
    ],
)
def test_a_step_is_passed_on_with_what_is_unknown_in_it(fields: dict[str, Any]) -> None:
    step = step_from_dict(fields)
    assert step.to_dict() == fields
    assert step_from_dict(step.to_dict()) == step


def test_steps_are_read_into_their_types() -> None:
    step = step_from_dict({**EXPORT, "predictions": {**PREDICTIONS, "newer": 1}, "compared": [ROW]})
    assert isinstance(step, ExportStep)
    assert step.predictions == msgspec.convert(PREDICTIONS, Predictions)
    assert step.compared == (msgspec.convert(ROW, Compared),)
    assert step.extra == {"predictions": {"newer": 1}}
    other = step_from_dict({**EXPORT, "tolerance": "0.1"})
    assert isinstance(other, OtherStep) and "tolerance" in other.problem and other.name == "export"


def test_a_step_is_written_as_ever() -> None:
    """Order and absence of fields are part of a file's bytes."""
    text = '{"step": "fp16", "parent_weights_sha256": "a", "split": "val", "n": 5, "changed": 0}'
    assert json.dumps(Fp16Step(parent_weights_sha256="a", split="val", n=5, changed=0).to_dict()) == text
    text = '{"step": "fine-tune", "from": "x", "weights_sha256": ""}'
    assert json.dumps(FineTuneStep(source="x", weights_sha256="").to_dict()) == text


def test_a_card_keeps_the_lineage_of_newer_versions() -> None:
    path = next(path for path in CARDS if path.parent.name == "quicknet_xs.cifar10")
    fields = read_card(path).to_dict()
    fields["lineage"] = [{"step": "prune", "share": 0.8}, *fields["lineage"], {**EXPORT, "newer": [1]}]
    card: Card = card_from_dict(fields, "the test")
    assert json.dumps(card.to_dict()["lineage"]) == json.dumps(fields["lineage"])
    assert card.with_receipt(bits="w5a8").to_dict()["lineage"][-1] == {**EXPORT, "bits": "w5a8", "newer": [1]}
