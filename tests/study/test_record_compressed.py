"""The record of a compressed file is what its own receipt says; other files are refused."""

import json
from pathlib import Path

import pytest

from quicknet.core.card import read_card
from quicknet.core.errors import ToolError
from quicknet.core.lineage import CompressStep
from quicknet.inference.shipped import locate
from quicknet.models.config import QuickNetConfig, plan
from quicknet.models.registry import base_config
from quicknet.qnz.file import read_qnz
from quicknet.study.record import compressed
from quicknet.study.records import read_records
from quicknet.training.checkpoint import read_tensors

RESULTS = Path(__file__).resolve().parents[2] / "results"


def first_parent(path: Path) -> str:
    return next(step.parent_weights_sha256 for step in read_qnz(path).card.lineage if isinstance(step, CompressStep))


def test_every_kept_file_is_that_of_its_record() -> None:
    records = {name: record for name, record in read_records(RESULTS).items() if record.get("kind") == "compressed"}
    assert records
    for name, record in records.items():
        (path,) = RESULTS.glob(f"[0-9]*-{name}/*.qnz")
        fields = json.loads(json.dumps(compressed(path)))
        assert fields.pop("speed") > 0.5, "this machine's own"
        assert fields.pop("dense_sha256") == record.get("dense_sha256", first_parent(path)), "older ones do not say it"
        assert fields == {key: record[key] for key in fields}
        weights = [block.weight for block in read_qnz(path).network.blocks]
        config = base_config(record["network"])
        assert isinstance(config, QuickNetConfig)
        whole = sum(layer.in_channels * layer.out_channels for layer in plan(config)[1:])  # before channels were cut
        share = sum(int((weight != 0).sum()) for weight in weights) / whole
        assert share <= record["density"] + 0.01, "single weights of a kept block may be zero, no others there"


def test_a_kept_pruned_network_is_the_one_that_its_file_was_made_of() -> None:
    folders = sorted(RESULTS.glob("*/pruned"))
    assert folders
    for folder in folders:
        (path,) = folder.parent.glob("*.qnz")
        file = read_qnz(path)
        pruned = tuple(step for step in file.card.lineage[:-1] if getattr(step, "epochs", 1) > 0)  # integers come after
        assert read_card(folder / "card.json").lineage[:-1] == pruned, "but for export and rounding"
        tensors = read_tensors(folder / "model.safetensors")
        for index, block in enumerate(file.network.blocks):
            weight = tensors[f"blocks.{index}.pointwise.weight"].numpy()[:, :, 0, 0]
            assert not block.weight[weight == 0].any(), "the file has no weights that were pruned"


def test_a_file_that_was_not_compressed_is_refused() -> None:
    with pytest.raises(ToolError, match="no compressed network that was measured"):
        compressed(locate("quicknet_xs.cifar10", "file", True))
