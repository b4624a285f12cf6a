"""What every data source becomes: uint8 arrays with labels, named classes, and a record of the source."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import DataRecord, PreprocessSpec
from quicknet.core.errors import DataError


@dataclass(frozen=True, slots=True)
class Split:
    """Images of one size, decoded by the preprocessing spec, and their labels.

    `images` (N, H, W, C) uint8, read-only and often memory-mapped; `labels` (N,) int64;
    `paths` the N files they came from, where they came from files; `content_ids` (N,) uint64 the
    first 8 bytes of the SHA-256 of those files, as a number.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    paths: tuple[str, ...] | None = None
    content_ids: NDArray[np.uint64] | None = None

    def rows(self, chosen: NDArray[np.int64]) -> Split:
        """Return some of the images, in the order of `chosen`; they are copied."""
        images, labels = self.images[chosen], self.labels[chosen]
        images.flags.writeable = labels.flags.writeable = False
        paths = None if self.paths is None else tuple(self.paths[row] for row in chosen.tolist())
        return Split(images, labels, paths, None if self.content_ids is None else self.content_ids[chosen])

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Splits of one data source: `train`, `val`, and `test` where there is one.

    `notes` are sentences that a user should read (what was skipped, what is small);
    `sha256` is over the content that was used; `protocol` names how it was split; `drawn` are the
    splits that were chosen here and not given as such; `unread` counts the images that could not
    be read this time, for a reason that may pass (memory, disk, rights).
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    spec: PreprocessSpec
    protocol: str
    sha256: str
    notes: tuple[str, ...] = field(default=())
    drawn: tuple[str, ...] = ()
    unread: int = 0

    def split(self, name: str) -> Split:
        """Return a split, or with `all` every image once. Raises DataError, which names the splits."""
        if name == "all":
            return _joined(list({id(split): split for split in self.splits.values()}.values()))
        if name not in self.splits:
            raise DataError(
                f"{self.name} has no split {name!r}; it has {', '.join(self.splits)}, and all; name one of these, "
                "or add pictures of that split"
            )
        return self.splits[name]

    def record(self) -> DataRecord:
        """Return what a card says of this data."""
        counts = {name: len(split) for name, split in self.splits.items()}
        return DataRecord(name=self.name, protocol=self.protocol, counts=counts, sha256=self.sha256)


def _joined(splits: list[Split]) -> Split:
    """Return splits in one, in order; the images are copied."""
    images = np.concatenate([split.images for split in splits])
    labels = np.concatenate([split.labels for split in splits])
    images.flags.writeable = labels.flags.writeable = False
    if any(split.paths is None for split in splits):
        return Split(images, labels)
    ids = [split.content_ids for split in splits if split.content_ids is not None]
    paths = tuple(path for split in splits for path in split.paths or ())
    return Split(images, labels, paths, np.concatenate(ids) if len(ids) == len(splits) else None)
