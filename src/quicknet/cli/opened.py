"""MODEL, --runtime and --threads: what several commands open in the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quicknet.cli.text import shown

if TYPE_CHECKING:
    from quicknet.lite.classifier import Classifier

F = TypeVar("F", bound=Callable[..., Any])

_RUNTIMES = ("auto", "engine", "engine-portable", "reference", "onnxruntime", "openvino")


def runtime_options(command: F) -> F:
    """Add --runtime and --threads to a command."""
    threads = click.option(
        "--threads", type=click.IntRange(1, 1024), help="Of the runtime of an exported file.  [default: all cores]"
    )
    runtime = click.option(
        "--runtime",
        type=click.Choice(_RUNTIMES),
        default="auto",
        show_default=True,
        help="Of a .qnz the engine or numpy's reference, of an ONNX file one of the others; auto is the fastest.",
    )
    return runtime(threads(command))


def open_model(model: str, runtime: str, threads: int | None, quiet: bool) -> Classifier:
    """Return the classifier, noting where a slow stand-in runs it. Raises what `quicknet.load` raises."""
    from quicknet.lite.classifier import load
    from quicknet.lite.shipped import locate

    asked = {"runtime": None if runtime == "auto" else runtime, "threads": threads}
    chosen: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    classifier = load(locate(model, "file", quiet), **chosen)
    if runtime == "auto" and getattr(classifier, "runtime", None) == "reference" and not quiet:
        click.echo(f"quicknet: note: runs by {shown(str(getattr(classifier, 'status', '')))}", err=True)
    return classifier
