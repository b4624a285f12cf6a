"""`quicknet evaluate`: what a model achieves on a data set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quicknet.cli.opened import note_runtime, runtime_options
from quicknet.cli.text import HTML, make_table, require_ending, shown
from quicknet.cli.verb import BAD_INPUT, Argument, Verb, json_options
from quicknet.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from quicknet.core.card import Card, UnknownRecord
    from quicknet.data import Dataset
    from quicknet.data.recorded import Chosen
    from quicknet.inference.classifier import Classifier
    from quicknet.inference.evaluate import Evaluation


_NOTES = """
The output is the accuracy with its 95% interval, one row per class, which classes are confused, and
how far the probabilities can be trusted (calibration).

Without DATA, the model is measured on the data that it was trained on, split in the same way.
"""


@click.command(
    cls=Verb,
    short_help="Measure a model on a data set.",
    help="Measure how accurate a model is on a data set.",
    examples=("quicknet evaluate runs/photos", "quicknet evaluate quicknet_s.cifar10 cifar10"),
    notes=_NOTES,
    exit_codes={0: "The model was measured.", 2: BAD_INPUT, 130: "The command was interrupted."},
)
@click.argument("model", cls=Argument, help="A run folder, an exported file, or the name of shipped weights.")
@click.argument(
    "data",
    cls=Argument,
    required=False,
    help="What to measure on: cifar10, cifar100, or a folder that holds one folder of pictures per class.",
)
@click.option(
    "--split",
    metavar="NAME",
    help="Measure on train, val, test or all.  "
    "[default: test, or val without one; all of a folder that the model was not trained on]",
)
@click.option(
    "--as-is", is_flag=True, help="Take today's splits of data that has changed, not those the model was trained with."
)
@click.option(
    "--protocol",
    type=click.Choice(["standard", "paper"]),
    help="Split CIFAR in this way.  [default: as for the model's training]",
)
@click.option(
    "--calibrate",
    is_flag=True,
    help="Fit the temperature and the threshold of --unknown on val first, and save them in the model's card.",
)
@click.option(
    "--others",
    metavar="FOLDER",
    help="Say how many of these pictures, which show none of the classes, predict --unknown refuses.",
)
@runtime_options
@json_options("Print one JSON object.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), help="Write a self-contained HTML page too.")
@click.option("--quiet", is_flag=True, help="Print no progress and no notes.")
def evaluate(
    model: str,
    data: str | None,
    split: str | None,
    protocol: str | None,
    calibrate: bool,
    **options: Any,
) -> int:
    """Carry out `quicknet evaluate`; returns the exit code."""
    from quicknet.core.progress import progress
    from quicknet.inference.artifact import load
    from quicknet.inference.evaluate import calibrate as fit
    from quicknet.inference.evaluate import evaluate_logits
    from quicknet.inference.unknown import refused_in

    html_path, quiet = options["html_path"], options["quiet"]
    if html_path is not None:
        require_ending(html_path, "--html", HTML, "a page")
    runtime = (options["runtime"], options["threads"], quiet)
    say = (lambda text: None) if quiet else _note
    classifier = load(model, *runtime)
    if not quiet:
        note_runtime(classifier, options["runtime"])
    loaded = _load(classifier, data, protocol, quiet)
    if calibrate and split is None and "test" in loaded.splits:
        split = "test"  # all of a folder would hold what the temperature is fitted on
    chosen = _choose(classifier, data, loaded, split, options["as_is"])
    dataset, split = chosen.data, chosen.split
    for note in dataset.notes:
        say(note)
    if calibrate:
        say(f"temperature {fit(classifier, dataset).temperature:.4f}, fitted on val, is in the card now")
        classifier = load(model, *runtime)
    with progress(f"evaluate {split}", len(dataset.split(split)), "images", quiet) as advance:
        evaluation, logits = evaluate_logits(classifier, dataset, split, advance)
    if options["others"] is not None:
        unknown = refused_in(classifier, options["others"], keep=calibrate)
        evaluation = evaluation.replace(unknown=unknown.to_dict())
    if html_path is not None:
        _write_html(html_path, classifier, dataset, evaluation, logits)
        say(f"the report is {html_path}")
    if options["as_json"]:
        click.echo(json.dumps(evaluation.to_dict()))
    else:
        _print(evaluation)
    return 0


def _note(text: str) -> None:
    click.echo(f"quicknet: note: {shown(text)}", err=True)


def _choose(classifier: Classifier, named: str | None, data: Dataset, split: str | None, as_is: bool) -> Chosen:
    """Return the split to measure, and its data with notes. Raises DataError where the wrong folder lies at a name."""
    from quicknet.data.recorded import choose, recorded_of

    chosen = choose(data, classifier.card, recorded_of(classifier.source, classifier.card), split, as_is)
    if chosen.other and named is None:
        raise DataError(
            f"{data.name} holds no picture that the model was trained on, though the run's recipe names it; "
            "name DATA: the folder where its data lies now, or this one to measure it all the same"
        )
    return replace(chosen, data=replace(chosen.data, notes=(*data.notes, *chosen.notes)))


def _load(classifier: Classifier, data: str | None, protocol: str | None, quiet: bool) -> Dataset:
    """Return the data, split as it was for training: else `val` and `paper`'s `test` would hold
    images that the model was trained on.
    """
    from quicknet.data import load_data
    from quicknet.data.load import require_models_source
    from quicknet.data.request import request_for
    from quicknet.inference.receipt import SPLIT_SETTINGS, split_settings

    card, trained = classifier.card, _training_data(classifier.source)
    source = data or trained.get("source") or (card.data.name if card.data else None)
    if not source:
        raise ConfigError("the model does not say what it was trained on; name DATA: cifar10, cifar100 or a folder")
    if data is None:
        require_models_source(source, classifier.source)
    changes = split_settings(card) | {key: trained[key] for key in SPLIT_SETTINGS if key in trained}
    changes |= {"quiet": quiet} | ({"protocol": protocol} if protocol else {})
    dataset = load_data(source, request_for(card, changes))
    if card.data and dataset.sha256 == card.data.sha256 and dataset.protocol != card.data.protocol:
        raise DataError(
            f"the model was trained on this data by protocol {card.data.protocol}; by {dataset.protocol} it "
            f"would be tested on images of its training: use --protocol {card.data.protocol}"
        )
    return dataset


def _training_data(source: Path) -> dict[str, Any]:
    """Return the `data` table of a run folder's recipe; empty for other models."""
    path = source / "recipe.toml"
    if not path.is_file():
        return {}
    from quicknet.training.recipe import load_recipe  # torch is there: a run folder was opened

    return load_recipe(str(path)).data.to_dict()


def _write_html(
    path: Path, classifier: Classifier, dataset: Dataset, evaluation: Evaluation, logits: NDArray[np.float32]
) -> None:
    from quicknet.report.data import ReportData, read_log, worst_mistakes
    from quicknet.report.html import write_report

    card: Card = classifier.card
    part = dataset.split(evaluation.split)
    report = ReportData(
        title=f"{card.model.name} on {dataset.name}",
        card=card,
        evaluation=evaluation,
        epochs=read_log(classifier.source / "log.jsonl"),
        mistakes=worst_mistakes(part.images, part.labels, logits, card, part.paths),
        notes=dataset.notes,
    )
    write_report(path, report)


# --- the table ---------------------------------------------------------------------------

_MATRIX_CLASSES = 12  # as many columns as 80 characters take
_CLASS_ROWS = 40


def _print(evaluation: Evaluation) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    console.print(
        f"top-1 {100 * evaluation.top1:.2f}% "
        f"({100 * evaluation.top1_low:.2f} to {100 * evaluation.top1_high:.2f}, 95% interval), "
        f"n = {evaluation.n:,}, {shown(evaluation.data)} {evaluation.split}, protocol {evaluation.protocol}",
        soft_wrap=True,
    )
    imbalance = evaluation.imbalance()
    if imbalance is not None:
        console.print(shown(imbalance), soft_wrap=True)
    if evaluation.top5 is not None:
        console.print(f"top-5 {100 * evaluation.top5:.2f}%")
    calibration = f"calibration: ECE {100 * evaluation.ece:.2f}%, NLL {evaluation.nll:.4f}"
    if evaluation.ece_calibrated is not None and evaluation.nll_calibrated is not None:
        after = f"{100 * evaluation.ece_calibrated:.2f}%, {evaluation.nll_calibrated:.4f}"
        calibration += f" as trained; {after} at the fitted temperature, {evaluation.temperature:.3f}"
    else:
        calibration += "; no temperature is fitted"
    console.print(calibration, soft_wrap=True)
    if evaluation.unknown is not None:
        console.print(shown(unknown_line(evaluation.unknown)), soft_wrap=True)
    console.print(f"{evaluation.seconds:.1f} s, {evaluation.images_per_second:,.0f} images/s")
    console.print(_class_table(evaluation))
    if len(evaluation.classes) <= _MATRIX_CLASSES:
        console.print(_matrix(evaluation))


def unknown_line(unknown: UnknownRecord) -> str:
    """Return what --unknown does: the share that is answered and, where measured, that of others refused."""
    text = (
        f"unknown below {100 * unknown.min_confidence:.1f}%: {100 * unknown.kept:.1f}% of {unknown.n:,} images of "
        f"{unknown.split} are answered"
    )
    if unknown.refused is None:
        return text
    return f"{text}, {100 * unknown.refused:.1f}% of {unknown.others_n:,} pictures in {unknown.others} are not"


def _class_table(evaluation: Evaluation) -> Any:
    from rich.text import Text

    rows = sorted(enumerate(evaluation.classes), key=lambda entry: 2.0 if entry[1].recall is None else entry[1].recall)
    title = "classes, worst first" + (f" ({_CLASS_ROWS} of {len(rows)})" if len(rows) > _CLASS_ROWS else "")
    table = make_table(title, ("class",), ("images", "recall", "precision"))
    table.add_column("mostly taken for", overflow="fold")
    for index, row in rows[:_CLASS_ROWS]:
        counts = [0 if other == index else count for other, count in enumerate(evaluation.confusion[index])]
        worst = max(range(len(counts)), key=counts.__getitem__)
        taken = f"{evaluation.classes[worst].name} ({counts[worst]})" if counts[worst] else ""
        shares = ("–" if share is None else f"{100 * share:.2f}%" for share in (row.recall, row.precision))
        table.add_row(Text(shown(row.name)), f"{row.n:,}", *shares, Text(shown(taken)))
    return table


def _matrix(evaluation: Evaluation) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="rows true, columns predicted", box=None, title_justify="left", pad_edge=False)
    table.add_column("", overflow="ellipsis", max_width=12, no_wrap=True)
    for row in evaluation.classes:
        table.add_column(Text(shown(row.name)), justify="right", no_wrap=True, overflow="ellipsis")
    for row, counts in zip(evaluation.classes, evaluation.confusion, strict=True):
        table.add_row(Text(shown(row.name)), *(str(count) if count else "·" for count in counts))
    return table
