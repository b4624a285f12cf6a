"""The `quicknet` command: one file per verb, loaded when the verb is used."""

from __future__ import annotations

import importlib
import os
import sys

import click

from quicknet import __version__
from quicknet.cli.streams import ReaderLeft, install_streams
from quicknet.cli.text import shown
from quicknet.cli.verb import HelpContext, write_examples
from quicknet.core.errors import QuickNetError, missing_extra, nearest

# verb → one line for `--help`; its command is `quicknet.cli.VERB:VERB`
VERBS = {
    "train": "Train a network on CIFAR-10, CIFAR-100 or a folder of pictures.",
    "evaluate": "Measure how accurate a model is on a data set.",
    "predict": "Classify images, videos, and the pictures of a camera or a watched folder.",
    "export": "Write a run folder as one verified file that runs without PyTorch.",
    "compress": "Prune a run, code it small, and write it as one verified .qnz file.",
    "page": "Write a web page that classifies pictures in any browser.",
    "verify": "Check that an exported file still answers as its receipt says.",
    "benchmark": "Measure how fast models are on this machine, side by side.",
    "compare": "Compare networks: size, memory, energy, speed on this machine, accuracy.",
    "inspect": "Show what a model is: classes, data, training, metrics, layers, files.",
    "doctor": "List what is wrong with a data set before you train on it.",
}

_EXAMPLES = (
    "quicknet train photos/ --run runs/photos",
    "quicknet export runs/photos --out photos.qnz",
    "quicknet predict photos.qnz camera/",
)
_EXIT_CODES = (
    ("0", "Done."),
    ("1", "A check did not hold (verify, doctor, export, compress, benchmark --fps)."),
    ("2", "The input or the environment is not usable; one line on standard error says why."),
    ("130", "The command was interrupted."),
)


class _Verbs(click.Group):
    """Loads a verb's module only when it is called, so that `--help` stays fast."""

    context_class = HelpContext

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command = getattr(importlib.import_module(f"quicknet.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        write_examples(formatter, _EXAMPLES)
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)
        with formatter.section("Exit codes"):
            formatter.write_dl(_EXIT_CODES)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(f"no command is called {args[0]!r}{nearest(args[0], VERBS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="quicknet")
def cli() -> None:
    """Turn a folder of pictures into one small, fast, verified file that classifies images.

    The folder photos/ holds one folder of pictures per class, such as photos/cat and photos/dog.
    """


def main() -> None:
    """Run the command line; every failure is one line on stderr and an exit code."""
    install_streams()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line on `arguments` and return its exit code.

    Not through click's own `main`, which exits with 1 where a reader has gone and prints an
    empty line at Ctrl-C.
    """
    try:
        if not arguments:
            return _without_command()
        with cli.make_context("quicknet", list(arguments)) as context:
            code = cli.invoke(context)
        sys.stdout.flush()  # what cannot be written is found here, not when Python closes it
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except (ReaderLeft, BrokenPipeError):
        return 141  # the reader of our output has left: exit as SIGPIPE would
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("QUICKNET_DEBUG") == "1":
            import traceback

            traceback.print_exc()
        return _fail(*_line_and_code(error))


def _without_command() -> int:
    """Show the help where no command is named: the first thing that people type. Not a success for a script."""
    with cli.make_context("quicknet", [], resilient_parsing=True) as context:
        print(cli.get_help(context), file=sys.stderr)
    return _fail("no command given; name one of those above", 2)


def _line_and_code(error: BaseException) -> tuple[str, int]:
    """Return the line that describes a failure, and the exit code."""
    if isinstance(error, ModuleNotFoundError):
        error = missing_extra(error) or error
    if isinstance(error, QuickNetError):
        return str(error), error.exit_code
    if isinstance(error, click.ClickException):
        hint = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "quicknet"
        return f"{error.format_message().rstrip('.')}; see `{hint} --help`", 2
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return "interrupted; run the same command again", 130
    # PyTorch raises RuntimeError with one of these texts
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error):
        return "out of memory; use smaller images, a smaller --batch-size or a smaller model", 2
    if isinstance(error, OSError):
        where = error.filename if error.filename is not None else "an output"
        mend = "check that it exists, that you may use it, and that the disk has space left"
        return f"{error.strerror or error} ({where}); {mend}", 2
    return f"unexpected error ({type(error).__name__}: {error}); QUICKNET_DEBUG=1 shows where it happened", 2


def _fail(text: str, code: int) -> int:
    print(f"quicknet: error: {shown(' '.join(text.split()))}", file=sys.stderr)
    return code
