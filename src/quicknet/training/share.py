"""Shared weights: each pointwise layer has few distinct values, and the gradient of a value is its weights' sum.

Source: Han, Mao, Dally 2016 (arXiv:1510.00149), §3: k-means with linear initialization, then training of
the centroids. Absent weights are zero and stay it. The values that a layer has are the codebook:
nothing else is saved.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from quicknet.models.layers import Separable
from quicknet.models.network import Network
from quicknet.training.prune import separable_layers

_ITERATIONS = 20


def linear_k_means(values: Tensor, count: int) -> Tensor:
    """Return the codebook (count,) of values (n,): centroids that start at equal distances over their range."""
    values = values.double()
    centroids = torch.linspace(float(values.min()), float(values.max()), count, dtype=torch.float64)
    for _ in range(_ITERATIONS):
        codes = nearest(values, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, codes, values)
        sizes = torch.bincount(codes, minlength=count)
        centroids = torch.where(sizes > 0, sums / sizes.clamp(min=1), centroids)
    return centroids


def nearest(values: Tensor, codebook: Tensor) -> Tensor:
    """Return the number of the nearest entry (n,) of a rising codebook."""
    middles = (codebook[1:] + codebook[:-1]) / 2
    return torch.bucketize(values, middles)


class Sharer:
    """Keeps the weights of each pointwise layer of a network at 2^bits values while it trains."""

    def __init__(self, network: Network, bits: int) -> None:
        self._layers, self._count = separable_layers(network), 1 << bits
        self.codes: list[Tensor] = []
        self.read()

    def read(self) -> None:
        """Take each layer's values for its codebook; cluster those of a layer that has too many."""
        self.codes = [self._codes(layer) for layer in self._layers]

    @torch.no_grad()
    def _codes(self, layer: Separable) -> Tensor:
        """Return the entry of each weight (O, K, 1, 1), -1 where it is absent."""
        weight = layer.pointwise.weight
        there = weight != 0
        values = weight[there]
        codebook = torch.from_numpy(np.unique(values.cpu().numpy())).to(values)
        if len(codebook) > self._count:
            codebook = linear_k_means(values, self._count).to(weight.dtype)
            weight[there] = codebook[nearest(values, codebook)]
        codes = torch.full(weight.shape, -1, dtype=torch.int64, device=weight.device)
        codes[there] = nearest(values, codebook)
        return codes

    def density(self) -> float:
        """Return the share of pointwise weights that is there."""
        return float(sum((codes >= 0).sum() for codes in self.codes)) / sum(codes.numel() for codes in self.codes)

    def before_step(self) -> None:
        """Give every weight the sum of the gradients of all that share its value."""
        for layer, codes in zip(self._layers, self.codes, strict=True):
            if layer.pointwise.weight.grad is not None:
                layer.pointwise.weight.grad.copy_(self._shared(layer.pointwise.weight.grad, codes, "sum"))

    @torch.no_grad()
    def after_step(self, step: int, progress: float) -> None:
        """Bring back to one value what shares one, and absent weights to zero."""
        for layer, codes in zip(self._layers, self.codes, strict=True):
            layer.pointwise.weight.copy_(self._shared(layer.pointwise.weight, codes, "mean"))

    def _shared(self, values: Tensor, codes: Tensor, reduce: str) -> Tensor:
        """Return for each weight the sum or the mean over all of its code; zero where it is absent."""
        there = codes >= 0
        totals = torch.zeros(self._count, dtype=torch.float64, device=values.device)
        totals.index_add_(0, codes[there], values[there].double())
        if reduce == "mean":
            totals /= torch.bincount(codes[there], minlength=self._count).clamp(min=1)
        result = torch.zeros_like(values)
        result[there] = totals[codes[there]].to(values.dtype)
        return result
