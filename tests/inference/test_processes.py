"""A classifier goes to another process by pickle, without its file, and answers the same there."""

import copy
import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import quicknet
from exported import make_run, write_pictures
from integers import write_qnz
from quicknet.data import DataRequest
from quicknet.deploy.export import export
from quicknet.image.vectors import draw_vectors

IMAGES = draw_vectors(32, 3, 9)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each kind."""
    root = tmp_path_factory.mktemp("models")
    make_run(root / "run", write_pictures(root / "pictures", n=4), request=DataRequest(size=32, quiet=True))
    export(root / "run", root / "model.onnx")
    write_qnz(root / "model.qnz")
    return root


@pytest.fixture(params=["model.qnz", "model.onnx", "run"])
def path(request: pytest.FixtureRequest, models: Path, tmp_path: Path) -> Path:
    """A copy that a test may delete."""
    source = models / request.param
    copied = shutil.copytree(source, tmp_path / "run") if source.is_dir() else shutil.copy(source, tmp_path)
    return Path(copied)


def delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_another_process_answers_the_same(path: Path) -> None:
    model = quicknet.load(path)
    expected = model.logits(IMAGES)
    delete(path)  # what is sent is the file's content
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        actual = pool.submit(model.logits, IMAGES).result(timeout=120)
    assert np.array_equal(actual, expected)


def test_a_copy_is_whole(path: Path) -> None:
    model = quicknet.load(path, threads=None if path.is_dir() else 1)
    expected = model.logits(IMAGES)
    delete(path)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert np.array_equal(other.logits(IMAGES), expected)
        assert (other.card, other.source) == (model.card, path)
        for name in ("runtime", "threads", "status"):
            assert getattr(other, name, None) == getattr(model, name, None)


def test_a_qnz_takes_the_engine_of_the_machine_where_it_arrives(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = pickle.dumps(quicknet.load(models / "model.qnz"))
    monkeypatch.setenv("QUICKNET_RUNTIME", "reference")
    assert pickle.loads(sent).runtime == "reference"
    chosen = pickle.dumps(quicknet.load(models / "model.qnz", runtime="reference"))
    monkeypatch.delenv("QUICKNET_RUNTIME")
    assert pickle.loads(chosen).runtime == "reference"
