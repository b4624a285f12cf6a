"""Networks trained alike: all by one recipe, for the same epochs or for the same minutes.

    python -m quicknet.study.alike [NETWORK...] --minutes 30 | --epochs 8 [--least 60] [--data cifar10] [--recipe fast]
                                [--set KEY=VALUE]... [--seeds 0] [--runs runs] [--record] [--json]

By default all networks of the registry that take CIFAR's images. First each one's training is timed, for some seconds;
what trains at fewer than --least images/s is not trained, and the record says so. Minutes become epochs by that
rate, whole ones and one at least, so that some networks take shorter and some longer. The rates are kept in
RUNS/NAME/rates.json (NAME is alike-30-minutes or alike-8-epochs, with another recipe alike-30-minutes-teacher): the
same command goes on where it was interrupted, with the same epochs. `test` is read once per finished run. --record
writes results/NNNN-NAME, from which `quicknet compare` draws its picture. --set may change the training only: what
changes the networks or the size of the images would stand in the comparison as the plain ones'.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from quicknet.core.card import Card
from quicknet.core.errors import ConfigError, ToolError, program
from quicknet.core.files import read_json, write_atomically
from quicknet.core.settings import parse_change
from quicknet.models.registry import base_config, list_models
from quicknet.study import ablate
from quicknet.study.reached import FOLDED, USUAL_RECIPE, takes_cifar
from quicknet.study.records import ROOT, one_teacher, read_records, write_record
from quicknet.training import describe, load_recipe, start
from quicknet.training.loop import step

_SECONDS = 6.0  # that a network's training is timed
_OF_NETWORKS = ("model", "data", "data.size", "data.mode")  # settings that make other networks


def default_networks() -> list[str]:
    """Return the networks for CIFAR's images, each once."""
    return [name for name in list_models() if takes_cifar(base_config(name)) and name not in FOLDED.values()]


def training_rate(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the images a second of a network's training and how many images an epoch has, or why it has no rate."""
    recipe = load_recipe(options.recipe, [*changes_of(name, 1, options), f"data.source={json.dumps(options.data)}"])
    with tempfile.TemporaryDirectory(prefix="quicknet-") as folder:
        try:
            run = start(recipe, Path(folder) / "run", torch.device("cpu"))
        except ConfigError as error:
            return {"rate": 0.0, "images": 0, "why": str(error)}
        describe(run)  # as the command does: it loads the kernels, and with them how memory is kept
        run.model.train()
        seconds: list[float] = []
        for indices in itertools.islice(run.remaining_batches(), 100):
            started = time.perf_counter()
            step(run, indices)
            seconds.append((time.perf_counter() - started) / len(indices))
            spent = sum(seconds) * len(indices)
            if spent > 4 * _SECONDS or (spent > _SECONDS and len(seconds) > 3):
                break
    rate = 1 / statistics.median(seconds[1:] or seconds)  # the first step also compiles and allocates
    return {"rate": rate, "images": run.train_size, "why": ""}


def left_out(row: dict[str, Any], least: float) -> str:
    """Return why a network is not trained; an empty text where it is."""
    slow = f"{row['rate']:.0f} images/s, fewer than {least:g}" if row["rate"] < least else ""
    return row["why"] or slow


def changes_of(name: str, epochs: int, options: argparse.Namespace) -> list[str]:
    """Return what a network's run changes in the recipe."""
    return [*options.set, f"model.name={name}", f"train.epochs={epochs}"]


def rates(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return what `training_rate` gives for each network: timed now, or kept by an earlier call.

    Raises ToolError where an earlier call timed another recipe or other data.
    """
    path = options.runs / options.name / "rates.json"
    asked = {"recipe": options.recipe, "data": options.data, "set": options.set}
    kept = read_json(path, "the rates") if path.exists() else {"asked": asked, "networks": {}}
    if not isinstance(kept, dict) or kept.get("asked") != asked:
        raise ToolError(f"{path} holds rates of another recipe or other data; name another folder with --runs")
    known: dict[str, dict[str, Any]] = kept["networks"]
    for name in options.networks:
        if name in known:
            continue
        known[name] = training_rate(name, options)
        said = left_out(known[name], options.least) or f"{known[name]['rate']:,.0f} images/s"
        print(f"{name:20} {said}", file=sys.stderr)
        write_atomically(path, json.dumps(kept, indent=1) + "\n")
    return known


def epochs_for(minutes: float, rate: float, images: float) -> int:
    """Return the epochs that take about so many minutes, one at least.

    >>> epochs_for(30, 600, 45000), epochs_for(1, 60, 45000)
    (24, 1)
    """
    return max(1, round(60 * minutes * rate / images))


def carry_out(options: argparse.Namespace) -> dict[str, Any]:
    """Time, choose, train; return the record's fields."""
    known = rates(options)
    reasons = {name: left_out(known[name], options.least) for name in options.networks}
    chosen = sorted((name for name, why in reasons.items() if not why), key=lambda name: -known[name]["rate"])
    if not chosen:
        why = next(iter(reasons.values()), "none was named")
        raise ConfigError(f"no network trains at {options.least:g} images/s here ({why}); lower --least")
    rows, trained = [], list[Card]()
    for number, name in enumerate(chosen):
        epochs = options.epochs or epochs_for(options.minutes, known[name]["rate"], known[name]["images"])
        changes = changes_of(name, epochs, options)
        cards = [ablate.train(ablate.run_folder(options, name, seed), options, changes, seed) for seed in options.seeds]
        rows.append(row_of(name, epochs, cards, options))
        trained += cards
        print(f"{shown(rows[-1])}, {len(chosen) - 1 - number} networks left", file=sys.stderr)
    metric = next(m for m in cards[0].metrics if (m.name, m.split) == ("top1", "test"))
    return {
        "kind": "alike",
        "data": options.data,
        "recipe": options.recipe,
        "changes": options.set,
        "same": {"epochs": options.epochs} if options.epochs else {"minutes": options.minutes},
        "protocol": metric.protocol,
        "split": "test",
        "n": metric.n,
        "seeds": options.seeds,
        "teacher_sha256": one_teacher(trained),
        "networks": rows,
        "not_trained": {name: why for name, why in reasons.items() if why},
    }


def row_of(name: str, epochs: int, cards: list[Card], options: argparse.Namespace) -> dict[str, Any]:
    """Return a network's row of the record."""
    assert cards[0].costs is not None  # every run of this version counts
    seconds = [ablate.training_seconds(ablate.run_folder(options, name, seed)) for seed in options.seeds]
    return {
        "network": name,
        "parameters": cards[0].costs.parameters,
        "epochs": epochs,
        "seconds": seconds,
        **{split: [ablate.top1(card, split) for card in cards] for split in ("val", "test")},
    }


def shown(row: dict[str, Any]) -> str:
    """Return one line of the table."""
    mean, sd = 100 * statistics.mean(row["test"]), ablate.spread(row["test"])
    minutes = statistics.mean(row["seconds"]) / 60
    spread = f" ± {100 * sd:.2f}" if sd is not None and not math.isnan(sd) else ""
    return f"{row['network']:20} test {mean:.2f}{spread}%  {row['epochs']} epochs, {minutes:.1f} min"


def parse() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK")
    same = parser.add_mutually_exclusive_group(required=True)
    same.add_argument("--minutes", type=float, help="train each network for about so long")
    same.add_argument("--epochs", type=int, help="train each network for so many epochs")
    parser.add_argument("--least", type=float, default=60.0, help="images/s below which a network is not trained")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--recipe", default=USUAL_RECIPE)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.networks = options.networks or default_networks()
    options.jobs = 1
    amount = options.minutes if options.epochs is None else options.epochs
    if amount <= 0 or len(set(options.seeds)) != len(options.seeds):
        parser.error("--epochs and --minutes must be above 0, and seeds differ")
    if len(set(options.networks)) != len(options.networks):
        parser.error("a network is named twice; name each once")
    for change in options.set:
        key, _ = parse_change(change)
        if key in _OF_NETWORKS or key.startswith("model."):
            parser.error(f"--set {change} makes other networks; name networks of the registry, and change the training")
    options.name = name_of(options)
    return options


def name_of(options: argparse.Namespace) -> str:
    """Return the name of the record and of the runs' folder: the amount, and the recipe where it is not the usual one.

    >>> name_of(argparse.Namespace(minutes=30.0, epochs=None, recipe="teacher"))
    'alike-30-minutes-teacher'
    """
    amount = f"{options.minutes:g}-minutes" if options.epochs is None else f"{options.epochs}-epochs"
    recipe = "" if options.recipe == USUAL_RECIPE else re.sub(r"[^a-z0-9_-]+", "-", f"-{options.recipe.lower()}")
    return f"alike-{amount}{recipe}"


def require_same(results: Path, options: argparse.Namespace) -> None:
    """Raise ToolError where a record of that name has other data, another recipe or other changes of it."""
    present = read_records(results).get(options.name)
    asked = {"data": options.data, "recipe": options.recipe, "changes": options.set}
    if present is not None and {key: present.get(key) for key in asked} != asked:
        raise ToolError(
            f"the record {options.name} has other data, another recipe or other changes of it; "
            f"give its folder in {results} another name, or leave --record out"
        )


def command_of(options: argparse.Namespace) -> str:
    """Return the command that measures the same again, wherever its runs lie."""
    same = ["--epochs", str(options.epochs)] if options.epochs else ["--minutes", f"{options.minutes:g}"]
    words = [*options.networks, *same, "--least", f"{options.least:g}", "--data", options.data]
    words += ["--recipe", options.recipe, *(word for change in options.set for word in ("--set", change))]
    return shlex.join(["python", "-m", "quicknet.study.alike", *words, "--seeds", *map(str, options.seeds)])


@program
def main() -> None:
    """Carry out the command."""
    options = parse()
    for name in options.networks:
        base_config(name)
    if options.record:
        require_same(ROOT / "results", options)
    fields = carry_out(options)
    if options.json:
        print(json.dumps(fields, indent=1))
    else:
        for row in fields["networks"]:
            print(shown(row))
        for name, why in fields["not_trained"].items():
            print(f"{name:20} not trained: {why}")
    if options.record:
        print(write_record(ROOT / "results", options.name, command_of(options), fields), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
