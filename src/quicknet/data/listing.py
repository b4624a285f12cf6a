"""Which image files a folder holds, by split and class: names only, nothing is opened."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quicknet.core.errors import DataError, nearest
from quicknet.data.layout import entries_of, find_layout, folders_of, natural_key
from quicknet.image.formats import image_suffixes
from quicknet.image.walk import (
    Entry,
    Identity,
    LeftOut,
    ancestors,
    counted,
    identity,
    listed,
    printable,
    walk,
)

WHOLE = "all"  # the one split of a folder that has no split folders


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a folder that can be read all the same: a note in training, an error in doctor."""

    kind: str
    message: str
    groups: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """Image files by split (`train`, `val`, `test`, or `all`) and class name, and what was left out.

    `unlistable` are folders whose images could not be listed, with the reason; `empty` those in the
    place of a class that hold nothing at all.
    """

    files: dict[str, dict[str, list[Path]]]
    notes: tuple[str, ...]
    unlistable: dict[Path, str]
    faults: tuple[Fault, ...]
    empty: tuple[str, ...]


def list_images(root: Path, training: bool = True) -> Listing:
    """Return the images of `root`: class folders, or `train/ val/ test/` of class folders.

    A class is a folder with images at any depth; its name is put in Unicode's composed form
    (macOS stores names decomposed), bytes of it that are not UTF-8 become codes. Left out are
    hidden files and folders, those that systems leave, and links that lead back up.
    Raises DataError, which says what to do, for an empty or flat folder, and where `training` for
    splits without train/.
    """
    layout = find_layout(root, training)
    reader = _Reader(root)
    if layout.root != root:
        reader.notes.append(f"the splits lie in {printable(layout.root.relative_to(root))}/")
    if layout.splits is None:
        files = {WHOLE: reader.classes(layout.root, WHOLE)}
    else:
        if layout.aside:
            names = listed(printable(folder.name) for folder in layout.aside)
            reader.notes.append(f"folders beside the splits in {printable(layout.root.name)}; left out: {names}")
        files = {split: reader.classes(folder, split) for split, folder in layout.splits.items()}
    faults = (*reader.linked_classes(), *_alike(name for part in files.values() for name in part))
    return Listing(files, tuple(reader.notes), reader.unlistable, faults, tuple(reader.empty))


class _Reader:
    """Lists the class folders of all splits, and gathers notes, unlistable folders and links between classes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._above = {**ancestors(root), identity(root): str(root)}
        self._suffixes = image_suffixes()
        self._owners: dict[Identity, tuple[tuple[str, str], Path]] = {}  # folder → (split, class) and path
        self._links: dict[Path, Path] = {}
        self.notes: list[str] = []
        self.unlistable: dict[Path, str] = {}
        self.empty: list[str] = []

    def classes(self, folder: Path, split: str) -> dict[str, list[Path]]:
        """Return class name → its files, in natural order of names."""
        above = {**self._above, **ancestors(folder), identity(folder): str(folder)}
        classes: dict[str, list[Path]] = {}
        folders: dict[str, Path] = {}
        entries = entries_of(folder)
        empty, left_out = [], LeftOut()
        for sub in folders_of(entries):
            visited = dict(above)
            images, whole = self._images_below(sub, visited, left_out)
            name = unicodedata.normalize("NFC", printable(sub.name))
            if images or not whole:
                self._check_same_class(name, sub, folders)
                classes.setdefault(name, []).extend(images)
                self._note_links((split, name), sub, visited.items() - above.items())
            elif visited != above:  # else a link that leads back up
                empty.append(printable(sub.name))
                if split in (WHOLE, "train") and next(walk(str(sub)), None) is None:
                    self.empty.append(self._name(sub))
        loose = sum(map(self._is_image, entries))
        for entry in entries:
            if entry.kind not in ("folder", "unlistable") and not self._is_image(entry):
                left_out.add(entry)
        if not any(classes.values()):
            raise DataError(self._no_classes(folder, loose, left_out))
        place = printable(folder.name)
        if empty:
            self.notes.append(f"folders without images in {place}; left out: {listed(empty)}")
        if loose:
            verb = "lies" if loose == 1 else "lie"
            self.notes.append(f"{counted(loose, 'image')} {verb} in {place} itself, in no class folder; left out")
        self.notes += left_out.notes(place)
        return {name: classes[name] for name in sorted(classes, key=natural_key)}

    def _images_below(self, folder: Path, visited: dict[Identity, str], left_out: LeftOut) -> tuple[list[Path], bool]:
        """Return the images at any depth in natural order, and whether every folder could be listed."""
        images: list[Path] = []
        whole = True
        for entry in walk(str(folder), visited):
            path = Path(entry.path)
            if entry.kind == "unlistable":
                self.unlistable[path] = entry.reason
                whole = False
            elif self._is_image(entry):
                images.append(path)
            else:
                left_out.add(entry)
        return sorted(images, key=lambda path: natural_key(path.relative_to(folder).as_posix())), whole

    def _is_image(self, entry: Entry) -> bool:
        return entry.kind == "file" and Path(entry.path).suffix.lower() in self._suffixes

    def _no_classes(self, folder: Path, loose: int, left_out: LeftOut) -> str:
        advice = f"make a folder per class in it, such as {folder.name}/cat/1.jpg"
        if folder != self._root:
            advice += f", or move it out of {self._root}"
        for path, reason in self.unlistable.items():
            return f"cannot list the folder {path} ({reason}), and {folder} holds no other images; check its rights"
        if loose:
            return f"{folder} holds {counted(loose, 'image')} but no class folders; {advice}"
        if files := left_out.files(str(folder)):
            return f"{folder} holds no images that can be read: {files}; {left_out.advice() or advice}"
        return f"{folder} holds no images; {advice}"

    def _check_same_class(self, name: str, folder: Path, folders: dict[str, Path]) -> None:
        """Note two folders whose names differ by Unicode form only. Raises DataError for others of one class name."""
        first = folders.setdefault(name, folder)
        if first == folder:
            return
        if unicodedata.normalize("NFC", first.name) != unicodedata.normalize("NFC", folder.name):
            raise DataError(f"two folders of {folder.parent} would both be the class '{name}'; rename one of them")
        where = printable(folder.parent.name)
        self.notes.append(f"two folders of {where} have the name {name!r} in two Unicode forms; they are one class")

    def _note_links(self, owner: tuple[str, str], folder: Path, visited: Iterable[tuple[Identity, str]]) -> None:
        """Remember the first class of every folder, and each link from another class into it."""
        for folder_identity, where in visited:
            other, first = self._owners.setdefault(folder_identity, (owner, Path(where)))
            if other != owner:
                self._links[Path(where)] = first

    def linked_classes(self) -> Iterator[Fault]:
        """Yield a fault where folders lie in two classes, or in two splits, by a link."""
        tops = {where: first for where, first in self._links.items() if where.parent not in self._links}
        if not tops:
            return
        groups = tuple((self._name(where), self._name(first)) for where, first in sorted(tops.items()))
        pairs = listed(f"{one} and {other} are one folder" for one, other in groups)
        message = f"a link leads from one class or split into another ({pairs}), so its images count for both"
        yield Fault("link", f"{message}; remove the link if that is not meant", groups)

    def _name(self, path: Path) -> str:
        return printable(path.relative_to(self._root))


def _alike(names: Iterable[str]) -> Iterator[Fault]:
    """Yield a fault where class names look the same to a reader."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        visible = "".join(c for c in name if unicodedata.category(c) != "Cf")
        groups.setdefault(" ".join(visible.casefold().split()), []).append(name)
    alike = tuple(tuple(group) for group in groups.values() if len(group) > 1)
    if alike:
        text = listed(" and ".join(repr(name) for name in group) for group in alike)
        message = f"class names differ only by case, spaces or invisible characters: {text}"
        yield Fault("class_names", f"{message}; each is a class of its own, so merge the folders of one class", alike)


def class_order(listing: Listing, expected: tuple[str, ...] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the class names in label order, and notes on those that a split lacks.

    `expected` is the order of a model; without it the classes are those of `train` (or of
    the whole folder) in natural order. Raises DataError where a split has a class that is not
    among them, or where there is one class only.
    """
    main = "train" if "train" in listing.files else WHOLE
    classes = expected or tuple(listing.files[main])
    for split, files in listing.files.items():
        extra = [name for name in files if name not in classes]
        if extra:
            raise DataError(_unknown(extra, split, classes, expected is not None))
    if len(classes) < 2:
        raise DataError(_only_one(classes[0], main, listing))
    return classes, tuple(_missing(listing, classes))


def _only_one(name: str, split: str, listing: Listing) -> str:
    text = f"there is only one class ({name!r}); a classifier needs two or more: add a folder of the others"
    if listing.notes:
        text += f" ({'; '.join(listing.notes)})"
    paths = listing.files.get(split, {}).get(name, [])
    if len({path.parent for path in paths}) < 2:
        return text
    place = Path(os.path.commonpath(paths))
    inside = sorted({path.relative_to(place).parts[0] for path in paths if path.parent != place}, key=natural_key)
    advice = f"name {place}" if split == WHOLE else f"move them up into {split}/"
    return f"{text}; or, if the classes are the folders in {place} ({listed(map(printable, inside))}), {advice}"


def _missing(listing: Listing, classes: Iterable[str]) -> Iterator[str]:
    for split, files in listing.files.items():
        missing = [name for name in classes if not files.get(name)]
        if missing:
            place = "the folder" if split == WHOLE else f"{split}/"
            yield f"{place} has no images of {len(missing)} of the classes: {', '.join(missing[:10])}"


def _unknown(extra: list[str], split: str, classes: tuple[str, ...], from_model: bool) -> str:
    names = ", ".join(repr(name) for name in extra[:5]) + (f" and {len(extra) - 5} more" if len(extra) > 5 else "")
    who = "the model does" if from_model else "train/ does"
    place = "the folder" if split == WHOLE else f"{split}/"
    hint = nearest(extra[0], classes)
    return f"{place} has class folders that {who} not have: {names}{hint}; rename or remove them"
