"""`quicknet export`: a run folder becomes one file that runs without torch."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quicknet.cli.text import shown
from quicknet.core.errors import ConfigError, require_package

if TYPE_CHECKING:
    from quicknet.core.settings import Settings
    from quicknet.data import Dataset
    from quicknet.deploy.export import Exported, Format
    from quicknet.deploy.qnz import Compared, ExportedQnz, QnzSettings

_HELP = """Write RUN, a run folder, as one file that classifies images without torch.

The file takes uint8 images at the model's own size, in batches of any number; scaling, mean and
std are inside, and so is the card: classes, preprocessing, what was measured, test vectors.
Before this says done, the file was loaded and its test vectors answered as by the run; with
--data its receipt also holds the class of every test image, for `quicknet verify`.

\b
qnz       integers only: the same answers, bit for bit, on every CPU; the smallest
          and the fastest. It needs the data that the run was trained on, to choose
          ranges and to say what was lost; unless --data names it, where the run's
          recipe says it lies.
onnx      for ONNX Runtime and everyone else's runtimes
openvino  ONNX with PReLU as OpenVINO runs it fastest

--int8 writes the integer network of a .qnz as ONNX.

\b
With --json, of onnx and openvino:
  {"path", "format", "sha256", "weights_sha256": of the graph, "size_bytes",
   "runtimes": those that replayed the test vectors,
   "split", "n", "top1": 0..1, "different": images of another class than by the run
   (--int8: than by the integer network); these four null without --data}
of qnz:
  {"path", "format", "bits", "qat_epochs", "sha256", "weights_sha256", "size_bytes", "runtimes",
   "compared": for val and test each {"split", "protocol", "n", "top1", "parent_top1",
               "lost_points": of top-1, "different": images of another class than by the run}}

Exit code 1 where the file does not answer as the run, or more than --max-loss is lost; nothing
is written then.
"""
# option → field of QnzSettings
_INTEGERS = {"bits": "bits", "qat": "qat_epochs", "max_loss": "max_loss"}


@click.command(help=_HELP, short_help="Write a run folder as one file.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_",
    type=click.Choice(["onnx", "openvino", "qnz"]),
    default="onnx",
    show_default=True,
    help="For which runtime.",
)
@click.option("--int8", is_flag=True, help="ONNX in int8: the integer network of a .qnz.")
@click.option(
    "--bits", type=click.Choice(["w7a8", "w7a7", "w6a7", "w5a8"]), help="Width class of the integers.  [default: w5a8]"
)
@click.option("--qat", type=click.FloatRange(0, 1000), metavar="EPOCHS", help="Fine-tune the integers.  [default: 0]")
@click.option(
    "--max-loss",
    type=click.FloatRange(0, 100),
    metavar="POINTS",
    help="Refuse to lose more than this of top-1 on val to the run; one image may always be.  [default: 0.2]",
)
@click.option("--out", type=click.Path(path_type=Path), help="The file to write (default: RUN/NAME.onnx or .qnz).")
@click.option("--data", help="cifar10, cifar100 or the folder it was trained on: measure on its test images.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--quiet", is_flag=True, help="No progress and no notes.")
def export(
    run: Path, format_: str, out: Path | None, data: str | None, as_json: bool, quiet: bool, **integers: Any
) -> int:
    """Carry out `quicknet export`; returns the exit code."""
    _check_options(format_, integers)
    exported: Settings
    if format_ == "qnz":
        exported = _export_qnz(run, out, data, _settings(integers), quiet)
    elif integers["int8"]:
        exported = _export_int8(run, _target(format_), out, data, _settings(integers), quiet)
    else:
        exported = _export_onnx(run, _target(format_), out, data, quiet)
    if as_json:
        click.echo(json.dumps(exported.to_dict()))
    else:
        _print(exported, "the integer network" if integers["int8"] else "the run")
    if format_ != "qnz" and data is None and not quiet:
        note = "not measured on data; with --data DATA the receipt says how good the file is"
        click.echo(f"quicknet: note: {note}", err=True)
    return 0


def _check_options(format_: str, integers: dict[str, Any]) -> None:
    """Refuse what would not be followed."""
    if format_ == "qnz" and integers["int8"]:
        raise ConfigError("a .qnz is integers always; leave --int8 out, or take --format onnx")
    chosen = [name for name in _INTEGERS if integers[name] is not None]
    if format_ != "qnz" and not integers["int8"] and chosen:
        raise ConfigError(f"--{chosen[0].replace('_', '-')} is for integers; add --format qnz, or --int8 for {format_}")


def _settings(integers: dict[str, Any]) -> QnzSettings:
    from quicknet.deploy.qnz import QnzSettings

    return QnzSettings(**{field: integers[name] for name, field in _INTEGERS.items() if integers[name] is not None})


def _target(format_: str) -> Format:
    return "onnx" if format_ == "onnx" else "openvino"


# --- one format each -----------------------------------------------------------------------


def _export_onnx(run: Path, target: Format, out: Path | None, data: str | None, quiet: bool) -> Exported:
    from quicknet.deploy.export import export as write
    from quicknet.deploy.export import load_run_data
    from quicknet.lite.progress import progress
    from quicknet.lite.verify import receipt_split

    if data is None:
        return write(run, out, target)
    dataset = load_run_data(run, data, quiet)
    _note_changes(run, dataset, quiet)
    total = 2 * len(dataset.split(receipt_split(None, dataset)))
    with progress("export", total, "images", quiet) as advance:
        return write(run, out, target, dataset, advance)


def _export_qnz(run: Path, out: Path | None, data: str | None, settings: QnzSettings, quiet: bool) -> ExportedQnz:
    from quicknet.deploy.qnz import export_qnz
    from quicknet.lite.progress import progress

    show = functools.partial(progress, quiet=quiet)
    return export_qnz(run, _trained_on(run, data, quiet), out, settings, show)


def _export_int8(
    run: Path, target: Format, out: Path | None, data: str | None, settings: QnzSettings, quiet: bool
) -> Exported:
    from quicknet.deploy.export import TOOLS, default_path
    from quicknet.deploy.export_int8 import export_int8
    from quicknet.deploy.qnz import make_qnz
    from quicknet.lite.progress import progress
    from quicknet.lite.verify import receipt_split

    for package in TOOLS[target]:  # before minutes of quantizing
        require_package(package, f"the format {target}")
    path = default_path(run, target)
    out = path.with_name(path.name.replace(run.resolve().name, f"{run.resolve().name}.int8", 1)) if out is None else out
    dataset = _trained_on(run, data, quiet)
    file, _ = make_qnz(run, dataset, out, settings, functools.partial(progress, quiet=quiet))
    if data is None:
        return export_int8(file, out, target)
    total = 3 * len(dataset.split(receipt_split(None, dataset)))
    with progress("export", total, "images", quiet) as advance:
        return export_int8(file, out, target, dataset, advance)


def _trained_on(run: Path, data: str | None, quiet: bool) -> Dataset:
    """Return the run's own data, from where its recipe says it lies unless `data` does."""
    from quicknet.deploy.export import load_run_data, recipes_source

    dataset = load_run_data(run, recipes_source(run) if data is None else data, quiet)
    _note_changes(run, dataset, quiet)
    return dataset


def _note_changes(run: Path, data: Dataset, quiet: bool) -> None:
    """Say where the data has changed since training: the accuracies in the receipt are then too high."""
    from quicknet.core.card import read_card
    from quicknet.data.recorded import change_note, recorded_of

    card = read_card(run / "card.json")
    note = None if quiet else change_note(data, card, recorded_of(run, card))
    if note:
        click.echo(f"quicknet: note: {shown(note)}; the receipt measures on today's splits", err=True)


# --- printing ------------------------------------------------------------------------------


def _print(exported: Any, parent: str) -> None:
    click.echo(f"{shown(exported.path)}  {exported.size_bytes:,} bytes, sha256 {exported.sha256}")
    if exported.format == "qnz":
        click.echo(f"test vectors answered by: {', '.join(exported.runtimes)}")
        for row in exported.compared:
            click.echo(_compared(exported.bits, row))
        return
    click.echo(f"test vectors answered as by {parent}: {', '.join(exported.runtimes)}")
    if exported.top1 is not None and exported.n is not None:
        click.echo(
            f"top-1 {100 * exported.top1:.2f}% on {exported.split}, n = {exported.n:,}; "
            f"{exported.different} images of another class than by {parent}"
        )


def _compared(bits: str, row: Compared) -> str:
    lost = row.lost_points
    change = f"{abs(lost):.2f} points {'less' if lost > 0 else 'more'} than the run" if lost else "as the run"
    return (
        f"{bits} top-1 {100 * row.top1:.2f}% on {row.split}, n = {row.n:,}: {change}; "
        f"{row.different} images of another class than by the run"
    )
