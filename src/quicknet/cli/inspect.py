"""`quicknet inspect`: what a model is and what was measured of it, without running it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quicknet.cli.text import make_table, shown

if TYPE_CHECKING:
    from quicknet.compare.facts import LayerFacts, ModelFacts
    from quicknet.core.card import Card, Metric

_HELP = """Show what MODEL, a run folder or exported file, is: card, layers, files, metrics.

Parameters and multiply-adds (MACs) are counted from the card. Nothing is run, so nothing here
proves that the weights are what the card says: `quicknet evaluate` measures that.

\b
With --json:
  {"format": 1, "model", "name", "input": "CxHxW", "parameters", "macs", "size_bytes",
   "intact": whether the weights have the digest that the card names,
   "layers": [{"name", "kind", "kernel", "in_channels", "out_channels", "side",
     "parameters", "macs"}, ...]: empty for a family whose layers are not known here,
   "files": {name: bytes}, "card": the whole card}
"""


@click.command(help=_HELP, short_help="Show what a model is.")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def inspect(model: str, as_json: bool) -> int:
    """Carry out `quicknet inspect`; returns the exit code."""
    from quicknet.compare.facts import layer_facts, model_facts, model_files, read_model

    card, intact = read_model(model)
    facts, layers, files = model_facts(model, card), layer_facts(card), model_files(Path(model))
    if as_json:
        fields = {"format": 1, **facts.to_dict(), "layers": [layer.to_dict() for layer in layers]}
        click.echo(json.dumps({**fields, "intact": intact, "files": files, "card": card.to_dict()}))
    else:
        for line in (*_card_lines(card, facts), _weights_line(card, intact)):
            click.echo(shown(line))
        _print_tables(card, layers, files)
    return 0


def _weights_line(card: Card, intact: bool) -> str:
    digest = card.weights_sha256[:12] or "unknown"
    return f"weights: sha256 {digest}…, {'as' if intact else 'NOT what'} the card says"


def _print_tables(card: Card, layers: Sequence[LayerFacts], files: dict[str, int]) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if card.metrics:
        console.print(_metric_table(card.metrics))
    else:
        console.print("metrics: none measured")
    if layers:
        console.print(_layer_table(layers))
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
    for step in card.lineage:
        short = {key: value for key, value in step.items() if not (isinstance(value, str) and len(value) > 80)}
        lines.append(f"made from: {json.dumps(short, ensure_ascii=False)}")
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


def _layer_table(layers: Sequence[LayerFacts]) -> Any:
    total = sum(layer.macs for layer in layers)
    columns = ("kernel", "channels", "output", "parameters", "MACs", "share")
    table = make_table("layers", ("layer", "kind"), columns)
    for layer in layers:
        sides = f"{layer.out_channels}x{layer.side}x{layer.side}"
        channels = f"{layer.in_channels}→{layer.out_channels}"
        share = f"{100 * layer.macs / total:.1f}%"
        counts = (f"{layer.parameters:,}", f"{layer.macs:,}", share)
        table.add_row(layer.name, layer.kind, f"{layer.kernel}x{layer.kernel}", channels, sides, *counts)
    return table


def _file_table(files: dict[str, int]) -> Any:
    from rich.text import Text

    table = make_table("files", ("file",), ("bytes",))
    for name, size in files.items():
        table.add_row(Text(shown(name)), f"{size:,}")
    return table
