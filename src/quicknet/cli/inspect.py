"""`quicknet inspect`: what a model is, and what was measured, without running it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quicknet.cli.lineage import lineage_lines
from quicknet.cli.picture import draw_artifact, draw_untrained
from quicknet.cli.text import make_table, require_ending, shown
from quicknet.cli.verb import BAD_INPUT, Argument, Verb, json_options
from quicknet.core.errors import ConfigError

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

The picture of --svg has the same layers, each with its shapes and its share of the multiply-adds.
With --time a .qnz is run, on one core, for the share of time that each layer takes.

A network that is not trained is built by its name and counted; quicknet compare lists the names.
"""


@click.command(
    cls=Verb,
    short_help="Show what a model is.",
    help="Show what a model is: classes, data, training, metrics, layers, files.",
    examples=(
        "quicknet inspect photos.qnz",
        "quicknet inspect quicknet_s.cifar10 --svg network.svg --time",
        "quicknet inspect mobilenet_v2_x05 --size 96",
    ),
    notes=_NOTES,
    exit_codes={0: "The model was read.", 2: BAD_INPUT, 130: "The command was interrupted."},
)
@click.argument(
    "model",
    cls=Argument,
    help="A run folder, an exported file, the name of shipped weights, or of a network such as resnet_20.",
)
@click.option("--size", type=int, metavar="N", help="Count a network for images of N by N pixels.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting of a network, such as num_classes=2."
)
@click.option("--svg", type=click.Path(path_type=Path), metavar="FILE", help="Draw the network into this SVG file too.")
@click.option("--time", "timed", is_flag=True, help="Run a .qnz and draw each layer's share of the time, with --svg.")
@json_options("Print one JSON object, with the whole card.")
def inspect(
    model: str, size: int | None, changes: tuple[str, ...], svg: Path | None, timed: bool, as_json: bool
) -> int:
    """Carry out `quicknet inspect`; returns the exit code."""
    from quicknet.inference.artifact import open_artifact
    from quicknet.inference.shipped import locate
    from quicknet.measure.facts import model_coding, model_facts, model_files, model_layers, model_sections

    if timed and svg is None:
        raise ConfigError("--time is drawn into a picture; name its file with --svg")
    if svg is not None:
        require_ending(svg, "--svg", (".svg",), "an SVG picture")
    path = locate(model, "any")
    if not path.exists() and _is_network(model):
        return _inspect_network(model, size, changes, svg, timed, as_json)
    artifact = open_artifact(path)
    if size is not None or changes:
        raise ConfigError(f"--size and --set change a network that is not trained yet, and {model} is; leave them out")
    card, intact = artifact.card, artifact.intact
    facts, layers, files = model_facts(model, artifact), model_layers(artifact), model_files(artifact.path)
    sections, coding, receipt = model_sections(artifact), model_coding(artifact), _receipt(card)
    if svg is not None:
        draw_artifact(svg, artifact, [artifact.path, *(artifact.path / name for name in files)], layers, timed)
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
        if svg is not None:
            click.echo(f"picture: {shown(str(svg))}")
    return 0


def _is_network(model: str) -> bool:
    """Return whether a name is a network's of the registry. Raises ConfigError where one is called nearly so."""
    if not re.fullmatch(r"\w+", model):
        return False
    try:
        from quicknet.models.registry import list_models
    except ModuleNotFoundError:  # without torch no network can be built; the caller says what a MODEL is
        return False
    names = list_models()
    near = difflib.get_close_matches(model, names, n=1, cutoff=0.6)
    if model not in names and near:
        raise ConfigError(f"no model or network is called {model!r} (did you mean {near[0]!r}?); name one, or a path")
    return model in names


def _inspect_network(
    name: str, size: int | None, changes: tuple[str, ...], svg: Path | None, timed: bool, as_json: bool
) -> int:
    """Show a network that is not trained; returns the exit code."""
    from rich.console import Console

    from quicknet.models.costs import describe_network

    if timed:
        raise ConfigError(f"--time measures a .qnz, and {name} is a network that is not trained; leave it out")
    network = describe_network(name, [*changes, *([] if size is None else [f"image_size={size}"])])
    record, costs = network.record, network.costs
    channels, side = record.config["in_channels"], record.config["image_size"]
    shape = f"{channels}x{side}x{side}"
    if svg is not None:
        draw_untrained(svg, record)
    if as_json:
        fields = {"format": 1, "model": name, "family": record.family, "input": shape, "config": record.config}
        click.echo(json.dumps({**fields, **costs.to_dict()}))
        return 0
    click.echo(
        f"{name} (family {record.family}), input {shape}, {costs.parameters:,} parameters, {costs.macs:,} MACs an image"
    )
    click.echo(f"classes: {record.config['num_classes']:,}; not trained, so no class has a name")
    click.echo(
        f"memory as float32: {4 * costs.parameters:,} bytes of weights, {costs.activation_bytes:,} of all maps, "
        f"{costs.peak_activation_bytes:,} of those needed at one time"
    )
    click.echo("config: " + ", ".join(f"{key}={json.dumps(value)}" for key, value in record.config.items()))
    Console(highlight=False, markup=False, emoji=False).print(_layer_table(costs.layers))
    if svg is not None:
        click.echo(f"picture: {shown(str(svg))}")
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
