"""The table of what folders of photographs learn, from the record of `benchmarks/bench_folders.py`."""

from __future__ import annotations

import statistics
from typing import Any

import tables

_NAMES = {
    "efficientnet_lite0": "EfficientNet-Lite0's features, 224 pixels",
    "efficientnet_lite0.tuned": "EfficientNet-Lite0 fine-tuned, 224 pixels",
}
Rows = list[dict[str, Any]]


def learned(records: tables.Records, name: str = "folders") -> str:
    """Accuracy per folder and start, means over seeds, with seconds of training, file and latency."""
    record = records.all.get(name)
    if record is None:
        return "\nnot measured yet\n\n"
    rows: Rows = record["rows"]
    starts = list(dict.fromkeys(row["start"] for row in rows))
    places = list(dict.fromkeys((row["folder"], row["per_class"]) for row in rows))
    heads = ["folder", "learned from", "judged on", *map(_name, starts)]
    lines = [_line(place, starts, rows) for place in places]
    lines.append(["file, bytes", "", "", *(f"{_of(rows, start)[0]['file_bytes']:,}" for start in starts)])
    lines.append(["one image, ms", "", "", *(f"{_middle(rows, start, 'ms'):.2f}" for start in starts)])
    lines.append(["seconds of training", "", "", *(_seconds(rows, start) for start in starts)])
    seeds = max(row["seed"] for row in rows) + 1
    spread = "one seed" if seeds == 1 else f"mean ± standard deviation over {seeds} seeds, one seed where none is given"
    views = "from nothing up to 60,000 views, of 64 pixels where no other size is given; "
    nothing = views if any(map(_is_none, starts)) else ""
    note = (
        f"Accuracy in % of the test pictures, of the exported `.qnz`; {spread}; {nothing}{record['machine']['cpu']}, "
        f"two cores for training, one for an image.\nMade by `{record['command']}`."
    )
    return f"\n{tables.markdown(heads, lines, 1)}\n{note}\n\n"


def _is_none(start: str) -> bool:
    return start.partition("@")[0].endswith(".none")


def _name(start: str) -> str:
    start, _, size = start.partition("@")
    network, _, weights = start.partition(".")
    text = f"`{network}` from nothing" if weights == "none" else _NAMES.get(start, f"`{start}`")
    return f"{text} at {size} pixels" if size else text


def _line(place: tuple[str, int | None], starts: list[str], rows: Rows) -> list[str]:
    folder, per_class = place
    here = [row for row in rows if (row["folder"], row["per_class"]) == place]
    count = f"{here[0]['train']:,}" if per_class is None else f"{per_class} a class"
    return [folder, count, f"{here[0]['n']:,}", *(_accuracy(_of(here, start)) for start in starts)]


def _of(rows: Rows, start: str) -> Rows:
    return [row for row in rows if row["start"] == start]


def _accuracy(rows: Rows) -> str:
    if not rows:
        return "–"
    shares = [100 * row["top1"] for row in rows]
    spread = f" ± {statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{statistics.mean(shares):.1f}{spread}"


def _middle(rows: Rows, start: str, key: str) -> float:
    return statistics.median(row[key] for row in _of(rows, start))


def _seconds(rows: Rows, start: str) -> str:
    seconds = [row["seconds"] for row in _of(rows, start) if not row.get("busy")]  # busy: trained beside other work
    return f"{min(seconds):.0f} to {max(seconds):.0f}"
