"""The order of a pointwise layer's input channels, chosen so that its blocks lose least. Changes no answer.

Input channels of a layer are the layer before's outputs: its filters, batch norm and slopes move with
them, and so does this layer's own depthwise filter. As a block lies along the inputs, what is best
for a layer depends on no other. The search is that of Pool & Yu 2021 ("Channel permutations for N:M
sparsity"): a greedy start, then swaps of two channels while a swap keeps more.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from quicknet.models.layers import Separable, Stem
from quicknet.models.network import Network
from quicknet.training.prune import BLOCKS, block_sums, choose_masks, scores, separable_layers
from quicknet.training.threads import one_thread

_SIZE = BLOCKS["block"]
_SWEEPS = 2  # over all channels; the third gains under 0.1% of the norm kept


def permuted(network: Network, orders: list[Tensor]) -> Network:
    """Return the network whose layer l takes its inputs in the order `orders[l]` (K,): the same function."""
    result = copy.deepcopy(network)
    layers = separable_layers(result)
    before: Stem | Separable = result.stem  # type: ignore[assignment]
    with torch.no_grad():
        for layer, order in zip(layers, orders, strict=True):
            _reorder_outputs(before, order)
            layer.depthwise.weight.copy_(layer.depthwise.weight[order])
            layer.pointwise.weight.copy_(layer.pointwise.weight[:, order])
            before = layer
    return result


def _reorder_outputs(layer: Stem | Separable, order: Tensor) -> None:
    conv = layer.conv if isinstance(layer, Stem) else layer.pointwise
    for tensor in (conv.weight, layer.bn.weight, layer.bn.bias, layer.bn.running_mean, layer.bn.running_var):
        assert tensor is not None
        tensor.copy_(tensor[order])
    if isinstance(layer.act, nn.PReLU) and layer.act.weight.numel() > 1:
        layer.act.weight.copy_(layer.act.weight[order])


def choose_orders(network: Network, importance: tuple[float, ...], density: float) -> list[Tensor]:
    """Return the order of each layer's inputs with which blocks at this density keep most."""
    layers = separable_layers(network)
    single = [scores(layer, 1) for layer in layers]
    blocks = [score * factor for score, factor in zip((scores(x, _SIZE) for x in layers), importance, strict=True)]
    masks = choose_masks(blocks, density, 0.0)
    orders = []
    for score, mask in zip(single, masks, strict=True):
        share = min(0.95, max(0.02, float(mask.float().mean())))
        orders.append(choose_order(score, share))
    return orders


def choose_order(score: Tensor, density: float) -> Tensor:
    """Return an order (K,) of the columns of `score` (O, K) in which the best blocks of four keep most.

    Columns over a multiple of four stay at the end.
    """
    whole = score.shape[1] // _SIZE * _SIZE
    if whole <= _SIZE:
        return torch.arange(score.shape[1])
    values = (score[:, :whole] / score.sum()).float()
    with one_thread():  # thousands of small operations
        threshold = _threshold(block_sums(values, _SIZE), density)
        order = _swapped(values, _greedy(values, threshold), threshold)
    better = kept(values[:, order], density) > kept(values, density)
    return torch.cat([order if better else torch.arange(whole), torch.arange(whole, score.shape[1])])


def kept(score: Tensor, density: float, size: int = _SIZE) -> float:
    """Return the share of the sum of `score` (O, K) that the best blocks hold."""
    sums = block_sums(score, size).flatten()
    count = max(1, round(density * len(sums)))
    return float(sums.topk(count).values.sum() / sums.sum())


def _threshold(sums: Tensor, density: float) -> float:
    """Return the least sum that is kept."""
    flat = sums.flatten()
    return float(flat.topk(max(1, round(density * len(flat)))).values[-1])


def _greedy(values: Tensor, threshold: float) -> Tensor:
    """Return an order made block by block: the strongest column left, then those that go with it best."""
    left = values.sum(0).argsort(descending=True)
    order: list[int] = []
    while len(left):
        members = [int(left[0])]
        total, left = values[:, members[0]].clone(), left[1:]
        for count in range(2, _SIZE + 1):
            gain = (total[:, None] + values[:, left] - threshold * count / _SIZE).clamp(min=0).sum(0)
            pick = int(gain.argmax())
            members.append(int(left[pick]))
            total += values[:, members[-1]]
            left = torch.cat([left[:pick], left[pick + 1 :]])
        order += members
    return torch.tensor(order)


def _swapped(values: Tensor, order: Tensor, threshold: float) -> Tensor:
    """Return the order after the swaps of two columns that keep most, column by column."""
    state = _Blocks(values.T[order].contiguous(), order.clone(), threshold)
    for place in list(range(len(order))) * _SWEEPS:
        state.swap_best(place)
    return state.order


class _Blocks:
    """Columns (K, O) in an order, and what each would find in its block without itself."""

    def __init__(self, columns: Tensor, order: Tensor, threshold: float) -> None:
        self.columns, self.order, self.threshold = columns, order, threshold
        self.owner = torch.arange(len(order)) // _SIZE
        self.rest = torch.empty_like(columns)  # of its block's sums, less the threshold
        self.worth = torch.zeros(len(order))  # of its block: what lies above the threshold
        self._room = torch.empty_like(columns)
        for block in range(len(order) // _SIZE):
            self._refresh(block)
        self._enough = 1e-9 * float(self.worth.sum())

    def _refresh(self, block: int) -> None:
        members = slice(block * _SIZE, (block + 1) * _SIZE)
        total = self.columns[members].sum(0) - self.threshold
        self.rest[members] = total - self.columns[members]
        self.worth[members] = total.clamp(min=0).sum()

    def swap_best(self, place: int) -> None:
        """Exchange the column at `place` with the one with which that keeps most, if any does."""
        gain = torch.add(self.columns, self.rest[place], out=self._room).clamp_(min=0).sum(1)
        gain += torch.add(self.rest, self.columns[place], out=self._room).clamp_(min=0).sum(1)
        gain -= self.worth + self.worth[place]
        gain[self.owner == self.owner[place]] = 0.0
        best = int(gain.argmax())
        if float(gain[best]) <= self._enough:
            return
        pair, turned = torch.tensor([place, best]), torch.tensor([best, place])
        self.columns[pair], self.order[pair] = self.columns[turned], self.order[turned]
        for changed in pair.tolist():
            self._refresh(changed // _SIZE)
