"""Pictures of none of the classes: which score refuses most of them while 95% of a folder's own are answered.

    python benchmarks/bench_unknown.py FOLDER... [--only NAME...] [--others FOLDER...] [--runs DIR] [--record] [--json]

Each FOLDER holds one folder of pictures per class (`python -m quicknet.study.folders` makes those of the
record). On each a network is trained by `quicknet train FOLDER`, in DIR/NAME where --runs names a DIR; one that
lies there is taken. Its val and test pictures are the known ones; 150 pictures of each other FOLDER and of
--others are shown to it. A row is the mean, over the others, of the share below the score that 95% of the known
pictures reach. `mahalanobis` is of the features (shared covariance, shrunk by 0.1), which a `.qnz` does not give.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quicknet import training
from quicknet.core.errors import QuickNetError
from quicknet.image.preprocess import load_image
from quicknet.inference import metrics
from quicknet.inference.predict import walk_images
from quicknet.study.records import ROOT, write_record
from quicknet.training.checkpoint import TorchClassifier
from quicknet.training.none_class import add_none_class, picture_features
from quicknet.training.recipe import default_recipe, load_recipe
from quicknet.training.run import Run

_EACH = 150
_LEARNED = 1000
_KEPT = 0.95
Array = NDArray[np.floating[Any]]
Seen = tuple[Array, Array]  # logits and features
Score = Callable[[Seen], Array]


def trained(folder: Path, place: Path) -> tuple[Run, TorchClassifier]:
    """Return the finished run in `place`, or one that is trained there; with the class of none."""
    cpu = training.choose_device("cpu")
    if (place / "last.json").is_file():
        run = training.resume(place, cpu)
    else:
        values = {"data.source": str(folder)}
        run = training.start(load_recipe(default_recipe(str(folder), None, None), (), values), place, cpu)
    list(training.fit(run))
    classifier = TorchClassifier(place)
    if classifier.card.unknown is None:
        training.finish(run)
        classifier = TorchClassifier(place)
    if classifier.card.unknown is None or not classifier.card.unknown.none_class:
        add_none_class(run, classifier)
    return run, classifier


@torch.no_grad()
def see(classifier: TorchClassifier, images: NDArray[np.uint8]) -> Seen:
    """Return logits and features of images."""
    features = picture_features(classifier, images)
    return classifier.model.classifier(features).numpy(), features.numpy()


def scores(learned: Seen, labels: NDArray[np.int64]) -> dict[str, Score]:
    """Return the scores by name, high for pictures of the classes."""

    def entropy(seen: Seen) -> Array:
        logs = metrics.log_softmax(seen[0])
        return (np.exp(logs) * logs).sum(1)

    def margin(seen: Seen) -> Array:
        ordered = np.sort(seen[0], 1)
        return ordered[:, -1] - ordered[:, -2]

    return {
        "largest probability": lambda seen: metrics.confidences(seen[0], 1.0, none_class=False),
        "entropy": entropy,
        "margin": margin,
        "none": lambda seen: metrics.confidences(seen[0], 1.0, none_class=True),
        "mahalanobis": mahalanobis(learned[1], labels),
    }


def mahalanobis(features: Array, labels: NDArray[np.int64], shrink: float = 0.1) -> Score:
    """Return minus the squared distance to the nearest class (Lee et al. 2018, §2.1)."""
    means = np.stack([features[labels == label].mean(0) for label in np.unique(labels)])
    rest = features - means[labels]
    covariance = rest.T @ rest / len(rest)
    side = len(covariance)
    inverse = np.linalg.inv((1 - shrink) * covariance + shrink * np.trace(covariance) / side * np.eye(side))

    def score(seen: Seen) -> Array:
        differences = seen[1][:, None] - means[None]
        distances: Array = -np.einsum("ncd,de,nce->nc", differences, inverse, differences).min(1)
        return distances

    return score


def load_some(folder: Path, classifier: TorchClassifier) -> NDArray[np.uint8]:
    paths = [path for path in walk_images(str(folder)) if isinstance(path, str)]
    random.Random(0).shuffle(paths)
    return np.stack([load_image(path, classifier.card.preprocess) for path in paths[:_EACH]])


def measure(folder: Path, others: list[Path], runs: Path) -> list[dict[str, Any]]:
    run, classifier = trained(folder, runs / folder.name)
    data = run.data
    rows = np.random.default_rng(0).permutation(run.train_size)[:_LEARNED]
    train = data.split("train")
    learned, labels = see(classifier, np.asarray(train.images)[rows]), np.asarray(train.labels)[rows]
    held_out = [data.split(name) for name in ("val", "test") if name in data.splits]
    known = see(classifier, np.concatenate([np.asarray(part.images) for part in held_out]))
    right = float((known[0].argmax(1) == np.concatenate([part.labels for part in held_out])).mean())
    strange = {other.name: see(classifier, load_some(other, classifier)) for other in others}
    result = []
    for name, score in scores(learned, labels).items():
        threshold = np.quantile(score(known), 1 - _KEPT)
        refused = {other: float((score(seen) < threshold).mean()) for other, seen in strange.items()}
        row = {"folder": folder.name, "epochs": run.recipe.train.epochs, "top1": right, "known": len(known[0])}
        result.append({**row, "score": name, "refused": float(np.mean(list(refused.values()))), "others": refused})
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--others", nargs="*", type=Path, default=[])
    parser.add_argument("--only", nargs="*", help="train on these of the folders; the rest are others")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for folder in options.folders:
            if options.only and folder.name not in options.only:
                continue
            others = [*(other for other in options.folders if other != folder), *options.others]
            for row in measure(folder, others, options.runs or Path(name)):
                rows.append(row)
                shares = " ".join(f"{other} {100 * share:.1f}" for other, share in row["others"].items())
                line = f"{row['folder']:14} {row['score']:20} {100 * row['refused']:5.1f}% refused: {shares}"
                print(json.dumps(row) if options.json else line, flush=True)
    if options.record:
        words = [word for word in sys.argv[1:] if word != "--record"]
        if "--runs" in words:
            del words[words.index("--runs") : words.index("--runs") + 2]
        command = f"python {shlex.join(['benchmarks/bench_unknown.py', *words])}"
        print(write_record(ROOT / "results", "unknown", command, {"kind": "unknown", "rows": rows}))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except QuickNetError as error:
        sys.exit(f"bench_unknown: error: {error}")
