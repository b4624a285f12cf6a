"""Two processes give what one gives: weights, statistics and figures, dropout included."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import TINY
from quicknet import training
from quicknet.training.checkpoint import read_tensors


def test_two_gloo_processes_give_the_single_process_result(tiny_cifar, tmp_path):
    # 33 does not divide by 2 and 180 not by 33: uneven parts are part of the test
    settings = [
        *TINY,
        f"data.source={json.dumps(str(tiny_cifar))}",
        "train.epochs=2",
        "train.batch_size=33",
        "train.clip_norm=1.0",
        "optim.momentum=0.0",
    ]
    single = training.start(training.load_recipe("fast", settings), tmp_path / "one", torch.device("cpu"))
    list(training.fit(single))

    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    # torchrun would take --run for a short form of its own --run-path: hence the --
    command += ["-m", "--", "quicknet", "train", "--recipe", "fast", "--run", str(tmp_path / "two"), "--threads", "1"]
    for setting in settings:
        command += ["--set", setting]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("test accuracy") == 1  # one process talks

    one = read_tensors(tmp_path / "one" / "last.safetensors")
    two = read_tensors(tmp_path / "two" / "last.safetensors")
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], rtol=2e-3, atol=2e-4), name
    first, second = (log_of(tmp_path / name) for name in ("one", "two"))
    assert [entry["epoch"] for entry in first] == [entry["epoch"] for entry in second]
    for a, b in zip(first, second, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
