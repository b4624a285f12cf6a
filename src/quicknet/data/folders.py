"""A folder of images: listed, split, decoded once, and checked."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import DataError
from quicknet.core.places import user_cache
from quicknet.data import contents
from quicknet.data.cache import Pack, build_pack, decoding_digest, open_pack, pack_path
from quicknet.data.dataset import Dataset, Split
from quicknet.data.decoding import Decoder
from quicknet.data.listing import WHOLE, Fault, Listing, class_order, list_images
from quicknet.data.request import FOLDER_SIZE, DataRequest
from quicknet.data.splits import content_keys, stratified_by_key
from quicknet.image.walk import counted, listed, printable

# A convention, not a measurement: below it, a note says so and loading goes on.
FEW_IMAGES_A_CLASS = 100
_NAMED = 5  # how many files a message names


class Entry(NamedTuple):
    """One image file of a split, with its label and the SHA-256 of its content."""

    path: Path
    label: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What a folder holds before decoding: entries by split, and what could not be read or listed.

    A folder that cannot be listed counts as `images_a_folder` images, the mean of the others.
    """

    classes: tuple[str, ...]
    entries: dict[str, list[Entry]]
    unreadable: dict[Path, str]
    notes: tuple[str, ...]
    unlistable: dict[Path, str]
    images_a_folder: int
    faults: tuple[Fault, ...]
    empty: tuple[str, ...]


def load_folder(root: Path, request: DataRequest) -> Dataset:
    """Return the images of a folder as splits; the spec's mean and std are not measured yet.

    Raises DataError where the images cannot be split or more than `max_bad_share` cannot be read,
    ToolError for the disk.
    """
    cache = user_cache(request.cache_dir)
    scan = scan_folder(root, request, cache)
    if scan.empty and request.classes is None:  # half of a copy, perhaps: no class is left out of training unasked
        raise DataError(
            f"{listed(scan.empty)} of {printable(root.resolve().name)} holds no pictures; put pictures of that class "
            "there, or remove the folder"
        )
    spec = request.decoding(FOLDER_SIZE)
    parts, notes = _parts(scan, request)
    unique = {id(part): part for part in parts.values()}
    ordered = [entry for part in unique.values() for entry in part]
    pack = decode_all(root, [(e.path, e.sha256) for e in ordered], spec, cache, request.quiet)
    bad = {e.path: pack.bad[e.sha256] for e in ordered if e.sha256 in pack.bad} | scan.unreadable
    skipped = _check_bad(root, bad, len(ordered) + len(scan.unreadable), scan, request.max_bad_share)
    splits, start = {}, 0
    by_part: dict[int, Split] = {}
    for key, part in unique.items():
        good = [entry for entry in part if entry.sha256 not in pack.bad]
        by_part[key] = _split(pack.images[start : start + len(good)], good)
        start += len(good)
    splits = {name: by_part[id(part)] for name, part in parts.items()}
    data = Dataset(
        name=printable(root.resolve().name),
        classes=scan.classes,
        splits=splits,
        spec=spec,
        protocol=request.protocol,
        sha256=_sha256(splits, {e.path: e.sha256 for e in ordered}),
        notes=(*scan.notes, *(fault.message for fault in scan.faults), *notes, *skipped),
        drawn=_drawn(scan, request, parts),
        unread=len(scan.unreadable)
        + len(scan.unlistable) * scan.images_a_folder
        + sum(e.sha256 in pack.unread for e in ordered),
    )
    return _checked(data, request.classes is None)


def scan_folder(root: Path, request: DataRequest, cache: Path) -> Scan:
    """List and hash a folder. Raises DataError for a layout or classes that cannot be used."""
    # only a trained model brings both; else classes, or mean and std, come from train
    listing = list_images(root, training=request.classes is None or request.spec is None)
    classes, missing = class_order(listing, request.classes)
    index_file = contents.index_path(cache, root)
    index = contents.read_index(index_file)
    before = dict(index["files"])
    paths = [
        path for classes_of_split in listing.files.values() for files in classes_of_split.values() for path in files
    ]
    hashed = dict(zip(paths, contents.hash_files(root, paths, index["files"], request.quiet), strict=True))
    if index["files"] != before:
        contents.write_index(index_file, index)
    entries = {split: _entries(listing, split, classes, hashed) for split in listing.files}
    unreadable = {path: content.error for path, content in hashed.items() if content.error}
    images_a_folder = -(-len(paths) // max(len({path.parent for path in paths}), 1))  # rounded up
    notes = (*listing.notes, *missing)
    return Scan(classes, entries, unreadable, notes, listing.unlistable, images_a_folder, listing.faults, listing.empty)


def _entries(
    listing: Listing, split: str, classes: tuple[str, ...], hashed: dict[Path, contents.Content]
) -> list[Entry]:
    files = listing.files[split]
    return [
        Entry(path, label, hashed[path].sha256)
        for label, name in enumerate(classes)
        for path in files.get(name, ())
        if not hashed[path].error
    ]


# --- splits -------------------------------------------------------------------------------


def _parts(scan: Scan, request: DataRequest) -> tuple[dict[str, list[Entry]], list[str]]:
    """Return the entries of `train`, `val` and, where there is one, `test`, with notes."""
    if request.protocol == "paper":
        rest, held = _held_out([e for part in scan.entries.values() for e in part], request, stratify=False)
        return {"train": rest, "val": held, "test": held}, []
    if WHOLE in scan.entries:
        rest, test = _held_out(scan.entries[WHOLE], request)
        share = request.val_share / (1 - request.val_share)  # of what is left, for parts of one size
        train, val = _held_out(rest, request.replace(val_share=min(share, 0.49)))
        parts = {"train": train, "val": val, "test": test}
        return parts, _too_small(scan, parts)
    if "val" in scan.entries or "train" not in scan.entries:
        return {name: scan.entries[name] for name in ("train", "val", "test") if name in scan.entries}, []
    train, val = _held_out(scan.entries["train"], request)
    parts = {"train": train, "val": val}
    notes = _too_small(scan, parts)
    return parts | ({"test": scan.entries["test"]} if "test" in scan.entries else {}), notes


def _drawn(scan: Scan, request: DataRequest, parts: dict[str, list[Entry]]) -> tuple[str, ...]:
    """Return the splits that were chosen by content: those that have a folder of their own were not."""
    if request.protocol == "paper" or WHOLE in scan.entries:
        return tuple(parts)
    return () if "val" in scan.entries or "train" not in scan.entries else ("train", "val")


def _held_out(entries: list[Entry], request: DataRequest, stratify: bool = True) -> tuple[list[Entry], list[Entry]]:
    """Return (rest, held out), chosen by content and seed, in classes where `stratify`."""
    labels = np.array([e.label if stratify else 0 for e in entries], np.int64)
    keys = content_keys([e.sha256 for e in entries], request.split_seed)
    rest, held = stratified_by_key(labels, request.val_share, keys)
    return [entries[i] for i in rest], [entries[i] for i in held]


def _too_small(scan: Scan, parts: dict[str, list[Entry]]) -> list[str]:
    """Name the classes of which a part has no image."""
    notes = []
    present = {entry.label for part in parts.values() for entry in part}
    for split, part in parts.items():
        without = sorted(present - {entry.label for entry in part})
        if without:
            names = ", ".join(scan.classes[label] for label in without[:_NAMED])
            notes.append(f"too few different images to hold any out as {split}: {names}")
    return notes


# --- decoding -----------------------------------------------------------------------------


def decode_all(
    root: Path, files: list[tuple[Path, str]], spec: PreprocessSpec, cache: Path, quiet: bool = False
) -> Pack:
    """Return the pack of these (path, SHA-256) files in order, decoded now or earlier."""
    hashes = [sha256 for _, sha256 in files]
    path = pack_path(cache / "decoded", hashes, spec)
    index_file = contents.index_path(cache, root)
    index = contents.read_index(index_file)
    how = decoding_digest(spec)
    last = index["packs"].get(how)
    pack = open_pack(path)
    if pack is None or pack.unread:
        previous = cache / "decoded" / last if isinstance(last, str) and "/" not in last else None
        pack = build_pack(path, hashes, Decoder(files, spec, quiet), spec, previous)
    if last != path.name:
        index["packs"][how] = path.name
        contents.write_index(index_file, index)
    return pack


def _check_bad(root: Path, bad: dict[Path, str], total: int, scan: Scan, max_share: float) -> list[str]:
    """Return notes on skipped files and folders. Raises DataError where they are more than `max_share`."""
    unlisted = len(scan.unlistable) * scan.images_a_folder
    texts = []
    if bad:
        texts.append(f"{len(bad)} of {total} images cannot be used: {named_reasons(root, bad)}")
    if scan.unlistable:
        folders = counted(len(scan.unlistable), "folder")
        texts.append(
            f"{folders} cannot be listed: {named_reasons(root, scan.unlistable)} "
            f"(each counts as {counted(scan.images_a_folder, 'image')}, as the other folders hold)"
        )
    if len(bad) + unlisted > max_share * (total + unlisted):
        raise DataError(
            f"{'; '.join(texts)} — more than the share of {max_share:.0%} that may be bad; remove or repair them "
            f"(quicknet doctor {root} lists all), or raise that share (--set data.max_bad_share=0.2)"
        )
    return [f"{text}; they were skipped" for text in texts]


def named_reasons(root: Path, reasons: dict[Path, str]) -> str:
    """Return the first paths with what is wrong with each; a reason that names its file again loses that name."""
    named = [
        f"{printable(path.relative_to(root))}: {reason.replace(f' ({printable(path.name)})', '')}"
        for path, reason in list(reasons.items())[:_NAMED]
    ]
    return "; ".join(named) + (f"; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else "")


def _split(images: NDArray[np.uint8], entries: list[Entry]) -> Split:
    labels = np.array([entry.label for entry in entries], np.int64)
    labels.flags.writeable = False
    ids = np.array([int(entry.sha256[:16], 16) for entry in entries], np.uint64)
    return Split(images, labels, tuple(str(entry.path) for entry in entries), ids)


def _sha256(splits: dict[str, Split], hashes: dict[Path, str]) -> str:
    """Return the digest over split names, labels and contents, in order; names of files do not count."""
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(f"{name} {len(split)}\n".encode())
        for path, label in zip(split.paths or (), split.labels.tolist(), strict=True):
            digest.update(f"{label} {hashes[Path(path)]}\n".encode())
    return digest.hexdigest()


def _checked(data: Dataset, for_training: bool) -> Dataset:
    """Refuse what cannot be trained on, and note what is small."""
    if not sum(len(split) for split in data.splits.values()):
        raise DataError(f"{data.name} has no image that can be read; quicknet doctor lists the reasons")
    if not for_training:
        return data
    for name in ("train", "val"):
        if not len(data.splits[name]):
            raise DataError(
                f"{data.name} has no images for {name}: every class is too small to hold any out; add images "
                "(three or more a class), or give train/ and val/ folders"
            )
    counts = Counter(data.splits["train"].labels.tolist())
    absent = [name for label, name in enumerate(data.classes) if not counts[label]]
    if absent:
        raise DataError(f"{data.name} has no readable training image of {absent[0]!r}; add some or remove its folder")
    least = min(counts.values())
    if least >= FEW_IMAGES_A_CLASS:
        return data
    name = data.classes[min(counts, key=lambda label: (counts[label], label))]
    # results/0019 and 0035, from weights: 14 to 30 points less
    note = (
        f"{counted(least, 'training image')} of {name!r} {'is' if least == 1 else 'are'} few (under "
        f"{FEW_IMAGES_A_CLASS}): expect many mistakes, as folders cut to 20 a class lost 14 to 30 points of accuracy; "
        "every picture that you add helps"
    )
    return replace(data, notes=(*data.notes, note))
