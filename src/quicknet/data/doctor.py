"""`examine`: what is wrong with a data set, to be known before training on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import PreprocessSpec
from quicknet.core.places import user_cache
from quicknet.core.settings import Settings
from quicknet.data import contents
from quicknet.data.cifar import Arrays, Cifar, read_cifar
from quicknet.data.folders import Scan, decode_all, named_reasons, scan_folder
from quicknet.data.listing import WHOLE
from quicknet.data.load import locate
from quicknet.data.request import DataRequest
from quicknet.data.similar import SIDE, groups_of, near_duplicates
from quicknet.image.formats import HEIC_SUFFIXES
from quicknet.image.walk import counted, listed, printable

# Thresholds: conventions, not measurements. Every message states its threshold.
SMALL_CLASS = 20  # training images, below which a class is hardly learned
IMBALANCE = 5.0  # largest class over smallest
TINY_SIDE = 32  # pixels of the shorter side

Severity = Literal["error", "warning", "note"]
_SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"},  # a JPEG of some cameras and phones
    "PNG": {".png", ".apng"},
    "GIF": {".gif"},
    "BMP": {".bmp"},
    "WEBP": {".webp"},
    "TIFF": {".tif", ".tiff"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm"},
    "AVIF": {".avif", ".avifs"},
    "JPEG2000": {".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"},
    "HEIF": set(HEIC_SUFFIXES),
}


class Finding(Settings, frozen=True, kw_only=True):
    """One kind of trouble: its kind, its severity, a sentence, and the images.

    `kind`: unreadable, unlistable (a folder), empty_class (a folder), duplicate, near_duplicate, leak (one image in two
    splits), near_leak, conflict (one image in two classes), near_conflict, link (a folder in two
    classes or splits), class_names (names that differ by case or spaces), imbalance, small_class,
    suffix, tiny, or layout. `groups` lists the images that belong together (groups of one where none do); CIFAR's
    are called `train[17]`. A `note` is not a fault: the command still exits with 0.
    """

    kind: str
    severity: Severity
    message: str
    groups: tuple[tuple[str, ...], ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """All images of all groups."""
        return tuple(path for group in self.groups for path in group)


@dataclass(frozen=True, slots=True)
class _Samples:
    """Everything that is compared: names, splits, labels, contents, thumbnails (n, 32, 32, 3)."""

    names: tuple[str, ...]
    splits: NDArray[np.str_]
    labels: NDArray[np.int64]
    contents: tuple[str, ...]
    thumbnails: NDArray[np.uint8]
    classes: tuple[str, ...]


class Examination(Settings, frozen=True, kw_only=True):
    """What a data set holds, and what is wrong with it, the worst first.

    `images`: split → class → how many can be read. A folder without splits has the one split "all".
    """

    images: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]


def examine(source: str | Path, request: DataRequest | None = None) -> list[Finding]:
    """Return the findings of `examination`."""
    return list(examination(source, request).findings)


def examination(source: str | Path, request: DataRequest | None = None) -> Examination:
    """Return what the data that `source` names holds, and what is wrong with it.

    Every image is examined; `max_bad_share` does not count. Raises DataError where the layout
    cannot be used at all, ToolError for disk and network.
    """
    request = request or DataRequest()
    located = locate(source, request)
    if isinstance(located, Path):
        scan = scan_folder(located, request, user_cache(request.cache_dir))
        samples, findings = _folder_samples(located, scan, request)
        findings += _headers(located, scan)
        findings += _unlistable(located, scan)
        findings += _empty_classes(scan)
        findings += [Finding(kind=f.kind, severity="error", message=f.message, groups=f.groups) for f in scan.faults]
        findings += [Finding(kind="layout", severity="note", message=note) for note in scan.notes]
    else:
        arrays = read_cifar(*located)
        samples = _cifar_samples(located[0], arrays)
        findings = [Finding(kind="layout", severity="note", message=note) for note in arrays.notes]
    findings += [*_class_sizes(samples), *_exact(samples), *_near(samples)]
    order = {"error": 0, "warning": 1, "note": 2}
    ordered = sorted(findings, key=lambda finding: order[finding.severity])
    return Examination(images=_counts(samples), findings=tuple(ordered))


def _counts(samples: _Samples) -> dict[str, dict[str, int]]:
    """Return split → class → its images, splits in the order in which they are used."""
    of_split = {
        split: np.bincount(samples.labels[samples.splits == split], minlength=len(samples.classes)).tolist()
        for split in (WHOLE, "train", "val", "test")
        if split in samples.splits
    }
    return {split: dict(zip(samples.classes, counts, strict=True)) for split, counts in of_split.items()}


# --- gathering ----------------------------------------------------------------------------


def _folder_samples(root: Path, scan: Scan, request: DataRequest) -> tuple[_Samples, list[Finding]]:
    spec = PreprocessSpec(size=SIDE, resize="stretch", filter="bilinear")
    listed = [(split, entry) for split, part in scan.entries.items() for entry in part]
    cache = user_cache(request.cache_dir)
    pack = decode_all(root, [(e.path, e.sha256) for _, e in listed], spec, cache, request.quiet)
    bad = {e.path: pack.bad[e.sha256] for _, e in listed if e.sha256 in pack.bad} | scan.unreadable
    good = [(split, entry) for split, entry in listed if entry.sha256 not in pack.bad]
    samples = _Samples(
        names=tuple(printable(entry.path.relative_to(root)) for _, entry in good),
        splits=np.array([split for split, _ in good], np.str_),
        labels=np.array([entry.label for _, entry in good], np.int64),
        contents=tuple(entry.sha256 for _, entry in good),
        thumbnails=pack.images,
        classes=scan.classes,
    )
    if not bad:
        return samples, []
    total = len(good) + len(bad)
    message = f"{len(bad)} of {total} images cannot be read: {named_reasons(root, bad)}"
    groups = tuple((printable(path.relative_to(root)),) for path in bad)
    return samples, [Finding(kind="unreadable", severity="error", message=message, groups=groups)]


def _unlistable(root: Path, scan: Scan) -> Iterator[Finding]:
    if not scan.unlistable:
        return
    groups = tuple((printable(path.relative_to(root)),) for path in scan.unlistable)
    reason = next(iter(scan.unlistable.values()))
    message = f"{counted(len(groups), 'folder')} cannot be listed ({groups[0][0]}: {reason}); check the rights"
    yield Finding(kind="unlistable", severity="error", message=message, groups=groups)


def _empty_classes(scan: Scan) -> Iterator[Finding]:
    """Name the folders of classes that hold nothing, which training refuses."""
    if scan.empty:
        names = listed(scan.empty)
        message = f"{counted(len(scan.empty), 'class folder')} without pictures, which training refuses: {names}; "
        message += "put pictures of that class there, or remove the folder"
        yield Finding(kind="empty_class", severity="error", message=message, groups=tuple((n,) for n in scan.empty))


def _cifar_samples(kind: Cifar, arrays: Arrays) -> _Samples:
    counts = {split: len(labels) for split, labels in arrays.labels.items()}
    thumbnails = np.concatenate([arrays.images[split] for split in counts])
    return _Samples(
        names=tuple(f"{split}[{i}]" for split, n in counts.items() for i in range(n)),
        splits=np.repeat(np.array(list(counts), np.str_), list(counts.values())),
        labels=np.concatenate([arrays.labels[split] for split in counts]),
        contents=tuple(hashlib.sha256(image.data).hexdigest() for image in thumbnails),
        thumbnails=thumbnails,
        classes=kind.classes,
    )


# --- classes and files --------------------------------------------------------------------


def _class_sizes(samples: _Samples) -> Iterator[Finding]:
    main = samples.splits == ("train" if "train" in samples.splits else WHOLE)
    counts = np.bincount(samples.labels[main], minlength=len(samples.classes))
    names = samples.classes
    small = [f"{names[i]} ({counts[i]})" for i in np.argsort(counts, kind="stable") if counts[i] < SMALL_CLASS]
    if small:
        message = f"too small to learn, under {SMALL_CLASS} training images: {', '.join(small[:20])}"
        yield Finding(kind="small_class", severity="warning", message=message)
    least, most = int(counts.argmin()), int(counts.argmax())
    if counts[most] > IMBALANCE * counts[least]:
        message = (
            f"imbalance: {counts[most]:,} training images of {names[most]} against {counts[least]:,} of "
            f"{names[least]}, over {IMBALANCE:g} to 1; accuracy will favour the large class"
        )
        yield Finding(kind="imbalance", severity="warning", message=message)


def _headers(root: Path, scan: Scan) -> list[Finding]:
    """Check formats and sizes from the first bytes of each file, without decoding."""
    paths = [entry.path for part in scan.entries.values() for entry in part]
    mismatched, tiny = [], []
    for path, header in zip(paths, contents.in_threads(_header, paths), strict=True):
        name = printable(path.relative_to(root))
        if header is None:  # listed as unreadable
            continue
        kind, side = header
        if path.suffix.lower() not in _SUFFIXES.get(kind, {path.suffix.lower()}):
            mismatched.append((name,))
        if side < TINY_SIDE:
            tiny.append((name,))
    findings = []
    if mismatched:
        has, them = ("has", "it") if len(mismatched) == 1 else ("have", "them")
        files = counted(len(mismatched), "file")
        message = f"{files} {has} the suffix of another format; other programs may fail on {them}"
        findings.append(Finding(kind="suffix", severity="warning", message=message, groups=tuple(mismatched)))
    if tiny:
        verb = "image is" if len(tiny) == 1 else "images are"
        message = f"{len(tiny):,} {verb} under {TINY_SIDE} pixels on the shorter side, with little detail"
        findings.append(Finding(kind="tiny", severity="warning", message=message, groups=tuple(tiny)))
    return findings


def _header(path: Path) -> tuple[str, int] | None:
    """Return format and shorter side, or None where `load_image` would refuse the file."""
    from quicknet.image._quiet import quiet_pillow
    from quicknet.image.preprocess import open_image

    try:
        with quiet_pillow(), path.open("rb") as file:
            image = open_image(file, path.name)
            return str(image.format), min(image.size)
    except Exception:  # Pillow's readers raise nearly anything on damaged files
        return None


# --- one image twice ----------------------------------------------------------------------


def _exact(samples: _Samples) -> Iterator[Finding]:
    places: dict[str, list[int]] = {}
    for index, content in enumerate(samples.contents):
        places.setdefault(content, []).append(index)
    groups = [group for group in places.values() if len(group) > 1]
    yield from _report(samples, groups, "", "the same image")


def _near(samples: _Samples) -> Iterator[Finding]:
    pairs = near_duplicates(samples.thumbnails)
    one, other = pairs.T
    equal = np.array([samples.contents[a] == samples.contents[b] for a, b in pairs.tolist()], bool)
    pairs = pairs[~equal]
    one, other = pairs.T
    inside = (samples.splits[one] == samples.splits[other]) & (samples.labels[one] == samples.labels[other])
    groups = groups_of(pairs[inside]) + [list(pair) for pair in pairs[~inside].tolist()]
    yield from _report(samples, groups, "near_", "nearly the same image")


def _report(samples: _Samples, groups: list[list[int]], prefix: str, what: str) -> Iterator[Finding]:
    """Sort groups of like images by whether they cross splits, classes or neither."""
    crosses_split = [len(set(samples.splits[group])) > 1 for group in groups]
    crosses_class = [len(set(samples.labels[group])) > 1 for group in groups]
    across_splits = [group for group, yes in zip(groups, crosses_split, strict=True) if yes]
    across_classes = [group for group, yes in zip(groups, crosses_class, strict=True) if yes]
    crosses = zip(groups, crosses_split, crosses_class, strict=True)
    inside = [group for group, split, label in crosses if not (split or label)]

    def named(chosen: list[list[int]]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(samples.names[i] for i in group) for group in chosen)

    if across_splits:
        yield Finding(
            kind=f"{prefix}leak",
            severity="error",
            message=_leak(samples, across_splits, what),
            groups=named(across_splits),
        )
    if across_classes:
        message = f"{what} in two classes, {counted(len(across_classes), 'time')}; decide which is right"
        severity: Severity = "warning" if prefix else "error"
        yield Finding(kind=f"{prefix}conflict", severity=severity, message=message, groups=named(across_classes))
    if inside:
        extra = sum(len(group) - 1 for group in inside)
        times = f"{counted(extra, 'time')} in {counted(len(inside), 'group')}"
        message = f"{what} again in one class, {times}; keep one of each"
        yield Finding(kind=f"{prefix}duplicate", severity="warning", message=message, groups=named(inside))


def _leak(samples: _Samples, groups: list[list[int]], what: str) -> str:
    """Say for each held-out split how many of its images are in train too."""
    parts = []
    for split in ("val", "test"):
        total = int((samples.splits == split).sum())
        leaked = {i for g in groups if "train" in samples.splits[g] for i in g if samples.splits[i] == split}
        if leaked:
            parts.append(f"{len(leaked):,} of {total:,} images of {split} ({len(leaked) / total:.1%}) are in train too")
    text = "; ".join(parts) or f"{len(groups):,} are in val and in test"
    return f"{what} in two splits: {text}; accuracy measured there is too high"
