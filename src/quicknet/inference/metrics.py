"""What is measured of logits and labels: accuracy, intervals, calibration. Numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quicknet.core.errors import DataError

ECE_BINS = 15
_UNBALANCED = 5  # largest class to smallest: from here on top-1 alone misleads
_LOG_TEMPERATURE = math.log(100.0)  # searched from 1/100 to 100
# Images that the prior of `fit_temperature` is worth. Simulated networks (2 and 10 classes, 60 to
# 99.9% right, best temperature 0.5 to 3): mean NLL on fresh images above that of the best
# temperature, without the prior 9.4, 0.17, 0.070, 0.0005 for 12, 120, 600, 5,000 images; with it
# 0.025, 0.0047, 0.0016, 0.0004. Ten and a half, or 5 and a quarter, are as good.
_PRIOR_OWN, _PRIOR_UNIFORM = 5.0, 0.5

Logits = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


def check_logits(logits: Logits, labels: Labels | None = None) -> None:
    """Raise DataError unless logits are finite (N, classes) and labels (N,) within the classes."""
    if logits.ndim != 2 or logits.shape[1] < 1:
        raise DataError(f"logits must have the shape (images, classes), not {logits.shape}")
    if not np.isfinite(logits).all():
        raise DataError("the logits are not all finite numbers; the model is damaged or training diverged")
    if labels is None:
        return
    if labels.shape != logits.shape[:1] or labels.dtype.kind not in "iu" or not len(labels):
        raise DataError(f"{logits.shape[0]} images need as many whole-number labels, at least one; got {labels.shape}")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise DataError(f"labels must lie in 0..{logits.shape[1] - 1}, got {labels.min()}..{labels.max()}")


def softmax(logits: Logits, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities (N, classes) of logits divided by `temperature`.

    >>> softmax(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    return np.exp(log_softmax(logits, temperature))


def confidences(logits: Logits, temperature: float, none_class: bool) -> NDArray[np.float64]:
    """Return how probable it is (N,) that each image is of its best class.

    With `none_class` "none of the classes" is one more class, whose logit is 0.

    >>> confidences(np.array([[0.0, 0.0]]), 1.0, none_class=True).round(3).tolist()
    [0.333]
    """
    if none_class:
        logits = np.concatenate([logits, np.zeros_like(logits[:, :1])], 1)
    best: NDArray[np.float64] = softmax(logits, temperature)[:, : -1 if none_class else None].max(1)
    return best


def log_softmax(logits: Logits, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the logarithms of `softmax`, exact where that underflows.

    Raises DataError for logits that are not (N, classes) or a temperature that is not positive.
    """
    if logits.ndim != 2:
        raise DataError(f"logits must have the shape (images, classes), not {logits.shape}")
    if not 0 < temperature < math.inf:
        raise DataError(f"temperature {temperature} must be positive")
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(1, keepdims=True)))


def top_k_correct(logits: Logits, labels: Labels, k: int) -> NDArray[np.bool_]:
    """Return for each image (N,) whether its label is among the `k` largest logits.

    Ties go to the lower class index, as `argmax` has it, so a constant output scores 1/classes.

    >>> top_k_correct(np.array([[3.0, 2.0, 1.0]]), np.array([1]), 2).tolist()
    [True]
    """
    check_logits(logits, labels)
    of_label = np.take_along_axis(logits, labels[:, None].astype(np.intp), 1)
    before = np.arange(logits.shape[1]) < labels[:, None]
    rank = (logits > of_label).sum(1) + ((logits == of_label) & before).sum(1)
    return np.asarray(rank < k)


def wilson_interval(correct: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, by default at 95%.

    Source: Wilson, "Probable inference", JASA 22 (1927). Holds at 0 and n too, unlike p ± z·s.

    >>> [round(bound, 4) for bound in wilson_interval(9000, 10000)]
    [0.894, 0.9057]
    """
    if not 0 <= correct <= n or n < 1:
        raise DataError(f"{correct} correct of {n} is not a proportion")
    p = correct / n
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # the bounds are 0 and 1 exactly at the ends; rounding must not step over them
    low = 0.0 if correct == 0 else (centre - spread) / scale
    high = 1.0 if correct == n else (centre + spread) / scale
    return low, high


def confusion_matrix(predicted: Labels, labels: Labels, classes: int) -> NDArray[np.int64]:
    """Return counts (classes, classes): rows are true classes, columns predicted ones.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    for values in (predicted, labels):
        if values.shape != labels.shape or values.ndim != 1 or values.dtype.kind not in "iu":
            raise DataError(f"predicted {predicted.shape} and labels {labels.shape} must be equally many indices")
        if len(values) and (values.min() < 0 or values.max() >= classes):
            raise DataError(f"class indices must lie in 0..{classes - 1}")
    flat = labels.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def unbalanced(counts: Sequence[int] | NDArray[np.int64]) -> bool:
    """Return whether classes differ by 5 to 1 or more; a class without images counts as one image.

    >>> unbalanced([500, 100]), unbalanced([499, 100]), unbalanced([4, 0])
    (True, False, False)
    """
    return bool(max(counts) >= _UNBALANCED * max(min(counts), 1))


def balanced_accuracy(correct: Sequence[int] | NDArray[np.int64], counts: Sequence[int] | NDArray[np.int64]) -> float:
    """Return the mean recall of the classes that have images: what a constant answer cannot raise.

    `correct` are the right answers and `counts` the images of each class. Raises DataError for no
    images. Source: Brodersen et al., "The balanced accuracy and its posterior distribution", 2010.

    >>> balanced_accuracy([500, 0], [500, 5])
    0.5
    """
    shares = [int(right) / int(n) for right, n in zip(correct, counts, strict=True) if n]
    if not shares:
        raise DataError("no images, so no accuracy")
    return sum(shares) / len(shares)


def precision_recall(confusion: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision and recall of each class (classes,), NaN where nothing defines them.

    >>> precision, recall = precision_recall(np.array([[1, 1], [0, 1]]))
    >>> precision.tolist(), recall.tolist()
    ([1.0, 0.5], [0.5, 1.0])
    """
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise DataError(f"a confusion matrix is square, not {confusion.shape}")
    hits = np.diagonal(confusion).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return hits / confusion.sum(0), hits / confusion.sum(1)


def reliability(
    probabilities: NDArray[np.float64], labels: Labels, bins: int = ECE_BINS
) -> list[tuple[int, float, float]]:
    """Return for each equal-width bin of confidence: images, mean confidence, accuracy.

    Empty bins read (0, 0.0, 0.0). Bins hold their upper edge, as in Guo et al. 2017.

    >>> reliability(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), bins=2)
    [(0, 0.0, 0.0), (2, 0.8500000000000001, 0.5)]
    """
    check_logits(probabilities, labels)
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    confidences = np.bincount(bin_of, confidence, bins) / np.maximum(counts, 1)
    accuracies = np.bincount(bin_of, correct, bins) / np.maximum(counts, 1)
    return [(int(n), float(c), float(a)) for n, c, a in zip(counts, confidences, accuracies, strict=True)]


def expected_calibration_error(probabilities: NDArray[np.float64], labels: Labels, bins: int = ECE_BINS) -> float:
    """Return the mean gap between confidence and accuracy, weighted by images per bin.

    Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", 2017, §2.

    >>> expected_calibration_error(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    0.5
    """
    rows = reliability(probabilities, labels, bins)
    return sum(n * abs(confidence - accuracy) for n, confidence, accuracy in rows) / len(labels)


def negative_log_likelihood(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """Return the mean cross-entropy in nats of logits divided by `temperature`.

    >>> round(negative_log_likelihood(np.zeros((1, 2)), np.array([0])), 4)
    0.6931
    """
    check_logits(logits, labels)
    chosen = np.take_along_axis(log_softmax(logits, temperature), labels[:, None].astype(np.intp), 1)
    return float(-chosen.mean())


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Return the temperature in 1/100..100 under which these labels and a prior are likeliest.

    The prior is 5.5 images more, all with the mean of these logits' likelihoods: 5 whose classes
    follow the network's own probabilities, which hold the temperature near 1, and half an image
    of any class, so that no number of right answers makes a later mistake impossible. Without it,
    12 right answers of 12 gave the bound 1/100. The prior counts for nothing in thousands of
    images (see `_PRIOR_OWN`). All of it is convex in 1/T, so bisection finds the one minimum.
    Source: Guo et al. 2017, §4.2; counts added to few observations: Platt 1999, "Probabilistic
    outputs for support vector machines", §2.2.

    >>> logits = np.array([[4.0, 0.0]] * 4000)
    >>> round(fit_temperature(logits, np.arange(4000) % 4 // 3), 2)  # 3 of 4 right: 4/T = ln 3
    3.64
    >>> round(fit_temperature(logits[:12], np.zeros(12, int)), 2)  # 12 of 12 right
    1.02
    """
    check_logits(logits, labels)
    centred = logits.astype(np.float64) - logits.max(1, keepdims=True)
    of_label = np.take_along_axis(centred, labels[:, None].astype(np.intp), 1)[:, 0]

    def expected(inverse: float) -> float:  # mean logit under softmax(logits / T)
        weights = np.exp(centred * inverse)
        return float(((weights * centred).sum(1) / weights.sum(1)).mean())

    n = len(labels)
    observed = n * float(of_label.mean()) + _PRIOR_OWN * expected(1.0) + _PRIOR_UNIFORM * float(centred.mean())
    images = n + _PRIOR_OWN + _PRIOR_UNIFORM
    low, high = -_LOG_TEMPERATURE, _LOG_TEMPERATURE  # log(1/T)
    for _ in range(60):
        middle = (low + high) / 2
        if images * expected(math.exp(middle)) < observed:  # d NLL / d (1/T) is negative
            low = middle
        else:
            high = middle
    return math.exp(-(low + high) / 2)
