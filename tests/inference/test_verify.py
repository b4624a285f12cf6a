"""`verify` must catch what goes wrong between a tested network and a shipped file."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import onnx
from exported import make_run, write_pictures
from quicknet.core.card import Card, card_from_dict
from quicknet.core.errors import CheckFailed, CheckpointError, DataError, FormatError
from quicknet.data import DataRequest, Dataset, load_data
from quicknet.deploy.export import export, load_run_data
from quicknet.deploy.fold import fold
from quicknet.deploy.onnx import assemble, build_graph
from quicknet.inference.receipt import class_order_sha256
from quicknet.inference.verify import Verification, verify
from quicknet.onnx.file import OnnxFile, read_onnx
from quicknet.onnx.runtime import present
from quicknet.training.checkpoint import load_model


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 20)


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "run", pictures, request=DataRequest(size=32, quiet=True))


@pytest.fixture(scope="module")
def whole(run: Path, pictures: Path) -> OnnxFile:
    """An export with a receipt."""
    export(run, run.parent / "m.onnx", data=load_run_data(run, str(pictures), True))
    return read_onnx(run.parent / "m.onnx")


@pytest.fixture
def model(run: Path) -> nn.Module:
    return load_model(run)[0]


def data_for(card: Card, source: Path) -> Dataset:
    return load_data(source, DataRequest(spec=card.preprocess, classes=card.classes, quiet=True))


def planted(whole: OnnxFile, folder: Path, model: Any | None = None, card: Card | None = None, **spec: Any) -> Path:
    """Write a file whose digests hold, as a faulty exporter would: another graph, another card."""
    card = card or whole.card
    if model is None and not spec:
        graph = onnx.load_from_string(whole.blob).graph.SerializeToString(deterministic=True)
    else:
        assert model is not None
        graph = build_graph(fold(model, card.preprocess.replace(**spec)), card.preprocess.size, "fused")
    path = folder / "planted.onnx"
    path.write_bytes(assemble(graph, card))
    assert read_onnx(path).intact
    return path


def failed(verification: Verification) -> set[str]:
    assert not verification.holds
    with pytest.raises(CheckFailed, match="the receipt does not hold: ") as error:
        verification.require()
    assert error.value.exit_code == 1
    return {check.name.split()[0] for check in verification.checks if not check.ok}


def test_a_whole_file_holds(whole: OnnxFile, pictures: Path) -> None:
    verification = verify(whole.path, data_for(whole.card, pictures))
    verification.require()
    names = [check.name for check in verification.checks]
    vectors = [f"vectors {name}" for name in present()]
    assert names == ["digests", "shapes", *vectors, "class order", "data", "agreement", "accuracy"]
    assert verification.receipt_measured
    assert verification.measured is not None
    assert (verification.measured.n, verification.measured.different) == (60, 0)
    assert verification.measured.top1 == verification.measured.top1_recorded
    assert verification.measured.top1 > 0.7
    assert (verification.sha256, verification.weights_sha256) == (whole.sha256, whole.card.weights_sha256)


def test_a_receipt_without_data_says_so(run: Path, pictures: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "m.onnx")
    verification = verify(tmp_path / "m.onnx")
    assert verification.holds
    assert not verification.receipt_measured
    assert verification.measured is None
    verification = verify(tmp_path / "m.onnx", data_for(read_onnx(tmp_path / "m.onnx").card, pictures))
    assert verification.holds
    assert verification.measured is not None
    assert verification.measured.top1 > 0.7
    assert verification.measured.top1_recorded is None


def test_the_parents_measured_accuracy_counts_where_no_classes_were_recorded(
    run: Path, pictures: Path, tmp_path: Path
) -> None:
    from quicknet.inference.evaluate import evaluate
    from quicknet.training.checkpoint import RunFolder, TorchClassifier

    shutil.copytree(run, tmp_path / "run")
    parent = TorchClassifier(tmp_path / "run")
    measured = evaluate(parent, data_for(parent.card, pictures)).metrics()
    for value, holds in ((measured[0].value, True), (0.1, False)):
        RunFolder(tmp_path / "run").update_card(parent.card.replace(metrics=(measured[0].replace(value=value),)))
        export(tmp_path / "run", tmp_path / "m.onnx")
        verification = verify(tmp_path / "m.onnx", data_for(parent.card, pictures))
        assert verification.measured is not None
        assert verification.measured.top1_recorded == value
        assert verification.holds is holds


# --- what tests plant: digests hold, the classifier is another ----------------------------------


def test_bgr_for_rgb(whole: OnnxFile, model: Any, tmp_path: Path) -> None:
    model.stem.conv.weight.data = model.stem.conv.weight.data.flip(1)
    assert failed(verify(planted(whole, tmp_path, model))) == {"vectors"}


@pytest.mark.parametrize("spec", [{"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}, {"mean": (0.0, 0.0, 0.0)}])
def test_a_missing_normalization(
    spec: dict[str, Any], whole: OnnxFile, model: Any, pictures: Path, tmp_path: Path
) -> None:
    assert "vectors" in failed(verify(planted(whole, tmp_path, model, **spec)))


def test_lost_batch_norm_statistics(whole: OnnxFile, model: Any, pictures: Path, tmp_path: Path) -> None:
    model.blocks[2].bn.reset_running_stats()
    path = planted(whole, tmp_path, model)
    assert failed(verify(path)) == {"vectors"}
    assert "agreement" in failed(verify(path, data_for(whole.card, pictures)))


def test_a_stale_weight_file(whole: OnnxFile, pictures: Path, tmp_path: Path) -> None:
    request = DataRequest(size=32, quiet=True)
    other, _ = load_model(make_run(tmp_path / "other", pictures, request=request, seed=1))
    assert failed(verify(planted(whole, tmp_path, other))) == {"vectors"}


def test_a_swapped_class_order(whole: OnnxFile, pictures: Path, tmp_path: Path) -> None:
    """Seen without data by the receipt's digest of the names; with data by accuracy, if that lies too."""
    names = whole.card.classes
    swapped = whole.card.replace(classes=(names[1], names[0], names[2]))
    assert failed(verify(planted(whole, tmp_path, card=swapped))) == {"class"}
    predictions = swapped.lineage[-1].predictions.replace(class_order_sha256=class_order_sha256(swapped.classes))
    lying = swapped.with_receipt(predictions=predictions)
    path = planted(whole, tmp_path, card=lying)
    assert verify(path).holds  # nothing without data can know
    assert failed(verify(path, data_for(lying, pictures))) == {"data", "accuracy"}


@pytest.mark.parametrize("change", [{"resize": "stretch"}, {"filter": "nearest"}, {"resize": "pad"}])
def test_a_different_resize(change: dict[str, str], whole: OnnxFile, pictures: Path, tmp_path: Path) -> None:
    card = whole.card.replace(preprocess=whole.card.preprocess.replace(**change))
    path = planted(whole, tmp_path, card=card)
    assert "agreement" in failed(verify(path, data_for(card, pictures)))
    # changed after the export, the card's digest tells without data
    model = onnx.load_from_string(whole.blob)
    model.metadata_props[0].value = card.replace(weights_sha256=whole.weights_sha256).to_json()
    path.write_bytes(model.SerializeToString())
    assert failed(verify(path)) == {"digests"}


def test_one_weight_changed_after_the_export(whole: OnnxFile, tmp_path: Path) -> None:
    model = onnx.load_from_string(whole.blob)
    tensor = next(t for t in model.graph.initializer if t.name == "classifier.bias")
    tensor.raw_data = (np.frombuffer(tensor.raw_data, "<f4") + np.float32(1e-6)).tobytes()  # too little for the vectors
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert failed(verify(path)) == {"digests"}


def test_a_network_that_answers_nan(whole: OnnxFile, model: Any, tmp_path: Path) -> None:
    model.classifier.bias.data[0] = float("nan")
    assert failed(verify(planted(whole, tmp_path, model))) == {"vectors"}


def test_no_vectors_or_those_of_another_size(whole: OnnxFile, tmp_path: Path) -> None:
    assert failed(verify(planted(whole, tmp_path, card=whole.card.replace(vectors=None)))) == {"vectors"}
    vectors = whole.card.vectors
    assert vectors is not None
    for lie in (vectors.replace(sha256="0" * 64), vectors.replace(logits=[[0.0] * 3] * 15)):
        assert failed(verify(planted(whole, tmp_path, card=whole.card.replace(vectors=lie)))) == {"vectors"}
    newer = whole.card.replace(vectors=vectors.replace(generator=2))
    with pytest.raises(FormatError, match="update QuickNet"):
        verify(planted(whole, tmp_path, card=newer))


def test_a_card_that_contradicts_itself(whole: OnnxFile, tmp_path: Path) -> None:
    record = whole.card.model
    card = whole.card.replace(model=record.replace(config={**record.config, "num_classes": 4}))
    assert failed(verify(planted(whole, tmp_path, card=card))) == {"shapes"}


def test_a_damaged_record_of_classes(whole: OnnxFile, pictures: Path, tmp_path: Path) -> None:
    for change in ({"classes": "!"}, {"sha256": "0" * 64}, {"unknown": 1}, {"classes": None}):
        fields = whole.card.to_dict()
        fields["lineage"][-1]["predictions"] |= change
        path = planted(whole, tmp_path, card=card_from_dict(fields, "the test"))
        with pytest.raises(FormatError, match="receipt"):
            verify(path, data_for(whole.card, pictures))


# --- other data, other files ----------------------------------------------------------------------


def test_other_data_than_the_receipts_is_told_apart(whole: OnnxFile, tmp_path: Path) -> None:
    other = data_for(whole.card, write_pictures(tmp_path / "other", 20, seed=5))
    verification = verify(whole.path, other)
    assert "data" in failed(verification)
    assert verification.measured is not None
    assert verification.measured.different is None
    with pytest.raises(DataError, match="other classes"):
        verify(whole.path, replace(other, classes=("a", "b", "c")))


def test_what_is_not_an_exported_file_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a run folder; verify takes an exported file"):
        verify(run)
    with pytest.raises(CheckpointError, match="no model at"):
        verify(tmp_path / "none")
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(FormatError, match="not a model that QuickNet reads"):
        verify(tmp_path / "x")
