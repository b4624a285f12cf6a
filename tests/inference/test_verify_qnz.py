"""A `.qnz` must answer exactly as recorded, by everything here that runs it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from integers import data_for, receipted, small_network, write_qnz
from networks import network_card
from quicknet import engine
from quicknet.cli.main import run
from quicknet.core.card import Card, card_from_dict
from quicknet.core.errors import CheckFailed, DataError, FormatError
from quicknet.data import Dataset
from quicknet.inference.verify import Verification, verify
from quicknet.qnz import reference
from quicknet.qnz.network import IntegerNetwork


@pytest.fixture(scope="module")
def network() -> IntegerNetwork:
    return small_network()


@pytest.fixture(scope="module")
def data(network: IntegerNetwork) -> Dataset:
    return data_for(network)


def failed(verification: Verification) -> set[str]:
    assert not verification.holds
    with pytest.raises(CheckFailed, match="the receipt does not hold: "):
        verification.require()
    return {check.name for check in verification.checks if not check.ok}


def with_step(card: Card, **changes: object) -> Card:
    fields = card.to_dict()
    fields["lineage"][-1]["predictions"] |= changes
    return card_from_dict(fields, "the test")


@pytest.mark.parametrize("names_classes", [True, False])
def test_a_whole_file_holds_by_every_implementation_present(
    names_classes: bool, network: IntegerNetwork, data: Dataset, tmp_path: Path
) -> None:
    path = write_qnz(tmp_path / "m.qnz", network, receipted(network, data, names_classes))
    steps: list[int] = []
    verification = verify(path, data, steps.append)
    verification.require()
    runs = [f"vectors engine ({isa})" for isa in engine.instruction_sets()] if engine.available() else []
    names = [check.name for check in verification.checks]
    assert names[:3] == ["digests", "bounds", "shapes"]
    assert sorted(names[3:-4]) == sorted([*runs, "vectors reference"])
    assert names[-4:] == ["class order", "data", "agreement", "accuracy"]
    assert sum(steps) == 60
    assert verification.receipt_measured
    measured = verification.measured
    assert measured is not None
    assert (measured.top1, measured.top1_recorded, measured.different) == (
        0.75,
        0.75,
        0,
    )


def test_a_receipt_without_data_says_so(network: IntegerNetwork, data: Dataset, tmp_path: Path) -> None:
    verification = verify(write_qnz(tmp_path / "m.qnz", network), data)
    assert verification.holds
    assert not verification.receipt_measured
    measured = verification.measured
    assert measured is not None
    assert (measured.top1, measured.top1_recorded, measured.different) == (
        0.75,
        None,
        None,
    )


def test_one_logit_of_one_vector_off_by_one_is_found(network: IntegerNetwork, tmp_path: Path) -> None:
    card = network_card(network)
    assert card.vectors is not None and card.vectors.integers is not None
    rows = [list(row) for row in card.vectors.integers]
    rows[7][3] += 1
    changed = card.replace(vectors=card.vectors.replace(integers=tuple(map(tuple, rows))))
    verification = verify(write_qnz(tmp_path / "m.qnz", network, changed))
    assert {name.split()[0] for name in failed(verification)} == {"vectors"}
    assert all("1 have other logits than recorded" in check.detail for check in verification.checks if not check.ok)


def test_an_implementation_that_differs_is_named(
    network: IntegerNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = write_qnz(tmp_path / "m.qnz", network), reference.run
    monkeypatch.setattr(reference, "run", lambda network, images: real(network, images) + 1)
    verification = verify(path)
    assert failed(verification) == {"vectors reference"}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda card: card.replace(vectors=None), {"vectors"}),
        (lambda card: card.replace(vectors=card.vectors.replace(integers=None)), {"vectors"}),
        (lambda card: card.replace(vectors=card.vectors.replace(sha256="0" * 64)), {"vectors"}),
        (lambda card: with_step(card, sha256="0" * 64), {"agreement"}),
        (lambda card: with_step(card, correct=44), {"accuracy"}),
        (lambda card: with_step(card, correct=46), {"accuracy"}),
        (lambda card: with_step(card, data_sha256="0" * 64), {"data"}),
        (lambda card: with_step(card, class_order_sha256="0" * 64), {"class order"}),
    ],
)
def test_what_the_card_says_otherwise_is_found(
    change: Callable[[Card], Card], names: set[str], network: IntegerNetwork, data: Dataset, tmp_path: Path
) -> None:
    card = change(receipted(network, data))
    assert failed(verify(write_qnz(tmp_path / "m.qnz", network, card), data)) == names


def test_one_image_of_another_class_breaks_the_digest(network: IntegerNetwork, data: Any, tmp_path: Path) -> None:
    images = data.test.images.copy()
    labels = reference.run(network, images).argmax(1)
    images[20] = images[np.flatnonzero(labels != labels[20])[0]]
    other = dataclasses.replace(data, test=dataclasses.replace(data.test, images=images))
    for names_classes, text in ((True, "another digest than recorded: 1 differ"), (False, "some differ")):
        path = write_qnz(tmp_path / "m.qnz", network, receipted(network, data, names_classes))
        verification = verify(path, other)
        assert "agreement" in failed(verification)
        assert any(text in check.detail for check in verification.checks)


def test_another_network_under_the_same_card_is_found(network: IntegerNetwork, data: Dataset, tmp_path: Path) -> None:
    """As an exporter that mixes up files would write it: every digest holds."""
    other = dataclasses.replace(network, bias=network.bias + np.int32(1))
    verification = verify(write_qnz(tmp_path / "m.qnz", other, receipted(network, data)))
    assert {name.split()[0] for name in failed(verification)} == {"vectors"}


def test_a_damaged_file_is_no_receipt_that_fails_but_a_file_that_is_refused(
    network: IntegerNetwork, tmp_path: Path
) -> None:
    path = write_qnz(tmp_path / "m.qnz", network)
    blob = bytearray(path.read_bytes())
    blob[-100] ^= 1
    path.write_bytes(blob)
    with pytest.raises(FormatError, match=r"m\.qnz"):
        verify(path)


def test_data_of_other_classes_is_refused(network: IntegerNetwork, data: Dataset, tmp_path: Path) -> None:
    other = dataclasses.replace(data, classes=tuple(reversed(data.classes)))
    with pytest.raises(DataError, match="other classes"):
        verify(write_qnz(tmp_path / "m.qnz", network), other)


def test_the_command_shows_every_implementation_and_exits_by_the_receipt(
    network: IntegerNetwork, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_qnz(tmp_path / "m.qnz", network)
    assert run(["verify", str(path)]) == 0
    text = capfd.readouterr().out
    assert "16 test vectors by reference: exactly the recorded integer logits" in text
    assert text.endswith("the receipt was never measured on data\nthe receipt holds\n")
    assert run(["verify", str(path), "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["holds"] is True
    card = network_card(network).replace(vectors=None)
    assert run(["verify", str(write_qnz(path, network, card))]) == 1
    captured = capfd.readouterr()
    assert "FAILED" in captured.out
    assert captured.err.startswith("quicknet: error: the receipt does not hold: ")
