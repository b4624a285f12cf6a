"""How a folder of images is laid out: class folders, or splits of class folders. Only names are looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quicknet.core.errors import DataError
from quicknet.image.formats import image_suffixes
from quicknet.image.walk import Entry, listed, printable, read_folder

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
# What else the names of split folders hold: training_set, seg_train, train_images, test2017.
_FILLER = r"(?:sets?|data|datasets?|seg|images?|imgs?|pictures?|photos?|samples?|split|folder|\d+)"
_SPLIT_NAME = re.compile(rf"(?:{_FILLER}[ _.-]*)*({'|'.join(_SPLITS)})(?:[ _.-]*{_FILLER})*")
_UNCLEAR = frozenset({"eval", "evaluation", "holdout", "heldout"})  # val for some people, test for others
_UNLABELLED = frozenset({"pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled"})
_MAX_DEPTH = 16  # of folders that hold one folder only


@dataclass(frozen=True, slots=True)
class Layout:
    """Where classes lie: in `splits` (split → folder), or in `root` itself where `splits` is None.

    `aside` are the folders beside the splits, which are not read.
    """

    root: Path
    splits: dict[str, Path] | None
    aside: tuple[Path, ...] = ()


def split_of(name: str) -> str | None:
    """Return the split that a folder's name stands for.

    >>> [split_of(name) for name in ("Training", "test_set", "seg_train", "val2017", "test tube")]
    ['train', 'test', 'train', 'val', None]
    """
    match = _SPLIT_NAME.fullmatch(name.lower().strip())
    return _SPLITS[match[1]] if match else None


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return the sort key of a class or file name: digits by value, letters without case.

    >>> sorted(["10", "2", "b", "A", "img12", "img9"], key=natural_key)
    ['2', '10', 'A', 'b', 'img9', 'img12']
    """
    pieces = re.findall(r"[0-9]+|[^0-9]+", name)
    parts = tuple((0, int(p), "") if p[0] in "0123456789" else (1, 0, p.casefold()) for p in pieces)
    return parts, name


def find_layout(root: Path, training: bool = True) -> Layout:
    """Return how `root` is laid out; where not `training`, train/ may be missing.

    Raises DataError where it cannot be read or can be read in two ways.
    """
    folders = folders_of(entries_of(root))
    splits = _splits_in(root, folders, training)
    if splits is not None:
        aside = tuple(folder for folder in folders if folder not in splits.values())
        _refuse_unclear(root, splits, aside)
        return Layout(root, {split: _unwrapped(folder, split) for split, folder in splits.items()}, aside)
    inside = {folder: _below(folder) for folder in folders}
    wrapped = {folder: place for folder in folders if (place := _wrapped_splits(folder, inside[folder])) is not None}
    if len(folders) == len(wrapped) == 1:
        return find_layout(wrapped[folders[0]], training)
    if wrapped:
        raise DataError(_beside_a_wrapped(root, folders, wrapped))
    _refuse_splits_inside(root, inside)
    _refuse_alike(root, [folder for folder in folders if inside[folder]])
    return Layout(root, None)


def entries_of(folder: Path) -> list[Entry]:
    """Return what is visible in a folder. Raises DataError where it cannot be listed."""
    try:
        return read_folder(str(folder))
    except OSError as error:
        raise DataError(f"cannot read the folder {folder} ({error.strerror}); check its rights") from error


def folders_of(entries: Iterable[Entry]) -> list[Path]:
    """Return the folders that may be classes or splits, in natural order."""
    # also those that cannot be listed: their images must not be lost in silence
    paths = [Path(entry.path) for entry in entries if entry.kind in ("folder", "unlistable")]
    return sorted(paths, key=lambda path: natural_key(path.name))


def _below(folder: Path) -> list[Path]:
    """Return the folders in a folder, or no folders where it cannot be listed: the walk names it then."""
    try:
        return folders_of(read_folder(str(folder)))
    except OSError:
        return []


def _named_splits(folders: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        split = split_of(folder.name)
        if split is not None:
            yield split, folder


def _splits_in(root: Path, folders: list[Path], training: bool) -> dict[str, Path] | None:
    """Return split → folder, or None where the subfolders are classes.

    A folder `train` that holds pictures and lies beside other folders is a class (of vehicles, say).
    """
    splits: dict[str, Path] = {}
    for split, folder in _named_splits(folders):
        if split in splits:
            raise DataError(f"both {splits[split]} and {folder} are the split {split!r}; keep one of them")
        splits[split] = folder
    inside = {split: folders_of(entries_of(folder)) for split, folder in splits.items()}
    if "train" in splits:
        if inside["train"]:
            return splits
        if len(splits) > 1 or len(splits) == len(folders):
            raise DataError(
                f"{splits['train']} holds no class folders; put its images into a folder per class, "
                f"such as {splits['train'].name}/cat/1.jpg"
            )
        return None
    classes = [f for f in folders if f not in splits.values() and not _UNLABELLED & _words(f.name)]
    if any(inside.values()) and not classes:
        if not training:
            return {split: splits[split] for split in splits if inside[split]}
        raise DataError(_without_train(root, [splits[split] for split in splits if inside[split]]))
    return None


def _without_train(root: Path, parts: list[Path]) -> str:
    names = " and ".join(f"{part.name}/" for part in parts)
    return (
        f"{root} has {names} but no train/; to train, add train/; to measure a model on all images of "
        f"{parts[0].name}/, run `quicknet evaluate MODEL {parts[0]} --split all`"
    )


def _unwrapped(folder: Path, split: str) -> Path:
    """Return the folder of classes: archives hold training_set/training_set/cat, too."""
    inside = _below(folder)
    if len(inside) == 1 and split_of(inside[0].name) == split and _below(inside[0]):
        return inside[0]
    return folder


# --- layouts that are refused by name --------------------------------------------------------


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower()))


def _could_be(name: str) -> set[str]:
    """Return the splits that a word in a folder's name stands for."""
    words = _words(name)
    return {_SPLITS[word] for word in words if word in _SPLITS} or ({"val", "test"} if _UNCLEAR & words else set())


def _refuse_unclear(root: Path, splits: dict[str, Path], aside: Iterable[Path]) -> None:
    """Refuse a folder beside the splits that looks like one that is missing."""
    for folder in aside:
        missing = sorted(_could_be(folder.name) - splits.keys())
        if missing and _below(folder):
            raise DataError(
                f"{folder} looks like a split; rename it {' or '.join(f'{name}/' for name in missing)}, "
                f"or move it out of {root}"
            )


def _refuse_alike(root: Path, folders: list[Path]) -> None:
    """Refuse x_train beside x_test, where both hold folders: as classes, these would be two."""
    alike = {folder: split for folder in folders for split in sorted(_could_be(folder.name))[:1]}
    if "train" in alike.values() and len(set(alike.values())) > 1:
        names = ", ".join(f"{printable(folder.name)}/" for folder in alike)
        splits = " and ".join(f"{split}/" for split in dict.fromkeys(alike.values()))
        raise DataError(f"{root} has folders that look like splits ({names}); rename them {splits}")


def _refuse_splits_inside(root: Path, inside: dict[Path, list[Path]]) -> None:
    """Refuse cat/train/1.jpg beside cat/val/2.jpg: as one class, its splits would be merged."""
    for folder, below in inside.items():
        splits = dict(_named_splits(below))
        if "train" in splits and len(splits) > 1:
            raise DataError(
                f"{folder} holds the splits {' and '.join(f'{part.name}/' for part in splits.values())}; "
                f"put the splits first and the classes into them, such as {root / 'train' / folder.name}/1.jpg"
            )


def _wrapped_splits(folder: Path, inside: list[Path]) -> Path | None:
    """Return the folder of splits in `folder`, at any depth where each holds one folder only; or None."""
    for _ in range(_MAX_DEPTH):
        splits = dict(_named_splits(inside))
        if "train" in splits and _below(splits["train"]) and (len(splits) > 1 or len(inside) == 1):
            return folder
        if len(inside) != 1 or _holds_images(folder):
            return None
        folder = inside[0]
        inside = _below(folder)
    return None


def _holds_images(folder: Path) -> bool:
    suffixes = image_suffixes()
    entries = read_folder(str(folder))
    return any(entry.kind == "file" and Path(entry.path).suffix.lower() in suffixes for entry in entries)


def _beside_a_wrapped(root: Path, folders: list[Path], wrapped: dict[Path, Path]) -> str:
    first, place = next(iter(wrapped.items()))
    beside = listed(f"{printable(folder.name)}/" for folder in folders if folder != first)
    return f"{place} holds splits (train/ …), and beside {first.name}/ lies {beside}; name {place} instead of {root}"
