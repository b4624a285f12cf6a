"""`quicknet predict`: names of image files in, classes with probabilities out, a line each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from quicknet.cli.text import shown
from quicknet.core.errors import DataError

if TYPE_CHECKING:
    from quicknet.lite.predict import Prediction, Unreadable


_HELP = """Classify FILES with MODEL, a run folder or an exported file.

FILES are image files, folders (recursively, what has an image's suffix), or - for names on
standard input, which are answered as they arrive.

\b
A line per image, separated by tabs:
  name, the answer and its probability, the next best classes
  name, unknown, the best classes           (below --min-confidence)
\b
With --json:
  {"name": str, "label": str or null for unknown, "probability": of the best class,
   "top": [{"label": str, "probability": number}, ...], "calibrated": bool}

Unreadable files are named on stderr, the others still done; the exit code is then 2.
"""


@click.command(help=_HELP, short_help="Classify image files.")
@click.argument("model")
@click.argument("files", nargs=-1, required=True)
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="Classes to name per image.")
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="P",
    help='Answer "unknown" where the best class is less probable than P.',
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per image and line.")
@click.option("-0", "nul", is_flag=True, help="Names on standard input end in NUL (find -print0).")
@click.option("--batch", type=click.IntRange(1, 4096), default=32, show_default=True, help="Images at a time.")
@click.option(
    "--runtime",
    type=click.Choice(["auto", "onnxruntime", "openvino"]),
    default="auto",
    show_default=True,
    help="What runs an exported file; auto is the fastest installed.",
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Of the runtime of an exported file (default: all cores)."
)
@click.option("--quiet", is_flag=True, help="No notes; unreadable files are named all the same.")
def predict(
    model: str,
    files: tuple[str, ...],
    top: int,
    min_confidence: float,
    as_json: bool,
    nul: bool,
    batch: int,
    runtime: str,
    threads: int | None,
    quiet: bool,
) -> int:
    """Carry out `quicknet predict`; returns the exit code."""
    from quicknet.lite.classifier import load
    from quicknet.lite.predict import PredictSettings, Unreadable
    from quicknet.lite.predict import predict as answers

    settings = PredictSettings(top=top, min_confidence=min_confidence, batch=batch)
    classifier = load(model) if runtime == "auto" and threads is None else load(model, runtime, threads)
    if classifier.card.temperature is None and not quiet:
        mend = f"`quicknet evaluate {model} DATA --calibrate` does that"
        if classifier.source.is_file():
            mend = "calibrate the run folder it came from (`quicknet evaluate RUN --calibrate`), then export again"
        note = f"probabilities are not calibrated; {mend}"
        click.echo(f"quicknet: note: {note}", err=True)
    failed = False
    for answer in answers(classifier, _names(files, b"\0" if nul else b"\n"), settings):
        if isinstance(answer, Unreadable):
            failed = True
            click.echo(f"quicknet: unreadable: {shown(answer.error)}".encode(), err=True)
        else:
            click.echo((_json_line(answer) if as_json else _text_line(answer)).encode())
    return 2 if failed else 0


def _names(files: tuple[str, ...], separator: bytes) -> Iterator[str | Unreadable | None]:
    """Yield every image that the arguments name, None where standard input keeps us waiting."""
    from quicknet.lite.predict import find_images, read_names

    for given in files:
        if given == "-" and sys.stdin is None:
            raise DataError("standard input is closed; give names on it, or as arguments")
        for name in read_names(sys.stdin.fileno(), separator) if given == "-" else (given,):
            if name is None:
                yield None
            else:
                yield from find_images(name)


def _text_line(answer: Prediction) -> str:
    guesses = [f"{shown(guess.label)} {100 * guess.probability:.1f}%" for guess in answer.top]
    return "\t".join([shown(answer.name), *(["unknown"] if answer.label is None else []), *guesses])


def _json_line(answer: Prediction) -> str:
    fields = answer.to_dict()
    fields["probability"] = round(answer.probability, 6)
    fields["top"] = [{"label": g.label, "probability": round(g.probability, 6)} for g in answer.top]
    return json.dumps(fields)
