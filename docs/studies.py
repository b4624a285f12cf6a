"""Tables of studies for docs: changes of a recipe, networks trained alike, compressed networks, from their records."""

from __future__ import annotations

import statistics
from typing import Any

import tables


def ablations(records: tables.Records) -> str:
    """What single changes of a recipe give, over seeds, from every record of that kind."""
    found = [_ablation(record) for record in records.all.values() if record.get("kind") == "ablation"]
    return "\n" + "\n".join(found or [f"{tables.UNMEASURED}\n"]) + "\n"


def _ablation(record: dict[str, Any]) -> str:
    rows = []
    for label, changes in record["changes"].items():
        cells = [f"`{label}`" + (f" ({', '.join(f'`{change}`' for change in changes)})" if changes else "")]
        for split in ("val", "test"):
            row = record[split][label]
            cells.append(f"{100 * row['mean']:.2f}" + ("" if row["sd"] is None else f" ± {100 * row['sd']:.2f}"))
            error = "" if row["standard_error"] is None else f" ± {100 * row['standard_error']:.2f}"
            cells.append(f"{100 * row['difference']:+.2f}{error}" if changes else "–")
        rows.append(cells)
    heads = ("", "val, %", "difference, points", "test, %", "difference, points")
    counts = ", ".join(f"{split} {n:,}" for split, n in record["n"].items())
    return (
        f"{tables.markdown(heads, rows, right_from=1)}\n"
        f"`{record['network']}` on {record['data']}, protocol {record['protocol']}, {record['epochs']} epochs, "
        f"{len(record['seeds'])} seeds, n: {counts}; {record['machine']['cpu']}. ± is the standard deviation "
        f"over seeds for an accuracy, and the standard error for a difference, which is taken seed by seed.\n"
        f"Made by `{record['command']}`.\n"
    )


def alike(records: tables.Records) -> str:
    """What networks reach by the same training, from every record of that kind."""
    found = [_alike(record) for record in records.all.values() if record.get("kind") == "alike"]
    return "\n" + "\n".join(found or [f"{tables.UNMEASURED}\n"]) + "\n"


def _alike(record: dict[str, Any]) -> str:
    rows = [
        (
            f"`{row['network']}`",
            tables.spread([100 * value for value in row["test"]]),
            tables.spread([100 * value for value in row["val"]]),
            f"{row['epochs']}",
            ", ".join(f"{seconds / 60:.1f}" for seconds in row["seconds"]),
            f"{row['parameters']:,}",
        )
        for row in sorted(record["networks"], key=lambda row: -statistics.mean(row["test"]))
    ]
    heads = ("network", "test, %", "val, %", "epochs", "minutes", "parameters")
    left_out = "".join(f" `{name}` was not trained: {why}." for name, why in record["not_trained"].items())
    seeds = ", ".join(map(str, record["seeds"]))
    return (
        f"{tables.markdown(heads, rows, right_from=1)}\n"
        f"{record['data']}, protocol {record['protocol']}, test n = {record['n']:,}, recipe `{record['recipe']}`, "
        f"seeds {seeds}; {record['machine']['cpu']}, {record['machine']['cores']} cores."
        f"{left_out}\nMade by `{record['command']}`.\n"
    )


def _kept(record: dict[str, Any]) -> str:
    how = "untrained" if record["density"] == 1 else record["pattern"]
    return f"{how}, {record['density']:.0%}"


def compressed(records: tables.Records) -> str:
    """What compressed networks came to, from every record of that kind: size, accuracy, speed."""
    rows, commands, machines = [], [], set()
    for record in records.all.values():
        if record.get("kind") != "compressed":
            continue
        commands.append(f"`{record['command']}`")
        machines.add(record["machine"]["cpu"])
        for split in record["compared"]:
            rows.append(
                (
                    f"`{record['network']}`",
                    _kept(record),
                    f"{record['file_bytes']:,}",
                    f"{record['float_bytes'] / record['file_bytes']:.0f}",
                    f"{record['speed']:.2f}",
                    f"{split['split']}, n = {split['n']:,}",
                    f"{100 * split['parent_top1']:.2f}",
                    f"{100 * split['top1']:.2f}",
                )
            )
    if not rows:
        return f"\n{tables.UNMEASURED}\n\n"
    heads = ("network", "kept", "bytes", "times smaller than fp32", "times as fast as dense", "images")
    table = tables.markdown((*heads, "the run, %", "the file, %"), rows, right_from=2)
    under = (
        f"One seed each; speed: one image, one thread, in turn with the dense integers, {', '.join(sorted(machines))}."
    )
    return f"\n{table}\n{under}\nMade by {', '.join(commands)}.\n\n"
