"""`quicknet verify`: whether an exported file still answers as its receipt says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quicknet.cli.text import shown
from quicknet.cli.verb import BAD_INPUT, Argument, Verb, json_options

if TYPE_CHECKING:
    from quicknet.inference.verify import Verification

_NOTES = """
The check covers the digests, the declared shapes, and the answers to 16 test vectors by every
runtime that is installed. A .qnz must give exactly the recorded integer logits, on every
instruction set of this CPU. An ONNX file must give the recorded logits to within 1e-4.

With --data the test images are classified again, which also gives the accuracy. All classes of a
.qnz must be as recorded. Of an ONNX file's classes, at most 0.1% may differ.
"""


@click.command(
    cls=Verb,
    short_help="Check an exported file.",
    help="Check that an exported file still answers as its receipt says.",
    examples=("quicknet verify photos.qnz", "quicknet verify photos.qnz --data photos/"),
    notes=_NOTES,
    exit_codes={
        0: "The receipt holds.",
        1: "The receipt does not hold: the file is whole, but answers otherwise.",
        2: f"The file is damaged or is not an exported file. {BAD_INPUT}",
        130: "Interrupted.",
    },
)
@click.argument(
    "file",
    cls=Argument,
    type=click.Path(path_type=Path),
    help="A file that quicknet export wrote, or the name of shipped weights.",
)
@click.option(
    "--data", metavar="DATA", help="Classify the test images of this data again: cifar10, cifar100 or a folder."
)
@json_options("Print one JSON object.")
@click.option("--quiet", is_flag=True, help="Print no progress and no notes.")
def verify(file: Path, data: str | None, as_json: bool, quiet: bool) -> int:
    """Carry out `quicknet verify`; returns the exit code."""
    from quicknet.core.progress import progress
    from quicknet.inference.receipt import recorded_predictions
    from quicknet.inference.shipped import locate
    from quicknet.inference.verify import load_receipt_data, read_exported, receipt_split, verify_file

    exported = read_exported(locate(file, "file", quiet))
    if data is None:
        verification = verify_file(exported)
    else:
        dataset = load_receipt_data(exported.card, data, quiet)
        split = receipt_split(recorded_predictions(exported.card), dataset)
        with progress("verify", len(dataset.split(split)), "images", quiet) as advance:
            verification = verify_file(exported, dataset, advance)
    if as_json:
        click.echo(json.dumps({**verification.to_dict(), "holds": verification.holds}))
    else:
        _print(verification)
    verification.require()
    return 0


def _print(verification: Verification) -> None:
    click.echo(f"{shown(verification.file)}  sha256 {verification.sha256}")
    for check in verification.checks:
        click.echo(f"{'ok    ' if check.ok else 'FAILED'}  {shown(check.detail)}")
    if verification.measured is not None and verification.measured.top1_recorded is None:
        measured = verification.measured
        click.echo(f"measured now: top-1 {100 * measured.top1:.2f}% on {measured.split}, n = {measured.n:,}")
    if not verification.receipt_measured:
        click.echo("the receipt was never measured on data")
    click.echo("the receipt holds" if verification.holds else "the receipt does NOT hold")
