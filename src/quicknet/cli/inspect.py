"""`quicknet inspect`: what a model is, and what was measured, without running it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from quicknet.cli.lineage import lineage_lines
from quicknet.cli.text import make_table, shown
from quicknet.cli.verb import BAD_INPUT, Argument, Verb, json_options

if TYPE_CHECKING:
    from quicknet.core.card import Card, LayerCosts, Metric
    from quicknet.measure.facts import CodingFacts, ModelFacts, SectionFacts
    from quicknet.measure.layers import IntegerLayerFacts

_NOTES = """
Nothing is run, so this does not prove that the weights are what the card says: quicknet evaluate
measures them, and quicknet verify checks the receipt of an exported file. Parameters and
multiply-adds (MACs) are counted from the card, or from the network in a .qnz.

In the layer table of a .qnz, N is how many pairs of products are added in 16 bits. "top" is the
largest value of a layer's output, and in brackets that of its depthwise part. "bits" are those of
its largest weight. A compressed network's table has "kept" for bytes: the share of blocks of four
pointwise weights that are not all zero. Where few are left, the engine skips the others.
"""


@click.command(
    cls=Verb,
    short_help="Show what a model is.",
    help="Show what a model is: classes, data, training, metrics, layers, files.",
    examples=("quicknet inspect photos.qnz", "quicknet inspect runs/photos --json"),
    notes=_NOTES,
    exit_codes={0: "The model was read.", 2: BAD_INPUT, 130: "The command was interrupted."},
)
@click.argument("model", cls=Argument, help="A run folder, an exported file, or the name of shipped weights.")
@json_options("Print one JSON object, with the whole card.")
def inspect(model: str, as_json: bool) -> int:
    """Carry out `quicknet inspect`; returns the exit code."""
    from quicknet.inference.artifact import open_artifact
    from quicknet.measure.facts import model_coding, model_facts, model_files, model_layers, model_sections

    artifact = open_artifact(model)
    card, intact = artifact.card, artifact.intact
    facts, layers, files = model_facts(model, artifact), model_layers(artifact), model_files(artifact.path)
    sections, coding, receipt = model_sections(artifact), model_coding(artifact), _receipt(card)
    if as_json:
        fields = {"format": 1, **facts.to_dict(), "layers": [layer.to_dict() for layer in layers]}
        fields |= {"sections": [section.to_dict() for section in sections], "receipt": receipt}
        fields |= {"coding": coding.to_dict() if coding else None}
        click.echo(json.dumps({**fields, "intact": intact, "files": files, "card": card.to_dict()}))
    else:
        for line in (*_card_lines(card, facts), _receipt_line(receipt), _weights_line(card, intact)):
            click.echo(shown(line))
        if coding:
            click.echo(_coding_line(coding))
        _print_tables(card, layers, sections, files)
    return 0


def _receipt(card: Card) -> dict[str, Any] | None:
    """Return what the file was measured on when it was exported; None where it was not."""
    from quicknet.inference.receipt import recorded_predictions

    recorded = recorded_predictions(card)
    names = ("data", "split", "protocol", "n", "correct")
    return None if recorded is None else {name: getattr(recorded, name) for name in names}


def _receipt_line(receipt: dict[str, Any] | None) -> str:
    if receipt is None:
        return "receipt: never measured on data"
    share = f"{receipt['correct']:,} of {receipt['n']:,} images right" if receipt["n"] else "no images"
    return f"receipt: {share}, {receipt['data']} {receipt['split']}, protocol {receipt['protocol']}"


def _weights_line(card: Card, intact: bool) -> str:
    digest = card.weights_sha256[:12] or "unknown"
    return f"weights: sha256 {digest}…, {'as' if intact else 'NOT as'} the card says"


def _print_tables(
    card: Card, layers: Sequence[LayerCosts], sections: Sequence[SectionFacts], files: dict[str, int]
) -> None:
    from rich.console import Console

    from quicknet.measure.layers import IntegerLayerFacts

    console = Console(highlight=False, markup=False, emoji=False)
    if card.metrics:
        console.print(_metric_table(card.metrics))
    else:
        console.print("metrics: none measured")
    integer = [layer for layer in layers if isinstance(layer, IntegerLayerFacts)]
    if layers:
        console.print(_integer_table(integer) if integer else _layer_table(layers))
    if sections:
        console.print(_section_table(sections))
    console.print(_file_table(files))


def _card_lines(card: Card, facts: ModelFacts) -> list[str]:
    spec = card.preprocess
    counts = ""
    if facts.parameters is not None:
        counts = f", {facts.parameters:,} parameters, {facts.macs:,} MACs an image"
    lines = [
        f"{card.model.name} (family {card.model.family}), input {facts.input}{counts}",
        f"classes: {len(card.classes)}: {', '.join(card.classes[:20])}{', …' if len(card.classes) > 20 else ''}",
        f"image: {spec.mode}, {'EXIF upright, ' if spec.exif else ''}resize {spec.resize}, {spec.filter}"
        f"{', antialias' if spec.antialias else ''}, mean {list(spec.mean)}, std {list(spec.std)}",
    ]
    if card.data:
        counts = ", ".join(f"{name} {n:,}" for name, n in card.data.counts.items())
        lines.append(f"data: {card.data.name}, protocol {card.data.protocol}, {counts}")
    if card.training:
        t = card.training
        lines.append(f"training: recipe {t.recipe_name}, seed {t.seed}, {t.epochs} epochs, best {t.best_epoch}")
    calibrated = "not calibrated" if card.temperature is None else f"temperature {card.temperature:.4f}"
    lines.append(f"probabilities: {calibrated}")
    if card.integer:
        lines.append(f"integer network: {card.integer.bits}, one unit is a logit of {card.integer.logit_scale:.6g}")
    lines += [f"lineage: {line}" for line in lineage_lines(card.lineage)]
    for label, text in (("licence", card.licence), ("notes", card.notes)):
        if text:
            lines.append(f"{label}: {text}")
    return lines


def _metric_table(metrics: Sequence[Metric]) -> Any:
    from rich.text import Text

    table = make_table("metrics", ("metric", "split", "protocol", "measured on"), ("value", "95% interval", "n"))
    for metric in metrics:
        interval = ""
        if metric.low is not None and metric.high is not None:
            interval = f"{metric.low:.4f}–{metric.high:.4f}"
        names = (Text(shown(text)) for text in (metric.name, metric.split, metric.protocol, metric.file_sha256[:12]))
        table.add_row(*names, f"{metric.value:.4f}", interval, f"{metric.n:,}")
    return table


def _layer_table(layers: Sequence[LayerCosts]) -> Any:
    total = max(1, sum(layer.macs for layer in layers))
    columns = ("kernel", "channels", "output", "parameters", "MACs", "share")
    table = make_table("layers", ("layer", "kind"), columns)
    for layer in layers:
        sides = f"{layer.out_channels}x{layer.side}x{layer.side}"
        channels = f"{layer.in_channels}→{layer.out_channels}"
        share = f"{100 * layer.macs / total:.1f}%"
        counts = (f"{layer.parameters:,}", f"{layer.macs:,}", share)
        table.add_row(shown(layer.name), shown(layer.kind), f"{layer.kernel}x{layer.kernel}", channels, sides, *counts)
    return table


def _integer_table(layers: Sequence[IntegerLayerFacts]) -> Any:
    sparse = any(layer.kept is not None and layer.kept < 1 for layer in layers)
    # 80 columns hold one of the two; with blocks left out, the bytes of all are not those of the file
    columns = ("kernel", "channels", "output", "N", "top", "bits", "kept" if sparse else "bytes", "MACs")
    table = make_table("layers", ("layer",), columns)
    for layer in layers:
        name = f"{layer.name}, pool" if layer.pool else layer.name
        sums, top = ("–" if value is None else str(value) for value in (layer.sums, layer.top))
        middle = "" if layer.middle_top is None else f" ({layer.middle_top})"
        shapes = (f"{layer.kernel}x{layer.kernel}", f"{layer.in_channels}→{layer.out_channels}")
        kept = "–" if layer.kept is None else f"{layer.kept:.0%}"
        numbers = (sums, top + middle, str(layer.bits), kept if sparse else f"{layer.size_bytes:,}", f"{layer.macs:,}")
        table.add_row(name, *shapes, f"{layer.side}x{layer.side}", *numbers)
    return table


def _coding_line(coding: CodingFacts) -> str:
    return (
        f"coding: {coding.name}; places of kept blocks {coding.places_bytes:,} bytes, their values "
        f"{coding.values_bytes:,}, other numbers {coding.others_bytes:,}, tables {coding.tables_bytes:,}"
    )


def _section_table(sections: Sequence[SectionFacts]) -> Any:
    table = make_table("sections", ("section", "sha256"), ("offset", "bytes"))
    for section in sections:
        table.add_row(shown(section.kind), section.sha256[:12], f"{section.offset:,}", f"{section.size_bytes:,}")
    return table


def _file_table(files: dict[str, int]) -> Any:
    from rich.text import Text

    table = make_table("files", ("file",), ("bytes",))
    for name, size in files.items():
        table.add_row(Text(shown(name)), f"{size:,}")
    return table
