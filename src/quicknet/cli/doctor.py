"""`quicknet doctor DATA`: look a data set over before training on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from quicknet.data.doctor import Finding

_SHOWN = 5  # groups of images that the text names


@click.command(short_help="Look a data set over.")
@click.argument("data")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--no-download", is_flag=True, help="Fail where cifar10 or cifar100 is not here already.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def doctor(ctx: click.Context, data: str, as_json: bool, no_download: bool, quiet: bool) -> None:
    """List what is wrong with DATA: cifar10, cifar100 or a folder of images.

    Unreadable files, the same or nearly the same image twice (in two splits, in two classes or
    in one), class imbalance, classes too small to learn, wrong suffixes, tiny images.

    Exit code 1 where something was found, 0 where nothing was (notes are no faults).

    With --json: {"format": 1, "data": DATA, "found": true|false, "findings": [{"kind": …,
    "severity": "error"|"warning"|"note", "message": …, "groups": [[image, …], …]}, …]}.
    """
    from quicknet.data.doctor import examine
    from quicknet.data.request import DataRequest

    findings = examine(data, DataRequest(download=not no_download, quiet=quiet))
    found = any(finding.severity != "note" for finding in findings)
    if as_json:
        fields = [finding.to_dict() for finding in findings]
        report = {"format": 1, "data": data, "found": found, "findings": fields}
        click.echo(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join([line for finding in findings for line in _lines(finding)] or ["nothing found"]))
    if found:
        ctx.exit(1)


def _lines(finding: Finding) -> list[str]:
    """Return a finding as text: the sentence, then the first groups of images."""
    lines = [f"{finding.severity}: {finding.message} [{finding.kind}]"]
    lines += [f"    {'  =  '.join(group[:_SHOWN])}" for group in finding.groups[:_SHOWN]]
    if len(finding.groups) > _SHOWN:
        lines.append(f"    … and {len(finding.groups) - _SHOWN:,} more; --json lists all")
    return lines
