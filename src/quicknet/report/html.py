"""`report.html`: one page without scripts or anything fetched, safe to open and to send.

What comes from outside (class names, paths, notes) is escaped, and a content security policy
allows the page only the style and the pictures inside it.
"""

from __future__ import annotations

import base64
import html
import importlib.resources
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quicknet.core.card import Card
from quicknet.core.files import write_atomically
from quicknet.inference.evaluate import Evaluation
from quicknet.report import svg
from quicknet.report.data import Mistake, ReportData

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_MATRIX_CLASSES = 25  # more do not fit a page as numbers: a heat map and the commonest pairs then
_CLASS_ROWS = 200
_PICTURE_PIXELS = 112  # 36 of them as PNG stay under 2 MB whatever they show
_MOST_MISTAKES = 36


def write_report(path: Path, data: ReportData) -> None:
    """Write the page to `path`, atomically. Raises ToolError where the disk refuses."""
    write_atomically(path, render(data))


def render(data: ReportData) -> str:
    """Return the whole page; the same data gives the same text."""
    return page(data.title, [part for part in _sections(data) if part])


def page(title: str, parts: Sequence[str]) -> str:
    """Return a page of parts that are HTML already; the title is text."""
    sections = "\n".join(parts)
    return document(title, _POLICY, resource("style.css"), f"<main>\n{sections}\n</main>")


def resource(name: str) -> str:
    """Return the text of a file beside this module."""
    return importlib.resources.files("quicknet.report").joinpath(name).read_text("utf-8")


def document(title: str, policy: str, style: str, body: str) -> str:
    """Return a whole page; `body` is HTML, `policy` what a browser lets it load."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _sections(data: ReportData) -> Iterator[str]:
    yield _header(data)
    yield _curves(data.epochs)
    if data.evaluation is not None:
        yield _confusion(data.evaluation)
        yield _mistakes(data.mistakes, data.evaluation)
        yield _classes(data.evaluation)
        yield _calibration(data.evaluation)
    yield facts_section(data.card)


def escaped(value: Any) -> str:
    """Escape for text and attributes; control characters and odd bytes of file names show as codes."""
    plain = str(value).encode("utf-8", "backslashreplace").decode()
    return html.escape("".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in plain))


def percent(value: float | None) -> str:
    """Return a share as a percentage; a dash for None."""
    return "–" if value is None else f"{100 * value:.2f}%"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>\n{body}\n</section>" if body else ""


def _header(data: ReportData) -> str:
    parts = [f"<h1>{escaped(data.title)}</h1>"]
    evaluation = data.evaluation
    if evaluation is not None:
        parts.append(f'<p class="headline">{percent(evaluation.top1)}</p>')
        parts.append(
            f"<p>of {evaluation.n:,} images right: split <b>{escaped(evaluation.split)}</b> of "
            f"<b>{escaped(evaluation.data)}</b>, protocol <b>{escaped(evaluation.protocol)}</b>. "
            f"95% interval {100 * evaluation.top1_low:.2f} to {percent(evaluation.top1_high)}.</p>"
        )
        imbalance = evaluation.imbalance()
        if imbalance is not None:
            parts.append(f"<p><b>{escaped(imbalance[0].upper() + imbalance[1:])}.</b></p>")
        tiles = [
            ("top-5", percent(evaluation.top5) if evaluation.top5 is not None else None),
            ("calibration error (ECE)", percent(_calibrated(evaluation)[1])),
            ("negative log-likelihood", f"{_calibrated(evaluation)[0]:.4f} nats"),
            ("classes", f"{len(evaluation.classes):,}"),
            ("images/s here", f"{evaluation.images_per_second:,.0f}"),
        ]
        shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles if value)
        parts.append(f'<dl class="tiles">{shown}</dl>')
    parts += [f'<p class="soft">{escaped(note)}</p>' for note in data.notes]
    return f"<header>{''.join(parts)}</header>"


def _calibrated(evaluation: Evaluation) -> tuple[float, float]:
    """Return negative log-likelihood and ECE of the probabilities that `predict` gives."""
    if evaluation.nll_calibrated is None or evaluation.ece_calibrated is None:
        return evaluation.nll, evaluation.ece
    return evaluation.nll_calibrated, evaluation.ece_calibrated


# --- training ------------------------------------------------------------------------------


def _curve(name: str, key: str, epochs: Sequence[dict[str, Any]]) -> svg.Line:
    pairs = [(record.get("epoch", index + 1), record.get(key)) for index, record in enumerate(epochs)]
    numbers = [(x, y) for x, y in pairs if isinstance(x, int | float) and isinstance(y, int | float)]
    return svg.Line(name, [(float(x), float(y)) for x, y in numbers])


def _curves(epochs: Sequence[dict[str, Any]]) -> str:
    if not epochs:
        return ""
    lines = {
        svg.Axes("Loss", "epoch", "loss, nats"): [("train", "train_loss"), ("validation", "val_loss")],
        svg.Axes("Accuracy", "epoch", "accuracy", percent=True): [
            ("train, as augmented", "train_accuracy"),
            ("validation", "val_accuracy"),
        ],
        svg.Axes("Learning rate", "epoch", "learning rate", from_zero=True): [("learning rate", "learning_rate")],
        svg.Axes("Speed", "epoch", "images per second", from_zero=True): [("images/s", "images_per_second")],
    }
    charts = [svg.line_chart([_curve(name, key, epochs) for name, key in keys], axes) for axes, keys in lines.items()]
    return _section("Training", f'<div class="charts">{"".join(charts)}</div>' if any(charts) else "")


# --- evaluation ----------------------------------------------------------------------------


def _confusion(evaluation: Evaluation) -> str:
    counts = np.array(evaluation.confusion, np.int64)
    names = [row.name for row in evaluation.classes]
    if len(names) <= _MATRIX_CLASSES:
        return _section("What is taken for what", _matrix(counts, names))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)  # (classes, classes)
    levels = (255 * (1 - np.sqrt(shares))).astype(np.uint8)
    picture = (
        f'<img class="heat" alt="Confusion matrix of {len(names)} classes as a heat map: rows are true '
        f'classes, columns predicted ones, darker is more" src="{_data_uri(levels)}">'
    )
    return _section("What is taken for what", picture + _pairs(counts, names))


def _matrix(counts: NDArray[np.int64], names: Sequence[str]) -> str:
    head = "".join(f'<th scope="col" title="{escaped(name)}">{escaped(name)}</th>' for name in names)
    rows = []
    for index, name in enumerate(names):
        total = max(int(counts[index].sum()), 1)
        cells = "".join(
            f'<td class="{"hit" if index == column else "none" if not count else "miss"}" '
            # misses are drawn stronger than their share: 5 in 100 are what one looks for
            f'style="--v:{(count / total) ** (1.0 if index == column else 0.5):.3f}">{count}</td>'
            for column, count in enumerate(counts[index].tolist())
        )
        rows.append(f'<tr><th scope="row" title="{escaped(name)}">{escaped(name)}</th>{cells}</tr>')
    return (
        '<p class="soft">Images: a row for what it is, a column for what it was taken for.</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix"><table class="matrix">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _pairs(counts: NDArray[np.int64], names: Sequence[str], most: int = 20) -> str:
    off = counts.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:most]
    rows = [
        f'<tr><td class="name">{escaped(names[i])}</td><td class="name">{escaped(names[j])}</td>'
        f"<td>{off[i, j]:,}</td></tr>"
        for i, j in (divmod(int(flat), len(names)) for flat in order)
        if off[i, j]
    ]
    return (
        '<div class="scroll"><table><caption>The commonest mistakes.</caption>'
        '<thead><tr><th scope="col">what it is</th>'
        '<th scope="col">taken for</th><th scope="col">images</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _classes(evaluation: Evaluation) -> str:
    rows = sorted(evaluation.classes, key=lambda row: 2.0 if row.recall is None else row.recall)
    note = "Worst first." if len(rows) <= _CLASS_ROWS else f"The {_CLASS_ROWS} worst of {len(rows)}."
    body = "".join(
        f'<tr><th scope="row">{escaped(row.name)}</th><td>{row.n:,}</td>'
        f'<td class="hide"><span class="meter" aria-hidden="true">'
        f'<i style="width:{100 * (row.recall or 0):.1f}%"></i></span></td>'
        f"<td>{percent(row.recall)}</td><td>{percent(row.precision)}</td></tr>"
        for row in rows[:_CLASS_ROWS]
    )
    return _section(
        "Class by class",
        f'<div class="scroll"><table class="wide"><caption>{note} Recall: of its images, the share '
        "that the model found. Precision: of its answers with this class, the share that is right.</caption>"
        '<thead><tr><th scope="col" style="text-align:left">class</th><th scope="col">images</th>'
        '<td class="hide"></td><th scope="col">recall</th><th scope="col">precision</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>",
    )


def _calibration(evaluation: Evaluation) -> str:
    axes = svg.Axes("Accuracy by confidence", "confidence", "accuracy", percent=True)
    chart = svg.reliability_chart([(b.n, b.confidence, b.accuracy) for b in evaluation.reliability], axes)
    if evaluation.temperature is None:
        text = f"Not calibrated: the card holds no temperature. ECE {percent(evaluation.ece)}."
    else:
        text = (
            f"Probabilities are logits divided by {evaluation.temperature:.3f} through softmax, fitted on "
            f"held-out images. ECE {percent(evaluation.ece)} before, {percent(evaluation.ece_calibrated)} after."
        )
    if evaluation.unknown is not None:
        unknown = evaluation.unknown
        text += (
            f" Below {percent(unknown.min_confidence)} predict --unknown answers “unknown”: "
            f"{percent(unknown.kept)} of {unknown.n:,} images of {escaped(unknown.split)} are still answered"
        )
        others = f", {percent(unknown.refused)} of {unknown.others_n or 0:,} pictures of no class are refused"
        text += "." if unknown.refused is None else f"{others}."
    key = "Bars on the dashed line: the model is right as often as it says."
    prose = f'<div><p>{text}</p><p class="soft">{key}</p></div>'
    return _section("How far its probabilities can be trusted", f'<div class="charts">{chart}{prose}</div>')


def _mistakes(mistakes: Sequence[Mistake], evaluation: Evaluation) -> str:
    if not mistakes:
        wrong = evaluation.n - sum(row.correct for row in evaluation.classes)
        return "" if wrong else _section("Worst mistakes", "<p>None: every image was right.</p>")
    figures = "".join(
        f'<figure><img src="{_data_uri(mistake.image)}" alt="{escaped(mistake.true)}, taken for '
        f'{escaped(mistake.predicted)}"><figcaption><b>{escaped(mistake.true)}</b><br>taken for '
        f"<b>{escaped(mistake.predicted)}</b>, {100 * mistake.probability:.1f}% sure"
        + (f'<br><span class="file">{escaped(mistake.path)}</span>' if mistake.path else "")
        + "</figcaption></figure>"
        for mistake in mistakes[:_MOST_MISTAKES]
    )
    return _section(
        "Worst mistakes",
        '<p class="soft">Wrong, and surest of it. Some of these may be wrong labels.</p>'
        f'<div class="mistakes">{figures}</div>',
    )


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    """Return (H, W) or (H, W, 1, 3 or 4) uint8 as a PNG in a data URI, scaled down where large."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    if pixels.ndim == 3 and max(image.size) > _PICTURE_PIXELS:
        image.thumbnail((_PICTURE_PIXELS, _PICTURE_PIXELS))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


# --- the card ------------------------------------------------------------------------------


def facts_section(card: Card) -> str:
    """Return the section that says what the model is, by its card."""
    facts = [("network", f"{card.model.name} ({card.model.family})")]
    spec = card.preprocess
    facts.append(("input", f"{spec.size}×{spec.size} {spec.mode}, {spec.resize}, {spec.filter}"))
    if card.data is not None:
        counts = ", ".join(f"{name} {n:,}" for name, n in card.data.counts.items())
        facts.append(("trained on", f"{card.data.name}, protocol {card.data.protocol}: {counts}"))
        facts.append(("data sha256", card.data.sha256))
    if card.training is not None:
        run = card.training
        facts.append(("recipe", f"{run.recipe_name}, seed {run.seed}, {run.epochs} epochs, best {run.best_epoch}"))
        facts.append(("training time", f"{run.seconds / 60:,.1f} min"))
        facts.append(("recipe sha256", run.recipe_sha256))
    facts.append(("weights sha256", card.weights_sha256))
    facts.append(("versions", ", ".join(f"{name} {version}" for name, version in card.versions.items())))
    facts += [("licence", card.licence), ("notes", card.notes)]
    shown = "".join(f"<dt>{name}</dt><dd>{escaped(value)}</dd>" for name, value in facts if value)
    return _section("The model", f'<dl class="facts">{shown}</dl>')
