"""The fp32 peak of a core, measured by a large matrix product of numpy's BLAS library."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# 1.07 G multiply-adds, 24 ms on a core of 45 G/s: long enough for a library's best blocking, short
# enough to take turns. Its three matrices are 12 MB.
SIDE = 1024
MACS = SIDE**3


def matrix_product() -> Callable[[], object]:
    """Return the product of two float32 matrices SIDE x SIDE, to be called again and again."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((SIDE, SIDE), np.float32)
    b = rng.standard_normal((SIDE, SIDE), np.float32)
    out = np.empty((SIDE, SIDE), np.float32)
    return lambda: np.matmul(a, b, out=out)


def library() -> str:
    """Return which library computes numpy's matrix products, with versions."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"numpy {np.__version__}, {blas.get('name', 'unknown')} {blas.get('version', '')}".rstrip()
