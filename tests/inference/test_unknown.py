"""The threshold below which an answer is "unknown": chosen on val, kept in the card, used by predict."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicknet.core.card import UnknownRecord
from quicknet.core.errors import DataError
from quicknet.core.settings import from_mapping
from quicknet.inference.metrics import confidences, softmax
from quicknet.inference.unknown import choose_unknown


@given(st.integers(1, 400), st.integers(2, 12), st.integers(0, 2**32 - 1), st.floats(0.2, 5), st.booleans())
def test_at_least_19_of_20_images_are_answered(count, classes, seed, temperature, none_class):
    logits = np.random.default_rng(seed).normal(0, 3, (count, classes))
    record = choose_unknown(logits, temperature, "val", none_class)
    answered = (confidences(logits, temperature, none_class) >= record.min_confidence).mean()
    assert record.kept == answered
    assert answered >= 0.95
    assert record.n == count


def test_none_of_the_classes_counts_as_one_more_with_the_logit_zero():
    logits = np.array([[2.0, 0.0], [-3.0, -5.0]])  # the same two probabilities
    assert np.allclose(*softmax(logits))
    sure, unsure = confidences(logits, 1.0, none_class=True)
    assert sure == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    assert unsure == pytest.approx(np.exp(-3) / (np.exp(-3) + np.exp(-5) + 1))
    record = choose_unknown(np.repeat(logits, [19, 1], axis=0), 1.0, "val", none_class=True)
    assert (record.min_confidence, record.kept) == (0.786, 0.95)


def test_an_older_card_has_no_class_of_none():
    fields = {"min_confidence": 0.5, "split": "val", "n": 10, "kept": 1.0}
    assert not from_mapping(UnknownRecord, fields, "card").none_class


def test_logits_that_are_not_numbers_are_refused():
    with pytest.raises(DataError, match="not all finite"):
        choose_unknown(np.array([[0.0, np.nan]]), 1.0, "val")
