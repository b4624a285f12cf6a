"""`quicknet.study.ablate`: what a change gives, over seeds, from runs that are not repeated."""

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import TINY
from quicknet.core.card import read_card
from quicknet.training.checkpoint import RunFolder, read_tensors


def ablate(data: Path, runs: Path, *more: str) -> subprocess.CompletedProcess[str]:
    settings = [word for change in (*TINY, "train.epochs=1") for word in ("--set", change)]
    words = ["tiny", "--data", str(data), *settings, "--seeds", "0", "1", "--runs", str(runs), "--json", *more]
    return subprocess.run([sys.executable, "-m", "quicknet.study.ablate", *words], capture_output=True, text=True)


@pytest.mark.timeout(300)
def test_differences_are_taken_seed_by_seed_and_finished_runs_are_kept(tiny_cifar: Path, tmp_path: Path) -> None:
    variants = ["--variant", "prelu", "--variant", "relu", "model.overrides.activation=relu"]
    done = ablate(tiny_cifar, tmp_path, *variants)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    reached = {
        label: [
            next(
                m.value
                for m in read_card(tmp_path / "tiny" / f"{label}-{seed}" / "card.json").metrics
                if m.split == "test"
            )
            for seed in (0, 1)
        ]
        for label in ("prelu", "relu")
    }
    assert {label: row["top1"] for label, row in record["test"].items()} == reached
    differences = [a - b for a, b in zip(reached["relu"], reached["prelu"], strict=True)]
    assert record["test"]["relu"]["difference"] == pytest.approx(statistics.mean(differences))
    assert record["test"]["relu"]["standard_error"] == pytest.approx(abs(differences[0] - differences[1]) / 2)
    assert record["test"]["prelu"]["difference"] == 0

    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("tiny/*/*")}
    assert json.loads(ablate(tiny_cifar, tmp_path, *variants).stdout) == record
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("tiny/*/*")} == times

    other = ablate(tiny_cifar, tmp_path, "--variant", "prelu", "optim.lr=0.01")
    assert other.returncode == 2
    assert "other settings" in other.stderr


@pytest.mark.timeout(300)
def test_seeds_with_different_teachers_of_one_name_are_not_averaged(tiny_cifar, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    teacher = shutil.copytree(trained, tmp_path / "teacher")
    variant = ["--variant", "taught", f"distill.teacher={json.dumps(str(teacher))}"]
    first = ablate(tiny_cifar, tmp_path, *variant, "--seeds", "0")
    assert list(json.loads(first.stdout)["teacher_sha256"]) == ["taught"]
    card = read_card(teacher / "card.json")
    tensors = read_tensors(teacher / "model.safetensors")
    tensors["classifier.weight"] *= 0.5
    RunFolder(teacher).save_model(tensors, card)
    both = ablate(tiny_cifar, tmp_path, *variant)
    assert both.returncode == 2 and "different teachers of one name" in both.stderr
