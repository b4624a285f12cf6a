"""Batch normalization over the whole batch, however many processes share it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from quicknet.core.errors import TrainingError


def distributed() -> bool:
    """Return whether more than one process trains together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _SumOverProcesses(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


def summed_over_processes(x: Tensor) -> Tensor:
    """Return the sum of the processes' tensors, through which gradients pass; x itself in one process."""
    return _SumOverProcesses.apply(x) if distributed() else x  # type: ignore[no-untyped-call]


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` (same state dict), whose training statistics are over all processes.

    With `torch.distributed` started on more than one process, means and variances are those of
    the processes' images together, however unequal their parts, and gradients pass through
    them; the loss to differentiate is then the sum of the processes' losses. In one process it
    is `nn.BatchNorm2d` itself.
    """

    @property
    def uses_batch(self) -> bool:
        """Whether the next forward normalizes by the batch's own statistics."""
        return self.training or self.running_mean is None

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) normalized."""
        if not (self.uses_batch and distributed()):
            return super().forward(x)
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        mean, variance, count = self.batch_statistics(mean, variance, x.numel() // x.shape[1])
        self.update_running(mean, variance, count)
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shape = (1, -1, 1, 1)
        y = (x - mean.view(shape)) * scale.view(shape)
        return y if self.bias is None else y + self.bias.view(shape)

    def batch_statistics(self, mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor, float]:
        """Return the mean and biased variance (C,) to normalize by, and how many values they are of.

        `mean`, `variance` (C,) are of this process's `count` values per channel. Raises
        TrainingError where all processes together have a single value per channel.
        """
        total = float(count)
        if distributed():
            mean, variance, total = _over_processes(mean, variance, count)
        if total < 2:
            raise TrainingError(
                "batch norm has one value per channel to train on (one image, 1x1 at the last layer); "
                "use a larger batch or larger images"
            )
        return mean, variance, total

    @torch.no_grad()
    def update_running(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """Move the running statistics (in training, where there are some) towards a batch's."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        factor = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.mul_(1 - factor).add_(mean, alpha=factor)
        self.running_var.mul_(1 - factor).add_(variance, alpha=factor * count / (count - 1))


def _over_processes(mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor, float]:
    """Join the processes' statistics, in double: a mean square less a squared mean loses digits.

    One message for all three.
    """
    wide_mean, wide_variance = mean.double(), variance.double()
    number = torch.full_like(wide_mean[:1], count).detach()
    sums = torch.cat([wide_mean * count, (wide_variance + wide_mean.square()) * count, number])
    sums = summed_over_processes(sums)
    channels = mean.numel()
    total = sums[-1].detach()
    joint_mean = sums[:channels] / total
    joint_variance = sums[channels:-1] / total - joint_mean.square()
    return joint_mean.to(mean.dtype), joint_variance.clamp(min=0).to(mean.dtype), float(total)
