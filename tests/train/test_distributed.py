"""Two processes give what one gives: weights, statistics and figures, dropout included."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from helpers import TINY
from quicknet import train as training
from quicknet.train.checkpoint import read_tensors

WORKER = """
    import json, sys
    from pathlib import Path
    import torch
    from quicknet import train as training
    torch.set_num_threads(1)
    run = training.start(training.load_recipe("fast", json.loads(sys.argv[2])), Path(sys.argv[1]), torch.device("cpu"))
    list(training.fit(run))
    if run.world.main:
        training.finish(run)
    training.leave()
"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


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

    port, workers = str(free_port()), []
    for rank in range(2):
        world = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-c", textwrap.dedent(WORKER), str(tmp_path / "two"), json.dumps(settings)]
        workers.append(subprocess.Popen(command, env={**os.environ, **world}, stderr=subprocess.PIPE, text=True))
    for worker in workers:
        _, said = worker.communicate(timeout=200)
        assert worker.returncode == 0, said[-2000:]

    one = read_tensors(tmp_path / "one" / "last.safetensors")
    two = read_tensors(tmp_path / "two" / "last.safetensors")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")
    first, second = (log_of(tmp_path / name) for name in ("one", "two"))
    assert [entry["epoch"] for entry in first] == [entry["epoch"] for entry in second]
    for a, b in zip(first, second, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
