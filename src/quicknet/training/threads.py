"""How many threads torch's small operations wake."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run the block's elementwise operations on the calling thread alone.

    An optimizer's step wakes the others once for each of some sixty small tensors, which gains
    nothing (quicknet_s, two cores: AdamW 2.8 ms on one thread and 2.9 on two, SGD 1.5 and 1.5) and
    beside other work waits each time for a core that another process uses.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
