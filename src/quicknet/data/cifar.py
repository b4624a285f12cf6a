"""CIFAR-10 and CIFAR-100 from their official files, binary or Python version.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009;
formats as described at https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quicknet.core.errors import DataError
from quicknet.core.files import read_bounded
from quicknet.data.places import search_places
from quicknet.data.unpickle import load_plain
from quicknet.image.walk import is_folder

_PIXEL_BYTES = 3 * 32 * 32
_MAX_PICKLE_BYTES = 300 << 20  # CIFAR-100's train is 155 MB

_CLASSES_10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CLASSES_100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel "
    "can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur "
    "dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion "
    "lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree "
    "pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea "
    "seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table "
    "tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman "
    "worm"
)


@dataclass(frozen=True, slots=True)
class Cifar:
    """One of the two data sets: its files, its classes in official order, its official counts.

    `label_bytes` before each image's pixels in the binary version; the last of them counts.
    """

    name: str
    classes: tuple[str, ...]
    binary_folder: str
    python_folder: str
    train_files: tuple[str, ...]
    test_file: str
    label_bytes: int
    label_key: bytes
    names_file: str
    train_count: int
    archive: str
    md5: str

    test_count: int = 10_000

    def files(self, split: str, suffix: str = ".bin") -> tuple[str, ...]:
        """Return the file names of `train` or `test`."""
        return tuple(f + suffix for f in (self.train_files if split == "train" else (self.test_file,)))

    @property
    def record_bytes(self) -> int:
        """Bytes of one image with its labels in the binary version."""
        return self.label_bytes + _PIXEL_BYTES


CIFAR10 = Cifar(
    name="cifar10",
    classes=tuple(_CLASSES_10.split()),
    binary_folder="cifar-10-batches-bin",
    python_folder="cifar-10-batches-py",
    train_files=tuple(f"data_batch_{n}" for n in range(1, 6)),
    test_file="test_batch",
    label_bytes=1,
    label_key=b"labels",
    names_file="batches.meta.txt",
    train_count=50_000,
    archive="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
)
CIFAR100 = Cifar(
    name="cifar100",
    classes=tuple(_CLASSES_100.split()),
    binary_folder="cifar-100-binary",
    python_folder="cifar-100-python",
    train_files=("train",),
    test_file="test",
    label_bytes=2,
    label_key=b"fine_labels",
    names_file="fine_label_names.txt",
    train_count=50_000,
    archive="cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
)
CIFARS = {kind.name: kind for kind in (CIFAR10, CIFAR100)}


@dataclass(frozen=True, slots=True)
class Arrays:
    """Images (N, 32, 32, 3) uint8 and labels (N,) int64 of the official `train` and `test`."""

    images: dict[str, NDArray[np.uint8]]
    labels: dict[str, NDArray[np.int64]]
    notes: tuple[str, ...]

    def sha256(self) -> str:
        """Return the digest over labels and pixels; the same for the binary and the Python version."""
        digest = hashlib.sha256()
        for split in ("train", "test"):
            digest.update(self.labels[split].astype("<i8").tobytes())
            digest.update(np.ascontiguousarray(self.images[split]).data)
        return digest.hexdigest()


def unpacked_in(folder: Path) -> tuple[Cifar, Path] | None:
    """Return which CIFAR `folder` is or directly contains, and the folder of its batches.

    Raises DataError where it contains both. A folder that may not be looked into is neither.
    """
    candidates = []
    for kind in CIFARS.values():
        names = (kind.binary_folder, kind.python_folder)
        if folder.resolve().name in names or _holds(kind, folder):
            return kind, folder
        candidates += [(kind, folder / name) for name in names if is_folder(folder / name)][:1]
    if len(candidates) > 1:
        raise DataError(f"{folder} holds both CIFAR-10 and CIFAR-100; name {candidates[0][1]} or {candidates[1][1]}")
    return candidates[0] if candidates else None


def _holds(kind: Cifar, folder: Path) -> bool:
    """Tell whether a folder of any name holds the batch files of `kind`."""
    suffixes = (".bin", "") if kind is CIFAR10 else (".bin",)  # plain `train`, `test` could be anything
    try:
        return any(all((folder / f).is_file() for f in kind.files("train", s)) for s in suffixes)
    except OSError:  # a folder that may not be looked into
        return False


def find_unpacked(kind: Cifar, cache_dir: str | None) -> Path | None:
    """Return the first unpacked folder of `kind` in the usual places, the binary version first."""
    places = search_places(kind.name, cache_dir)
    candidates = (place / n for n in (kind.binary_folder, kind.python_folder) for place in places)
    return next((folder for folder in candidates if is_folder(folder)), None)


def read_cifar(kind: Cifar, folder: Path) -> Arrays:
    """Read all official images from an unpacked folder.

    Batches may hold fewer records than official ones; a note then says how many there are.
    Raises DataError naming the file: missing, truncated, a label out of range, too many images.
    """
    binary = any((folder / f).is_file() for f in kind.files("train"))
    read = _read_binary if binary else _read_python
    suffix = ".bin" if binary else ""
    _check_names(kind, folder)
    images: dict[str, NDArray[np.uint8]] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    notes = []
    for split, official in (("train", kind.train_count), ("test", kind.test_count)):
        files = kind.files(split, suffix)
        pieces = [read(kind, folder / f, official // len(files)) for f in files]
        images[split] = np.concatenate([pixels for pixels, _ in pieces])
        labels[split] = np.concatenate([numbers for _, numbers in pieces])
        for array in (images[split], labels[split]):
            array.flags.writeable = False
        n = len(labels[split])
        if n < official:
            notes.append(f"{kind.name} {split} has {n:,} of the official {official:,} images; figures have n = {n:,}")
    return Arrays(images, labels, tuple(notes))


def _check_names(kind: Cifar, folder: Path) -> None:
    """Refuse a folder that names other classes, whose labels would mean other things."""
    path = folder / kind.names_file
    if path.is_file():
        names = tuple(read_bounded(path, 1 << 20, "the class names").decode("utf-8", "replace").split())
        if names != kind.classes:
            raise DataError(f"{path} does not name the classes of {kind.name}; get the official archive")


def _read_binary(kind: Cifar, path: Path, official: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return (n, 32, 32, 3) pixels and (n,) labels of one batch file."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _missing(path, error) from error
    if size == 0 or size % kind.record_bytes:
        raise DataError(
            f"{path} is truncated: {size:,} bytes are not whole {kind.record_bytes}-byte records; "
            "unpack the official archive again"
        )
    if size > official * kind.record_bytes:
        raise DataError(f"{path} holds more than the official {official:,} images; get the official archive")
    records = np.fromfile(path, np.uint8).reshape(-1, kind.record_bytes)
    labels = records[:, kind.label_bytes - 1].astype(np.int64)
    return _checked(kind, path, records[:, kind.label_bytes :], labels)


def _read_python(kind: Cifar, path: Path, official: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the same of one pickled batch."""
    if not path.is_file():
        raise _missing(path, None)
    batch = load_plain(read_bounded(path, _MAX_PICKLE_BYTES, "the batch"), str(path))
    pixels = batch.get(b"data", batch.get("data")) if isinstance(batch, dict) else None
    labels = batch.get(kind.label_key, batch.get(kind.label_key.decode())) if isinstance(batch, dict) else None
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise DataError(f"{path} holds no array of bytes under 'data'; get the official archive")
    if pixels.shape[1] != _PIXEL_BYTES or not 0 < len(pixels) <= official:
        raise DataError(f"{path} holds pixels of shape {pixels.shape}, not up to ({official}, {_PIXEL_BYTES})")
    return _checked(kind, path, pixels, _label_array(labels, len(pixels), path))


def _label_array(labels: Any, count: int, path: Path) -> NDArray[np.int64]:
    array = isinstance(labels, np.ndarray) and labels.ndim == 1
    listed = isinstance(labels, list) and all(type(label) is int and abs(label) < 2**31 for label in labels)
    if not (array or listed) or len(labels) != count:
        raise DataError(f"{path} does not have one whole-number label for each image; get the official archive")
    return np.asarray(labels, np.int64)


def _checked(
    kind: Cifar, path: Path, planes: NDArray[np.uint8], labels: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return rows of colour planes (n, 3072) as images (n, 32, 32, 3), labels checked."""
    wrong = np.flatnonzero((labels < 0) | (labels >= len(kind.classes)))
    if len(wrong):
        raise DataError(
            f"{path} has label {labels[wrong[0]]} at image {wrong[0]}, outside 0..{len(kind.classes) - 1}; "
            "get the official archive"
        )
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _missing(path: Path, error: OSError | None) -> DataError:
    reason = error.strerror if error is not None and error.strerror else "not there"
    return DataError(f"cannot read {path} ({reason}); unpack the whole official archive")


def concatenated(
    arrays: Arrays, splits: Iterable[str] = ("train", "test")
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the named splits in one, in order."""
    names = tuple(splits)
    return (
        np.concatenate([arrays.images[name] for name in names]),
        np.concatenate([arrays.labels[name] for name in names]),
    )
