"""Dropout whose mask is that of the whole batch, however many processes share it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from quicknet.models.norm import distributed


class Dropout(nn.Dropout):
    """`nn.Dropout` on (N, features); N processes with one seed drop what one process would.

    Source: Srivastava et al. 2014; paper §3.5 uses 0.5 before the classifier.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x with a share `p` of its entries zeroed and the rest scaled up, in training."""
        if not self.training or self.p == 0:
            return x
        first, total = _rows(len(x))
        keep = torch.rand((total, *x.shape[1:]), device=x.device)[first : first + len(x)] >= self.p
        return x * keep / (1 - self.p)


def _rows(mine: int) -> tuple[int, int]:
    """Return where this process's rows begin in the whole batch, and how many those are."""
    if not distributed():
        return 0, mine
    counts = torch.zeros(dist.get_world_size(), dtype=torch.int64)
    counts[dist.get_rank()] = mine
    if dist.get_backend() != "gloo":
        counts = counts.cuda()
    dist.all_reduce(counts)
    return int(counts[: dist.get_rank()].sum()), int(counts.sum())
