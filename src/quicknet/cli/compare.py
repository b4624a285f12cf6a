"""`quicknet compare`: networks side by side, counted, measured, and with the accuracies that are known."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quicknet.cli.text import HTML, make_table, require_ending, shown
from quicknet.cli.verb import BAD_INPUT, Argument, Verb, json_options
from quicknet.core.errors import ConfigError, ToolError

if TYPE_CHECKING:
    from quicknet.report.comparison import Comparison

_NOTES = """
Every network is counted (parameters, multiply-adds, memory, an estimate of energy), exported with
random weights, and measured: one image at a time on one core, as float32 in ONNX Runtime and, for
networks that a .qnz can hold, as int8 in the engine. All take turns with the base network, so that
ratios are fair on a machine whose speed drifts. Compare networks by these: milliseconds of two
networks may be from different minutes. Nothing is trained.

Accuracies that were measured here and those that others published stand in columns of their own:
protocols, recipes and training times differ.

What was measured is kept in the state file after every four networks. The same command goes on from
there; another version, machine or number of rounds measures anew. All networks take about five
minutes on two cores that do nothing else.
"""
_MIN_COLUMNS = 120  # where the output is not a terminal
_BUSY = 0.1


@click.command(
    cls=Verb,
    short_help="Compare networks: size, speed, energy, accuracy.",
    help="Compare networks side by side: size, memory, energy, speed on this machine, accuracy.",
    examples=(
        "quicknet compare resnet_20 mobilenet_v2_x05",
        "quicknet compare --html compared.html",
        "quicknet compare --paper",
    ),
    notes=_NOTES,
    exit_codes={0: "The networks were compared.", 2: BAD_INPUT, 130: "The command was interrupted."},
)
@click.argument("names", cls=Argument, nargs=-1, metavar="[NAMES]...", help="Networks by name; all of them by default.")
@click.option("--paper", is_flag=True, help="Compare the networks of the paper's own table, and print it.")
@click.option("--base", default="quicknet_s", show_default=True, metavar="NAME", help="Give ratios over this network.")
@click.option("--size", type=int, metavar="N", help="Use images of N pixels.  [default: each network's own]")
@click.option("--rounds", type=int, default=10, show_default=True, metavar="N", help="Measure each network N times.")
@json_options("Print one JSON object.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), help="Write a page with pictures into this file.")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="Keep what is measured in this file.  [default: beside the page, with --html]",
)
@click.option("--results", type=click.Path(path_type=Path), help="Take accuracies from the records in this folder.")
@click.option("--quiet", is_flag=True, help="Print no progress and no notes.")
def compare(names: tuple[str, ...], html_path: Path | None, state: Path | None, **options: Any) -> None:
    """Carry out `quicknet compare`."""
    from quicknet.core.files import write_atomically
    from quicknet.core.progress import progress
    from quicknet.study.compare import CompareSettings
    from quicknet.study.compare import compare as carry_out

    if names and options["paper"]:
        raise ConfigError("--paper has its own networks; leave the names out")
    if html_path is not None and html_path.is_dir():
        raise ToolError(f"{html_path} is a folder; name a file with --html")
    if html_path is not None:
        require_ending(html_path, "--html", HTML, "a page")
    if options["results"] is not None and not options["results"].is_dir():
        raise ConfigError(f"--results {options['results']} is not a folder; name one that holds records")
    if state is None and html_path is not None:
        state = html_path.with_name(f"{html_path.stem}.state.json")
    settings = CompareSettings(**{key: options[key] for key in ("base", "size", "rounds", "paper")})
    show = functools.partial(progress, quiet=options["quiet"])
    result = carry_out(names, settings, state, options["results"], show)
    if html_path is not None:
        from quicknet.report.compare_page import render_comparison

        write_atomically(html_path, render_comparison(result))
    if options["as_json"]:
        click.echo(json.dumps(result.to_dict()))
    else:
        _print(result)
    if not options["quiet"]:
        _notes(result, state, html_path)


def _print(result: Comparison) -> None:
    from rich.console import Console
    from rich.text import Text

    from quicknet.report.compare_cells import tables

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=_MIN_COLUMNS)
    for table in tables(result):
        printed = make_table(table.title, table.heads[: table.texts], table.heads[table.texts :])
        for cells in table.rows:
            printed.add_row(*map(Text, cells))
        console.print(printed)
        for line in table.under:
            console.print(Text(line), style="dim")
        console.print()


def _notes(result: Comparison, state: Path | None, html_path: Path | None) -> None:
    from quicknet.report.compare_cells import busy

    share = busy(result)
    notes = [f"{result.kept} of {len(result.networks)} networks were measured before ({state})"] if result.kept else []
    if share > _BUSY:
        notes.append(f"other processes used up to {100 * share:.0f}% of the core; compare x")
    if html_path is not None:
        notes.append(f"the page is in {html_path}")
    for note in notes:
        click.echo(f"quicknet: note: {shown(note)}", err=True)
