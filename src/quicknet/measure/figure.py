"""A benchmark as a picture: bars of latency."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from quicknet.core.errors import require_package
from quicknet.measure.benchmark import Benchmark, Row

_COLOURS = {
    "network": "#4477aa",
    "whole": "#ee6677",
}  # P. Tol's bright scheme, which colour-blind people can distinguish
_LABELS = {"network": "network only", "whole": "JPEG to label"}
_BAR = 0.38


def check_matplotlib() -> None:
    """Raise ToolError where matplotlib is missing: better before measuring than after."""
    require_package("matplotlib", "a PNG")


def draw_latency(benchmark: Benchmark) -> bytes:
    """Return a PNG: per batch size and number of threads, each model's median, a line up to p95."""
    check_matplotlib()
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys((row.batch, row.threads) for row in benchmark.rows))
    variants = list(dict.fromkeys((row.model, row.runtime) for row in benchmark.rows))
    height = 0.9 + len(cases) * (0.9 + 0.5 * len(variants))
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots(len(cases), 1, squeeze=False)[:, 0]
    for axis, (batch, threads) in zip(axes, cases, strict=True):
        rows = [row for row in benchmark.rows if (row.batch, row.threads) == (batch, threads)]
        _bars(axis, rows, variants)
        axis.set_title(f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}", loc="left", fontsize=10)
    axes[-1].set_xlabel("ms, median; the line ends at p95")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(f"{benchmark.machine['cpu']}, {benchmark.machine['cores']} cores", x=0.01, ha="left", fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _bars(axis: object, rows: Sequence[Row], variants: Sequence[tuple[str, str]]) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axis, Axes)
    for offset, path in ((-_BAR / 2, "network"), (_BAR / 2, "whole")):
        of_path = [row for row in rows if row.path == path]
        places = [variants.index((row.model, row.runtime)) + offset for row in of_path]
        medians = [row.median_ms for row in of_path]
        above = [[0.0] * len(of_path), [row.p95_ms - row.median_ms for row in of_path]]
        axis.barh(places, medians, _BAR, xerr=above, color=_COLOURS[path], ecolor="#777777", label=_LABELS[path])
        for place, row in zip(places, of_path, strict=True):
            axis.text(row.p95_ms, place, f" {row.median_ms:.3g}", va="center", fontsize=8)
    names = [f"{Path(model).name} ({runtime})".replace("$", r"\$") for model, runtime in variants]
    axis.set_yticks(range(len(variants)), names, fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.spines[["top", "right"]].set_visible(False)
