"""`quicknet compress`: a run folder becomes a small file whose network is mostly absent."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from quicknet.cli.live import Live, Rate, stderr
from quicknet.cli.text import HTML, make_table, require_ending, shown
from quicknet.cli.verb import BAD_INPUT, Argument, Verb, json_options
from quicknet.core.errors import ConfigError

if TYPE_CHECKING:
    from quicknet.core.errors import CheckFailed
    from quicknet.deploy.compress.settings import Compressed, Plan, Point
    from quicknet.training.checkpoint import EpochRecord
    from quicknet.training.run import Run

_NOTES = """
The network is pruned while it trains on, with the run as its teacher (or --teacher); then its integers
are fine-tuned. --target-size and --target-speed may be given together; other targets exclude each other.
With --epochs 0 nothing is pruned and nothing trains: in minutes the integers become as coarse as a
--target-size or a --max-loss asks for, or as --step says.
Choices are made on val; the accuracy in the receipt is measured on the file that is written.

Ctrl-C, SIGTERM and a closing terminal save and stop; the same command goes on. Of fine-tuning the
integers the last minute is done again. The state lies in OUT.work until the file is written; where a
target was not reached it stays, so that a --target-size up to a quarter larger, or a larger
--max-loss, need not train again.
"""
_UNITS = {"": 1, "b": 1, "kb": 1000, "kib": 1024, "mb": 1_000_000, "mib": 1 << 20}
_MUCH = 3.0  # points of accuracy
_SPEED_SHARE = 0.97  # medians of two runs of one file differed by up to 2% (results/0042: 1.63 and 1.64 times)
# option → field of CompressSettings
_FIELDS = {"qat": "qat_epochs"}


@click.command(
    cls=Verb,
    short_help="Prune a run and write it as a small .qnz file.",
    help="Prune a run, fine-tune it, code it small, and write it as one verified .qnz file.",
    examples=(
        "quicknet compress runs/photos --target-size 100KB --out photos.qnz",
        "quicknet compress runs/photos --max-loss 0.3 --out photos.qnz",
        "quicknet compress runs/photos --max-loss 0.3 --epochs 0 --out photos.qnz",
    ),
    notes=_NOTES,
    exit_codes={
        0: "The file was written.",
        1: "The target was not reached, or the file does not answer as its card says; nothing was written.",
        2: BAD_INPUT,
        130: "The command was interrupted; the same command goes on.",
    },
)
@click.argument(
    "run", cls=Argument, type=click.Path(path_type=Path), help="A run folder, or the name of shipped weights."
)
@click.argument(
    "data",
    cls=Argument,
    required=False,
    help="The data that the run was trained on, where it does not lie where the run says.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Write this file.")
@click.option("--target-size", metavar="SIZE", help="Reach this size, such as 350KB.")
@click.option("--max-loss", type=float, metavar="POINTS", help="Lose at most POINTS of accuracy on val.")
@click.option("--target-speed", metavar="TIMES", help="Become so many times as fast, such as 2x, measured here.")
@click.option("--density", type=float, metavar="SHARE", help="Keep this share of the pointwise weights.")
@click.option(
    "--pattern",
    type=click.Choice(["block", "element", "channel"]),
    help="Prune blocks of four input channels, single weights, or whole output channels.  [default: block]",
)
@click.option(
    "--mode",
    type=click.Choice(["integers", "paper"]),
    help="Add with paper the sizes of Deep Compression's own steps.  [default: integers]",
)
@click.option(
    "--teacher",
    metavar="MODEL",
    help="Learn from the answers of this run folder, exported file or name.  [default: RUN]",
)
@click.option("--keep", metavar="FOLDER", help="Keep the pruned network in float32 as this run folder.")
@click.option(
    "--epochs",
    type=int,
    metavar="N",
    help="Prune and fine-tune for N epochs; 0 does neither.  [default: 12; up to 50 where images are few]",
)
@click.option(
    "--qat",
    type=float,
    metavar="EPOCHS",
    help="Fine-tune the integers for EPOCHS.  [default: 2; 0 with --epochs 0]",
)
@click.option(
    "--bits",
    type=click.Choice(["w7a8", "w7a7", "w6a7", "w5a8"]),
    help="Use integers of this width class.  [default: w5a8]",
)
@click.option("--step", type=float, metavar="X", help="Set the step of the integers; 0 is the finest.  [default: 0.6]")
@click.option("--seed", type=int, metavar="N", help="Start random numbers from N.  [default: 0]")
@click.option("--threads", type=click.IntRange(1, 256), metavar="N", help="Use N CPU threads.  [default: all cores]")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page of size, speed and accuracy on the way.")
@json_options("Print one JSON object.")
@click.option("--quiet", is_flag=True, help="Print no progress and no notes.")
def compress(
    run: Path,
    data: str | None,
    out: Path,
    threads: int | None,
    html: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Carry out `quicknet compress`; returns the exit code."""
    import torch

    from quicknet.core.progress import progress
    from quicknet.deploy.compress.listener import Listener
    from quicknet.deploy.compress.run import compress as write
    from quicknet.deploy.compress.settings import CompressSettings
    from quicknet.deploy.export import load_run_data, usual_source
    from quicknet.inference.shipped import locate
    from quicknet.report.path import write_path
    from quicknet.training import Interrupted

    settings = CompressSettings(**_fields(options))
    require_ending(out, "--out", (".qnz",), "a .qnz")
    if html is not None:
        require_ending(html, "--html", HTML, "a page")
    if threads is not None:
        torch.set_num_threads(threads)
    run = locate(str(run), "run", quiet)
    if settings.teacher is not None:
        locate(settings.teacher, "any", quiet)
    source = usual_source(run) if data is None else data
    dataset = load_run_data(run, source, quiet)
    listener = Listener(
        show=functools.partial(progress, quiet=quiet),
        watch=functools.partial(_watched, quiet=quiet),
        plan=functools.partial(_say_plan, quiet=quiet),
        tried=functools.partial(_say_tried, quiet=quiet),
        missed=functools.partial(_say_missed, quiet=quiet),
    )
    try:
        with _interruptible():
            compressed = write(run, dataset, out, settings, source, listener)
    except (Interrupted, KeyboardInterrupt):
        click.echo("stopped  saved; the same command goes on", err=True)
        return 130
    _note_loss(compressed, quiet)
    _note_speed(compressed, settings.target_speed, quiet)
    if html is not None:
        write_path(html, compressed.to_dict())
    if as_json:
        click.echo(json.dumps(compressed.to_dict()))
    else:
        _print(compressed)
    return 0


def _note_loss(compressed: Compressed, quiet: bool) -> None:
    """Say so where the file is much worse than the run, whatever was asked for."""
    row = compressed.compared[0]
    if row.lost_points >= _MUCH and not quiet:
        mend = "keep more of the weights (a larger --target-size or --density), or train for more --epochs"
        if not compressed.epochs:
            mend = "take finer integers (a larger --target-size, a smaller --step), or fine-tune them with --qat"
        click.echo(
            f"quicknet: note: {row.lost_points:.1f} points of accuracy on {row.split} are lost; {mend}", err=True
        )


def _note_speed(compressed: Compressed, times: float | None, quiet: bool) -> None:
    """Say so where the file is slower than what was asked for: measured times differ by a few percent."""
    if times is None or compressed.speed is None or compressed.speed >= _SPEED_SHARE * times or quiet:
        return
    click.echo(
        f"quicknet: note: the file is {compressed.speed:.2f} times as fast as dense, not {times:g}; measure it again "
        "on a quiet machine (quicknet benchmark), or ask for a higher --target-speed",
        err=True,
    )


def _fields(options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that were given, as CompressSettings has them."""
    given = {_FIELDS.get(name, name): value for name, value in options.items() if value is not None}
    for name, parse in (("target_size", size_bytes), ("target_speed", _times)):
        if name in given:
            given[name] = parse(given[name])
    return given


def size_bytes(text: str) -> int:
    """Return the bytes that a size names. Raises ConfigError.

    >>> size_bytes("350KB"), size_bytes("1.5 MiB")
    (350000, 1572864)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _UNITS or len(match[1]) > 15:
        raise ConfigError(f"--target-size {text!r} is not a size; give one such as 350KB, 64KiB or 1MB")
    return round(float(match[1]) * _UNITS[match[2]])


def _times(text: str) -> float:
    try:
        return float(text.lower().removesuffix("x"))
    except ValueError as error:
        raise ConfigError(f"--target-speed {text!r} is not a number of times; give one such as 2x") from error


def _say_plan(plan: Plan, quiet: bool) -> None:
    """Say what training is to come to, before it takes its time."""
    if not quiet:
        speed = "" if plan.speed is None else f", {plan.speed:.1f} times as fast as dense"
        click.echo(
            f"plan: keep {100 * plan.density:.1f}% of the pointwise weights: about {plan.size_bytes:,} bytes{speed}",
            err=True,
        )
    if plan.needless and not quiet:
        click.echo("quicknet: note: with --epochs 0 that size takes minutes, and loses little", err=True)


def _say_tried(point: Point, quiet: bool) -> None:
    if not quiet:
        accuracy = f"top-1 {100 * point.val_accuracy:.2f}% on val"
        click.echo(f"tried step {point.step:.3g}: {point.size_bytes:,} bytes, {accuracy}", err=True)


def _say_missed(error: CheckFailed, quiet: bool) -> None:
    if not quiet:
        click.echo(f"quicknet: note: {error}: a network that keeps more of its weights is tried", err=True)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt whatever is no training as Ctrl-C does: trainings save first (`stopping`)."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # nohup: the terminal may close
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _watched(run: Run, quiet: bool) -> Iterator[Callable[[EpochRecord], None]]:
    """Show a training as `quicknet train` does, and let signals save it."""
    from quicknet.cli.train import epoch_line, live_line, stopping

    rate = Rate()
    live = Live(lambda: live_line(run, rate), stderr(), quiet)
    unbalanced = run.unbalanced("val")

    def tell(record: EpochRecord) -> None:
        kept = "" if run.constraint is None else f"  kept {100 * run.constraint.density():.1f}%"
        live.say(epoch_line(record, run, unbalanced) + kept)

    with stopping(run), live.running():
        yield tell


# --- printing --------------------------------------------------------------------------------


def _print(compressed: Compressed) -> None:
    from rich.console import Console

    click.echo(f"{shown(compressed.path)}  {compressed.size_bytes:,} bytes, sha256 {compressed.sha256}")
    click.echo(
        f"{compressed.dense_bytes / compressed.size_bytes:.1f} times smaller than in fp32; "
        f"{100 * compressed.density:.1f}% of the pointwise weights kept"
        + ("" if compressed.speed is None else f"; {compressed.speed:.2f} times as fast as dense")
    )
    for row in compressed.compared:
        click.echo(
            f"top-1 {100 * row.top1:.2f}% on {row.split}, n = {row.n:,}: {row.lost_points:+.2f} points lost to the run"
        )
    names = ["weights", "kept", "bits", "coded", "index", "coded", "size", "time"]  # 80 columns hold them
    table = make_table("layers", ["layer"], names)
    for layer in compressed.layers:
        table.add_row(
            layer.name,
            f"{layer.weights:,}",
            f"{100 * layer.kept / layer.weights:.1f}%",
            f"{layer.bits:.0f}",
            f"{layer.coded_bits:.2f}",
            f"{layer.index_bits:.2f}",
            f"{layer.coded_index_bits:.2f}",
            f"{100 * layer.bytes_coded / compressed.size_bytes:.1f}%",
            "" if layer.time_share is None else f"{100 * layer.time_share:.1f}%",
        )
    Console().print(table)
    click.echo(
        f"all numbers: {compressed.contexts_bytes:,} bytes by contexts, {compressed.huffman_bytes:,} by Huffman; "
        f"entropy {compressed.entropy_bytes:,}"
    )
    if compressed.paper is not None:
        sizes = compressed.paper
        steps = {"pruned": sizes.bytes_pruned, "quantized": sizes.bytes_quantized, "Huffman-coded": sizes.bytes_coded}
        click.echo(f"as in Deep Compression, from {sizes.bytes_dense:,} bytes in fp32:")
        for name, count in steps.items():
            click.echo(f"  {name:14}{count:>12,} bytes, {sizes.bytes_dense / count:.1f} times smaller")
