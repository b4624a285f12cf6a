"""`quicknet export`: a run folder, or the integers of a `.qnz`, become one file that runs without torch."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quicknet.cli.text import require_ending, shown
from quicknet.cli.verb import BAD_INPUT, Argument, Verb, json_options
from quicknet.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from quicknet.core.lineage import Compared
    from quicknet.core.settings import Settings
    from quicknet.data import Dataset
    from quicknet.deploy.export import Exported, Format
    from quicknet.deploy.qnz import ExportedQnz, QnzSettings

_NOTES = """
\b
qnz       integers only: the same answers, bit for bit, on every CPU; smallest and fastest
onnx      for ONNX Runtime and other runtimes that read ONNX
openvino  ONNX in the form that OpenVINO runs fastest

A .qnz needs the data that the run was trained on, to choose the ranges of its integers and to
measure what they lose. Without --data it is read from where it lay at training.
A .qnz of half the bytes, nearly as accurate, is what quicknet compress --epochs 0 writes.
MODEL may be a .qnz, a compressed one too, if --int8 is given: its integers are written as ONNX.

The file holds everything that a picture needs: preprocessing, classes, test vectors, and what was
measured. It takes uint8 images of the model's size, in batches of any number. Before the command
ends, the file is loaded and must answer the test vectors as the run does. With --data an ONNX file
is measured too, and its receipt holds the class of every test image for quicknet verify.
"""
# option → field of QnzSettings
_INTEGERS = {"bits": "bits", "qat": "qat_epochs", "max_loss": "max_loss", "coding": "coding"}


@click.command(
    cls=Verb,
    short_help="Write a run folder as one file.",
    help="Write a run folder as one verified file that classifies images without PyTorch.",
    examples=(
        "quicknet export runs/photos --out photos.qnz --data photos/",
        "quicknet export runs/photos --out photos.onnx --data photos/",
        "quicknet export photos.qnz --int8 --out photos.int8.onnx",
    ),
    notes=_NOTES,
    exit_codes={
        0: "The file was written.",
        1: "The file does not answer as the run does, or loses too much accuracy; nothing was written.",
        2: BAD_INPUT,
        130: "The command was interrupted.",
    },
)
@click.argument(
    "model",
    cls=Argument,
    type=click.Path(path_type=Path),
    help="A run folder that quicknet train wrote, the name of shipped weights, or with --int8 a .qnz file.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["qnz", "onnx", "openvino"]),
    help="Write this format.  [default: qnz; onnx with --int8 or where --out ends in .onnx]",
)
@click.option("--int8", is_flag=True, help="Write the integer network of a .qnz as ONNX.")
@click.option(
    "--bits",
    type=click.Choice(["w7a8", "w7a7", "w6a7", "w5a8"]),
    help="Use integers of this width class.  [default: w5a8]",
)
@click.option(
    "--qat",
    type=click.FloatRange(0, 1000),
    metavar="EPOCHS",
    help="Fine-tune the integer network for EPOCHS; 0.25 is a quarter of one.  [default: 0]",
)
@click.option(
    "--max-loss",
    type=click.FloatRange(0, 100),
    metavar="POINTS",
    help="Refuse a file that loses more than POINTS of accuracy on val; one image is always allowed.  [default: 0.2]",
)
@click.option(
    "--coding",
    type=click.Choice(["none", "huffman", "contexts"]),
    help="Write a .qnz in fewer bytes: the same answers, smallest by contexts; longer to write and open.  "
    "[default: none]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write this file.  [default: NAME.qnz or .onnx in the run folder or beside the .qnz; shipped weights: here]",
)
@click.option(
    "--data", metavar="DATA", help="Measure on the data that the run was trained on: cifar10, cifar100 or a folder."
)
@json_options("Print one JSON object.")
@click.option("--quiet", is_flag=True, help="Print no progress and no notes.")
def export(
    model: Path, format_: str | None, out: Path | None, data: str | None, as_json: bool, quiet: bool, **integers: Any
) -> int:
    """Carry out `quicknet export`; returns the exit code."""
    format_ = format_ or _default_format(out, integers["int8"])
    _check_options(format_, integers)
    if out is not None:
        require_ending(out, "--out", (".qnz",) if format_ == "qnz" else (".onnx",), f"a file of the format {format_}")
    model, out = _located(model, out, format_, integers, quiet)
    exported: Settings
    if format_ == "qnz":
        exported = _export_qnz(model, out, data, _settings(integers), quiet)
    elif integers["int8"]:
        exported = _export_int8(model, _target(format_), out, data, _settings(integers), quiet)
    else:
        exported = _export_onnx(model, _target(format_), out, data, quiet)
    if as_json:
        click.echo(json.dumps(exported.to_dict()))
    else:
        _print(exported, "the integer network" if integers["int8"] else "the run")
    if format_ != "qnz" and data is None and not quiet:
        note = "not measured on data; with --data DATA the receipt says how good the file is"
        click.echo(f"quicknet: note: {note}", err=True)
    return 0


def _default_format(out: Path | None, int8: bool) -> str:
    """Return the format where --format is not given: a name or an option that asks for ONNX gets ONNX.

    >>> _default_format(None, False), _default_format(Path("photos.onnx"), False), _default_format(None, True)
    ('qnz', 'onnx', 'onnx')
    """
    return "onnx" if int8 or (out is not None and out.suffix.lower() == ".onnx") else "qnz"


def _check_options(format_: str, integers: dict[str, Any]) -> None:
    """Refuse what would not be followed."""
    if format_ == "qnz" and integers["int8"]:
        raise ConfigError("a .qnz always holds integers; leave --int8 out, or use --format onnx")
    if format_ != "qnz" and integers["coding"] is not None:
        raise ConfigError(f"--coding is for a .qnz; leave it out for {format_}, or add --format qnz")
    chosen = [name for name in _INTEGERS if integers[name] is not None]
    if format_ != "qnz" and not integers["int8"] and chosen:
        raise ConfigError(f"--{chosen[0].replace('_', '-')} is for integers; add --format qnz, or --int8 for {format_}")


def _located(
    model: Path, out: Path | None, format_: str, integers: dict[str, Any], quiet: bool
) -> tuple[Path, Path | None]:
    """Return where the model lies and where its export goes: of shipped weights into this folder.

    Raises ConfigError where it is a file and something else than its integers is asked for.
    """
    from quicknet.deploy.pipeline import default_path
    from quicknet.inference.shipped import locate

    chosen = [name for name in _INTEGERS if integers[name] is not None]
    located = locate(model, "any" if integers["int8"] and not chosen else "run", quiet)
    if located.is_file() and (chosen or not integers["int8"]):
        asked = f"--{chosen[0].replace('_', '-')}" if integers["int8"] else f"--format {format_}"
        raise ConfigError(
            f"{asked} needs a run folder, {model} is a file; name the folder, or write its integers with --int8 alone"
        )
    if located != model and out is None:
        out = Path(default_path(located, format_, integers["int8"]).name)
    return located, out


def _settings(integers: dict[str, Any]) -> QnzSettings:
    from quicknet.deploy.qnz import QnzSettings

    return QnzSettings(**{field: integers[name] for name, field in _INTEGERS.items() if integers[name] is not None})


def _target(format_: str) -> Format:
    return "onnx" if format_ == "onnx" else "openvino"


# --- one format each -----------------------------------------------------------------------


def _export_onnx(run: Path, target: Format, out: Path | None, data: str | None, quiet: bool) -> Exported:
    from quicknet.deploy.export import export as write
    from quicknet.deploy.export import load_run_data

    if data is None:
        return write(run, out, target)
    dataset = load_run_data(run, data, quiet)
    _note_changes(run, dataset, quiet)
    with _measuring(dataset, 2, quiet) as advance:
        return write(run, out, target, dataset, advance)


def _export_qnz(run: Path, out: Path | None, data: str | None, settings: QnzSettings, quiet: bool) -> ExportedQnz:
    from quicknet.core.progress import progress
    from quicknet.deploy.qnz import export_qnz

    show = functools.partial(progress, quiet=quiet)
    return export_qnz(run, _trained_on(run, data, quiet), out, settings, show)


def _export_int8(
    model: Path, target: Format, out: Path | None, data: str | None, settings: QnzSettings, quiet: bool
) -> Exported:
    from quicknet.core.progress import progress
    from quicknet.deploy.export import require_tools
    from quicknet.deploy.export_int8 import export_int8
    from quicknet.deploy.pipeline import default_path
    from quicknet.deploy.qnz import make_qnz
    from quicknet.inference.verify import load_receipt_data
    from quicknet.qnz.file import read_qnz

    require_tools(target)  # before minutes of quantizing
    out = default_path(model, target, int8=True) if out is None else out
    if model.is_file():
        file = read_qnz(model)
        dataset = None if data is None else load_receipt_data(file.card, data, quiet)
    else:
        dataset = _trained_on(model, data, quiet)
        file, _ = make_qnz(model, dataset, out, settings, functools.partial(progress, quiet=quiet))
    if data is None or dataset is None:
        return export_int8(file, out, target)
    with _measuring(dataset, 3, quiet) as advance:
        return export_int8(file, out, target, dataset, advance)


def _measuring(data: Dataset, passes: int, quiet: bool) -> AbstractContextManager[Callable[[int], None]]:
    """Show how far measuring is, which looks `passes` times at every image of the receipt's split."""
    from quicknet.core.progress import progress
    from quicknet.inference.verify import receipt_split

    return progress("export", passes * len(data.split(receipt_split(None, data))), "images", quiet)


def _trained_on(run: Path, data: str | None, quiet: bool) -> Dataset:
    """Return the run's own data, from where it lay at training unless `data` says where."""
    from quicknet.deploy.export import load_run_data, usual_source

    dataset = load_run_data(run, usual_source(run) if data is None else data, quiet)
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
            f"{_different(exported.different)} {parent}"
        )


def _compared(bits: str, row: Compared) -> str:
    lost = row.lost_points
    change = f"{abs(lost):.2f} points {'less' if lost > 0 else 'more'} than the run" if lost else "as the run"
    return (
        f"{bits} top-1 {100 * row.top1:.2f}% on {row.split}, n = {row.n:,}: {change}; "
        f"{_different(row.different)} the run"
    )


def _different(count: int) -> str:
    return f"{count} {'image has' if count == 1 else 'images have'} another class than by"
