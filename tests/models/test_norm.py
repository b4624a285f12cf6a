"""Batch norm over several processes: N processes compute what one does with the whole batch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from quicknet.core.errors import TrainingError
from quicknet.models import fused
from quicknet.models.norm import BatchNorm2d
from quicknet.models.predicates import runs_fused
from quicknet.models.registry import create_model

SPLIT = [0, 5, 8]  # unequal parts of a batch of 8


PATHS: dict[str, dict[str, Any]] = {"plain": {}, "fused": {}, "weight_norm": {"weight_norm": True}}


def problem(path: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    small: dict[str, Any] = {"widths": (8, 12), "depths": (1, 2), "kernel_sizes": (3, 3), "dropout": 0.0}
    net: Any = create_model("quicknet_xs", **small, options=PATHS[path])
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return net.double(), images * 3 + 1, torch.arange(8) % 10


def step(net: Any, images: Tensor, labels: Tensor, plain: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and gradients and running statistics by name; the loss is a sum over images."""
    if plain:
        net.stem.register_forward_hook(lambda *_: None)  # a hook keeps the kernels out
    assert (
        plain
        or not runs_fused(net.plan)
        or fused.usable(net.plan, (net.stem, *net.blocks), images) == fused.available()
    )
    logits = net(images)
    nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    grads = {f"grad {name}": p.grad for name, p in net.named_parameters()}
    return logits.detach(), {**grads, **dict(net.named_buffers())}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for path in PATHS:
        net, images, labels = problem(path)
        part = slice(SPLIT[rank], SPLIT[rank + 1])
        logits, state = step(net, images[part], labels[part], path == "plain")
        for name in sorted(state):
            if name.startswith("grad "):
                dist.all_reduce(state[name])
        torch.save({"logits": logits, **state}, f"{folder}/{path}{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_unequal_parts_equal_one(tmp_path: Path) -> None:
    commands = [[sys.executable, __file__, str(rank), str(tmp_path)] for rank in (0, 1)]
    processes = [subprocess.Popen(command) for command in commands]
    whole = {path: step(*problem(path), plain=True) for path in PATHS}
    assert [p.wait(timeout=120) for p in processes] == [0, 0]
    for path, (logits, expected) in whole.items():
        parts = [torch.load(tmp_path / f"{path}{rank}.pt", weights_only=True) for rank in (0, 1)]
        assert torch.allclose(torch.cat([p.pop("logits") for p in parts]), logits, rtol=1e-9, atol=1e-11)
        for part in parts:
            assert part.keys() == expected.keys()
            for name, value in expected.items():
                assert torch.allclose(part[name], value, rtol=1e-8, atol=1e-10), (path, name)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_one_process_is_torchs_batch_norm(momentum: float | None) -> None:
    ours, torchs = BatchNorm2d(5, momentum=momentum), nn.BatchNorm2d(5, momentum=momentum)
    torchs.load_state_dict(ours.state_dict())
    generator = torch.Generator().manual_seed(0)
    for training in (True, True, False):
        x = torch.randn(4, 5, 6, 6, generator=generator) * 2 + 3
        assert torch.equal(ours.train(training)(x), torchs.train(training)(x))
    for a, b in zip(ours.buffers(), torchs.buffers(), strict=True):
        assert torch.equal(a, b)


def test_statistics_update_the_running_ones_as_torch_does() -> None:
    ours, torchs = BatchNorm2d(5).double(), nn.BatchNorm2d(5).double()
    x = torch.randn(4, 5, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torchs(x)
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    ours.update_running(*ours.batch_statistics(mean, variance, 4 * 36))
    for a, b in zip(ours.buffers(), torchs.buffers(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.skipif(not fused.available(), reason=fused.status())
def test_one_value_per_channel_is_refused_with_the_mend() -> None:
    net: Any = create_model("quicknet_xs", image_size=16, widths=(8, 8, 8, 8))  # 1x1 at the last layer
    image = torch.randn(1, 3, 16, 16)
    with pytest.raises(TrainingError, match="use a larger batch"):
        net(image)
    assert net.eval()(image).isfinite().all()


if __name__ == "__main__":
    process(int(sys.argv[1]), sys.argv[2])
