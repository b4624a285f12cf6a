from typing import Any

import pytest
import torch

from quicknet.core.errors import ConfigError
from quicknet.models.registry import create_model
from quicknet.training.prune import separable_layers
from quicknet.training.recipe import Recipe
from quicknet.training.share import Sharer, linear_k_means, nearest

SHAPE = {"stem_width": 8, "widths": [8, 12, 16, 24], "depths": [1, 1, 2, 1]}


def test_k_means_finds_clusters_and_starts_at_equal_distances() -> None:
    centres = torch.tensor([-1.0, 0.0, 1.8, 3.0])
    values = (centres[:, None] + 0.01 * torch.randn(4, 50)).flatten()
    codebook = linear_k_means(values, 4)
    assert torch.allclose(codebook.float(), centres, atol=0.02)
    assert nearest(torch.tensor([-5.0, 0.8, 1.0, 9.0]), codebook.float()).tolist() == [0, 1, 2, 3]


def test_shared_weights_stay_shared_and_learn_the_sum_of_their_gradients() -> None:
    torch.manual_seed(0)
    model = create_model("quicknet_xs", **SHAPE)
    layer = separable_layers(model)[2]
    with torch.no_grad():
        layer.pointwise.weight[:, :4] = 0.0
    sharer = Sharer(model, 2)
    assert len(layer.pointwise.weight[:, 4:].unique()) == 4
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    before = layer.pointwise.weight.detach().clone()
    for step in range(5):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 32, 32)).square().sum().backward()
        plain = layer.pointwise.weight.grad.clone()
        sharer.before_step()
        mine = sharer.codes[2] == 1
        shared: Any = layer.pointwise.weight.grad
        expected = plain[mine].sum()
        assert torch.allclose(shared[mine], expected.expand(int(mine.sum())), rtol=1e-4)
        optimizer.step()
        sharer.after_step(step, 0.0)
    after = layer.pointwise.weight.detach()
    assert not torch.equal(after, before)
    assert not after[:, :4].any()
    assert len(after[:, 4:].unique()) <= 4
    again = Sharer(model, 2)  # what a resumed run finds
    assert torch.equal(again.codes[2], sharer.codes[2])


def test_a_run_prunes_or_shares() -> None:
    with pytest.raises(ConfigError, match="not both"):
        Recipe().replace(prune={"density": 0.5}, share={"bits": 5})
