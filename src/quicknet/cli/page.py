"""`quicknet page`: one HTML file with a model in it, which classifies pictures in any browser."""

from __future__ import annotations

import json
from pathlib import Path

import click

from quicknet.cli.text import HTML, require_ending, shown
from quicknet.cli.verb import BAD_INPUT, Argument, Verb, json_options

_NOTES = """
The page holds the engine, the model and everything else. It works from a file and without a
network, on phones too, and the pictures stay on the device. Pictures are dropped, chosen, pasted or
photographed; a camera is classified live. A table of all answers can be saved as CSV.

The page answers as quicknet predict does, from the same decoded pixels bit for bit. At its start it
checks itself by the test vectors of the model's card. It needs Chrome 91, Firefox 113, Safari 16.4
or newer.
"""


@click.command(
    cls=Verb,
    short_help="Write a web page that classifies pictures.",
    help="Write one HTML file with the model in it, which classifies pictures in any browser.",
    examples=("quicknet page photos.qnz --out photos.html", "quicknet page quicknet_s.cifar10 --min-confidence 0.8"),
    notes=_NOTES,
    exit_codes={0: "The page was written.", 2: BAD_INPUT, 130: "The command was interrupted."},
)
@click.argument("file", cls=Argument, help="A .qnz that quicknet export wrote, or the name of shipped weights.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PAGE",
    help="Write the page here.  [default: the model's name with .html]",
)
@click.option("--title", default="", metavar="TEXT", help="Show this title.  [default: the data's name]")
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    metavar="P",
    help='Answer "unknown" where the best class has a probability below P.  [default: the threshold in the card, or 0]',
)
@json_options("Print one JSON object.")
@click.option("--quiet", is_flag=True, help="Print no progress and no notes.")
def page(file: str, out: Path | None, title: str, min_confidence: float | None, as_json: bool, quiet: bool) -> int:
    """Carry out `quicknet page`; returns the exit code."""
    from quicknet.core.errors import ConfigError
    from quicknet.core.files import sha256_bytes, write_atomically
    from quicknet.inference.artifact import QnzArtifact, open_artifact
    from quicknet.report.page import PageSettings, render_page, threshold_of

    if out is not None:
        require_ending(out, "--out", HTML, "a page")
    artifact = open_artifact(file, quiet)
    if not isinstance(artifact, QnzArtifact):
        raise ConfigError(f"a page holds a .qnz, and {file} is not one; write one with quicknet export RUN")
    model, settings = artifact.file, PageSettings(title=title, min_confidence=min_confidence)
    text = render_page(model.blob, model.card, settings).encode()
    out = Path(f"{artifact.path.stem}.html") if out is None else out
    write_atomically(out, text)
    beside = len(text) - -(-len(model.blob) // 3) * 4
    if as_json:
        fields = {"format": 1, "path": str(out), "size_bytes": len(text), "beside_model_bytes": beside}
        threshold = threshold_of(model.card, settings)
        click.echo(json.dumps({**fields, "sha256": sha256_bytes(text), "min_confidence": threshold}))
    else:
        click.echo(f"{shown(str(out))}  {len(text):,} bytes, of which {beside:,} are not the model")
    if model.card.temperature is None and not quiet:
        click.echo("quicknet: note: the probabilities on the page are not calibrated", err=True)
    return 0
