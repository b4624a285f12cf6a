"""Other people's figures, each with its source (`references.toml`), for the docs and for `compare`."""

from __future__ import annotations

import importlib.resources
import tomllib
from typing import Any

from quicknet.report.comparison import PaperRow, Published


def read_references() -> dict[str, Any]:
    """Return all tables of the file."""
    text = importlib.resources.files("quicknet.study").joinpath("references.toml").read_text("utf-8")
    return tomllib.loads(text)


def published(name: str) -> tuple[Published, ...]:
    """Return what was published of a network of the registry on CIFAR-10, 32 pixels, official test set."""
    rows = [row for row in read_references()["network"] if row.get("network") == name]
    return tuple(
        Published(
            top1=round(row["accuracy"] / 100, 6),
            note=row.get("note", ""),
            source=row["source"],
            passes=row.get("passes", 1),
        )
        for row in rows
    )


def paper_table() -> tuple[PaperRow, ...]:
    """Return the rows of the paper's table in its order, with what is wrong with each."""
    return tuple(
        PaperRow(
            name=row["name"],
            network=row["network"],
            top1=round(row["accuracy"] / 100, 6) if "accuracy" in row else None,
            trap=row["trap"],
        )
        for row in read_references()["paper_table"]
    )
