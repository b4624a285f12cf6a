"""`quicknet benchmark`: how fast models are on this machine, and whether they hold a camera's rate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quicknet.cli.text import make_table, require_ending, shown
from quicknet.cli.verb import BAD_INPUT, Argument, Verb, json_options
from quicknet.core.errors import ConfigError

if TYPE_CHECKING:
    from quicknet.measure.benchmark import Benchmark, Row
    from quicknet.measure.frames import FrameRow
    from quicknet.measure.realtime import SmallestShare

_NOTES = """
The tables show latency and throughput of the network alone (uint8 image to logits) and of the whole
path (JPEG bytes to label), peak memory, cold start, and the share of the fp32 peak that a large
matrix product reaches in the same run. Every variant is a process of its own and is pinned to
cores. All take turns, so that ratios are fair on a machine whose speed drifts.

With --fps N, frames arrive in real time, as from a camera of which only the newest frame counts. A
model holds the rate if at most 1% of the frames are dropped, and 95% are answered before the next
one arrives.

--cpu-share X gives it that share of one core: by a cgroup v2 quota where one can be made, else by
stopping the process for the rest of each 10 ms. --cpu-share auto finds the smallest share that
holds the rate, in steps of 0.01, with up to nine trials of --seconds each.
"""

_SHARED_CORE = 0.9


def _numbers(text: str, what: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise ConfigError(f"{what} {text!r} is not a list of numbers; write it like 1,64")
    return tuple(int(word) for word in words)


def _sides(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ConfigError(f"--jpeg {text!r} is not a size; write it like 640x480")
    return int(width), int(height)


@click.command(
    cls=Verb,
    short_help="Measure how fast models are.",
    help="Measure how fast models are on this machine, side by side, in every runtime present.",
    examples=(
        "quicknet benchmark photos.qnz photos.onnx --threads 1",
        "quicknet benchmark photos.qnz --fps 60 --cpu-share auto",
    ),
    notes=_NOTES,
    exit_codes={
        0: "The models were measured; with --fps, all of them hold the rate.",
        1: "With --fps: a model does not hold the rate.",
        2: BAD_INPUT,
        130: "The command was interrupted.",
    },
)
@click.argument(
    "models",
    cls=Argument,
    nargs=-1,
    required=True,
    metavar="MODELS...",
    help="Run folders, exported files, or names of shipped weights.",
)
@click.option("--batch", default="1,64", show_default=True, metavar="N,...", help="Classify N images at a time.")
@click.option("--threads", metavar="N,...", help="Use N threads, or all.  [default: 1,all; 1 with --fps]")
@click.option(
    "--seconds", type=float, metavar="S", help="Measure each case for S seconds.  [default: 2; 10 with --fps]"
)
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="Use only this runtime; may be repeated.")
@click.option("--jpeg", metavar="WxH", help="Use JPEG files of this size, such as 640x480.  [default: the model's own]")
@click.option("--starts", type=int, default=3, show_default=True, metavar="N", help="Start each model N times.")
@click.option("--fps", type=float, metavar="N", help="Ask whether the models hold N frames per second.")
@click.option("--cpu-share", metavar="X", help="Allow a share X of one core with --fps, such as 0.1, or auto.")
@json_options("Print one JSON object.")
@click.option("--png", "png_path", type=click.Path(path_type=Path), help="Draw the latencies into this file.")
@click.option("--quiet", is_flag=True, help="Print no progress and no notes.")
@click.pass_context
def benchmark(ctx: click.Context, /, models: tuple[str, ...], **options: Any) -> None:
    """Carry out `quicknet benchmark`."""
    from quicknet.inference.shipped import locate

    for model in models:
        locate(model, "file", options["quiet"])  # download now what must be downloaded
    if options["fps"] is not None:
        if options["png_path"] is not None:
            raise ConfigError("--png does not work with --fps; leave one of them out")
        if not _frames(models, options):
            ctx.exit(1)
        return
    if options["cpu_share"] is not None:
        raise ConfigError("--cpu-share needs --fps; add it, for example --fps 60")
    _benchmark(models, options)


def _benchmark(models: Sequence[str], options: dict[str, Any]) -> None:
    from quicknet.core.files import write_atomically
    from quicknet.core.progress import progress
    from quicknet.measure import figure
    from quicknet.measure.benchmark import BenchmarkSettings, count_steps
    from quicknet.measure.benchmark import benchmark as measure
    from quicknet.measure.subjects import thread_counts

    png_path, quiet = options["png_path"], options["quiet"]
    settings = BenchmarkSettings(
        batches=_numbers(options["batch"], "--batch"),
        threads=thread_counts((options["threads"] or "1,all").split(",")),
        seconds=2.0 if options["seconds"] is None else options["seconds"],
        starts=options["starts"],
        runtimes=options["runtimes"],
        jpeg=_sides(options["jpeg"]),
    )
    if png_path is not None:
        require_ending(png_path, "--png", (".png",), "a PNG picture")
        figure.check_matplotlib()
    with progress("benchmark", count_steps(models, settings), "turns", quiet) as advance:
        result = measure(models, settings, advance)
    if png_path is not None:
        write_atomically(png_path, figure.draw_latency(result))
    if options["as_json"]:
        click.echo(json.dumps(result.to_dict()))
    else:
        _print(result)
    alone = [row.cores_used for row in result.rows if row.threads == 1]
    if alone and min(alone) < _SHARED_CORE and not quiet:
        taken = f"{100 * (1 - min(alone)):.0f}%"
        note = f"other processes used up to {taken} of the core; compare CPU ms, or measure on an idle machine"
        click.echo(f"quicknet: note: {note}", err=True)
    if png_path is not None and not quiet:
        click.echo(f"quicknet: note: the picture is in {shown(str(png_path))}", err=True)


def _frames(models: Sequence[str], options: dict[str, Any]) -> bool:
    """Run and print; returns whether all models hold the rate."""
    from quicknet.core.machine import machine_card, versions
    from quicknet.measure.realtime import FrameSettings, hold_frames, smallest_shares
    from quicknet.measure.subjects import thread_counts

    machine = machine_card()
    threads = thread_counts((options["threads"] or "1").split(","))
    if len(threads) != 1:
        raise ConfigError("--fps takes one number of threads; write it like --threads 1")
    settings = FrameSettings(
        fps=options["fps"],
        seconds=10.0 if options["seconds"] is None else options["seconds"],
        cpu_share=_share(options["cpu_share"]),
        threads=threads[0],
        runtimes=options["runtimes"],
        jpeg=_sides(options["jpeg"]),
    )
    if not options["quiet"]:
        count = f"{settings.frames} frames in {settings.seconds:g} s"
        click.echo(f"quicknet: note: {count} for each model and runtime", err=True)
    smallest: tuple[SmallestShare, ...] = ()
    if options["cpu_share"] == "auto":
        smallest = smallest_shares(models, settings, _quiet if options["quiet"] else _report_trial)
        rows = tuple(share.row for share in smallest)
    else:
        rows = hold_frames(models, settings)
    all_hold = all(row.holds for row in rows)
    if options["as_json"]:
        fields = {"format": 1, "machine": machine, "versions": versions(), "holds": all_hold}
        fields |= {"rows": [row.to_dict() for row in rows]}
        fields |= {"smallest": [share.to_dict() for share in smallest]} if smallest else {}
        click.echo(json.dumps(fields))
    else:
        lines = [_share_line(share) for share in smallest]
        click.echo("\n".join([*lines, *(_frame_line(row) for row in rows)]))
    return all_hold


def _share(text: str | None) -> float | None:
    """Return a share of one core; None without --cpu-share, and for auto."""
    if text is None or text == "auto":
        return None
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"--cpu-share {text!r} is neither a number nor auto; write it like 0.1") from error


def _quiet(row: FrameRow) -> None:
    """Print nothing about a trial."""


def _report_trial(row: FrameRow) -> None:
    answer = "holds" if row.holds else "does not hold"
    text = f"{row.cpu_share:g} of one core {answer}: {row.dropped} dropped, {row.late} late of {row.frames}"
    click.echo(f"quicknet: note: {shown(row.model)} ({row.runtime}): {text}", err=True)


def _share_line(share: SmallestShare) -> str:
    name = f"{shown(share.model)} ({share.runtime})"
    fps = f"{share.row.fps:g} frames/s"
    if share.cpu_share is None:
        return f"{name}: a whole core does not hold {fps}"
    return f"{name}: {share.cpu_share:.2f} of one core is the smallest share that holds {fps}"


def _frame_line(row: FrameRow) -> str:
    answer = "holds" if row.holds else "does not hold"
    cpu = "a whole core"
    if row.cpu_share is not None and row.cpu_share_used is not None:
        cpu = f"{row.cpu_share:g} of one core (used {row.cpu_share_used:.3f}; {row.quota})"
    threads = f"{row.threads} thread{'s' if row.threads > 1 else ''}"
    return (
        f"{shown(row.model)} ({row.runtime}) {answer} {row.fps:g} frames/s with {cpu}, {threads}, JPEG {row.jpeg}: "
        f"{row.frames} frames, {row.dropped} dropped, {row.late} late; "
        f"latency median {row.median_ms:.1f} ms, p95 {row.p95_ms:.1f} ms, worst {row.worst_ms:.1f} ms"
    )


# --- the tables ----------------------------------------------------------------------------


_LEGEND = """\
network: uint8 images to logits; whole: JPEG bytes to labels; MB: most memory so far
CPU ms: CPU time of a call, which others on the machine do not change; ratio: images/s against the
first model and runtime; share: multiply-adds per CPU time against those of the fp32 peak"""
_MIN_COLUMNS = 120  # where the output is not a terminal


def _print(result: Benchmark) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=_MIN_COLUMNS)
    machine = result.machine
    governor = machine["governor"] or "unknown"
    load = f"governor {governor}, load before {machine['load_1min']}"
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {load}", soft_wrap=True)
    for peak in result.peaks:
        speed = f"{peak.gmacs_median:.1f} G multiply-adds/s (best {peak.gmacs_best:.1f}), "
        speed += f"{peak.gmacs_per_core_second:.1f} per second of CPU time, {peak.library}"
        console.print(f"fp32 peak, threads {peak.threads}: {speed}", soft_wrap=True)
    for name, detail in result.runtimes.items():
        console.print(f"{name}: {shown(detail)}", soft_wrap=True)
    console.print(_model_table(result))
    console.print(_start_table(result))
    for batch, threads in dict.fromkeys((row.batch, row.threads) for row in result.rows):
        rows = [row for row in result.rows if (row.batch, row.threads) == (batch, threads)]
        console.print(_speed_table(rows))
    console.print(_LEGEND, soft_wrap=True)


def _model_table(result: Benchmark) -> Any:
    from rich.text import Text

    table = make_table("models", ("model", "network"), ("input", "JPEG", "parameters", "MACs", "bytes"))
    for model in result.models:
        counts = (f"{n:,}" if n is not None else "–" for n in (model.parameters, model.macs, model.size_bytes))
        names = (Text(shown(model.model)), Text(shown(model.name)))
        table.add_row(*names, model.input, result.jpegs[model.model], *counts)
    return table


def _start_table(result: Benchmark) -> Any:
    from rich.text import Text

    title = f"cold start: Python to first label, n = {result.settings.starts}"
    table = make_table(title, ("model", "runtime"), ("median s", "fastest", "slowest"))
    for start in result.starts:
        spread = (f"{seconds:.2f}" for seconds in (start.median_s, start.fastest_s, start.slowest_s))
        table.add_row(Text(shown(start.model)), start.runtime, *spread)
    return table


def _speed_table(rows: Sequence[Row]) -> Any:
    from rich.text import Text

    first = rows[0]
    cores = "not pinned" if first.cores is None else f"pinned to {', '.join(map(str, first.cores))}"
    title = f"batch {first.batch}, threads {first.threads} ({cores})"
    columns = ("median ms", "p95 ms", "CPU ms", "images/s", "ratio", "share", "MB", "n")
    table = make_table(title, ("model", "runtime", "path"), columns)
    for row in rows:
        share = "" if row.peak_share is None else f"{100 * row.peak_share:.0f}%"
        times = (f"{ms:.2f}" for ms in (row.median_ms, row.p95_ms, row.cpu_ms))
        figures = (*times, f"{row.images_per_second:,.0f}", f"{row.ratio:.2f}")
        memory = f"{row.memory_bytes / 1e6:.0f}"
        table.add_row(Text(shown(row.model)), row.runtime, row.path, *figures, share, memory, str(row.n))
    return table
