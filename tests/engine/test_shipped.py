"""The weights that ship, on real images: the engine answers as numpy's reference does, bit for bit."""

import numpy as np
import pytest

import quicknet
from quicknet import engine
from quicknet.data import DataRequest, load_data
from quicknet.inference.shipped import locate
from quicknet.qnz import reference
from quicknet.qnz.file import read_qnz

pytestmark = pytest.mark.skipif(not engine.available(), reason=engine.status())
CASES = [(name, isa) for name in quicknet.list_weights("*.cifar10") for isa in engine.instruction_sets()]


@pytest.fixture(scope="module")
def test_images(cifar10_dir):
    data = load_data(str(cifar10_dir), DataRequest(quiet=True))
    return np.array(data.split("test").images)


def same(name: str, isa: str, images: np.ndarray) -> None:
    file = read_qnz(locate(name, "file"))
    actual = engine.Engine(file.blob, threads=2, isa=isa).run(images)
    for start in range(0, len(images), 256):
        rows = slice(start, start + 256)
        np.testing.assert_array_equal(actual[rows], reference.run(file.network, images[rows]))


def test_there_are_weights_to_test():
    assert CASES


@pytest.mark.parametrize(("name", "isa"), CASES)
def test_the_engine_is_the_reference_on_real_images(name, isa, test_images):
    same(name, isa, test_images[::50])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "isa"), CASES)
def test_the_engine_is_the_reference_on_all_test_images(name, isa, test_images):
    same(name, isa, test_images)
