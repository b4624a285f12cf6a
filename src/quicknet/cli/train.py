"""`quicknet train`: from data to a run folder."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from quicknet.cli.live import Live, Rate, duration, stderr
from quicknet.core.errors import ConfigError

if TYPE_CHECKING:
    from quicknet.train.loop import EpochRecord
    from quicknet.train.recipe import Recipe
    from quicknet.train.run import Run


@click.command(short_help="Train a network.")
@click.argument("data", required=False)
@click.option("--model", help="A network of the registry, such as quicknet_xs (default: the recipe's).")
@click.option("--recipe", help="fast, best, paper, photos, or a .toml file (default: fast; photos for a folder).")
@click.option("--run", "run_name", help="Folder for the run (default: runs/DATA-MODEL-RECIPE).")
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with this run; DATA only if it moved.")
@click.option("--from", "start_from", help="Start from the weights of this run folder (fine-tuning).")
@click.option("--teacher", help="Distil from the model of this run folder.")
@click.option("--epochs", type=int, help="Short for --set train.epochs=N.")
@click.option("--batch-size", type=int, help="Short for --set train.batch_size=N.")
@click.option("--size", type=int, help="Image side in pixels; short for --set data.size=N.")
@click.option("--seed", type=int, help="Short for --set train.seed=N.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change any setting of the recipe.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 or auto.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads (default: all cores).")
@click.option("--json", "as_json", is_flag=True, help="Epoch records and the result as JSON lines on stdout.")
@click.option("--quiet", is_flag=True, help="No progress and no notes.")
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
    """Train a network on DATA: cifar10, cifar100, or a folder of pictures (one folder per class).

    Everything lands in a run folder that evaluate and predict take as MODEL. Ctrl-C saves; go on
    with --resume. With --json each line is an object with "event": "epoch" (the fields of
    log.jsonl) or "result" (run, split, n, top1, protocol, seconds).
    """
    import torch

    from quicknet import train as training

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = training.choose_device(device)
    if resume is not None:
        if model or recipe or run_name or changes or any(v is not None for v in shortcuts.values()):
            raise ConfigError("--resume takes every setting from the run; to change some, start a new run with --from")
        folder = resume
        with training.RunFolder(folder).lock():
            return _carry_out(training.resume(folder, chosen, data), as_json, quiet)
    settings = _settings(data, model, recipe, changes, shortcuts)
    folder = Path(run_name) if run_name else _free_folder(settings)
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
    from quicknet.train.recipe import load_recipe

    keys = {
        "start_from": "model.start_from",
        "teacher": "distill.teacher",
        "epochs": "train.epochs",
        "batch_size": "train.batch_size",
        "size": "data.size",
        "seed": "train.seed",
    }
    extra = [f"{keys[name]}={json.dumps(value)}" for name, value in shortcuts.items() if value is not None]
    if model is not None:
        extra.append(f"model.name={json.dumps(model)}")
    if data is not None:
        extra.append(f"data.source={json.dumps(data)}")
    name = recipe or ("fast" if data in (None, "cifar10", "cifar100") else "photos")
    settings = load_recipe(name, [*changes, *extra])
    if not settings.data.source:
        raise ConfigError("no DATA given; name cifar10, cifar100 or a folder with one folder of pictures per class")
    return settings


def _free_folder(settings: Recipe) -> Path:
    """Return runs/DATA-MODEL-RECIPE, with a number where that is taken."""
    source = Path(settings.data.source).resolve().name if "/" in settings.data.source else settings.data.source
    base = Path("runs") / f"{source or 'data'}-{settings.model.name}-{settings.name}"
    for number in range(1, 10_000):
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        if not (folder / "last.json").exists() and not (folder / "card.json").exists():
            return folder
    raise ConfigError(f"{base} and its 10,000 neighbours are taken; name a folder with --run")


def _carry_out(run: Run, as_json: bool, quiet: bool) -> int:
    """Train to the end, print what happens, close the run; returns the exit code."""
    from quicknet import train as training

    rate = Rate()
    live = Live(lambda: _live_line(run, rate), stderr(), quiet or not run.world.main)
    for line in [*training.describe(run), f"run      {run.folder.path}"]:
        live.say(line)
    with _stopping(run, live):
        try:
            with live.running():
                for record in training.fit(run):
                    live.say(_epoch_line(record, run.recipe.train.epochs))
                    if as_json and run.world.main:
                        click.echo(json.dumps({"event": "epoch", **record.to_dict()}))
        except training.Interrupted:
            live.say(f"stopped  saved; go on with: quicknet train --resume {run.folder.path}")
            return 130
        finally:
            training.leave()
    if run.world.main:
        _print_result(run, training.finish(run), as_json)
    return 0


class _stopping:
    """Ctrl-C and SIGTERM ask the run to stop after the step; a second one interrupts at once."""

    def __init__(self, run: Run, live: Live) -> None:
        self.run, self.live = run, live
        self.before: list[tuple[int, Any]] = []

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.run.stop_requested:
            raise KeyboardInterrupt
        self.run.stop_requested = True

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before.append((number, signal.signal(number, self._on_signal)))

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before:
            signal.signal(number, handler)


def _live_line(run: Run, rate: Rate) -> str:
    """Return epoch, step, loss, accuracy, images/s and time left."""
    state, recipe = run.state, run.recipe.train
    if state.seen == 0 or state.seconds <= 0:
        return ""
    speed = state.seen / state.seconds
    left = rate.left(run.steps_done(), recipe.epochs * run.steps_per_epoch)
    return (
        f"epoch {state.epoch + 1}/{recipe.epochs}  step {state.step}/{run.steps_per_epoch}  "
        f"loss {float(state.loss_sum) / state.seen:.3f}  acc {100 * float(state.correct) / state.seen:.1f}%  "
        f"{speed:,.0f} img/s" + (f"  {duration(left)} left" if left is not None else "")
    )


def _epoch_line(record: EpochRecord, epochs: int) -> str:
    width = len(str(epochs))
    text = f"epoch {record.epoch:{width}d}/{epochs}  loss {record.train_loss:.3f}"
    text += f"  acc {100 * record.train_accuracy:.2f}%"
    if record.val_accuracy is not None:
        text += f"  val {100 * record.val_accuracy:.2f}%{' *' if record.best else '  '}"
    return f"{text}  {record.images_per_second:,.0f} img/s  {duration(record.seconds)}"


def _print_result(run: Run, found: Any, as_json: bool) -> None:
    seconds = sum(entry["seconds"] for entry in run.state.history)
    if as_json:
        fields = {
            "event": "result",
            "run": str(run.folder.path),
            "split": found.split,
            "n": found.n,
            "top1": found.top1,
            "protocol": found.protocol,
            "best_epoch": run.state.best_epoch,
            "seconds": seconds,
        }
        click.echo(json.dumps(fields))
        return
    for line in _result_lines(run, found, seconds):
        click.echo(line)


def _result_lines(run: Run, found: Any, seconds: float) -> Iterator[str]:
    yield (
        f"{found.split} accuracy {100 * found.top1:.2f}% "
        f"({100 * found.top1_low:.2f} to {100 * found.top1_high:.2f}, 95% interval, n = {found.n:,}, "
        f"protocol {found.protocol}), best epoch {run.state.best_epoch}, "
        f"trained for {duration(seconds)}"
    )
    yield f"run folder {run.folder.path} (report.html shows it)"
