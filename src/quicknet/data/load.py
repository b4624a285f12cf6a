"""`load_data`: from what a user names to splits of uint8 arrays."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import ConfigError, DataError, nearest
from quicknet.core.places import expanded
from quicknet.data import cifar, splits
from quicknet.data.cifar import CIFARS, Arrays, Cifar
from quicknet.data.dataset import Dataset, Split
from quicknet.data.request import DataRequest
from quicknet.image.walk import is_folder

_CIFAR_SIZE = 32
_CHUNK = 1024  # images


def load_data(source: str | Path, request: DataRequest | None = None) -> Dataset:
    """Return the data that `source` names: `cifar10`, `cifar100` or a folder.

    A folder is class folders of images, `train/ val/ test/` of class folders, or an unpacked
    CIFAR. CIFAR by name is looked for in the usual places, then downloaded. The spec's mean
    and std are measured on `train` unless `request.spec` gives them.
    Raises DataError, ToolError (disk, network), ConfigError; each says where and what to do.
    """
    request = request or DataRequest()
    located = locate(source, request)
    if not isinstance(located, Path):
        return _load_cifar(*located, request)
    from quicknet.data.folders import load_folder

    data = load_folder(located, request)
    return data if request.spec is not None else _measured(data)


def locate(source: str | Path, request: DataRequest) -> Path | tuple[Cifar, Path]:
    """Return the folder of images that `source` names, or which CIFAR it is and where.

    CIFAR is downloaded where it is missing and `request.download` allows it. Raises DataError, ToolError.
    """
    name = str(source)
    if name in CIFARS:
        return CIFARS[name], _cifar_folder(CIFARS[name], request)
    folder = expanded(source)
    try:
        mode = folder.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"cannot read the folder {name!r} ({reason}); check its name and rights") from error
        mode = 0
    if not stat.S_ISDIR(mode):
        what = "is not a folder" if mode else "does not exist"
        raise DataError(f"{name!r} {what}; give cifar10, cifar100 or a folder of images{_hint(folder)}")
    return cifar.unpacked_in(folder) or folder


def require_models_source(source: str, model: Path, option: str = "DATA") -> None:
    """Raise DataError where the data that a model itself names is not there: the user did not type that name.

    `option` is where the user may name it.
    """
    folder = expanded(source)
    if source in CIFARS or folder.exists():
        return
    text = f"{source!r}, the data that {model} was trained on, does not exist"
    if folder.is_absolute():
        raise DataError(f"{text}; name {option}: where it lies now")
    if model.is_dir():
        raise DataError(
            f"{text} here: its recipe names it relative to the folder where training was started; "
            f"name {option}, or run the command in that folder"
        )
    raise DataError(f"{text} here, and a file knows no more than the name; name {option}")


def _hint(folder: Path) -> str:
    """Suggest the folder with the nearest name."""
    try:
        beside = [entry.name for entry in folder.parent.iterdir() if is_folder(entry)]
    except OSError:
        beside = []
    text = nearest(folder.name, [*CIFARS, *beside])
    return text if "did you mean" in text else ""


def _cifar_folder(kind: Cifar, request: DataRequest) -> Path:
    unpacked = cifar.find_unpacked(kind, request.cache_dir)
    if unpacked is not None:
        return unpacked
    from quicknet.data.download import fetch_cifar

    if not request.download:
        raise DataError(
            f"{kind.name} is not on this machine; allow the download, or name the folder that holds "
            f"{kind.binary_folder} (also by the environment variable QUICKNET_DATA)"
        )
    return fetch_cifar(kind, request.cache_dir, request.quiet)


def _load_cifar(kind: Cifar, folder: Path, request: DataRequest) -> Dataset:
    arrays = cifar.read_cifar(kind, folder)
    sha256 = arrays.sha256()
    spec = request.decoding(_CIFAR_SIZE)
    classes, arrays = _mapped(kind, arrays, request.classes)
    data = Dataset(
        name=kind.name,
        classes=classes,
        splits=_protocol(arrays, request),
        spec=spec,
        protocol=request.protocol,
        sha256=sha256,
        notes=arrays.notes,
        drawn=("train", "val", "test") if request.protocol == "paper" else ("train", "val"),
    )
    data = _resized(data, spec)
    return data if request.spec is not None else _measured(data)


def _mapped(kind: Cifar, arrays: Arrays, expected: tuple[str, ...] | None) -> tuple[tuple[str, ...], Arrays]:
    """Map labels onto a model's class order. Raises DataError where the model lacks a class."""
    if expected is None or expected == kind.classes:
        return kind.classes, arrays
    missing = [name for name in kind.classes if name not in expected]
    if missing:
        raise DataError(
            f"the model does not know the class {missing[0]!r} of {kind.name} (and {len(missing) - 1} more); "
            f"it knows {', '.join(expected[:5])} …: choose other data or another model"
        )
    order = np.array([expected.index(name) for name in kind.classes], np.int64)
    labels = {split: order[numbers] for split, numbers in arrays.labels.items()}
    return expected, Arrays(arrays.images, labels, arrays.notes)


def _protocol(arrays: Arrays, request: DataRequest) -> dict[str, Split]:
    """Split by the protocol that is asked for (`DataRequest` says what each is)."""
    rng = np.random.default_rng(request.split_seed)
    if request.protocol == "paper":
        images, labels = cifar.concatenated(arrays)
        rest, held = splits.at_random(len(labels), request.val_share, rng)
        kept_out = _take(images, labels, held)
        return {"train": _take(images, labels, rest), "val": kept_out, "test": kept_out}
    images, labels = arrays.images["train"], arrays.labels["train"]
    rest, held = splits.stratified(labels, request.val_share, rng)
    return {
        "train": _take(images, labels, rest),
        "val": _take(images, labels, held),
        "test": Split(arrays.images["test"], arrays.labels["test"]),
    }


def _take(images: NDArray[np.uint8], labels: NDArray[np.int64], rows: NDArray[np.int64]) -> Split:
    picked, numbers = images[rows], labels[rows]
    picked.flags.writeable = numbers.flags.writeable = False
    return Split(picked, numbers)


def _resized(data: Dataset, spec: PreprocessSpec) -> Dataset:
    """Bring 32x32 RGB arrays to the spec's size and mode, by the one image → array function."""
    if spec.size == _CIFAR_SIZE and spec.mode == "RGB":
        return data
    from quicknet.image.preprocess import load_image

    done: dict[int, Split] = {}
    for split in data.splits.values():
        if id(split) not in done:
            images = np.empty((len(split), spec.size, spec.size, spec.channels), np.uint8)
            for row, image in enumerate(split.images):
                images[row] = load_image(image, spec)
            images.flags.writeable = False
            done[id(split)] = Split(images, split.labels)
    return replace(data, splits={name: done[id(split)] for name, split in data.splits.items()})


def _measured(data: Dataset) -> Dataset:
    """Put the mean and std of `train` into the spec."""
    mean, std = channel_statistics(data.split("train").images)
    return replace(data, spec=data.spec.replace(mean=mean, std=std))


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel on the 0..1 scale, rounded to 4 digits.

    From exact integer counts of the 256 levels, so the same on every machine. A constant
    channel gets the standard deviation of one level, 1/255. Raises ConfigError for no images.
    """
    if not len(images):
        raise ConfigError("there are no images to measure mean and std on")
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        for channel in range(channels):
            counts[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255.0
    total = counts.sum(1)
    mean = counts @ levels / total
    std = np.sqrt(np.maximum(counts @ levels**2 / total - mean**2, 0))
    rounded = [round(max(float(s), 1 / 255), 4) for s in std]
    return tuple(round(float(m), 4) for m in mean), tuple(rounded)
