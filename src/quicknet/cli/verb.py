"""What every verb of the command has: one order of its help text, --json and --json-schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

BAD_INPUT = "The input or the environment is not usable; one line on standard error says why."


_HYPHEN, _UNBROKEN = "-", "\u2011"


class _Formatter(click.HelpFormatter):
    """Breaks no line at the hyphen of a word, so that `--max-loss` can be found and copied."""

    def write_text(self, text: str) -> None:
        super().write_text(_unbroken(text))

    def write_dl(self, rows: Iterable[tuple[str, str]], *arguments: Any, **options: Any) -> None:
        super().write_dl([(term, _unbroken(text)) for term, text in rows], *arguments, **options)

    def getvalue(self) -> str:
        return super().getvalue().replace(_UNBROKEN, _HYPHEN)


def _unbroken(text: str) -> str:
    return re.sub(r"(?<=\w)-(?=\w)", _UNBROKEN, text)


class HelpContext(click.Context):
    """The context whose help texts are wrapped by words."""

    formatter_class = _Formatter


class Argument(click.Argument):
    """A positional argument with a sentence for the help text (click has that only from 8.5 on)."""

    def __init__(self, declarations: Sequence[str], *, help: str, **attributes: Any) -> None:  # noqa: A002
        super().__init__(declarations, **attributes)
        self.help = help


class Verb(click.Command):
    """A command whose help says first what a newcomer needs.

    The order is: usage, one sentence, examples, arguments, options, notes, exit codes. `help` is
    the sentence, `examples` are command lines, `notes` are paragraphs, and `exit_codes` says what
    each code means for this verb.
    """

    context_class = HelpContext

    def __init__(
        self,
        *arguments: Any,
        examples: Sequence[str],
        exit_codes: dict[int, str],
        notes: str = "",
        **attributes: Any,
    ) -> None:
        super().__init__(*arguments, **attributes)
        self.examples, self.exit_codes, self.notes = tuple(examples), exit_codes, notes

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the parts in their order."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        write_examples(formatter, self.examples)
        parameters = self.get_params(ctx)
        arguments = [(p.make_metavar(ctx), p.help or "") for p in parameters if isinstance(p, Argument)]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        self.format_options(ctx, formatter)
        if self.notes:
            with formatter.section("Notes"):
                formatter.write_text(self.notes.strip())
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), text) for code, text in self.exit_codes.items()])


def write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    """Write command lines as they are typed; they are never wrapped."""
    with formatter.section("Examples"):
        for line in examples:
            formatter.write(f"{'':>{formatter.current_indent}}$ {line}\n")


def json_options(text: str) -> Callable[[F], F]:
    """Add --json, which `text` describes, and --json-schema, which needs no other argument."""
    as_json = click.option("--json", "as_json", is_flag=True, help=text)
    schema = click.option(
        "--json-schema",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print_schema,
        help="Print the JSON Schema of what --json prints, and exit.",
    )
    return lambda command: as_json(schema(command))


def _print_schema(ctx: click.Context, option: click.Parameter, given: bool) -> None:
    if not given:
        return
    import json

    from quicknet.cli.schemas import SCHEMAS

    click.echo(json.dumps(SCHEMAS[ctx.command.name or ""], indent=2, ensure_ascii=False))
    ctx.exit()
