"""Text from outside (file names, class names) and tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quicknet.core.errors import ConfigError

HTML = (".html", ".htm")


def require_ending(path: Path, option: str, endings: Sequence[str], what: str) -> None:
    """Raise ConfigError where a file's name ends otherwise than what is written to it, which nobody would expect.

    A name without an ending is taken as it is.
    """
    if path.suffix and path.suffix.lower() not in endings:
        raise ConfigError(f"{option} {path} does not end in {endings[0]}, and {what} is written; name another file")


def shown(text: str) -> str:
    r"""Return `text` with codes in place of what would break the line or control the terminal.

    >>> shown("a\tb\x1b[2J")
    'a\\x09b\\x1b[2J'
    """
    plain = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in plain)


def make_table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Any:
    """Return an empty rich table whose first columns hold text and whose others numbers."""
    from rich.table import Table

    table = Table(title=title, box=None, title_justify="left", pad_edge=False)
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table
