"""One process or many: who takes which part of a batch, and sums over all of them.

Started by `torchrun`, which sets RANK, WORLD_SIZE and the address where they meet. A batch is cut into equal
parts in order; gradients are summed, batch norm and dropout look at the whole batch
(`models/norm.py`), so that N processes compute what one would.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class World:
    """This process among `size`; rank 0 writes files and prints."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def part(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this process's slice of a batch; slices differ by one image at most."""
        return np.array_split(indices, self.size)[self.rank]

    def sum(self, *tensors: Tensor) -> None:
        """Add up tensors over all processes, in place, in one message per dtype."""
        if self.size == 1:
            return
        for dtype in {t.dtype for t in tensors}:
            some = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.reshape(-1) for t in some])
            dist.all_reduce(flat)
            for tensor, total in zip(some, torch.split(flat, [t.numel() for t in some]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients of all processes."""
        self.sum(*(p.grad for p in parameters if p.grad is not None))

    def any(self, flag: bool) -> bool:
        """Return whether the flag is up in any process."""
        if self.size == 1:
            return flag
        count = torch.tensor([float(flag)])
        dist.all_reduce(count) if dist.get_backend() == "gloo" else dist.all_reduce(count := count.cuda())
        return bool(count.item() > 0)


def join(device: torch.device) -> World:
    """Return the world that torchrun describes, joined; a world of one without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(rank=dist.get_rank(), size=size)


def leave(together: bool = False) -> None:
    """Leave the group of processes, if there is one; `together` with all others, where none has failed.

    Whoever left while another still read its last message was aborted by gloo about once in eight short runs
    ("terminate called without an active exception"), and with it the whole of a finished training.
    """
    if dist.is_initialized():
        if together:
            dist.barrier()
        dist.destroy_process_group()
