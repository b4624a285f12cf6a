"""What results/ keeps of a training can be gone on from."""

import json
import math
from pathlib import Path

import pytest

from quicknet import training
from quicknet.core.card import read_card
from quicknet.core.lineage import FineTuneStep, Fp16Step
from quicknet.training.checkpoint import load_model

RESULTS = Path(__file__).parents[2] / "results"
KEPT = sorted(RESULTS.glob("*/seed*/card.json"))


def test_every_training_on_record_is_kept():
    records = [json.loads(path.read_text()) for path in RESULTS.glob("*/record.json")]
    assert len(KEPT) == sum(len(record["seeds"]) for record in records if record.get("kind") == "accuracy") > 0


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.parts[-3])
def test_a_kept_run_opens_and_names_the_run_that_was_measured(path: Path):
    _, card = load_model(path.parent)
    record = json.loads((path.parents[1] / "record.json").read_text())
    place = record["seeds"].index(int(path.parent.name.removeprefix("seed")))
    assert card.lineage[-1] == Fp16Step(parent_weights_sha256=record["weights_sha256"][place])
    assert [m.value for m in card.metrics if (m.name, m.split) == ("top1", "test")] == [record["top1"][place]]


def test_training_goes_on_from_a_kept_run(tiny_cifar: Path, tmp_path: Path):
    kept = KEPT[0].parent
    changes = [f"data.source={json.dumps(str(tiny_cifar))}", f"model.start_from={json.dumps(str(kept))}"]
    recipe = training.load_recipe("fast", [*changes, "train.epochs=1", "train.batch_size=20"])
    *_, last = training.fit(training.start(recipe, tmp_path / "run", training.choose_device("cpu")))
    assert math.isfinite(last.train_loss)
    assert isinstance(read_card(tmp_path / "run" / "card.json").lineage[-1], FineTuneStep)
