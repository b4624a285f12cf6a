"""The threshold below which an answer is "unknown": chosen on val, kept in the card, used by predict."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicknet.core.errors import DataError
from quicknet.inference.metrics import softmax
from quicknet.inference.unknown import choose_unknown, measure_refused


@given(st.integers(1, 400), st.integers(2, 12), st.integers(0, 2**32 - 1), st.floats(0.2, 5))
def test_at_least_19_of_20_images_are_answered(count, classes, seed, temperature):
    logits = np.random.default_rng(seed).normal(0, 3, (count, classes))
    record = choose_unknown(logits, temperature, "val")
    answered = (softmax(logits, temperature).max(1) >= record.min_confidence).mean()
    assert record.kept == answered
    assert answered >= 0.95
    assert record.n == count
    refused = measure_refused(record, softmax(logits, temperature).max(1).tolist(), "same")
    assert refused.refused == pytest.approx(1 - answered)
    assert refused.others_n == count


def test_pictures_of_no_class_are_refused_where_the_network_is_unsure_of_them():
    rng = np.random.default_rng(0)
    known = rng.normal(0, 1, (500, 4))
    known[np.arange(500), rng.integers(0, 4, 500)] += 8
    others = softmax(rng.normal(0, 1, (300, 4))).max(1).tolist()
    record = measure_refused(choose_unknown(known, 1.0, "val"), others, "cats")
    assert record.refused is not None
    assert record.refused > 0.9
    assert record.others == "cats"


def test_logits_that_are_not_numbers_are_refused():
    with pytest.raises(DataError, match="not all finite"):
        choose_unknown(np.array([[0.0, np.nan]]), 1.0, "val")
