import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from colours import Colours
from quicknet.core.errors import CheckpointError, FormatError, ToolError
from quicknet.inference.artifact import load
from quicknet.inference.classifier import Classifier


def test_a_missing_model_names_its_near_neighbour(tmp_path: Path) -> None:
    (tmp_path / "cifar10-quicknet_s").mkdir()
    with pytest.raises(CheckpointError, match=r"did you mean .*cifar10-quicknet_s\?"):
        load(tmp_path / "cifar10-quicknet_x")
    with pytest.raises(CheckpointError, match="no model at"):
        load(tmp_path / "nowhere" / "at" / "all")


def test_other_folders_and_files_are_refused_by_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run folder"):
        load(tmp_path)
    pickled = tmp_path / "model.pt"
    pickled.write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(FormatError, match="give a run folder"):
        load(pickled)


def test_without_torch_a_run_folder_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "card.json").write_text("{}")
    import_error = ModuleNotFoundError("No module named 'torch'", name="torch")

    def missing(name: str) -> None:
        assert name == "quicknet.training.checkpoint"
        raise import_error

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ToolError, match=r"pip install 'quicknet-vision\[train\]'"):
        load(tmp_path)
    import_error.name = "quicknet.training.checkpoint"  # a fault of ours must not pass for a missing extra
    with pytest.raises(ModuleNotFoundError):
        load(tmp_path)


def test_the_fake_of_the_tests_is_a_classifier() -> None:
    images = np.zeros((2, 16, 16, 3), np.uint8)
    images[0, ..., 2] = images[1, ..., 0] = 255
    ask(Colours(), images, ["blue", "red"])


def ask(model: Classifier, images: NDArray[np.uint8], expected: list[str]) -> None:
    """Use all that the protocol promises; mypy holds the argument to it."""
    logits = model.logits(images)
    assert (logits.shape, logits.dtype) == ((len(images), len(model.card.classes)), np.float32)
    assert [model.card.classes[place] for place in logits.argmax(1)] == expected
    assert isinstance(model.source, Path)


def test_the_light_part_does_not_import_torch() -> None:
    modules = ["inference.evaluate", "inference.predict", "inference.verify", "qnz.file", "onnx.runtime", "data.load"]
    code = "".join(f"import quicknet.{module}\n" for module in modules)
    code += "import quicknet.report.html, sys\nassert 'torch' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
