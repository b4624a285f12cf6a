"""What a change of the recipe gives: the same training with and without it, over several seeds.

    python -m quicknet.study.ablate NAME [--data cifar10] [--recipe fast] [--set KEY=VALUE]...
                                --variant LABEL [KEY=VALUE...] --variant LABEL [KEY=VALUE...]...
                                [--seeds 0 1 2] [--jobs 1] [--runs runs] [--record] [--json]

Each variant is trained once per seed; the first is what the others are compared with, seed by
seed: a seed decides the first weights, the order of the images and their augmentation, so that
what it adds falls out of the difference. Given are mean and standard deviation over seeds and
the mean difference with its standard error, on `val` and on `test`; `test` is read once per
finished run, and choices are made on `val`. Runs lie in RUNS/NAME/LABEL-SEED: what is finished
is not repeated, what was interrupted goes on. --jobs 2 trains two at a time on half the cores
each. --record writes results/NNNN-NAME.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from quicknet.core.card import Card, read_card
from quicknet.core.errors import ToolError, program
from quicknet.core.machine import usable_cores
from quicknet.data.cifar import CIFARS
from quicknet.study.records import ROOT, one_teacher, write_record
from quicknet.training.recipe import Recipe, load_recipe

# of [data], what a run writes down only where it was asked for
_DATA = ("size", "mode", "resize")


def top1(card: Card, split: str) -> float | None:
    """Return a card's accuracy on a split, None where it was not measured."""
    present = [metric.value for metric in card.metrics if (metric.name, metric.split) == ("top1", split)]
    return present[0] if present else None


def train(folder: Path, options: argparse.Namespace, changes: Sequence[str], seed: int) -> Card:
    """Train one run to its end, or find it finished; return its card.

    Raises ToolError where the folder holds another run, or training fails.
    """
    if not (folder / "last.json").exists():
        settings = [word for change in changes for word in ("--set", change)]
        words = [options.data, "--recipe", options.recipe, *settings, "--seed", str(seed), "--run", str(folder)]
    else:
        expected = load_recipe(options.recipe, [*changes, f"train.seed={seed}"])
        if not _is_alike(expected, load_recipe(str(folder / "recipe.toml")), options.data):
            raise ToolError(f"{folder} holds a run with other settings; name another folder with --runs")
        card = folder / "card.json"
        if card.exists() and top1(read_card(card), "test") is not None:
            return read_card(card)
        words = ["--resume", str(folder)]
    environment = dict(os.environ)
    if options.jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, usable_cores() // options.jobs))
    command = [sys.executable, "-m", "quicknet", "train", *words, "--quiet"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ToolError(f"training {folder} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return read_card(folder / "card.json")


def _is_alike(expected: Recipe, present: Recipe, source: str) -> bool:
    """Return whether a run's resolved recipe is what is asked for; views have become epochs in it."""
    if _place(present.data.source) != _place(source):
        return False
    train = expected.train.to_dict()
    if expected.train.views is not None:
        train |= {"views": None, "epochs": present.train.epochs}
    unasked = {key: getattr(present.data, key) for key in _DATA if getattr(expected.data, key) is None}
    data = {**expected.data.to_dict(), **unasked, "source": present.data.source}
    return expected.replace(name=present.name, train=train, data=data) == present


def _place(source: str) -> str:
    """Return a data set's name, or where a folder lies."""
    return source if source in CIFARS else str(Path(source).resolve())


def run_folder(options: argparse.Namespace, label: str, seed: int) -> Path:
    """Return where a run lies."""
    runs: Path = options.runs
    return runs / str(options.name) / f"{label}-{seed}"


def training_seconds(folder: Path) -> float:
    """Return how long a run's epochs took."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    seconds: float = sum(json.loads(line)["seconds"] for line in lines)
    return round(seconds, 1)


def carry_out(options: argparse.Namespace) -> dict[str, list[Card]]:
    """Train every variant with every seed, all variants of a seed before the next; return their cards."""
    jobs = [(seed, label, changes) for seed in options.seeds for label, *changes in options.variant]
    cards: dict[str, list[Card]] = {label: [] for label, *_ in options.variant}
    began = time.monotonic()

    def one(job: tuple[int, str, list[str]]) -> Card:
        seed, label, changes = job
        return train(run_folder(options, label, seed), options, [*options.set, *changes], seed)

    with ThreadPoolExecutor(options.jobs) as pool:
        for number, ((seed, label, _), card) in enumerate(zip(jobs, pool.map(one, jobs), strict=True), 1):
            cards[label].append(card)
            left = (time.monotonic() - began) / number * (len(jobs) - number)
            figures = "  ".join(f"{split} {100 * (top1(card, split) or 0):.2f}%" for split in measured([card]))
            print(f"{label:16} seed {seed}  {figures}  {number}/{len(jobs)}, {left / 60:.0f} min left", file=sys.stderr)
    return cards


def spread(values: Sequence[float]) -> float | None:
    """Return the standard deviation; one value has none."""
    return statistics.stdev(values) if len(values) > 1 else None


def measured(cards: Sequence[Card]) -> list[str]:
    """Return the splits on which all were measured."""
    return [split for split in ("val", "test") if all(top1(card, split) is not None for card in cards)]


def compared(cards: dict[str, list[Card]], split: str) -> dict[str, dict[str, Any]]:
    """Return for each variant its accuracies by seed, and the difference from the first variant."""
    values = {label: [top1(card, split) or 0.0 for card in present] for label, present in cards.items()}
    first = next(iter(values.values()))
    rows = {}
    for label, mine in values.items():
        differences = [a - b for a, b in zip(mine, first, strict=True)]
        deviation = spread(differences)
        rows[label] = {
            "top1": mine,
            "mean": statistics.mean(mine),
            "sd": spread(mine),
            "difference": statistics.mean(differences),
            "standard_error": None if deviation is None else deviation / math.sqrt(len(differences)),
        }
    return rows


def show(label: str, split: str, row: dict[str, Any]) -> str:
    """Return one line of the table."""
    sd, error = (math.nan if row[key] is None else 100 * row[key] for key in ("sd", "standard_error"))
    return (
        f"{label:16} {split:4}  {100 * row['mean']:.2f} ± {sd:.2f}%  "
        f"difference {100 * row['difference']:+.2f} points, standard error {error:.2f}"
    )


def parse() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--variant", action="append", nargs="+", required=True, metavar=("LABEL", "KEY=VALUE"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    labels = [label for label, *_ in options.variant]
    if len(set(labels)) != len(labels) or len(set(options.seeds)) != len(options.seeds) or options.jobs < 1:
        parser.error("labels and seeds must differ, --jobs be at least 1")
    return options


def record_fields(options: argparse.Namespace, cards: dict[str, list[Card]]) -> dict[str, Any]:
    """Return the record's fields, but for those that every record has."""
    a_card = next(iter(cards.values()))[0]
    top1s = [metric for metric in a_card.metrics if metric.name == "top1"]
    return {
        "kind": "ablation",
        "network": a_card.model.name,
        "recipe": options.recipe,
        "data": options.data,
        "protocol": top1s[0].protocol,
        "epochs": load_recipe(options.recipe, options.set).train.epochs,
        "n": {metric.split: metric.n for metric in top1s},
        "seeds": options.seeds,
        "changes": {label: changes for label, *changes in options.variant},
        "teacher_sha256": {label: one_teacher(some) for label, some in cards.items()},
        "training_seconds": {
            label: [training_seconds(run_folder(options, label, seed)) for seed in options.seeds] for label in cards
        },
        **{split: compared(cards, split) for split in measured([card for some in cards.values() for card in some])},
    }


@program
def main() -> None:
    """Carry out the command."""
    options = parse()
    fields = record_fields(options, carry_out(options))
    for split in (split for split in ("val", "test") if split in fields):
        for label, row in fields[split].items():
            print(show(label, split, row), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps(fields, indent=1))
    if options.record:
        words = [
            "python",
            "-m",
            "quicknet.study.ablate",
            *(w for w in sys.argv[1:] if w not in ("--record", "--json")),
        ]
        print(write_record(ROOT / "results", options.name, shlex.join(words), fields))


if __name__ == "__main__":
    sys.exit(main())
