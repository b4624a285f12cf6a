"""A page of how a network was compressed: accuracy, size and speed along the way, and where the bytes are."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quicknet.core.files import write_atomically
from quicknet.report.html import page
from quicknet.report.svg import Axes, Line, line_chart

_LAYER_COLUMNS = ("layer", "weights", "kept", "bits a value", "bits a place", "bytes", "size", "time")


def write_path(path: Path, compressed: Mapping[str, Any]) -> None:
    """Write the page of what `compress --json` prints, atomically. Raises ToolError where the disk refuses."""
    write_atomically(path, render_path(compressed))


def render_path(compressed: Mapping[str, Any]) -> str:
    """Return the whole page; the same data gives the same text."""
    title = f"{Path(compressed['path']).name}, compressed"
    return page(title, [_head(title, compressed), _charts(compressed["points"]), _layers(compressed)])


def _head(title: str, compressed: Mapping[str, Any]) -> str:
    accuracies = ", ".join(
        f"{100 * row['top1']:.2f}% on {html.escape(row['split'])} ({row['lost_points']:+.2f} points lost)"
        for row in compressed["compared"]
    )
    times = compressed["dense_bytes"] / compressed["size_bytes"]
    return (
        f"<h1>{html.escape(title)}</h1><p>{accuracies}; {compressed['size_bytes']:,} bytes, {times:.1f} times "
        f"smaller than in fp32; {100 * compressed['density']:.1f}% of the pointwise weights{_speed(compressed)}.</p>"
    )


def _speed(compressed: Mapping[str, Any]) -> str:
    speed = compressed["speed"]
    return "" if speed is None else f"; {speed:.2f} times as fast as dense"


def _charts(points: Sequence[Mapping[str, Any]]) -> str:
    """Return a chart of each quantity over epochs, and one of accuracy over size; without training only that."""

    def over_epochs(key: str, factor: float = 1.0) -> list[Line]:
        return [Line(key, [(point["epoch"], factor * point[key]) for point in points])]

    by_size = sorted((point["size_bytes"] / 1000, point["val_accuracy"]) for point in points)
    over_size = line_chart([Line("val", by_size)], Axes("Accuracy over size", "KB", "accuracy", percent=True))
    if not any(point["epoch"] for point in points):
        return f"<section><h2>What was tried</h2>{over_size}</section>" if points else ""
    charts = [
        line_chart(over_epochs("val_accuracy"), Axes("Accuracy on val", "epoch", "accuracy", percent=True)),
        line_chart(over_epochs("size_bytes", 1e-3), Axes("Size, KB (estimate)", "epoch", "KB", from_zero=True)),
        over_size,
    ]
    if all(point["speed"] is not None for point in points):  # measured, where there is an engine
        charts.append(line_chart(over_epochs("speed"), Axes("Speed, times dense", "epoch", "times", from_zero=True)))
    return f"<section><h2>On the way</h2>{''.join(charts)}</section>"


def _layers(compressed: Mapping[str, Any]) -> str:
    layers, total = compressed["layers"], compressed["size_bytes"]
    head = "".join(f"<th>{name}</th>" for name in _LAYER_COLUMNS)
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in _cells(layer, total))}</tr>" for layer in layers)
    coded = (
        f"All numbers: {compressed['contexts_bytes']:,} bytes by contexts, {compressed['huffman_bytes']:,} by Huffman; "
        f"their entropy of order 0, layer by layer, is {compressed['entropy_bytes']:,} bytes."
    )
    return f"<section><h2>Layers</h2><table><tr>{head}</tr>{rows}</table><p>{coded}</p></section>"


def _cells(layer: Mapping[str, Any], total: int) -> tuple[str, ...]:
    return (
        html.escape(layer["name"]),
        f"{layer['weights']:,}",
        f"{100 * layer['kept'] / max(1, layer['weights']):.1f}%",
        f"{layer['coded_bits']:.2f} of {layer['bits']:.0f}",
        f"{layer['coded_index_bits']:.2f} of {layer['index_bits']:.2f}",
        f"{layer['bytes_coded']:,}",
        f"{100 * layer['bytes_coded'] / total:.1f}%",
        "" if layer["time_share"] is None else f"{100 * layer['time_share']:.1f}%",
    )
