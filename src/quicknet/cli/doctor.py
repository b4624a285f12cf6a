"""`quicknet doctor DATA`: look for faults in a data set before training on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from quicknet.cli.text import shown
from quicknet.cli.verb import BAD_INPUT, Argument, Verb, json_options

if TYPE_CHECKING:
    from quicknet.data.doctor import Finding

_CLASSES = 12  # that the text names with their number of images
_SHOWN = 5  # groups of images that the text lists
_NOTES = """
First it says how many images of each class can be read. Then it looks for files that cannot be read,
for the same or nearly the same image twice (in two splits, in two classes, or in one class), for empty,
unequal and very small classes, for wrong suffixes, and for tiny images. Every finding begins with its
severity: error, warning or note.
"""


@click.command(
    cls=Verb,
    short_help="Look for faults in a data set.",
    help="List what is wrong with a data set before you train on it.",
    examples=("quicknet doctor photos/", "quicknet doctor photos/ --json"),
    notes=_NOTES,
    exit_codes={
        0: "There are no errors and no warnings; there may be notes.",
        1: "There are errors or warnings.",
        2: BAD_INPUT,
        130: "The command was interrupted.",
    },
)
@click.argument(
    "data",
    cls=Argument,
    help="What to look at: cifar10, cifar100, or a folder that holds one folder of pictures per class.",
)
@json_options("Print one JSON object.")
@click.option("--no-download", is_flag=True, help="Fail where cifar10 or cifar100 is not on this machine yet.")
@click.option("--quiet", is_flag=True, help="Print no progress.")
@click.pass_context
def doctor(ctx: click.Context, data: str, as_json: bool, no_download: bool, quiet: bool) -> None:
    """Carry out `quicknet doctor`."""
    from quicknet.data.doctor import examination
    from quicknet.data.request import DataRequest

    examined = examination(data, DataRequest(download=not no_download, quiet=quiet))
    findings = examined.findings
    has_faults = any(finding.severity != "note" for finding in findings)
    if as_json:
        fields = [finding.to_dict() for finding in findings]
        report = {"format": 1, "data": data, "images": examined.images, "found": has_faults, "findings": fields}
        click.echo(json.dumps(report))
    else:
        for line in _contents(examined.images):
            click.echo(shown(line))
        click.echo("\n".join([line for finding in findings for line in _lines(finding)] or ["no faults found"]))
    if has_faults:
        ctx.exit(1)


def _contents(images: dict[str, dict[str, int]]) -> Iterator[str]:
    """Yield what the data holds: a line for each split, with its largest classes."""
    for split, counts in images.items():
        largest = sorted(counts, key=lambda name: -counts[name])[:_CLASSES]
        named = ", ".join(f"{name} {counts[name]:,}" for name in largest)
        more = f", … and {len(counts) - _CLASSES:,} more" if len(counts) > _CLASSES else ""
        classes = "1 class" if len(counts) == 1 else f"{len(counts):,} classes"
        yield f"{split}: {sum(counts.values()):,} images of {classes}: {named}{more}"


def _lines(finding: Finding) -> list[str]:
    """Return a finding as text: the sentence, then the first groups of images that it does not name."""
    lines = [f"{finding.severity}: {finding.message} [{finding.kind}]"]
    groups = [group for group in finding.groups if any(name not in finding.message for name in group)]
    lines += [f"    {'  =  '.join(group[:_SHOWN])}" for group in groups[:_SHOWN]]
    if len(groups) > _SHOWN:
        lines.append(f"    … and {len(groups) - _SHOWN:,} more; --json lists all")
    return lines
