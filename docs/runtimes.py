"""Tables of the exported ONNX file's speed for docs/runtime.md, from the record of `bench_onnx.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tables

_NETWORKS = ("quicknet_s", "quicknet")
_BOUND = {
    "stem": "arithmetic",
    "pointwise, stages 1 to 3": "arithmetic; nothing is left to gain in float32",
    "pointwise, stage 4": "weights: 4 MB a layer for nine pixels each, read from beyond the second cache (`quicknet`)",
    "depthwise, stages 1 to 4": "loads and stores: nine multiply-adds for each number read; on 3×3 maps the borders "
    "are most of the work",
    "PReLU": "loads and stores: two passes over each map",
    "pool, average, classifier, layout": "the cost of starting a node",
}


def layers(records: tables.Records) -> str:
    """Where the time of the exported file goes, and what share of the core's peak that is."""
    record = _record(records)
    if record is None:
        return f"\n{tables.UNMEASURED}\n\n"
    profiles = [record["models"][name]["profile"] for name in _NETWORKS]
    cells = [_cells(profile["rows"]) for profile in profiles]
    rows = [(name, *(column[name] for column in cells), bound) for name, bound in _BOUND.items()]
    peaks = [profile["peak_gmacs"] for profile in profiles]
    table = tables.markdown(("layers", *(f"`{name}`" for name in _NETWORKS), "bound by"), rows, right_from=9)
    return (
        f"\n{table}\nOne core of an {record['machine']['cpu']}, ONNX Runtime {record['versions']['onnxruntime']}; the "
        f"peak is {min(peaks):.0f} to {max(peaks):.0f} G multiply-adds/s.\n\n"
    )


def _cells(rows: dict[str, Any]) -> dict[str, str]:
    """Return µs, and share of the peak where there is one, of each group of layers."""

    def chosen(kind: str, stages: Sequence[int]) -> list[dict[str, float]]:
        return [rows[f"stage {stage} {kind}"] for stage in stages]

    def took(kind: str, stages: Sequence[int]) -> str:
        return f"{sum(row['us'] for row in chosen(kind, stages)):,.0f} µs"

    depthwise = chosen("depthwise", (1, 2, 3, 4))
    shares = [row["share_of_peak"] for row in chosen("pointwise", (1, 2, 3))]
    prelu = rows["stem PReLU"]["us"] + sum(row["us"] for row in chosen("PReLU", (1, 2, 3, 4)))
    rest = rows["rest"]["us"] + sum(row["us"] for row in chosen("pool", (2, 3, 4)))
    return {
        "stem": f"{rows['stem']['us']:.0f} µs, {rows['stem']['share_of_peak']:.0%}",
        "pointwise, stages 1 to 3": f"{took('pointwise', (1, 2, 3))}, {_span(shares)}",
        "pointwise, stage 4": f"{took('pointwise', (4,))}, {rows['stage 4 pointwise']['share_of_peak']:.0%}",
        "depthwise, stages 1 to 4": " · ".join(f"{row['us']:.0f}" for row in depthwise)
        + " µs, "
        + " · ".join(f"{100 * row['share_of_peak']:.0f}" for row in depthwise)
        + "%",
        "PReLU": f"{prelu:.0f} µs",
        "pool, average, classifier, layout": f"{rest:.0f} µs",
    }


def _span(shares: Sequence[float]) -> str:
    low, high = f"{100 * min(shares):.0f}", f"{100 * max(shares):.0f}"
    return f"{low}%" if low == high else f"{low} to {high}%"


def speed(records: tables.Records) -> str:
    """The exported file beside what the same weights give by default."""
    record = _record(records)
    if record is None:
        return f"\n{tables.UNMEASURED}\n\n"
    speeds = [record["models"][name]["speed"] for name in _NETWORKS]

    def ms(row: str) -> list[str]:
        return [f"{one['rows'][row]['median_ms']:.2f} ms" for one in speeds]

    def each(cell: Callable[[dict[str, Any]], str]) -> list[str]:
        return [cell(one) for one in speeds]

    rows = [
        (f"torch eager {record['versions']['torch'].partition('+')[0]}", *ms("torch eager")),
        ("torch.onnx.export, ONNX Runtime", *ms("torch.onnx.export")),
        ("**export, ONNX Runtime**", *(f"**{cell}**" for cell in ms("quicknet onnxruntime"))),
        ("the same file, OpenVINO", *ms("quicknet openvino")),
        (
            "ours against torch eager · against torch.onnx.export",
            *each(lambda one: f"{one['times_torch']:.1f}× · {one['times_default_export']:.2f}×"),
        ),
        ("share of the peak", *each(lambda one: f"{one['share_of_peak']:.0%}")),
    ]
    return f"\n{tables.markdown(('', *(f'`{name}`' for name in _NETWORKS)), rows, right_from=1)}\n"


def _record(records: tables.Records) -> dict[str, Any] | None:
    return next((record for record in records.all.values() if record.get("name") == "onnx-runtime"), None)
