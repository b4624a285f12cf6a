"""Text from outside (file names, class names) on a terminal."""

from __future__ import annotations


def shown(text: str) -> str:
    r"""Return `text` without what would break the line or drive the terminal; such bytes as codes.

    >>> shown("a\tb\x1b[2J")
    'a\\x09b\\x1b[2J'
    """
    plain = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in plain)
