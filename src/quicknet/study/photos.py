"""`python -m quicknet.study.photos NAME=PLACE… --out DIR`: the photographs that `.photos` weights learn from.

DIR/train and DIR/val hold a folder per class and the pictures as they came, byte for byte, so
that `quicknet train DIR` takes them; DIR/manifest.json says what is there and from where. The
same sources and seed give the same set. DIR appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from quicknet.core.errors import DataError, QuickNetError
from quicknet.data.similar import SIDE, near_duplicates
from quicknet.study.choose import Judged, Mask, Pairs, hold_out, overlap
from quicknet.study.gather import Gathering, Picture, new_folder, take_judged, write_manifest
from quicknet.study.sources import SOURCES, Source

VAL_SHARE = 0.02
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build: sources with their places, folders whose pictures stay out, how to hold out."""

    sources: Sequence[tuple[Source, Path]]
    exclude: Sequence[Path] = ()
    val_share: float = VAL_SHARE
    seed: int = 0


def build(plan: Plan, out: Path, quiet: bool = False) -> dict[str, Any]:
    """Write the set into the new folder `out` and return its manifest.

    Raises DataError for sources that cannot be used or an `out` that is taken, ToolError for the disk.
    """
    with new_folder(out) as work:
        (work / "train").mkdir()
        manifest = _build(plan, work, quiet)
        write_manifest(work, manifest)
    return manifest


def _build(plan: Plan, work: Path, quiet: bool) -> dict[str, Any]:
    """Fill the folder `work`, and return the manifest."""
    thumbnails_file = work / "thumbnails"
    with thumbnails_file.open("wb") as thumbnails:
        gathered = Gathering(work / "train", thumbnails)
        for source, place in plan.sources:
            gathered.take(source, place, quiet)
        if not gathered.pictures:
            raise DataError("none of the pictures can be decoded; fetch the sources again")
        judged = [take_judged(folder, thumbnails, quiet) for folder in plan.exclude]
        rows = thumbnails.tell() // (SIDE * SIDE * 3)
    pairs = near_duplicates(np.memmap(thumbnails_file, np.uint8, "r", shape=(rows, SIDE, SIDE, 3)))
    thumbnails_file.unlink()
    pictures = gathered.pictures
    digests = [picture.sha256 for picture in pictures]
    hits = [overlap(digests, pairs, folder) for folder in judged]
    kept = ~np.any([np.zeros(len(pictures), np.bool_), *hits], axis=0)
    twins = pairs[(pairs < len(pictures)).all(axis=1)]
    twins = twins[kept[twins].all(axis=1)]
    held = _held(pictures, kept, twins, plan)
    _move(work, pictures, kept, held)
    return {
        "format": _FORMAT,
        **_totals(pictures, kept, held, plan),
        "near_duplicate_pairs": len(twins),
        "excluded": [_excluded(folder, hit) for folder, hit in zip(judged, hits, strict=True)],
        "sources": _sources(gathered, kept, held, plan),
        "classes": _classes(pictures, kept, held),
    }


def _held(pictures: list[Picture], kept: Mask, twins: Pairs, plan: Plan) -> Mask:
    """Return (n,) which of all pictures are held out, of those that are kept; `twins` are pairs of kept ones."""
    rows = np.flatnonzero(kept)
    place = np.cumsum(kept) - 1  # among those that are kept
    names = [pictures[row].label for row in rows.tolist()]
    labels = np.unique(names, return_inverse=True)[1].astype(np.int64)
    digests = [pictures[row].sha256 for row in rows.tolist()]
    held = np.zeros(len(pictures), np.bool_)
    held[rows] = hold_out(digests, labels, place[twins], plan.val_share, plan.seed)
    return held


def _move(work: Path, pictures: list[Picture], kept: Mask, held: Mask) -> None:
    """Move what is held out from train/ to val/ and remove what stays out."""
    train, val = work / "train", work / "val"
    val.mkdir()
    for row in np.flatnonzero(~kept).tolist():
        (train / pictures[row].label / pictures[row].file).unlink()
    for row in np.flatnonzero(held).tolist():
        (val / pictures[row].label).mkdir(exist_ok=True)
        (train / pictures[row].label / pictures[row].file).rename(val / pictures[row].label / pictures[row].file)
    for folder in list(train.iterdir()):
        if not any(folder.iterdir()):
            folder.rmdir()


# --- the manifest -------------------------------------------------------------------------


def _totals(pictures: list[Picture], kept: Mask, held: Mask, plan: Plan) -> dict[str, Any]:
    classes = {picture.label for picture, yes in zip(pictures, kept.tolist(), strict=True) if yes}
    return {
        "pictures": int(kept.sum()),
        "train": int((kept & ~held).sum()),
        "val": int(held.sum()),
        "class_count": len(classes),
        "val_share": plan.val_share,
        "seed": plan.seed,
        "sha256": _digest(pictures, kept, held),
    }


def _digest(pictures: list[Picture], kept: Mask, held: Mask) -> str:
    """Return the SHA-256 over split, class and content of every picture, sorted; file names do not count."""
    lines = sorted(
        f"{'val' if held[row] else 'train'} {pictures[row].label} {pictures[row].sha256}\n"
        for row in np.flatnonzero(kept).tolist()
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _excluded(judged: Judged, hit: Mask) -> dict[str, Any]:
    return {**judged.describe(), "left_out": int(hit.sum())}  # pictures of the set


def _sources(gathered: Gathering, kept: Mask, held: Mask, plan: Plan) -> dict[str, Any]:
    names = np.array([picture.source for picture in gathered.pictures])
    described = {}
    for source, _ in plan.sources:
        is_source = names == source.name
        described[source.name] = {
            "repository": source.repository,
            "commit": gathered.commits[source.name],
            "terms": source.terms,
            **asdict(gathered.counts[source.name]),
            "excluded": int((is_source & ~kept).sum()),
            "train": int((is_source & kept & ~held).sum()),
            "val": int((is_source & held).sum()),
            "sha256": _digest(gathered.pictures, is_source & kept, held),
        }
    return described


def _classes(pictures: list[Picture], kept: Mask, held: Mask) -> dict[str, Any]:
    classes: dict[str, dict[str, Any]] = {}
    for picture, yes, out in zip(pictures, kept.tolist(), held.tolist(), strict=True):
        if yes:
            entry = classes.setdefault(picture.label, {"train": 0, "val": 0, "sources": Counter()})
            entry["val" if out else "train"] += 1
            entry["sources"][picture.source] += 1
    return dict(sorted(classes.items()))


# --- the command --------------------------------------------------------------------------


def parse_source(text: str) -> tuple[Source, Path]:
    """Return the source and place of `NAME=PLACE`; a NAME that the table has not is a folder per class.

    Raises DataError.
    """
    name, equals, place = text.partition("=")
    if not (equals and place and name.isidentifier() and name.isascii()):
        raise DataError(f"{text!r} is not NAME=PLACE, such as mini=/data/split_minidataset; {_known()}")
    return SOURCES.get(name, Source(name)), Path(place)


def _known() -> str:
    return f"known names: {', '.join(SOURCES)}; any other is read as a folder per class"


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="NAME=PLACE...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The new folder to write.")
@click.option(
    "--exclude",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A folder or git directory; its pictures, and what is nearly equal, stay out. May be given several times.",
)
@click.option("--seed", default=0, show_default=True, help="Another seed holds other pictures out.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def main(sources: tuple[str, ...], out: Path, exclude: tuple[Path, ...], seed: int, quiet: bool) -> None:
    """Build the set of photographs at PLACEs, git directories or folders, into a new folder.

    The names say which set lies there and so its layout, commit and terms; an unknown NAME is read
    as one folder per class, in split folders or not.
    """
    try:
        plan = Plan([parse_source(text) for text in sources], exclude, seed=seed)
        manifest = build(plan, out, quiet)
    except (QuickNetError, KeyboardInterrupt) as error:
        print(f"quicknet: error: {error or 'interrupted; run the same command again'}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, QuickNetError) else 130)
    click.echo(json.dumps({key: value for key, value in manifest.items() if key not in ("sources", "classes")}))


if __name__ == "__main__":
    main()
