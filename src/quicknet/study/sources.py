"""The public sources of photographs: where each comes from, its terms, and the class of every file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from quicknet.core.errors import DataError
from quicknet.study.trees import Tree, Unread

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"})
_WORDNET_ID = re.compile(r"n[0-9]{8}")
_MAX_NAME = 100  # letters; file systems take 255 bytes

_IMAGENET = "ImageNet: research use only; the pictures are their owners' (image-net.org/download)"


@dataclass(frozen=True, slots=True)
class Table:
    """A text file that gives the classes of the pictures in one folder."""

    file: str
    line: str  # a pattern with the groups `file` and `label`
    folder: str
    names: tuple[str, ...] = ()  # of number labels


@dataclass(frozen=True, slots=True)
class Source:
    """A set of photographs: its repository at one commit, its terms, and how paths tell the class.

    The class of a path is the group `label` of the first of `layouts` that matches it wholly, or what
    the table says; other paths, and those that match `aside`, are no pictures of the set.
    """

    name: str
    holds: str = "a folder per class"
    repository: str = ""
    commit: str = ""
    terms: str = "not stated"
    layouts: tuple[str, ...] = (r"(?:(?:train|val|valid|validation|test)/)?(?P<label>[^/]+)/.+",)
    aside: str = ""
    table: Table | None = None


_SPLIT_BY_ID = (r"(?:train|val)/(?P<label>n[0-9]{8})/[^/]+",)
_SCENES = ("buildings", "forest", "glacier", "mountain", "sea", "street")

SOURCES = {
    source.name: source
    for source in (
        Source(
            name="mini",
            holds="mini-ImageNet: 100 classes of 600, 84x84",
            repository="Deo0330/split_minidataset",
            commit="557ebcae0db23651f9370f54a5f31b1f0fd4064d",
            terms=_IMAGENET,
            layouts=_SPLIT_BY_ID,
        ),
        Source(
            name="tiny",
            holds="Tiny ImageNet, train and val: 200 classes of 550, 64x64",
            repository="seshuad/IMagenet",
            commit="153dbc161ab7942a12c99515e80ef6454dd06693",
            terms=_IMAGENET,
            layouts=(r"tiny-imagenet-200/train/(?P<label>n[0-9]{8})/images/[^/]+",),
            table=Table(
                file="tiny-imagenet-200/val/val_annotations.txt",
                line=r"(?P<file>[^\t]+)\t(?P<label>n[0-9]{8})\t.*",
                folder="tiny-imagenet-200/val/images",
            ),
        ),
        Source(
            name="imagenette",
            holds="10 classes of ImageNet, 224x224",
            repository="thunderInfy/imagenette",
            commit="b850f030ff0701c36a4adc8b928ea9483a46915b",
            terms=_IMAGENET,
            layouts=_SPLIT_BY_ID,
        ),
        Source(
            name="imagewoof",
            holds="10 breeds of dogs of ImageNet, shorter side 320",
            repository="q878787/imagewoof2-320",
            commit="874e58f0c1acebb0d90e40f48460d65322f09f85",
            terms=_IMAGENET,
            layouts=_SPLIT_BY_ID,
        ),
        Source(
            name="places",
            holds="Mini Places, train: 100 scenes of 900, 128x128",
            repository="rathull/CTFs",
            commit="f35c219885f163ca00a045236dd44be489598837",
            terms="Places: non-commercial research and education; the pictures are their owners'",
            layouts=(r"data/images/train/[a-z]/(?P<label>.+)/[^/]+",),
        ),
        Source(
            name="caltech",
            holds="Caltech 101: 100 classes of 31 to 800, about 300x200",
            repository="MachineLearning2020/Homework2-Caltech101",
            commit="836044dd000296b2bb74d0aa4b4e462e459b01d7",
            terms="CC BY 4.0 (data.caltech.edu/records/mzrjq-6wc02)",
            layouts=(r"101_ObjectCategories/(?P<label>[^/]+)/[^/]+",),
            # Faces_easy are the pictures of Faces, cropped; what is in the background is of no class
            aside=r"101_ObjectCategories/(?:BACKGROUND_Google|Faces_easy)/.*",
        ),
        Source(
            name="intel",
            holds="6 scenes, those with labels, 150x150",
            repository="ndb796/Scene-Classification-Dataset",
            commit="e38f98b5d70f987ce65ccd0977ca28f48fb9897a",
            terms="CC0",
            layouts=(),
            table=Table(
                file="train-scene classification/train.csv",
                line=r"(?P<file>[^,]+),(?P<label>[0-9]+)",
                folder="train-scene classification/train",
                names=_SCENES,
            ),
        ),
        Source(
            name="grocery",
            holds="81 kinds of fruit, vegetables and packages, shorter side 348",
            repository="marcusklasson/GroceryStoreDataset",
            commit="fc80ba90f803d79d0383df52c5a4ac5de99ff6fc",
            terms="MIT",
            layouts=(r"dataset/(?:train|val|test)/.*?(?P<label>[^/]+)/[^/]+",),
        ),
    )
}


def labelled(source: Source, tree: Tree) -> tuple[list[tuple[str, str]], int]:
    """Return (path, class) of the pictures that have one, in the tree's order, and how many have none.

    A class is a WordNet id as it is, so that the sources of one id meet in it, or the source's name, a
    dot and its own label. Raises DataError where a table is missing or names classes that it has not.
    """
    paths = tree.paths()
    layouts = [re.compile(layout, re.DOTALL) for layout in source.layouts]
    aside = re.compile(source.aside, re.DOTALL)
    from_table = _table(source, tree)
    pictures: list[tuple[str, str]] = []
    without = 0
    for path in paths:
        if PurePosixPath(path).suffix.lower() not in _SUFFIXES or aside.fullmatch(path):
            continue
        match = next((match for layout in layouts if (match := layout.fullmatch(path))), None)
        label = match["label"] if match else from_table.get(path)
        if label is None:
            without += 1
        else:
            pictures.append((path, class_name(source.name, label)))
    return pictures, without


def class_name(source: str, label: str) -> str:
    """Return the folder name of a class.

    >>> class_name("mini", "n01532829"), class_name("places", "bakery/shop")
    ('n01532829', 'places.bakery_shop')
    """
    return label if _WORDNET_ID.fullmatch(label) else f"{source}.{plain(label)}"


def plain(name: str) -> str:
    """Return `name` as any file system takes it.

    >>> plain("../Café 1")
    '.._Caf__1'
    """
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", name)[:_MAX_NAME]


def _table(source: Source, tree: Tree) -> dict[str, str]:
    """Return path → label of the pictures in the table's folder."""
    table = source.table
    if table is None:
        return {}
    try:
        content = next(tree.read([table.file]))
    except KeyError:
        content = Unread("there is no such file")
    if isinstance(content, Unread):
        raise DataError(f"the labels of {source.name} cannot be read ({table.file}: {content}); fetch it again")
    labels: dict[str, str] = {}
    for line in content.decode("utf-8", "replace").splitlines():
        match = re.fullmatch(table.line, line)
        if match is None:  # a head of column names
            continue
        label = match["label"]
        if table.names:
            if int(label) >= len(table.names):
                raise DataError(f"the labels of {source.name} name the class {label} of {len(table.names)}")
            label = table.names[int(label)]
        labels[f"{table.folder}/{match['file']}"] = label
    return labels
