"""`quicknet compress --epochs 0`: integers as coarse as a size or a loss asks for, without training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quicknet.cli.lineage import lineage_lines
from quicknet.cli.main import run as command
from quicknet.core.errors import CheckFailed, CheckpointError, ConfigError
from quicknet.core.lineage import CompressStep
from quicknet.data import Dataset
from quicknet.deploy.compress.listener import Listener
from quicknet.deploy.compress.run import compress
from quicknet.deploy.compress.settings import CompressSettings, Point
from quicknet.deploy.compress.steps import Tried, for_loss, for_size, needs_no_training
from quicknet.deploy.compress.work import work_folder
from quicknet.deploy.quantize import qat
from quicknet.inference.verify import verify
from quicknet.models.registry import create_model
from quicknet.qnz.file import read_qnz
from quicknet.report.path import render_path
from quicknet.training.checkpoint import TorchClassifier
from schema import follows

Captured = pytest.CaptureFixture[str]
UNTRAINED = CompressSettings(epochs=0, images=16)


def written(run_dir: Path, data: Dataset, out: Path, **asked: Any) -> tuple[Any, list[Point]]:
    tried: list[Point] = []
    settings = CompressSettings(epochs=0, images=16, **asked)
    return compress(run_dir, data, out, settings, "", Listener(tried=tried.append)), tried


def step_of(path: str) -> CompressStep:
    step = read_qnz(Path(path)).card.lineage[-2]
    assert isinstance(step, CompressStep)
    return step


def steps_of(points: Sequence[Point]) -> list[float]:
    return [point.step for point in points if point.step is not None]


def test_a_coarser_step_makes_a_smaller_file_of_all_weights(run_dir: Path, data: Dataset, tmp_path: Path) -> None:
    fine, _ = written(run_dir, data, tmp_path / "fine.qnz", step=0.1)
    coarse, tried = written(run_dir, data, tmp_path / "coarse.qnz", step=1.0)
    assert coarse.size_bytes < 0.9 * fine.size_bytes
    assert (coarse.density, coarse.epochs, coarse.qat_epochs, coarse.points, tried) == (1.0, 0, 0.0, (), [])
    assert verify(coarse.path, data).holds
    step = step_of(coarse.path)
    assert (step.density, step.epochs, step.grid) == (1.0, 0, 1.0)
    assert step.parent_weights_sha256 == TorchClassifier(run_dir).card.weights_sha256
    assert "<svg" not in render_path(coarse.to_dict())  # nothing was tried on the way


def test_a_size_is_reached_by_the_best_that_fits(run_dir: Path, data: Dataset, tmp_path: Path) -> None:
    sizes = [written(run_dir, data, tmp_path / f"{step}.qnz", step=step)[0].size_bytes for step in (0.1, 1.0)]
    limit = sum(sizes) // 2
    made, tried = written(run_dir, data, tmp_path / "m.qnz", target_size=limit)
    assert made.size_bytes <= limit
    assert max(point.size_bytes for point in tried if point.size_bytes <= limit) >= 0.94 * limit
    assert made.points == tuple(tried)
    assert {point.epoch for point in tried} == {0}
    grid = step_of(made.path).grid
    chosen = next(point for point in tried if point.step == grid)
    assert 0 <= chosen.size_bytes - made.size_bytes <= 400  # the receipt is counted as the longest
    fitting = [point for point in tried if point.size_bytes <= limit]
    assert chosen == max(fitting, key=lambda point: (point.val_accuracy, point.size_bytes))
    assert "What was tried" in render_path(made.to_dict())
    follows("compress", json.loads(json.dumps(made.to_dict())))
    assert not work_folder(tmp_path / "m.qnz").exists()


def test_a_loss_gives_the_coarsest_step_that_holds_it(run_dir: Path, data: Dataset, tmp_path: Path) -> None:
    images, labels = np.array(data.split("val").images), np.asarray(data.split("val").labels)
    usual = float((TorchClassifier(run_dir).logits(images).argmax(1) == labels).mean())
    made, tried = written(run_dir, data, tmp_path / "n.qnz", max_loss=2.0)
    grid = step_of(made.path).grid
    least = usual - max(0.02, 1 / len(labels)) - 1e-9
    assert max(steps_of([point for point in tried if point.val_accuracy >= least])) == grid
    assert made.compared[0].top1 >= least


def test_the_command_tells_what_it_tries(run_dir: Path, pictures: Path, tmp_path: Path, capfd: Captured) -> None:
    out = tmp_path / "m.qnz"
    arguments = ["compress", str(run_dir), str(pictures), "--epochs", "0", "--target-size", "1MB", "--out", str(out)]
    assert command(arguments) == 0
    captured = capfd.readouterr()
    assert captured.err.count("tried step 0: ") == 1  # as fine as can be
    assert "100.0% of the pointwise weights kept" in captured.out


def test_an_interrupted_search_gives_way_but_not_its_fine_tuning(
    run_dir: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import quicknet.deploy.compress.run as module

    out = tmp_path / "m.qnz"
    monkeypatch.setattr(module, "pruned_integers", lambda *_: 1 / 0)
    for epochs in (0.0, 1.0):
        with pytest.raises(ZeroDivisionError):
            written(run_dir, data, out, step=1.0, qat_epochs=epochs)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="holds another compression"):
        written(run_dir, data, out, step=0.9, qat_epochs=1.0)
    assert written(run_dir, data, out, step=1.0, qat_epochs=1.0)[0].qat_epochs == 1.0


def test_another_target_begins_its_fine_tuning_anew(
    run_dir: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import quicknet.deploy.compress.integers as module

    monkeypatch.setattr(module, "fitting", lambda *_: _missed())
    with pytest.raises(CheckFailed):
        written(run_dir, data, tmp_path / "m.qnz", target_size=60_000, qat_epochs=1.0)
    monkeypatch.undo()
    real, learned = qat._learn, list[str]()

    def count(name: str) -> Any:
        def counted(*asked: Any) -> None:
            learned.append(name)
            real(*asked)

        monkeypatch.setattr(qat, "_learn", counted)
        return written(run_dir, data, tmp_path / f"{name}.qnz", target_size=70_000, qat_epochs=1.0)[0]

    again, fresh = count("m"), count("n")
    assert learned.count("m") == learned.count("n") > 0
    assert (again.sha256, again.qat_epochs) == (fresh.sha256, 1.0)
    assert verify(again.path, data).holds


def _missed() -> None:
    raise CheckFailed("not reached")


def test_a_pruned_run_says_what_it_keeps(run_dir: Path, pictures: Path, data: Dataset, tmp_path: Path) -> None:
    pruned = tmp_path / "pruned"
    trained = CompressSettings(density=0.5, epochs=1, qat_epochs=0.0, batch_size=10, images=16, keep=str(pruned))
    compress(run_dir, data, tmp_path / "trained.qnz", trained, pictures)
    again, tried = written(pruned, data, tmp_path / "again.qnz", target_size=10**6)
    assert again.density == pytest.approx(0.5, abs=0.01)
    assert {point.density for point in tried} == {again.density}
    layers = [layer for layer in again.layers if layer.name.endswith("pointwise")]
    assert sum(layer.kept for layer in layers) <= again.density * sum(layer.weights for layer in layers) * 1.02
    assert "integers made coarser without training" in lineage_lines(read_qnz(Path(again.path)).card.lineage)[-2]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"density": 0.5}, "--density needs training"),
        ({"target_speed": 2.0}, "--target-speed needs training"),
        ({"pattern": "element"}, "--pattern needs training"),
        ({"mode": "paper"}, "--mode needs training"),
        ({"keep": "runs/pruned"}, "--keep needs training"),
        ({"teacher": "quicknet_s.cifar10"}, "--teacher needs training"),
        ({"step": 0.5, "target_size": 9000}, "a target chooses the step"),
        ({"epochs": -1}, "epochs must lie in"),
        ({"epochs": None}, "nothing says how far to compress"),
    ],
)
def test_what_only_training_does_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CompressSettings(**{"epochs": 0, **asked})


# --- the search alone --------------------------------------------------------------------------

XS = create_model("quicknet_xs")


def attempts(tried: list[float], size: Any, right: Any) -> Any:
    """Return an attempt of drawn sizes and accuracies."""

    def attempt(step: float) -> Tried:
        tried.append(step)
        return Tried(step, None, size(step), right(step))  # type: ignore[arg-type]

    return attempt


@pytest.mark.parametrize("limit", [70_000, 100_000, 130_000, 180_000])
def test_a_size_takes_few_attempts(limit: int) -> None:
    tried: list[float] = []
    attempt = attempts(tried, lambda step: round(30_000 + 62_000 / step**0.45), lambda step: 1.0)
    if limit == 70_000:  # under what the coarsest comes to
        with pytest.raises(CheckFailed, match=r"without training the file would be [\d,]+ bytes"):
            for_size(attempt, limit, XS)
        return
    best = for_size(attempt, limit, XS)
    assert 0.95 * limit <= best.size_bytes <= limit
    assert len(tried) <= 5


def test_a_size_that_needs_nothing_takes_the_finest() -> None:
    tried: list[float] = []
    assert for_size(attempts(tried, lambda step: 200_000, lambda step: 1.0), 10**6, XS).step == 0.0
    assert tried == [0.0]


@pytest.mark.parametrize("offset", [-25_000, 40_000, 10**6])
def test_a_card_of_another_size_than_foretold_changes_no_outcome(offset: int) -> None:
    tried: list[float] = []

    def size(step: float) -> int:
        return round(30_000 + 62_000 / max(step, 0.05) ** 0.45) + offset

    limit = size(0.5)
    best = for_size(attempts(tried, size, lambda step: 1.0), limit, XS)
    assert size(2.0) <= best.size_bytes <= limit
    with pytest.raises(CheckFailed, match=rf"would be {size(2.0):,} bytes"):  # the least there is
        for_size(attempts(tried, size, lambda step: 1.0), size(2.0) - 1, XS)


def test_a_loss_is_found_to_a_tenth_or_refused() -> None:
    tried: list[float] = []
    attempt = attempts(tried, lambda step: 1, lambda step: 0.9 - 0.01 * step)
    assert 0.44 <= for_loss(attempt, 0.9, 0.5, 5000).step <= 0.5
    with pytest.raises(CheckFailed, match=r"by the finest integers, over --max-loss 0.5; fine-tune"):
        for_loss(attempts(tried, lambda step: 1, lambda step: 0.8), 0.9, 0.5, 5000)
    tuned = for_loss(attempts(tried, lambda step: 1, lambda step: 0.8), 0.9, 0.5, 5000, tuned=True)
    assert tuned.step == 0.0  # fine-tuning may mend it
    one_image = attempts(tried, lambda step: 1, lambda step: 0.9 - 1 / 50)
    assert for_loss(one_image, 0.9, 0.0, 50).step > 1


def test_a_size_that_takes_no_training_is_known() -> None:
    assert needs_no_training(XS, 10, 120_000)  # quicknet_xs.cifar10 takes 96 KB at a step of 0.6
    assert not needs_no_training(XS, 10, 80_000)
    assert not needs_no_training(create_model("quicknet_s"), 10, 250_000)
    assert CompressSettings(target_size=120_000).can_do_without_training()
    for other in ({"target_speed": 2.0}, {"pattern": "element"}, {"teacher": "quicknet_s.cifar10"}, {"step": 0.5}):
        assert not CompressSettings(target_size=120_000, **other).can_do_without_training()
