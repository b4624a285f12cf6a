"""`quicknet export`: a run folder becomes one file that runs without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quicknet.cli.text import shown

if TYPE_CHECKING:
    from quicknet.deploy.export import Exported, Format

_HELP = """Write RUN, a run folder, as one file that classifies images without torch.

The file takes uint8 images at the model's own size, in batches of any number; scaling, mean and
std are inside, and so is the card: classes, preprocessing, what was measured, test vectors.
Before this says done, the file was loaded and its test vectors answered as by the run; with
--data its receipt also holds the run's class of every test image, for `quicknet verify`.

Both formats are ONNX: onnx for ONNX Runtime and everyone else's, openvino with PReLU as OpenVINO
runs it fastest.

\b
With --json:
  {"path", "format", "sha256", "weights_sha256": of the graph, "size_bytes",
   "runtimes": those that replayed the test vectors,
   "split", "n", "top1": 0..1, "different": images of another class than by the run;
   these four null without --data}

Exit code 1 where the file does not answer as the run; nothing is written then.
"""


@click.command(help=_HELP, short_help="Write a run folder as one file.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_",
    type=click.Choice(["onnx", "openvino"]),
    default="onnx",
    show_default=True,
    help="For which runtime.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The file to write (default: RUN/NAME.onnx).")
@click.option("--data", help="cifar10, cifar100 or the folder it was trained on: measure on its test images.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--quiet", is_flag=True, help="No progress and no notes.")
def export(run: Path, format_: str, out: Path | None, data: str | None, as_json: bool, quiet: bool) -> int:
    """Carry out `quicknet export`; returns the exit code."""
    from quicknet.data.progress import progress
    from quicknet.deploy.export import export as write
    from quicknet.deploy.export import load_run_data
    from quicknet.lite.verify import receipt_split

    target: Format = "onnx" if format_ == "onnx" else "openvino"
    if data is None:
        found = write(run, out, target)
    else:
        dataset = load_run_data(run, data, quiet)
        total = 2 * len(dataset.split(receipt_split(None, dataset)))
        with progress("export", total, "images", quiet) as advance:
            found = write(run, out, target, dataset, advance)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
    else:
        _print(found)
    if data is None and not quiet:
        note = "not measured on data; with --data DATA the receipt says how good the file is"
        click.echo(f"quicknet: note: {note}", err=True)
    return 0


def _print(found: Exported) -> None:
    click.echo(f"{shown(found.path)}  {found.size_bytes:,} bytes, sha256 {found.sha256}")
    click.echo(f"test vectors answered as by the run: {', '.join(found.runtimes)}")
    if found.top1 is not None and found.n is not None:
        click.echo(
            f"top-1 {100 * found.top1:.2f}% on {found.split}, n = {found.n:,}; "
            f"{found.different} images of another class than by the run"
        )
