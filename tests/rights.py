"""File modes that count in tests, whoever runs them."""

import contextlib
import ctypes
import os
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def without_root_rights() -> Iterator[None]:
    """Make file modes count for root too (by giving up CAP_DAC_OVERRIDE for a while)."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    head, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(head, sets) != 0:
        pytest.skip("root cannot give up its rights here")
    before = sets[0]
    sets[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH of the effective set
    if libc.capset(head, sets) != 0:
        pytest.skip("root cannot give up its rights here")
    try:
        yield
    finally:
        sets[0] = before
        libc.capset(head, sets)
