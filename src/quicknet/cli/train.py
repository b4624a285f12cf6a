"""`quicknet train`: from data to a run folder."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from quicknet.cli.live import Live, Rate, duration, stderr
from quicknet.cli.text import shown
from quicknet.cli.verb import BAD_INPUT, Argument, Verb, json_options
from quicknet.core.energy import total_joules
from quicknet.core.errors import ConfigError

if TYPE_CHECKING:
    from quicknet.inference.evaluate import Evaluation
    from quicknet.training.checkpoint import EpochRecord
    from quicknet.training.recipe import Recipe
    from quicknet.training.run import Run

_NOTES = """
The run folder is a MODEL for every other command, such as quicknet evaluate and quicknet predict.

Ctrl-C, SIGTERM and a terminal that closes (SIGHUP) save the run and stop. A second Ctrl-C or SIGTERM
stops at once.
"""


@click.command(
    cls=Verb,
    short_help="Train a network.",
    help="Train a network on pictures and save it in a run folder.",
    examples=("quicknet train photos/ --run runs/photos", "quicknet train --resume runs/photos"),
    notes=_NOTES,
    exit_codes={
        0: "The training is complete.",
        2: BAD_INPUT,
        130: "The training was interrupted; the last line says how to go on.",
    },
)
@click.argument(
    "data",
    cls=Argument,
    required=False,
    help="What to learn from: cifar10, cifar100, or a folder that holds one folder of pictures per class.",
)
@click.option("--model", metavar="NAME", help="Train this network, such as quicknet_xs.  [default: the recipe's]")
@click.option(
    "--recipe",
    metavar="NAME",
    help="Use fast, best, paper, photos, scratch, teacher, or a .toml file.  "
    "[default: fast; for a folder photos, or scratch without weights to start from]",
)
@click.option("--run", "run_name", metavar="FOLDER", help="Write this run folder.  [default: runs/DATA-MODEL-RECIPE]")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Continue this run; give DATA or --teacher only if they have moved.",
)
@click.option(
    "--from",
    "start_from",
    metavar="RUN",
    help="Fine-tune the weights of this run folder or name; none starts from nothing.  "
    "[default: NAME.photos of the network for a folder]",
)
@click.option(
    "--teacher",
    multiple=True,
    metavar="MODEL",
    help="Learn from the answers of this run folder, exported file or name (distillation); given several times, from "
    "their mean.",
)
@click.option("--epochs", type=int, metavar="N", help="Train for N epochs; short for --set train.epochs=N.")
@click.option("--batch-size", type=int, metavar="N", help="Use N images per step; short for --set train.batch_size=N.")
@click.option("--size", type=int, metavar="N", help="Use images of N by N pixels; short for --set data.size=N.")
@click.option(
    "--balance/--no-balance",
    default=None,
    help="Count every class alike, however few pictures it has.  [default: where a folder's classes differ by 5 to 1]",
)
@click.option("--seed", type=int, metavar="N", help="Start random numbers from N; short for --set train.seed=N.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change any setting of the recipe.")
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="Train on cpu, cuda, cuda:1 or auto.")
@click.option("--threads", type=click.IntRange(1, 256), metavar="N", help="Use N CPU threads.  [default: all cores]")
@json_options("Print one JSON line per epoch and one for the result.")
@click.option("--quiet", is_flag=True, help="Print no progress and no notes.")
def train(
    data: str | None,
    model: str | None,
    recipe: str | None,
    run_name: str | None,
    resume: Path | None,
    device: str,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    changes: tuple[str, ...],
    **shortcuts: Any,
) -> int:
    """Carry out `quicknet train`; returns the exit code."""
    import torch

    from quicknet import training
    from quicknet.inference.shipped import locate

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = training.choose_device(device)
    if resume is not None:
        teachers = shortcuts.pop("teacher")
        if model or recipe or run_name or changes or any(v is not None for v in shortcuts.values()):
            raise ConfigError("--resume takes every setting from the run; to change some, start a new run with --from")
        run_folder = training.RunFolder(resume)
        run_folder.require_saved()  # before the lock would make the folder
        with run_folder.lock():
            return _carry_out(training.resume(resume, chosen, data, teachers), as_json, quiet)
    settings = _settings(data, model, recipe, changes, shortcuts)
    # what must be fetched is fetched now
    if settings.model.start_from is not None:
        locate(settings.model.start_from, "run", quiet)
    for name in settings.distill.teachers:
        locate(name, "any", quiet)
    folder = Path(run_name) if run_name else _free_folder(settings)
    training.require_outside(settings.data.source, folder)  # before the lock makes it
    with training.RunFolder(folder).lock():
        return _carry_out(training.start(settings, folder, chosen), as_json, quiet)


def _settings(
    data: str | None,
    model: str | None,
    recipe: str | None,
    changes: tuple[str, ...],
    shortcuts: dict[str, Any],
) -> Recipe:
    """Return the recipe that the command line describes."""
    from quicknet.training.recipe import NO_PARENT, default_recipe, load_recipe
    from quicknet.training.teachers import one_or_several

    keys = {
        "start_from": "model.start_from",
        "teacher": "distill.teacher",
        "epochs": "train.epochs",
        "batch_size": "train.batch_size",
        "size": "data.size",
        "seed": "train.seed",
    }
    if model is not None and shortcuts["start_from"] not in (None, NO_PARENT):
        raise ConfigError("--from brings its own network with it; leave --model out")
    keys |= {"model": "model.name", "data": "data.source", "balance": "train.balance"}
    given = {**shortcuts, "model": model, "data": data}
    given["teacher"] = one_or_several(given["teacher"]) if given["teacher"] else None
    if given["balance"] is not None:
        given["balance"] = "on" if given["balance"] else "off"
    values = {keys[name]: value for name, value in given.items() if value is not None}
    for value in values.values():
        for text in value if isinstance(value, list) else [value]:
            _require_unicode(str(text))
    recipe = recipe or default_recipe(data or "cifar10", model, shortcuts["start_from"])
    settings = load_recipe(recipe, changes, values)
    if not settings.data.source:
        raise ConfigError("no DATA given; name cifar10, cifar100 or a folder with one folder of pictures per class")
    return settings


def _require_unicode(text: str) -> None:
    """Raise ConfigError for a name that cannot be written to recipe.toml, which is UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the name {text!r} is not UTF-8 text; rename it, or name a link to it") from error


def _free_folder(settings: Recipe) -> Path:
    """Return runs/DATA-MODEL-RECIPE, with a number where that exists already.

    A recipe may come from anywhere: no character of its name leads out of runs/.
    """
    from quicknet.training.checkpoint import RunFolder

    words = (Path(settings.data.source).resolve().name or "data", settings.model.name, settings.name)
    base = Path("runs") / re.sub(r"[^\w.-]", "_", "-".join(words))[:100]
    for number in range(1, 10_000):
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        if not RunFolder(folder).exists():
            return folder
    raise ConfigError(f"{base} and 10,000 names like it are used already; name a folder with --run")


def _carry_out(run: Run, as_json: bool, quiet: bool) -> int:
    """Train to the end, print what happens, close the run; returns the exit code."""
    from quicknet import training
    from quicknet.training.tensorboard import scalars

    rate, asking = Rate(), Rate()
    live = Live(lambda: _asking_line(run, asking) or live_line(run, rate), stderr(), quiet or not run.world.main)
    for line in [*training.describe(run), f"run      {run.folder.path}"]:
        live.say(line)
    unbalanced = run.unbalanced("val")
    with stopping(run), contextlib.ExitStack() as last:
        last.callback(training.leave)
        try:
            with live.running(), scalars(run) as to_tensorboard:
                for record in training.fit(run):
                    live.say(epoch_line(record, run, unbalanced))
                    to_tensorboard(record)
                    if as_json and run.world.main:
                        click.echo(json.dumps({"event": "epoch", **record.to_dict()}))
            training.leave(together=True)
        except training.Interrupted:
            return _stopped(run, "saved" if run.meter.asked is None else "the teacher's answers so far are kept")
        except KeyboardInterrupt:  # the second one
            return _stopped(run, "at once, what was saved before is whole")
    if run.world.main:
        try:
            evaluation = training.finish(run)
        except KeyboardInterrupt:
            return _stopped(run, "trained to the end, not yet measured")
        _print_result(run, evaluation, as_json)
        if not (as_json or quiet):
            for line in _next_lines(run):
                click.echo(shown(line), err=True)
    return 0


def _stopped(run: Run, how: str) -> int:
    """Say how to go on, --quiet or not; returns the exit code."""
    if run.world.main:
        again = f"quicknet train --resume {shlex.quote(str(run.folder.path))}"
        if not (run.folder.path / "last.json").exists():
            again = "the same command again" + (" (nothing was saved yet)" if run.meter.asked is None else "")
        click.echo(shown(f"stopped  {how}; go on with: {again}"), err=True)
    return 130


class stopping:
    """SIGINT (Ctrl-C), SIGTERM and SIGHUP ask the run to stop after the step.

    A second SIGINT or SIGTERM interrupts at once. SIGHUP, which a closing terminal sends, never
    does: it often comes twice (from the kernel and from the shell) or just after SIGTERM.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.before: list[tuple[int, Any]] = []
        self.interrupted = False

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = self.run.stop_requested = True

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:
        self.run.stop_requested = True

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before.append((number, signal.signal(number, self._on_interrupt)))
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:  # nohup ignores it: the run goes on
            self.before.append((hangup, signal.signal(hangup, self._on_hangup)))

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before:
            signal.signal(number, handler)


def _asking_line(run: Run, rate: Rate) -> str:
    """Return how far the teacher is with the answers that are kept, and the time left; "" once it is through."""
    asked = run.meter.asked
    if asked is None:
        return ""
    left = rate.left(asked.done, asked.images)
    return (
        f"teacher's answers {asked.done * asked.epochs // asked.images}/{asked.epochs}  "
        f"image {asked.done:,}/{asked.images:,}" + (f"  {duration(left)} left" if left is not None else "")
    )


def live_line(run: Run, rate: Rate) -> str:
    """Return epoch, step, loss, accuracy, images/s and time left."""
    state, recipe = run.state, run.recipe.train
    # copies: the loop goes on meanwhile, and may begin another epoch
    images, seconds, correct, loss_sum = state.seen, state.seconds, state.correct, state.loss_sum
    if images == 0 or seconds <= 0:
        return ""
    left = rate.left(recipe.work(run.progress()), 1.0)
    return (
        f"epoch {state.epoch + 1}/{recipe.epochs}  step {state.step}/{run.steps_per_epoch}  "
        f"loss {float(loss_sum) / images:.3f}  acc {100 * float(correct) / images:.1f}%  "
        f"{images / seconds:,.0f} img/s" + (f"  {duration(left)} left" if left is not None else "")
    )


def epoch_line(record: EpochRecord, run: Run, unbalanced: bool) -> str:
    """Return what an epoch came to."""
    epochs = run.recipe.train.epochs
    width = len(str(epochs))
    if record.epoch == 0 and run.head is not None:
        return (
            f"head     val {100 * (record.val_accuracy or 0):.2f}%, {run.head.describe()}, {duration(record.seconds)}: "
            f"{run.folder.path} answers from now on, and training goes on"
        )
    text = f"epoch {record.epoch:{width}d}/{epochs}  loss {record.train_loss:.3f}"
    text += f"  acc {100 * record.train_accuracy:.2f}%"
    if record.val_accuracy is not None:
        text += f"  val {100 * record.val_accuracy:.2f}%"
        if unbalanced and record.val_balanced_accuracy is not None:
            text += f" (balanced {100 * record.val_balanced_accuracy:.2f}%)"
        text += " *" if record.best and not run.keeps_last else "  "
    return f"{text}  {record.images_per_second:,.0f} img/s  {duration(record.seconds)}"


def _print_result(run: Run, evaluation: Evaluation, as_json: bool) -> None:
    seconds = sum(entry["seconds"] for entry in run.state.history)
    joules = total_joules(run.state.history)
    if as_json:
        fields = {
            "event": "result",
            "run": str(run.folder.path),
            "split": evaluation.split,
            "n": evaluation.n,
            "top1": evaluation.top1,
            "top1_low": evaluation.top1_low,
            "top1_high": evaluation.top1_high,
            "balanced_accuracy": evaluation.balanced_accuracy,
            "majority_share": evaluation.majority_share,
            "protocol": evaluation.protocol,
            "best_epoch": run.state.best_epoch,
            "seconds": seconds,
            "energy_joules": joules,
        }
        click.echo(json.dumps(fields))
        return
    for line in _result_lines(run, evaluation, seconds, joules):
        click.echo(shown(line))


def _next_lines(run: Run) -> Iterator[str]:
    """Yield the commands that most people want next."""
    folder, data = run.folder.path, run.recipe.data.source
    file = f"{folder.resolve().name or 'model'}.qnz"
    yield f"next     quicknet predict {shlex.quote(str(folder))} PICTURE"
    yield (
        f"next     quicknet export {shlex.quote(str(folder))} --out {shlex.quote(file)} --data {shlex.quote(data)} "
        "(one file that runs without PyTorch)"
    )


def _result_lines(run: Run, evaluation: Evaluation, seconds: float, joules: float | None) -> Iterator[str]:
    yield (
        f"{evaluation.split} accuracy {100 * evaluation.top1:.2f}% "
        f"({100 * evaluation.top1_low:.2f} to {100 * evaluation.top1_high:.2f}, 95% interval, n = {evaluation.n:,}, "
        f"protocol {evaluation.protocol}), "
        f"weights of epoch {run.state.best_epoch}, "
        f"trained for {duration(seconds)}" + ("" if joules is None else f", {joules / 3.6e6:.3g} kWh of the processors")
    )
    imbalance = evaluation.imbalance()
    if imbalance is not None:
        yield imbalance
    yield f"run folder {run.folder.path} (report.html shows it)"
