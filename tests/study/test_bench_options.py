"""benchmarks/bench_options.py: what each option gains beside what it costs, from a tiny run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import TINY, write_cifar

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_options.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_gains_stand_beside_costs(tmp_path: Path) -> None:
    data = write_cifar(tmp_path / "tiny", 40)
    small = [setting for setting in TINY if not setting.startswith("model.")]
    shape = ["model.overrides.widths=[8, 16]", "model.overrides.depths=[1, 2]", "model.overrides.kernel_sizes=[3, 3]"]
    settings = [word for change in (*small, *shape, "train.epochs=1") for word in ("--set", change)]
    words = ["--data", str(data), *settings, "--seeds", "0", "1", "--runs", str(tmp_path), "--seconds", "0.05"]
    command = [sys.executable, str(SCRIPT), "--only", "residual", "transformer", *words]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["changes"]["residual"] == ["model.overrides.options.residual=true"]
    assert set(record["test"]) == set(record["costs"]) == {"plain", "residual", "transformer"}
    assert record["val"]["residual"]["standard_error"] is not None
    costs = record["costs"]
    assert costs["plain"] == costs["residual"]  # a sum without parameters, of maps that are there anyway
    assert costs["plain"]["macs"] < costs["transformer"]["macs"]
    assert set(record["latency"]) == {"plain", "residual"}
    assert record["latency"]["plain"]["times_faster"] == 1
    assert "transformer  has no latency: the network has the option transformer" in done.stderr
    again = subprocess.run(command, capture_output=True, text=True)
    assert [line.split()[0] for line in again.stdout.splitlines()] == ["plain", "residual", "transformer"]
    assert "not exported" in again.stdout.splitlines()[-1]
