"""`quicknet verify`: whether an exported file still answers as its receipt says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quicknet.cli.text import shown

if TYPE_CHECKING:
    from quicknet.core.card import Card
    from quicknet.data import Dataset
    from quicknet.lite.verify import Verification

_HELP = """Check that FILE, which `quicknet export` wrote, still answers as its receipt says.

Digests, declared shapes, then 16 test vectors through everything here that runs FILE. A .qnz must
give exactly the recorded integer logits, by the engine with each instruction set of this CPU and
by numpy's reference; an ONNX file the recorded ones to 1e-4, by every runtime that is installed.

With --data its test images are classified again, and accuracy follows: a .qnz's classes must have
the recorded digest, of an ONNX file's recorded classes at most 0.1% may differ. DATA is cifar10,
cifar100 or the folder of the receipt.

\b
With --json:
  {"file", "sha256", "weights_sha256", "holds": bool,
   "checks": [{"name", "ok", "detail"}, ...],
   "receipt_measured": whether it was measured on data when it was exported,
   "measured": null without --data, or {"data", "split", "protocol", "runtime", "n",
     "top1", "top1_recorded", "different": null where only a digest is known}}

Exit code 1 where the receipt does not hold.
"""


@click.command(help=_HELP, short_help="Check an exported file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--data", help="Measure on it again: cifar10, cifar100 or a folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--quiet", is_flag=True, help="No progress and no notes.")
def verify(file: Path, data: str | None, as_json: bool, quiet: bool) -> int:
    """Carry out `quicknet verify`; returns the exit code."""
    from quicknet.lite.progress import progress
    from quicknet.lite.receipt import recorded_predictions
    from quicknet.lite.shipped import locate
    from quicknet.lite.verify import read_exported, receipt_split, verify_file

    exported = read_exported(locate(file, "file", quiet))
    if data is None:
        verification = verify_file(exported)
    else:
        dataset = _load(exported.card, data, quiet)
        split = receipt_split(recorded_predictions(exported.card), dataset)
        with progress("verify", len(dataset.split(split)), "images", quiet) as advance:
            verification = verify_file(exported, dataset, advance)
    if as_json:
        click.echo(json.dumps({**verification.to_dict(), "holds": verification.holds}))
    else:
        _print(verification)
    verification.require()
    return 0


def _load(card: Card, data: str, quiet: bool) -> Dataset:
    """Return the data, read and split as the receipt says."""
    from quicknet.data import load_data
    from quicknet.data.request import request_for
    from quicknet.lite.receipt import recorded_predictions, split_settings

    recorded = recorded_predictions(card)
    changes = split_settings(card) | {"quiet": quiet}
    if recorded is not None:
        changes["protocol"] = recorded.protocol
    return load_data(data, request_for(card, changes))


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
