"""The fp32 peak of a core, measured by a large matrix product of numpy's BLAS library."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# 134 M multiply-adds, 2.7 ms on a core of 50 G/s. Larger ones are no faster, and where other
# processes share the core a call longer than the scheduler's slice is cut: on a busy machine
# (load 5 on 2 cores) medians were 48 G/s at 512, 32 at 1024 and 30 at 2048, the best 52, 50, 40.
SIDE = 512
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
