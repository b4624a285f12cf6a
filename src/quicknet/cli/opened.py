"""--runtime and --threads, which several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quicknet.cli.text import shown

if TYPE_CHECKING:
    from quicknet.inference.classifier import Classifier

F = TypeVar("F", bound=Callable[..., Any])

_RUNTIMES = ("auto", "engine", "engine-portable", "reference", "onnxruntime", "openvino")


def runtime_options(command: F) -> F:
    """Add --runtime and --threads to a command."""
    threads = click.option(
        "--threads",
        type=click.IntRange(1, 1024),
        metavar="N",
        help="Use N threads for an exported file.  [default: all cores]",
    )
    runtime = click.option(
        "--runtime",
        type=click.Choice(_RUNTIMES),
        default="auto",
        show_default=True,
        metavar="NAME",
        help="Run a .qnz with engine, reference or engine-portable, an ONNX file with onnxruntime or openvino; "
        "auto takes the fastest.",
    )
    return runtime(threads(command))


def note_runtime(classifier: Classifier, runtime: str) -> None:
    """Say so where `auto` came to the slow reference."""
    if runtime == "auto" and getattr(classifier, "runtime", None) == "reference":
        click.echo(f"quicknet: note: running with {shown(str(getattr(classifier, 'status', '')))}", err=True)
