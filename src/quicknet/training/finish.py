"""What closes a run: calibration, the one look at the test set, the report."""

from __future__ import annotations

from quicknet.inference import metrics
from quicknet.inference.evaluate import Evaluation, evaluate_logits
from quicknet.inference.unknown import choose_unknown
from quicknet.report.data import ReportData, worst_mistakes
from quicknet.report.html import write_report
from quicknet.training.checkpoint import TorchClassifier
from quicknet.training.none_class import add_none_class
from quicknet.training.run import Run


def finish(run: Run) -> Evaluation:
    """Fit temperature and threshold on `val`, measure `test` (`val` where there is none), put the figures
    into the card and write `report.html`; return what was measured.

    With `train.none_class` the classifier learns first, from `train`, what shows none of the classes.
    The test split is read here and nowhere else: once per finished run.
    """
    classifier = TorchClassifier(run.folder.path, str(run.device))
    none_class = run.recipe.train.none_class
    known = classifier.card.unknown
    if none_class and not (known is not None and known.none_class):  # a finished run has it already
        add_none_class(run, classifier)
    val = run.data.split("val")
    val_logits = classifier.logits(val.images)
    temperature = metrics.fit_temperature(val_logits, val.labels)
    unknown = choose_unknown(val_logits, temperature, "val", none_class)
    classifier.card = classifier.card.replace(temperature=temperature, unknown=unknown)
    name = "test" if "test" in run.data.splits else "val"
    evaluation, logits = evaluate_logits(classifier, run.data, name)
    kept = tuple(
        metric.replace(file_sha256=evaluation.file_sha256) for metric in classifier.card.metrics if metric.split != name
    )
    classifier.card = classifier.card.replace(metrics=(*kept, *evaluation.metrics()))
    run.folder.update_card(classifier.card)
    split = run.data.split(name)
    report = ReportData(
        title=f"{run.recipe.model.name} on {run.data.name}",
        card=classifier.card,
        evaluation=evaluation,
        epochs=run.state.history,
        mistakes=worst_mistakes(split.images, split.labels, logits, classifier.card, split.paths),
        notes=(*run.data.notes, *_head_note(run)),
    )
    write_report(run.folder.path / "report.html", report)
    return evaluation


def _head_note(run: Run) -> list[str]:
    """Return what the report says of the classifier that was fitted first, where one was."""
    if run.head is None:
        return []
    return [
        f"The classifier that was fitted first, to features of the weights that training started from, was right on "
        f"{run.head.describe()}, images that it had not seen. So far (±, a standard deviation) figures of few images "
        "differ by chance."
    ]
