import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from colours import CLASSES, Colours
from quicknet.core.card import read_card
from quicknet.core.errors import CheckpointError, DataError
from quicknet.core.files import folder_lock
from quicknet.inference import metrics
from quicknet.inference.evaluate import Evaluation, calibrate, classify, evaluate


@dataclass(frozen=True)
class Part:
    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Recorder:
    """Data that notes which splits are asked for."""

    part: Part
    classes: tuple[str, ...] = CLASSES
    name: str = "dots"
    protocol: str = "standard"
    asked: list[str] = field(default_factory=list)

    def split(self, name: str) -> Part:
        self.asked.append(name)
        return self.part


def data_of(part: Part, **fields: Any) -> Any:
    """Return what stands in for a Dataset."""
    return Recorder(part, **fields)


def noisy(n: int = 600) -> Part:
    """Coloured noise whose label is its strongest channel in about 7 of 10 images."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 16, 16, 3), np.uint8)
    levels = images.mean((1, 2)) + rng.normal(size=(n, 3)) * 4
    return Part(images, levels.argmax(1))


@pytest.fixture
def run(tmp_path: Path) -> Colours:
    """The classifier in a folder that looks like a run's."""
    model = Colours(tmp_path)
    (tmp_path / "card.json").write_text(model.card.to_json())
    return model


def test_every_figure_agrees_with_counting(run: Colours) -> None:
    part = noisy()
    evaluation = evaluate(run, data_of(part), "val", clock=itertools.count(10.0, 5.0).__next__)
    logits = Colours().logits(part.images)
    right = logits.argmax(1) == part.labels
    assert 0.4 < right.mean() < 0.95
    assert evaluation.top1 == pytest.approx(right.mean())
    assert evaluation.top1_low < evaluation.top1 < evaluation.top1_high
    assert evaluation.top5 is None  # three classes
    assert (evaluation.n, evaluation.seconds, evaluation.images_per_second) == (600, 5.0, 120.0)
    assert np.sum(evaluation.confusion) == 600
    for index, row in enumerate(evaluation.classes):
        assert row.n == (part.labels == index).sum()
        assert row.recall == pytest.approx(right[part.labels == index].mean())
        assert row.precision == pytest.approx(right[logits.argmax(1) == index].mean())
    assert evaluation.nll_calibrated == pytest.approx(metrics.negative_log_likelihood(logits, part.labels, 2.0))
    assert (evaluation.split, evaluation.protocol, evaluation.data) == ("val", "standard", "dots")
    assert evaluation.file_sha256 == run.file_sha256


def test_an_evaluation_survives_json_and_becomes_card_metrics(run: Colours) -> None:
    evaluation = evaluate(run, data_of(noisy()), "val")
    again = msgspec.json.decode(msgspec.json.encode(evaluation.to_dict()), type=Evaluation)
    assert again == evaluation
    by_name = {metric.name: metric for metric in evaluation.metrics()}
    assert by_name["top1"].low == evaluation.top1_low
    assert by_name["ece_calibrated"].value == evaluation.ece_calibrated
    assert "top5" not in by_name
    assert all((m.split, m.protocol, m.n) == ("val", "standard", 600) for m in by_name.values())


def test_a_class_without_images_has_no_recall(run: Colours) -> None:
    part = noisy()
    kept = part.labels != 2
    evaluation = evaluate(run, data_of(Part(part.images[kept], part.labels[kept])), "test")
    assert (evaluation.classes[2].n, evaluation.classes[2].recall) == (0, None)


def test_calibration_is_kept_in_the_card_and_lowers_the_loss(run: Colours) -> None:
    run.sharpness = 3000.0  # far too sure of itself
    data = data_of(noisy())
    before = read_card(run.source / "card.json")
    after = calibrate(run, data)
    assert data.asked == ["val"]
    assert after == read_card(run.source / "card.json")
    assert after == before.replace(temperature=after.temperature, unknown=after.unknown)
    run.card = after
    evaluation = evaluate(run, data)
    assert evaluation.nll_calibrated is not None
    assert evaluation.ece_calibrated is not None
    assert evaluation.nll_calibrated < evaluation.nll
    assert evaluation.ece_calibrated < evaluation.ece


def test_calibration_leaves_a_folder_in_use_alone(run: Colours, tmp_path: Path) -> None:
    text = (run.source / "card.json").read_text()
    with folder_lock(run.source), pytest.raises(CheckpointError, match="another run is using"):
        calibrate(run, data_of(noisy()))
    assert (run.source / "card.json").read_text() == text
    with pytest.raises(CheckpointError, match="run folder it came from"):
        calibrate(Colours(tmp_path / "model.safetensors"), data_of(noisy()))


def test_what_is_not_the_models_is_refused(run: Colours) -> None:
    part = noisy(10)
    with pytest.raises(DataError, match="other classes, or in another order"):
        evaluate(run, data_of(part, classes=("green", "red", "blue")))
    with pytest.raises(DataError, match="no images"):
        evaluate(run, data_of(Part(part.images[:0], part.labels[:0])))
    for images in (part.images[:, :8], part.images[..., :1], part.images.astype(np.float32)):
        with pytest.raises(DataError, match=r"the model takes uint8 images \(N, 16, 16, 3\)"):
            evaluate(run, data_of(Part(images, part.labels)))
    with pytest.raises(DataError, match="labels must lie in"):
        evaluate(run, data_of(Part(part.images, part.labels + 3)))


def test_a_diverged_model_is_refused_not_scored(run: Colours) -> None:
    run.sharpness = float("nan")
    with pytest.raises(DataError, match="not all finite"):
        evaluate(run, data_of(noisy(10)))


def test_images_are_done_in_batches_and_progress_is_told() -> None:
    model = Colours()
    progress: list[Any] = []
    logits = classify(model, noisy(25).images, progress.append, batch=10)
    assert model.batches == progress == [10, 10, 5]
    np.testing.assert_array_equal(logits, Colours().logits(noisy(25).images))
