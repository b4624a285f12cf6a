"""A first answer from a parent's features: a linear classifier fitted to them, before anything else is trained.

The parent's features of some views of each training image are computed once and kept; the fit is
logistic regression (L-BFGS). Its penalty is chosen by cross-validation over the images, whose
spread says how far accuracy on so few images can be trusted.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from quicknet.data.augment import normalize
from quicknet.models.network import Network
from quicknet.training.run import Run
from quicknet.training.state import HeadFit
from quicknet.training.threads import one_thread

_FORWARD_PASSES = 3000  # 2 to 6 s of quicknet_s at 64 pixels on two cores
_MOST_VIEWS = 6
_CHUNK = 128
_FOLDS = 5
_PENALTIES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_ITERATIONS = 60

Linear = tuple[Tensor, Tensor]


def fit_head(run: Run) -> HeadFit:
    """Put a classifier fitted to the features of the training images into the run's networks."""
    views = keep_features(run, max(1, min(_MOST_VIEWS, _FORWARD_PASSES // run.train_size)))
    classes, seed = run.model.config.num_classes, run.recipe.train.seed
    (weight, bias), fit = fit_linear(views, run.augmenter.labels, classes, run.class_weights, seed)
    with torch.no_grad():
        for model in [run.model] if run.ema is None else [run.model, run.ema.model]:
            model.classifier.weight.copy_(weight)
            model.classifier.bias.copy_(bias)
    return fit


def fit_linear(
    views: Tensor, labels: Tensor, classes: int, weights: Tensor | None = None, seed: int = 0
) -> tuple[Linear, HeadFit]:
    """Return the classifier of features (views, N, F) of images with labels (N,), and how it does on images left out.

    `weights` (classes,) is how much an image of each class counts.
    """
    mean, std = views.mean((0, 1)), views.std((0, 1)).clamp_min(1e-6)
    views = (views - mean) / std
    with one_thread():  # 500 images are too few products for more
        penalty, fit = _choose(views[0], labels, classes, weights, seed)
    repeated = labels.repeat(len(views))
    weight, bias = logistic_regression(views.flatten(0, 1), repeated, penalty, weights, _zeros(views, classes))
    weight = weight / std
    return (weight, bias - weight @ mean), fit


@torch.no_grad()
def keep_features(run: Run, views: int) -> Tensor:
    """Return the features (views, N, features) of the training images: as they are, then augmented."""
    run.model.eval()
    kept = torch.empty(views, run.train_size, run.model.num_features, device=run.device)
    spec = run.data.spec
    for rows in torch.split(torch.arange(run.train_size), _CHUNK):
        pixels = run.augmenter.images[rows.to(run.augmenter.images.device)].to(run.device)
        kept[0, rows] = features_of(run.model, normalize(pixels, spec.mean, spec.std))
        for view in range(1, views):
            kept[view, rows] = features_of(run.model, run.augmenter.batch(rows, view).to(run.device).images)
    return kept


def features_of(model: Network, images: Tensor) -> Tensor:
    """Return what the classifier layer takes (N, F) of normalized images (N, C, H, W)."""
    return model.forward_head(model.forward_features(images), pre_logits=True).float()


def _zeros(features: Tensor, classes: int) -> Linear:
    return features.new_zeros(classes, features.shape[-1]), features.new_zeros(classes)


def _choose(features: Tensor, labels: Tensor, classes: int, weights: Tensor | None, seed: int) -> tuple[float, HeadFit]:
    """Return the penalty with the least loss on images (N, F) left out, and how that one did."""
    count = len(labels)
    folds = _folds(labels.cpu().numpy(), min(_FOLDS, count), seed)
    losses, shares = np.zeros(len(_PENALTIES)), np.zeros((len(_PENALTIES), len(folds)))
    for number, left_out in enumerate(folds):
        chosen = torch.from_numpy(left_out).to(labels.device)
        learned, line = (features[~chosen], labels[~chosen]), _zeros(features, classes)
        for row, penalty in enumerate(_PENALTIES):  # from the largest: each fit starts near its end
            line = logistic_regression(*learned, penalty, weights, line)
            logits = F.linear(features[chosen], *line)
            losses[row] += F.cross_entropy(logits, labels[chosen], reduction="sum").item()
            shares[row, number] = (logits.argmax(1) == labels[chosen]).float().mean().item()
    best = int(losses.argmin())
    accuracy, spread = float(shares[best].mean()), float(shares[best].std(ddof=1))
    return _PENALTIES[best], HeadFit(float(losses[best]) / count, accuracy, spread, len(folds))


def _folds(labels: NDArray[np.int64], count: int, seed: int) -> list[NDArray[np.bool_]]:
    """Return which images (N,) each fold leaves out: every image once, every class spread evenly."""
    order = np.lexsort((np.random.default_rng(seed).permutation(len(labels)), labels))
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % count
    return [fold == number for number in range(count)]


def logistic_regression(
    features: Tensor, labels: Tensor, penalty: float, weights: Tensor | None, start: Linear
) -> Linear:
    """Return the (weight (classes, F), bias (classes,)) that minimize mean cross-entropy + penalty/2 |weight|².

    `weights` (classes,) is how much an image of each class counts; the search begins at `start`.
    """
    weight, bias = (tensor.clone().requires_grad_() for tensor in start)
    solver = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> float:
        solver.zero_grad()
        errors = F.cross_entropy(F.linear(features, weight, bias), labels, weights)
        total = errors + penalty / 2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total.item()

    solver.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
