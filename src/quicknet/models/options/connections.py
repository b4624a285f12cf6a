"""Layers that take more than the output of the one before: residual sums and dense connections, as a plan says.

Source: He et al. 2015 (arXiv:1512.03385) §3.2, the shortcut without parameters; Huang et al. 2016 (arXiv:1608.06993)
§3, all earlier maps of a block side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from quicknet.models.config import Layer


def forward_connected(layers: Sequence[Layer], modules: Iterable[nn.Module], image: Tensor) -> Tensor:
    """Return the last layer's output; `modules` are those of `layers`, of which the first takes the image."""
    outputs, x = {layers[0].inputs[0]: image}, image
    left = Counter(name for layer in layers for name in layer.inputs)  # how many layers still take it
    for layer, module in zip(layers, modules, strict=True):
        taken = [outputs[name] for name in layer.inputs]
        left.subtract(layer.inputs)
        outputs = {name: output for name, output in outputs.items() if left[name]}
        x = taken[0] if len(taken) == 1 else torch.cat(taken, 1)
        y = module(x)
        outputs[layer.name] = x = x + y if layer.adds else y
    return x
