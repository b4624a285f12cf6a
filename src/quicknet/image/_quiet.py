"""Silence for Pillow's warnings that works from many threads at once."""

from __future__ import annotations

import warnings

from quicknet.image._while_any import WhileAny


def _silence() -> warnings.catch_warnings[None]:
    saved = warnings.catch_warnings()
    saved.__enter__()
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return saved


# Ignores the warnings of Pillow's modules while any thread is inside: `warnings.catch_warnings` swaps a list of the
# whole process.
quiet_pillow = WhileAny(_silence, lambda saved: saved.__exit__(None, None, None))
