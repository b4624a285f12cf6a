import pickle
from pathlib import Path

import numpy as np
import pytest

from quicknet.core.errors import DataError
from quicknet.data import DataRequest, load_data
from quicknet.data.cifar import CIFAR10, CIFAR100, read_cifar

from .conftest import binary_batches

LOCAL = DataRequest(download=False, quiet=True)


def as_python_version(binary: Path, folder: Path, protocol: int = 2) -> Path:
    """Rewrite a small binary CIFAR-10 as torchvision and Keras leave it."""
    folder.mkdir(parents=True)
    for name in (*CIFAR10.files("train"), *CIFAR10.files("test")):
        records = np.fromfile(binary / name, np.uint8).reshape(-1, 3073)
        batch = {
            b"batch_label": b"batch",
            b"labels": records[:, 0].tolist(),
            b"data": np.ascontiguousarray(records[:, 1:]),
            b"filenames": [b"a.png"] * len(records),
        }
        (folder / name.removesuffix(".bin")).write_bytes(pickle.dumps(batch, protocol=protocol))
    return folder


def test_standard_protocol_holds_a_tenth_of_train_out_and_keeps_test(cifar10_small):
    data = load_data(cifar10_small, LOCAL)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 90, "val": 10, "test": 20}
    assert np.bincount(data.split("val").labels).tolist() == [1] * 10
    first = np.fromfile(cifar10_small / "test_batch.bin", np.uint8)[1:3073].reshape(3, 32, 32)
    assert np.array_equal(data.split("test").images[0], first.transpose(1, 2, 0))
    assert data.protocol == "standard" and data.classes == CIFAR10.classes and data.name == "cifar10"
    assert any("100 of the official 50,000" in note and "n = 100" in note for note in data.notes)


def test_paper_protocol_pools_all_and_uses_the_held_out_tenth_twice(cifar10_small):
    data = load_data(cifar10_small, LOCAL.replace(protocol="paper"))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 108, "val": 12, "test": 12}
    assert data.split("val") is data.split("test")
    everything = np.concatenate([data.split("train").images, data.split("val").images])
    assert len(np.unique(everything.reshape(120, -1), axis=0)) == 120
    assert len(data.split("all")) == 120
    assert data.sha256 == load_data(cifar10_small, LOCAL).sha256


def test_mean_and_std_are_those_of_train_or_exactly_the_given_ones(cifar10_small):
    data = load_data(cifar10_small, LOCAL)
    pixels = data.split("train").images / 255.0
    np.testing.assert_allclose(data.spec.mean, pixels.mean((0, 1, 2)), atol=6e-5)
    np.testing.assert_allclose(data.spec.std, pixels.std((0, 1, 2)), atol=6e-5)
    given = data.spec.replace(mean=(0.1, 0.2, 0.3))
    assert load_data(cifar10_small, LOCAL.replace(spec=given.to_dict())).spec == given


@pytest.mark.parametrize(("size", "mode", "channels"), [(48, "RGB", 3), (32, "L", 1)])
def test_other_sizes_and_modes(cifar10_small, size, mode, channels):
    data = load_data(cifar10_small, LOCAL.replace(size=size, mode=mode))
    assert data.split("val").images.shape == (10, size, size, channels)
    assert len(data.spec.mean) == channels


def test_cifar100_takes_the_fine_label(cifar100_small):
    data = load_data(cifar100_small, LOCAL)
    assert len(data.classes) == 100 and data.classes[0] == "apple" and data.classes[99] == "worm"
    assert data.split("test").labels.tolist() == [i % 100 for i in range(200)]


@pytest.mark.parametrize("protocol", [2, 4])
def test_python_version_gives_the_same_as_the_binary_one(cifar10_small, tmp_path, protocol):
    folder = as_python_version(cifar10_small, tmp_path / "py" / "cifar-10-batches-py", protocol)
    for source in (folder, folder.parent):
        data = load_data(source, LOCAL)
        assert data.sha256 == load_data(cifar10_small, LOCAL).sha256
        assert np.array_equal(data.split("test").images, load_data(cifar10_small, LOCAL).split("test").images)


@pytest.mark.parametrize(
    "place", ["data", "cache/cifar10", ".keras/datasets", ".keras/datasets/cifar-10-batches-py-target"]
)
def test_an_unpacked_folder_is_found_where_others_leave_it(home, cifar10_small, place):
    as_python_version(cifar10_small, home / place / "cifar-10-batches-py")
    assert len(load_data("cifar10", LOCAL).split("test")) == 20


def test_quicknet_data_names_the_place(monkeypatch, cifar10_small):
    monkeypatch.setenv("QUICKNET_DATA", str(cifar10_small.parent))
    assert len(load_data("cifar10", LOCAL).split("test")) == 20


def test_labels_follow_the_class_order_of_a_checkpoint(cifar10_small):
    order = ("horse", *(name for name in reversed(CIFAR10.classes) if name != "horse"))
    plain = load_data(cifar10_small, LOCAL)
    mapped = load_data(cifar10_small, LOCAL.replace(classes=order))
    assert mapped.classes == order
    names = [mapped.classes[label] for label in mapped.split("test").labels]
    assert names == [plain.classes[label] for label in plain.split("test").labels]
    with pytest.raises(DataError, match="does not know the class 'frog'"):
        load_data(cifar10_small, LOCAL.replace(classes=tuple(n for n in CIFAR10.classes if n != "frog")))


def test_a_truncated_batch_is_named(cifar10_small):
    batch = cifar10_small / "data_batch_3.bin"
    batch.write_bytes(batch.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"data_batch_3\.bin is truncated"):
        load_data(cifar10_small, LOCAL)


def test_a_missing_batch_is_named(cifar10_small):
    (cifar10_small / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"test_batch\.bin.*unpack the whole"):
        load_data(cifar10_small, LOCAL)


def test_a_label_out_of_range_is_named(cifar10_small):
    batch = cifar10_small / "data_batch_2.bin"
    blob = bytearray(batch.read_bytes())
    blob[3073 * 4] = 10
    batch.write_bytes(bytes(blob))
    with pytest.raises(DataError, match=r"data_batch_2\.bin has label 10 at image 4"):
        load_data(cifar10_small, LOCAL)


def test_foreign_class_names_are_refused(cifar10_small):
    (cifar10_small / "batches.meta.txt").write_text("\n".join(reversed(CIFAR10.classes)))
    with pytest.raises(DataError, match="does not name the classes of cifar10"):
        load_data(cifar10_small, LOCAL)


def test_more_images_than_official_are_refused(cifar10_small):
    batch = cifar10_small / "test_batch.bin"
    with batch.open("wb") as file:
        file.truncate(10_001 * 3073)
    with pytest.raises(DataError, match="more than the official 10,000"):
        load_data(cifar10_small, LOCAL)


def test_a_folder_with_both_asks_which(cifar10_small, tmp_path):
    binary_batches(tmp_path / "made", CIFAR100)
    with pytest.raises(DataError, match="holds both"):
        load_data(cifar10_small.parent, LOCAL)


def test_without_the_data_and_without_download_the_mend_is_named():
    with pytest.raises(DataError, match=r"cifar100 is not on this machine.*QUICKNET_DATA"):
        load_data("cifar100", LOCAL)


def test_a_source_that_is_not_there_names_its_near_neighbour(tmp_path):
    with pytest.raises(DataError, match="did you mean 'cifar10'"):
        load_data("cifar-10", LOCAL)
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"does not exist.*did you mean 'photos'"):
        load_data(tmp_path / "photo", LOCAL)


def test_real_cifar10(cifar10_dir):
    arrays = read_cifar(CIFAR10, cifar10_dir)
    assert arrays.images["train"].shape == (50_000, 32, 32, 3)
    assert np.bincount(arrays.labels["train"]).tolist() == [5000] * 10
    data = load_data(cifar10_dir, LOCAL)
    assert len(data.split("train")) == 45_000
    assert np.bincount(data.split("val").labels).tolist() == [500] * 10
    # the whole training set's published figures are 0.4914 0.4822 0.4465 and 0.2470 0.2435 0.2616
    np.testing.assert_allclose(data.spec.mean, (0.4914, 0.4822, 0.4465), atol=1e-3)
    np.testing.assert_allclose(data.spec.std, (0.2470, 0.2435, 0.2616), atol=1e-3)
    short = len(arrays.labels["test"]) < 10_000
    assert short == any("figures have n" in note for note in data.notes)


def test_both_kinds_have_as_many_different_classes_as_their_name_says():
    assert (len(set(CIFAR10.classes)), len(set(CIFAR100.classes))) == (10, 100)
    assert list(CIFAR100.classes) == sorted(CIFAR100.classes)
