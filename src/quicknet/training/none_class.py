"""What shows none of the classes: a direction that is learned from spoilt training pictures, at the end of a run.

Spoilt pictures (negatives, turned ones, parts in another order) stand in for those that nobody has at hand:
outlier exposure (Hendrycks et al. 2019) without outliers. Only a row of the classifier is fitted to them, the one
of "none of the classes", against rows that stay as they are. Softmax does not change where every logit loses the
same number, so that row is then subtracted from all others: "none" has the logit 0 from there on, the classes keep
their probabilities, and every format holds the network as before. benchmarks/bench_unknown.py measures it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from quicknet.data.augment import normalize
from quicknet.training.checkpoint import TorchClassifier
from quicknet.training.evaluate import drawn_vectors
from quicknet.training.head import features_of
from quicknet.training.run import Run
from quicknet.training.threads import one_thread

_MOST = 1000  # pictures that are looked at as they are
_SPOILT = 250  # of each kind
_CHUNK = 128
_PENALTY = 0.01
_ITERATIONS = 80
Pixels = NDArray[np.uint8]


def add_none_class(run: Run, classifier: TorchClassifier) -> None:
    """Give the classifier of a finished run, and its folder, logits in which 0 is that of "none of the classes"."""
    images, spec = run.data.split("train").images, run.data.spec
    rng = np.random.default_rng(run.recipe.train.seed)
    rows = np.sort(rng.permutation(len(images))[:_MOST])
    pictures = np.asarray(images[rows])
    known = picture_features(classifier, pictures)
    some = pictures[rng.permutation(len(pictures))[:_SPOILT]]
    others = torch.cat([picture_features(classifier, spoilt) for spoilt in spoil(some, rng)])
    layer = classifier.model.classifier
    with torch.no_grad():
        layer.weight.sub_(layer.weight.mean(0))  # a run that is finished a second time comes to the same
        layer.bias.sub_(layer.bias.mean())
        logits = [torch.logsumexp(layer(features), 1) for features in (known, others)]
    with one_thread():
        weight, bias = fit_none(known, others, logits[0], logits[1])
    with torch.no_grad():
        layer.weight.sub_(weight)
        layer.bias.sub_(bias)
    card = classifier.card.replace(vectors=drawn_vectors(classifier.model, spec, classifier.device))
    classifier.card = run.folder.save_model(dict(classifier.model.state_dict()), card)
    classifier.file_sha256 = classifier.card.weights_sha256


def spoil(images: Pixels, rng: np.random.Generator) -> list[Pixels]:
    """Return kinds of pictures (N, size, size, channels) that show no class but have much of its look.

    Where a kind looks like the pictures themselves, as grey ones whose colours change places, the fit cannot
    tell them apart, and the other kinds decide.
    """
    return [
        255 - images,
        images[:, ::-1],
        np.rot90(images, axes=(1, 2)),
        np.roll(images, 1, axis=3),  # red becomes green, green blue
        dark_for_bright(images),
        same_spectrum(images, rng),
        magnified(images, 4, rng),
        shuffled(images, 4, rng),
        gradients(images.shape, rng),
    ]


def dark_for_bright(images: Pixels) -> Pixels:
    """Return images of the same hues, dark where they were bright."""
    values = images.astype(np.float32)
    return _pixels(values + 255 - 2 * values.mean(3, keepdims=True))


def same_spectrum(images: Pixels, rng: np.random.Generator) -> Pixels:
    """Return noise with the frequencies and colours of each image."""
    size = images.shape[1:3]
    turned = np.exp(1j * np.angle(np.fft.rfft2(rng.random((len(images), *size)))))
    turned[:, 0, 0] = 1  # the mean stays
    spectrum = np.fft.rfft2(images, axes=(1, 2)) * turned[..., None]
    return _pixels(np.fft.irfft2(spectrum, size, axes=(1, 2)))


def gradients(shape: tuple[int, ...], rng: np.random.Generator) -> Pixels:
    """Return pictures (N, size, size, channels) of four colours at the corners, blended between them."""
    count, size, _, channels = shape
    share = np.linspace(0, 1, size)
    blend = np.stack([1 - share, share], 1)  # (size, 2)
    corners = rng.integers(0, 256, (count, 2, 2, channels))
    return _pixels(np.einsum("ia,jb,nabc->nijc", blend, blend, corners))


def _pixels(values: NDArray[np.floating[Any]]) -> Pixels:
    return values.clip(0, 255).round().astype(np.uint8)


def shuffled(images: Pixels, parts: int, rng: np.random.Generator) -> Pixels:
    """Return images whose parts x parts squares are in another order."""
    side = images.shape[1] // parts
    spoilt = images.copy()
    for image, old in zip(spoilt, images, strict=True):
        for to, start in enumerate(rng.permutation(parts * parts)):
            (row, column), (top, left) = divmod(to, parts), divmod(int(start), parts)
            image[row * side : (row + 1) * side, column * side : (column + 1) * side] = old[
                top * side : (top + 1) * side, left * side : (left + 1) * side
            ]
    return spoilt


def magnified(images: Pixels, times: int, rng: np.random.Generator) -> Pixels:
    """Return of each image a small square, its pixels repeated to the whole size."""
    size = images.shape[1]
    at = np.arange(size) // times
    corners = rng.integers(0, size - int(at[-1]), (len(images), 2))
    return np.stack(
        [image[at[:, None] + top, at[None] + left] for image, (top, left) in zip(images, corners, strict=True)]
    )


def fit_none(known: Tensor, others: Tensor, known_logits: Tensor, other_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return (weight (F,), bias) of the row of none, given features (N, F) and what the classes' logits add up to.

    It is logistic regression of `others` against `known`: the logit is the row's less the logsumexp of the others'.
    """
    mean, std = known.mean(0), known.std(0).clamp_min(1e-6)
    known, others = (known - mean) / std, (others - mean) / std
    weight = known.new_zeros(known.shape[1]).requires_grad_()
    bias = known.new_zeros(()).requires_grad_()
    solver = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> float:
        solver.zero_grad()
        answered = F.softplus(known @ weight + bias - known_logits).mean()
        refused = F.softplus(other_logits - others @ weight - bias).mean()
        total = answered + refused + _PENALTY / 2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total.item()

    solver.step(loss)  # type: ignore[no-untyped-call]
    scaled = weight.detach() / std
    return scaled, bias.detach() - scaled @ mean


@torch.no_grad()
def picture_features(classifier: TorchClassifier, images: Pixels) -> Tensor:
    """Return what the classifier layer takes (N, F) of pictures (N, size, size, channels)."""
    spec, model = classifier.card.preprocess, classifier.model.eval()
    kept = []
    for chunk in torch.split(torch.from_numpy(np.ascontiguousarray(images)), _CHUNK):
        kept.append(features_of(model, normalize(chunk.to(classifier.device), spec.mean, spec.std)))
    return torch.cat(kept)
