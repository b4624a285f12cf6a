"""`quicknet.study.alike`: networks by one recipe, for the same epochs or minutes; what is finished is not repeated."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import TINY


def alike(data: Path, runs: Path, *more: str) -> subprocess.CompletedProcess[str]:
    settings = [
        word for change in TINY if not change.startswith(("model.", "train.epochs")) for word in ("--set", change)
    ]
    words = ["--data", str(data), *settings, "--runs", str(runs), "--json", *more]
    return subprocess.run([sys.executable, "-m", "quicknet.study.alike", *words], capture_output=True, text=True)


@pytest.mark.timeout(300)
def test_networks_are_trained_alike_and_what_is_too_slow_is_said(tiny_cifar: Path, tmp_path: Path) -> None:
    networks = ["quicknet_xs", "resnet_20", "alexnet"]
    done = alike(tiny_cifar, tmp_path, "--epochs", "1", "--least", "0.001", *networks)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["same"] == {"epochs": 1} and (record["protocol"], record["n"]) == ("standard", 40)
    assert {row["network"]: (row["parameters"], row["epochs"]) for row in record["networks"]} == {
        "quicknet_xs": (236_538, 1),
        "resnet_20": (269_722, 1),
    }
    assert all(len(row["test"]) == len(row["val"]) == len(row["seconds"]) == 1 for row in record["networks"])
    assert "at least 63" in record["not_trained"]["alexnet"]

    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = alike(tiny_cifar, tmp_path, "--epochs", "1", "--least", "0.001", *networks)
    assert json.loads(again.stdout) == record
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == times

    (tmp_path / "alike-0.01-minutes").mkdir()
    timed = {
        "quicknet_xs": {"rate": 900.0, "images": 180, "why": ""},
        "resnet_20": {"rate": 1, "images": 180, "why": "x"},
    }
    asked = json.loads((tmp_path / "alike-1-epochs" / "rates.json").read_text())["asked"]
    rates = {"asked": asked, "networks": timed}
    (tmp_path / "alike-0.01-minutes" / "rates.json").write_text(json.dumps(rates))
    done = alike(tiny_cifar, tmp_path, "--minutes", "0.01", *networks[:2])
    record = json.loads(done.stdout)
    assert [(row["network"], row["epochs"]) for row in record["networks"]] == [("quicknet_xs", 3)]
    assert record["not_trained"] == {"resnet_20": "x"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "1", "quicknet_x"], "no model is called 'quicknet_x'"),
        (["--epochs", "1", "nin", "nin"], "a network is named twice"),
        (["--epochs", "0", "nin"], "must be above 0"),
        (["--epochs", "1", "--least", "1e9", "quicknet_xs"], "images/s, fewer than 1e+09); lower --least"),
    ],
)
def test_bad_input_is_a_line(words: list[str], message: str, tiny_cifar: Path, tmp_path: Path) -> None:
    done = alike(tiny_cifar, tmp_path, *words)
    assert done.returncode == 2 and message in done.stderr
