"""The steps that every export takes: what is verified is what is written, and what is written reads back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quicknet.core.errors import ToolError
from quicknet.data import Dataset
from quicknet.deploy import pipeline
from quicknet.deploy.export import export
from quicknet.deploy.export_int8 import export_int8
from quicknet.deploy.qnz import QnzSettings, export_qnz, make_qnz
from quicknet.inference.verify import verify, verify_file

ANY_LOSS = QnzSettings(max_loss=None)
Export = Callable[[Path, Dataset | None], Any]


@pytest.fixture(scope="module", params=["onnx", "int8", "qnz"])
def write(request: pytest.FixtureRequest, run_dir: Path, data: Dataset) -> Export:
    """Write a file of the format; a `.qnz` always has data."""
    if request.param == "onnx":
        return lambda out, some: export(run_dir, out, "onnx", some)
    if request.param == "int8":
        parent, _ = make_qnz(run_dir, data, Path("parent.qnz"), ANY_LOSS)
        return lambda out, some: export_int8(parent, out, "onnx", some)
    return lambda out, some: export_qnz(run_dir, data, out, ANY_LOSS)


@pytest.mark.parametrize("measured", [False, True])
def test_what_is_written_was_verified_as_it_is(
    write: Export, measured: bool, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the last change of its card, too."""
    verified = []

    def spy(file: Any, *arguments: Any) -> Any:
        verified.append(file.blob)
        return verify_file(file, *arguments)

    monkeypatch.setattr(pipeline, "verify_file", spy)
    written = write(tmp_path / "m", data if measured else None)
    assert (tmp_path / "m").read_bytes() == verified[-1]
    assert len(set(verified)) == len(verified)  # none of them twice
    checked = verify(tmp_path / "m", data)
    assert checked.holds
    assert (checked.sha256, checked.weights_sha256) == (written.sha256, written.weights_sha256)


def test_a_file_that_does_not_read_back_is_removed(
    write: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "sha256_file", lambda path: "0" * 64)
    with pytest.raises(ToolError, match=r"m does not read back as it was written; check the disk"):
        write(tmp_path / "m", None)
    assert list(tmp_path.iterdir()) == []
