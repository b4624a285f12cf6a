"""A run folder keeps which pictures it was trained on, so that changed data is refused with numbers."""

from pathlib import Path

import pytest
import torch

from exported import write_pictures
from helpers import TINY
from quicknet.core.errors import CheckpointError
from quicknet.data.recorded import FILE, read_recorded
from quicknet.training.recipe import load_recipe
from quicknet.training.saving import save
from quicknet.training.setup import resume, start

CPU = torch.device("cpu")


def test_training_keeps_its_splits_and_resume_says_what_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    pictures = write_pictures(tmp_path / "parts", 20) / "train"
    recipe = load_recipe("fast", TINY, {"data.source": str(pictures), "data.size": 32})
    run = start(recipe, tmp_path / "run", CPU)
    save(run)
    kept = read_recorded(tmp_path / "run", run.data.sha256)
    assert kept is not None
    assert {name: len(ids) for name, ids in kept.splits.items()} == {"train": 48, "val": 6, "test": 6}

    text = (tmp_path / "run" / FILE).read_text()
    (tmp_path / "run" / FILE).unlink()  # as older versions left a run folder
    resume(tmp_path / "run", CPU)
    assert (tmp_path / "run" / FILE).read_text() == text

    for path in sorted((pictures / "left").iterdir())[:3]:
        path.unlink()
    for number, path in enumerate(sorted((tmp_path / "parts" / "val").rglob("*.png"))):
        path.rename(pictures / path.parent.name / f"new{number}.png")
    with pytest.raises(CheckpointError, match="60 of its 117 pictures are new, and 3 of the 60 at training are gone"):
        resume(tmp_path / "run", CPU)
    (tmp_path / "run" / FILE).unlink()
    with pytest.raises(CheckpointError, match="sha256 over content differs"):
        resume(tmp_path / "run", CPU)
