"""Which image files a folder holds, by split and class: names only, nothing is opened."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quicknet.core.errors import DataError, nearest

# folder names of splits, in lower case
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
WHOLE = "all"  # the one split of a folder that has no split folders


@dataclass(frozen=True, slots=True)
class Listing:
    """Image files by split (`train`, `val`, `test`, or `all`) and class name, and what was left aside."""

    files: dict[str, dict[str, list[Path]]]
    notes: tuple[str, ...]


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return the sort key of a class or file name: digits by value, letters without case.

    >>> sorted(["10", "2", "b", "A", "img12", "img9"], key=natural_key)
    ['2', '10', 'A', 'b', 'img9', 'img12']
    """
    pieces = re.findall(r"[0-9]+|[^0-9]+", name)
    parts = tuple((0, int(p), "") if p[0] in "0123456789" else (1, 0, p.casefold()) for p in pieces)
    return parts, name


def printable(name: str | Path) -> str:
    """Return a file name as text that can be printed: bytes that are no UTF-8 become question marks."""
    return str(name).encode("utf-8", "replace").decode("utf-8")


def list_images(root: Path) -> Listing:
    """Return the images of `root`: class folders, or `train/ val/ test/` of class folders.

    A class is a folder with images at any depth; its name is put in Unicode's composed form
    (macOS stores names decomposed). Hidden files and folders and links that lead back up are
    left out. Raises DataError with the mend for an empty or flat folder.
    """
    folders = {folder: _visible_folders(folder) for folder in (root, *_visible_folders(root))}
    split_folders = _split_folders(root, folders)
    notes: list[str] = []
    if split_folders is None:
        return Listing({WHOLE: _classes(root, root, notes)}, tuple(notes))
    aside = [f.name for f in folders[root] if f not in split_folders.values()]
    if aside:
        notes.append(f"beside the splits, these folders of {root.name} were left out: {printable(', '.join(aside))}")
    files = {split: _classes(folder, root, notes) for split, folder in split_folders.items()}
    return Listing(files, tuple(notes))


def _split_folders(root: Path, folders: dict[Path, list[Path]]) -> dict[str, Path] | None:
    """Return split → folder, or None where the subfolders are classes.

    A folder `train` with pictures in it beside others is a class (of vehicles, say).
    """
    found: dict[str, Path] = {}
    for folder in folders[root]:
        split = _SPLITS.get(folder.name.lower())
        if split is None:
            continue
        if split in found:
            raise DataError(f"both {found[split]} and {folder} are the split {split!r}; keep one of them")
        found[split] = folder
    if "train" not in found:
        split_like = [f for f in found.values() if folders[f]]
        if split_like and len(found) == len(folders[root]):
            raise DataError(
                f"{root} has {split_like[0].name}/ but no train/; add train/, or name {split_like[0]} itself"
            )
        return None
    if folders[found["train"]]:
        return found
    if len(found) == len(folders[root]):
        raise DataError(
            f"{found['train']} holds no class folders; put its images into a folder per class, such as train/cat/1.jpg"
        )
    return None


def _classes(folder: Path, root: Path, notes: list[str]) -> dict[str, list[Path]]:
    """Return class name → its files, in natural order of names."""
    seen = {_identity(f) for f in (folder, root, *root.absolute().parents, root.resolve(), *root.resolve().parents)}
    classes: dict[str, list[Path]] = {}
    empty, other = [], 0
    for sub in _visible_folders(folder):
        if _identity(sub) in seen:
            continue
        images, others = _images_below(sub, seen)
        other += others
        if images:
            classes.setdefault(unicodedata.normalize("NFC", printable(sub.name)), []).extend(images)
        else:
            empty.append(sub.name)
    loose = [f for f in folder.iterdir() if _is_image_name(f.name) and not f.is_dir()]
    if not classes:
        raise DataError(_no_classes(folder, len(loose), other))
    if empty:
        notes.append(f"folders without images in {folder.name}, left out: {printable(', '.join(sorted(empty)))}")
    if loose:
        notes.append(f"{len(loose)} images lie in {folder.name} itself, in no class folder; they were left out")
    if other:
        notes.append(f"{other} files in {folder.name} are not images by their suffix; they were left out")
    return {name: classes[name] for name in sorted(classes, key=natural_key)}


def _no_classes(folder: Path, loose: int, other: int) -> str:
    mend = f"make a folder per class in it, such as {folder.name}/cat/1.jpg"
    if loose:
        return f"{folder} holds {loose} images but no class folders; {mend}"
    if other:
        return f"{folder} holds {other} files but no images (by suffix, such as .jpg or .png); {mend}"
    return f"{folder} holds no images; {mend}"


def _images_below(folder: Path, seen: set[tuple[int, int]]) -> tuple[list[Path], int]:
    """Return the images at any depth in natural order, and the number of other visible files."""
    images: list[Path] = []
    other = 0
    for where, folders, names in os.walk(folder, followlinks=True):
        identity = _identity(Path(where))
        if identity in seen:  # a link back up, or to a folder that was already read
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted((f for f in folders if _visible(f)), key=natural_key)
        for name in names:
            if _visible(name):
                if _is_image_name(name):
                    images.append(Path(where) / name)
                else:
                    other += 1
    return sorted(images, key=lambda path: natural_key(path.relative_to(folder).as_posix())), other


def _is_image_name(name: str) -> bool:
    from quicknet.lite.preprocess import IMAGE_SUFFIXES

    return _visible(name) and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _visible_folders(folder: Path) -> list[Path]:
    try:
        found = [entry for entry in folder.iterdir() if _visible(entry.name) and entry.is_dir()]
    except OSError as error:
        raise DataError(f"cannot read the folder {folder} ({error.strerror}); check its rights") from error
    return sorted(found, key=lambda entry: natural_key(entry.name))


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def class_order(listing: Listing, wanted: tuple[str, ...] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the class names in label order, and notes on those that a split lacks.

    `wanted` is the order of a checkpoint; without it the classes are those of `train` (or of
    the whole folder) in natural order. Raises DataError where a split has a class that is not
    among them, or where there is one class only.
    """
    main = "train" if "train" in listing.files else WHOLE
    classes = wanted or tuple(listing.files[main])
    for split, found in listing.files.items():
        extra = [name for name in found if name not in classes]
        if extra:
            raise DataError(_unknown(extra, split, classes, wanted is not None))
    if len(classes) < 2:
        raise DataError(
            f"there is only one class ({classes[0]!r}); a classifier needs two or more: add a folder of the others"
        )
    return classes, tuple(_missing(listing, classes))


def _missing(listing: Listing, classes: Iterable[str]) -> Iterator[str]:
    for split, found in listing.files.items():
        missing = [name for name in classes if name not in found]
        if missing:
            place = "the folder" if split == WHOLE else f"{split}/"
            yield f"{place} has no images of {len(missing)} of the classes: {', '.join(missing[:10])}"


def _unknown(extra: list[str], split: str, classes: tuple[str, ...], from_model: bool) -> str:
    names = ", ".join(repr(name) for name in extra[:5]) + (f" and {len(extra) - 5} more" if len(extra) > 5 else "")
    who = "the model does" if from_model else "train/ does"
    place = "the folder" if split == WHOLE else f"{split}/"
    hint = nearest(extra[0], classes)
    return f"{place} has class folders that {who} not have: {names}{hint}; rename or remove them"
