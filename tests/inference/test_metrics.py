import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicknet.core.errors import DataError
from quicknet.inference import metrics


def drawn(seed: int, n: int = 400, classes: int = 6, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the true distribution of the labels: perfectly calibrated."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * scale
    probabilities = metrics.softmax(logits)
    labels = (probabilities.cumsum(1) > rng.random((n, 1))).argmax(1)
    return logits, labels


@settings(max_examples=50, deadline=None)
@given(scale=st.floats(0, 1e4), shift=st.floats(-1e6, 1e6), temperature=st.floats(0.01, 100))
def test_softmax_sums_to_one_and_ignores_a_shift(scale: float, shift: float, temperature: float) -> None:
    logits = np.random.default_rng(1).normal(size=(5, 7)) * scale
    actual = metrics.softmax(logits + shift, temperature)
    np.testing.assert_allclose(actual.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(actual, metrics.softmax(logits, temperature), atol=1e-5)


def test_top_k_counts_ties_as_argmax_does() -> None:
    logits, labels = drawn(0)
    assert metrics.top_k_correct(logits, labels, 1).tolist() == (logits.argmax(1) == labels).tolist()
    assert metrics.top_k_correct(logits, labels, 6).all()
    constant = np.zeros((6, 6))
    assert metrics.top_k_correct(constant, np.arange(6), 1).sum() == 1
    assert metrics.top_k_correct(constant, np.arange(6), 3).sum() == 3


def test_wilson_equals_published_values_and_stays_within_0_and_1() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    for correct, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        actual = metrics.wilson_interval(correct, n)
        assert actual == pytest.approx((low, high), abs=5e-5)
    assert metrics.wilson_interval(7, 7)[1] == 1.0
    with pytest.raises(DataError):
        metrics.wilson_interval(3, 2)


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_there_are() -> None:
    assert metrics.balanced_accuracy([500, 0], [500, 5]) == 0.5
    assert metrics.balanced_accuracy([9, 1, 0], [10, 2, 0]) == pytest.approx(0.7)
    with pytest.raises(DataError, match="no images"):
        metrics.balanced_accuracy([0, 0], [0, 0])


@pytest.mark.parametrize(
    ("counts", "answer"), [([50, 0], True), ([50, 10], True), ([49, 10], False), ([4, 0], False), ([7], False)]
)
def test_classes_are_unbalanced_from_five_to_one(counts: list[int], answer: bool) -> None:
    assert metrics.unbalanced(counts) is answer
    assert metrics.unbalanced(np.array(counts)) is answer


def test_temperature_is_found_whatever_the_logits_were_scaled_by() -> None:
    logits, labels = drawn(3, n=20_000)
    for factor in (0.1, 1.0, 7.0):
        actual = metrics.fit_temperature(logits * factor, labels)
        assert actual == pytest.approx(factor, rel=0.05)
        best = metrics.negative_log_likelihood(logits * factor, labels, actual)
        for other in (0.9, 0.99, 1.01, 1.1):
            assert metrics.negative_log_likelihood(logits * factor, labels, actual * other) > best


def test_temperature_stays_bounded_where_everything_is_right_or_wrong() -> None:
    logits, labels = np.eye(4) * 5.0, np.arange(4)
    assert 0.5 < metrics.fit_temperature(logits, labels) < 2
    assert 2 < metrics.fit_temperature(logits, (labels + 1) % 4) <= 100
    assert math.isfinite(metrics.fit_temperature(np.zeros((3, 4)), np.zeros(3, int)))
    assert math.isfinite(metrics.fit_temperature(logits * 1e30, labels))


def confident(seed: int, n: int, distance: float, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return logits that are `factor` times the calibrated ones, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    features = rng.normal(size=(n, 3)) + distance * np.eye(3)[labels]
    return distance * factor * features, labels


@pytest.mark.parametrize(("n", "distance"), [(12, 2.5), (120, 4.0)])  # 93% and 99.6% right
@pytest.mark.parametrize("factor", [0.6, 1.0, 2.0])
def test_few_images_without_an_error_do_not_make_the_answers_certain(n: int, distance: float, factor: float) -> None:
    """The temperature fell to its bound of 0.01: on fresh images the likelihood became far worse."""
    fresh, fresh_labels = confident(999, 4000, distance, factor)
    before = metrics.negative_log_likelihood(fresh, fresh_labels)
    bound = metrics.negative_log_likelihood(fresh, fresh_labels, 0.01)
    after = []
    for seed in range(100):
        logits, labels = confident(seed, n, distance, factor)
        if (logits.argmax(1) == labels).all():
            temperature = metrics.fit_temperature(logits, labels)
            after.append(metrics.negative_log_likelihood(fresh, fresh_labels, temperature))
    assert len(after) > 20
    assert np.mean(after) < before + 0.01 < bound
    noise = np.random.default_rng(0).normal(size=(100, 3))
    assert np.median(metrics.softmax(noise, temperature).max(1)) < 0.9


@pytest.mark.parametrize("factor", [0.6, 1.0, 2.0])
def test_many_images_decide_the_temperature_alone(factor: float) -> None:
    logits, labels = drawn(3, n=5000)
    logits = logits * factor
    actual = metrics.fit_temperature(logits, labels)
    grid = actual * np.linspace(0.98, 1.02, 41)
    likeliest = min(grid, key=lambda t: metrics.negative_log_likelihood(logits, labels, t))
    assert actual == pytest.approx(likeliest, rel=0.01)


def test_calibration_error_is_small_where_calibrated_and_large_where_not() -> None:
    logits, labels = drawn(5, n=20_000)
    assert metrics.expected_calibration_error(metrics.softmax(logits), labels) < 0.02
    assert metrics.expected_calibration_error(metrics.softmax(logits * 5), labels) > 0.1
    rows = metrics.reliability(metrics.softmax(logits), labels)
    assert len(rows) == 15
    assert sum(n for n, _, _ in rows) == 20_000


def test_confusion_precision_and_recall_agree_with_counting() -> None:
    logits, labels = drawn(7)
    predicted = logits.argmax(1)
    confusion = metrics.confusion_matrix(predicted, labels, 6)
    assert confusion.sum() == len(labels)
    assert confusion[2, 4] == ((labels == 2) & (predicted == 4)).sum()
    precision, recall = metrics.precision_recall(confusion)
    assert precision[1] == pytest.approx((labels[predicted == 1] == 1).mean())
    assert recall[1] == pytest.approx((predicted[labels == 1] == 1).mean())
    precision, recall = metrics.precision_recall(np.array([[2, 0], [0, 0]]))
    assert math.isnan(precision[1])
    assert math.isnan(recall[1])


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros(3), np.zeros(3, int)),
        (np.zeros((3, 2)), np.zeros(2, int)),
        (np.zeros((3, 2)), np.zeros(3)),
        (np.zeros((3, 2)), np.array([0, 1, 2])),
        (np.zeros((3, 2)), np.array([0, 1, -1])),
        (np.zeros((0, 2)), np.zeros(0, int)),
        (np.full((3, 2), np.nan), np.zeros(3, int)),
    ],
)
def test_what_does_not_fit_is_refused(logits: np.ndarray, labels: np.ndarray) -> None:
    for function in (metrics.negative_log_likelihood, metrics.fit_temperature):
        with pytest.raises(DataError):
            function(logits, labels)
