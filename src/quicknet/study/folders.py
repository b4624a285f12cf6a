"""`python -m quicknet.study.folders NAME=PLACE… --out DIR [--against PHOTOS]`: folders that weights are judged by.

DIR/NAME holds a folder per class and the pictures as they came; DIR/manifest.json says what is there,
from where, and what was left out: every picture that is equal or nearly equal to one before it, or to
one in PHOTOS, the set that the weights have learned from. DIR appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from quicknet.core.errors import DataError, QuickNetError
from quicknet.data.similar import SIDE, groups_of, near_duplicates
from quicknet.study.choose import Mask, Pairs, overlap
from quicknet.study.gather import Gathering, Picture, new_folder, take_judged, write_manifest
from quicknet.study.sources import Source

# `terms` as far as the repositories, or those whom they have the pictures from, say
FOLDERS = {
    source.name: source
    for source in (
        Source(
            name="trashnet",
            holds="6 kinds of refuse on white board, 512x384 squeezed to 384x512 (Yang & Thung 2016)",
            repository="congduytran12/Trash-Classification-",
            commit="00212f2c18dcdb9045c74481eaae5baaf72537df",
            terms="MIT (garythung/trashnet)",
            layouts=(r"dataset-resized/(?P<label>[^/]+)/[^/]+",),
        ),
        Source(
            name="flowers",
            # the usual mirror of 4,317 has pictures of 128x128 whose detail is that of 32x32
            holds="5 kinds of flowers: 3,119 of TensorFlow's flower photos, stretched to 224x224",
            repository="yhuag/Transfer-Learning-for-Flower-Classification-by-ResNet",
            commit="0068ba196b1a2e53bf122412aaa516622ba05d1a",
            terms="CC BY 2.0, by the archive that they are from (flower_photos, LICENSE.txt)",
            layouts=(r"flowers/(?:train|val)/(?P<label>[^/]+)/[^/]+",),
        ),
        Source(
            name="monkeys",
            holds="10 kinds of monkeys, training and validation together, stretched to 250x250",
            repository="nikhildutta333/Monkey-Species-Classification",
            commit="cb62130b182246b59ed74614734320e61eb6aacc",
            layouts=(r"(?:training|validation)/(?P<label>n[0-9])/[^/]+",),
        ),
        Source(
            name="cats_and_dogs",
            holds="2 classes of 2,000, about 500x375: a part of Asirra (Elson et al. 2007)",
            repository="chanakya2734/Image-classification-using-CNN",
            commit="bf746c6e53f1edacd97b383de350f7a495cef0e1",
            layouts=(r"dataset/(?:training|test)_set/(?P<label>cats|dogs)/[^/]+",),
        ),
    )
}


def build(places: dict[str, Path], out: Path, against: Path | None = None, quiet: bool = False) -> dict[str, Any]:
    """Write the folders into the new folder `out` and return the manifest.

    Raises DataError for sources that cannot be used or an `out` that is taken, ToolError for the disk.
    """
    with new_folder(out) as work:
        manifest = _build(places, work, against, quiet)
        write_manifest(work, manifest)
    return manifest


def _build(places: dict[str, Path], work: Path, against: Path | None, quiet: bool) -> dict[str, Any]:
    """Fill the folder `work`, and return the manifest."""
    thumbnails_file = work / "thumbnails"
    with thumbnails_file.open("wb") as thumbnails:
        gathered = Gathering(work, thumbnails)
        for name, place in places.items():
            gathered.take(FOLDERS[name], place, quiet)
        learned = None if against is None else take_judged(against, thumbnails, quiet)
        rows = thumbnails.tell() // (SIDE * SIDE * 3)
    pictures = gathered.pictures
    pairs = near_duplicates(np.memmap(thumbnails_file, np.uint8, "r", shape=(rows, SIDE, SIDE, 3)))
    thumbnails_file.unlink()
    left_out = repeated(pairs, len(pictures))
    if learned is not None:
        left_out |= overlap([picture.sha256 for picture in pictures], pairs, learned)
    _sort(work, pictures, left_out)
    return {
        "format": 1,
        "against": None if learned is None else learned.describe(),
        "folders": {name: _describe(name, gathered, left_out) for name in places},
    }


def repeated(pairs: Pairs, count: int) -> Mask:
    """Return (count,) which pictures nearly equal one before: else one is learned from and the other judged."""
    mask = np.zeros(count, np.bool_)
    for members in groups_of(pairs[(pairs < count).all(axis=1)]):
        mask[members[1:]] = True
    return mask


def _sort(work: Path, pictures: list[Picture], left_out: Mask) -> None:
    """Move each picture from the folder NAME.CLASS to NAME/CLASS, and remove what is left out."""
    for picture, hit in zip(pictures, left_out.tolist(), strict=True):
        path = work / picture.label / picture.file
        if hit:
            path.unlink()
            continue
        place = work / picture.source / _class(picture)
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / picture.file)
    for label in {picture.label for picture in pictures}:
        (work / label).rmdir()


def _class(picture: Picture) -> str:
    return picture.label.removeprefix(f"{picture.source}.")


def _describe(name: str, gathered: Gathering, left_out: Mask) -> dict[str, Any]:
    source = FOLDERS[name]
    own = [pair for pair in zip(gathered.pictures, left_out.tolist(), strict=True) if pair[0].source == name]
    kept = [picture for picture, hit in own if not hit]
    lines = sorted(f"{_class(picture)} {picture.sha256}\n" for picture in kept)
    return {
        "holds": source.holds,
        "repository": source.repository,
        "commit": gathered.commits[name],
        "terms": source.terms,
        **asdict(gathered.counts[name]),
        "pictures": len(kept),
        "classes": dict(sorted(Counter(map(_class, kept)).items())),
        "sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),  # over class and content
        "left_out": sorted(picture.sha256 for picture, hit in own if hit),
    }


def parse_place(text: str) -> tuple[str, Path]:
    """Return name and place of `NAME=PLACE`. Raises DataError."""
    name, equals, place = text.partition("=")
    if not (equals and place and name in FOLDERS):
        raise DataError(f"{text!r} is not NAME=PLACE with one of the names {', '.join(FOLDERS)}")
    return name, Path(place)


@click.command()
@click.argument("places", nargs=-1, required=True, metavar="NAME=PLACE...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The new folder to write.")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="PHOTOS",
    help="Leave out what is nearly equal to a picture in this folder, which networks have learned from.",
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
def main(places: tuple[str, ...], out: Path, against: Path | None, quiet: bool) -> None:
    """Build the evaluation folders from the git directories or folders at PLACEs, into a new folder."""
    try:
        manifest = build(dict(map(parse_place, places)), out, against, quiet)
    except (QuickNetError, KeyboardInterrupt) as error:
        print(f"quicknet: error: {error or 'interrupted; run the same command again'}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, QuickNetError) else 130)
    for name, folder in manifest["folders"].items():
        click.echo(f"{name}: {folder['pictures']:,} pictures, {len(folder['left_out'])} left out, {folder['classes']}")


if __name__ == "__main__":
    main()
