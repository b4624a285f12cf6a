"""Images in, named classes with calibrated probabilities out, for a stream of any length."""

from __future__ import annotations

import codecs
import os
import select
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from quicknet.core.errors import ConfigError, DataError
from quicknet.core.settings import Settings
from quicknet.image.formats import image_suffixes
from quicknet.image.preprocess import load_image
from quicknet.image.sources import ImageSource, given_name, is_one_picture
from quicknet.image.walk import LeftOut, walk
from quicknet.inference import metrics
from quicknet.inference.classifier import Classifier, require_loaded

_READ_BYTES = 1 << 16
_NAME_LIMIT_BYTES = 1 << 15  # eight times what Linux takes for a path


class PredictSettings(Settings, frozen=True, kw_only=True):
    """How many classes to name, below which confidence to say "unknown", images per batch.

    The confidence is the best class's probability. Where the card counts "none of the classes" as one
    more class (`unknown.none_class`), it counts here too, so that it is less than `Prediction.probability`.
    """

    top: int = 3
    min_confidence: float = 0.0
    batch: int = 32

    def __post_init__(self) -> None:
        """Refuse values out of range. Raises ConfigError."""
        if self.top < 1 or not 1 <= self.batch <= 4096:
            raise ConfigError("top must be at least 1, batch within 1..4096")
        if not 0 <= self.min_confidence <= 1:
            raise ConfigError(f"min_confidence {self.min_confidence} is a probability: 0..1")


class Guess(Settings, frozen=True, kw_only=True):
    """A class and its probability, by the card's temperature."""

    label: str
    probability: float


class Prediction(Settings, frozen=True, kw_only=True):
    """One image's answer: `label` is the best class, or None ("unknown") below `min_confidence`.

    `probability` is that of the best class in either case; `top` holds the best classes in order.
    `calibrated` says whether the card has a fitted temperature.
    """

    name: str
    label: str | None
    probability: float
    top: tuple[Guess, ...]
    calibrated: bool


class Unreadable(Settings, frozen=True, kw_only=True):
    """An image that could not be classified, and the line that says why."""

    name: str
    error: str


Source = ImageSource | Unreadable | None


def predict(
    classifier: Classifier, sources: ImageSource | Iterable[Source], settings: PredictSettings | None = None
) -> Iterator[Prediction | Unreadable]:
    """Yield one answer per image, in order; a broken image costs only its own answer.

    `sources` is one image (a path, a file's bytes, an open file or upload, a Pillow image, an array
    or tensor) or any number of them, even an endless stream: one batch at a time is in memory.
    A None among them means that no more is ready yet: the images so far are classified.
    An Unreadable, as `find_images` yields for a folder that it cannot list, is passed on. If the
    iterable raises DataError, the images before it are classified first.
    """
    require_loaded(classifier)
    settings = settings or PredictSettings()
    names: list[str] = []
    images: list[NDArray[np.uint8]] = []
    try:
        for index, source in enumerate(_stream(sources)):
            failed = source if isinstance(source, Unreadable) else None
            if source is not None and not isinstance(source, Unreadable):
                name = given_name(source) or f"image {index}"
                try:
                    images.append(load_image(source, classifier.card.preprocess))
                    names.append(name)
                except DataError as error:
                    failed = Unreadable(name=name, error=str(error))
            if source is None or failed or len(images) == settings.batch:
                yield from classify_images(classifier, names, images, settings)
                names, images = [], []
            if failed:
                yield failed
    except DataError:
        yield from classify_images(classifier, names, images, settings)
        raise
    yield from classify_images(classifier, names, images, settings)


def _stream(sources: ImageSource | Iterable[Source]) -> Iterable[Source]:
    """Return `sources`, or the one image that it is, as a stream."""
    if is_one_picture(sources) or not (hasattr(sources, "__iter__") or hasattr(sources, "__getitem__")):
        return [cast(ImageSource, sources)]
    return cast(Iterable[Source], sources)


def classify_images(
    classifier: Classifier, names: list[str], images: list[NDArray[np.uint8]], settings: PredictSettings
) -> Iterator[Prediction]:
    """Yield the answers for loaded images (size, size, channels) uint8, classified as one batch."""
    if not images:
        return
    card = classifier.card
    logits = classifier.logits(np.stack(images))
    metrics.check_logits(logits)
    temperature, none_class = card.temperature or 1.0, card.unknown is not None and card.unknown.none_class
    probabilities = metrics.softmax(logits, temperature)  # (N, classes)
    sure = metrics.confidences(logits, temperature, none_class) >= settings.min_confidence
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, : settings.top]
    for name, row, best, is_sure in zip(names, probabilities, order, sure, strict=True):
        top = tuple(Guess(label=card.classes[i], probability=float(row[i])) for i in best)
        yield Prediction(
            name=name,
            label=top[0].label if is_sure else None,
            probability=top[0].probability,
            top=top,
            calibrated=card.temperature is not None,
        )


def find_images(name: str, note: Callable[[str], None] | None = None) -> Iterator[str | Unreadable]:
    """Yield the file itself, or a folder's images, recursively, sorted by name; hidden files are left out.

    In a folder, a file with an image's suffix counts as an image; links are followed, each folder
    once. A folder that cannot be listed or holds no image is yielded as Unreadable. `note` is called
    with a sentence for each kind of thing that was left out.
    """
    if not _is_folder(name):
        yield name
        return
    empty = True
    left_out = LeftOut()
    for path in walk_images(name, left_out):
        empty = False
        yield path
    if empty:
        files, suffixes = left_out.files("it"), ", ".join(sorted(image_suffixes()))
        advice = left_out.advice() or f"put some there: {suffixes}"
        yield Unreadable(name=name, error=f"no images in the folder ({name}{files and ': '}{files}); {advice}")
    elif note is not None:
        for text in left_out.notes(name):
            note(text)


def _is_folder(name: str) -> bool:
    """Return whether a name is a folder's; False where that cannot be found out, so that reading it says why."""
    try:
        return bool(name) and stat.S_ISDIR(Path(name).stat().st_mode)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False


def walk_images(folder: str, left_out: LeftOut | None = None) -> Iterator[str | Unreadable]:
    """Yield the images under a folder, sorted by name, and an Unreadable for each folder that cannot be listed.

    Everything else is added to `left_out`.
    """
    suffixes = image_suffixes()
    for entry in walk(folder):
        if entry.kind == "unlistable":
            text = f"cannot list the folder ({entry.path}: {entry.reason}); check its rights"
            yield Unreadable(name=entry.path, error=text)
        elif entry.kind == "file" and Path(entry.path).suffix.lower() in suffixes:
            yield entry.path
        elif left_out is not None:
            left_out.add(entry)


def read_names(handle: int, separator: bytes = b"\n") -> Iterator[str | None]:
    """Yield the names that arrive on a file descriptor, and None whenever the next is not there yet.

    So the caller can work on what has arrived while a pipe is still open. Names are decoded as
    file names are. With lines, a carriage return before the newline is not part of the name, nor
    is a byte-order mark before the first, which some editors write. Raises DataError for a line with a NUL
    in it or a name over 32 KiB: that is not a list of names.
    """
    rest, lines, mark = b"", separator == b"\n", codecs.BOM_UTF8
    while True:
        if not select.select([handle], [], [], 0)[0]:
            yield None
        chunk = os.read(handle, _READ_BYTES)
        *whole, rest = (rest + chunk).split(separator)
        if not chunk:
            whole = [rest]
        for raw in whole:
            if lines and b"\0" in raw:
                raise _not_names()
            if name := os.fsdecode(raw.removeprefix(mark).removesuffix(b"\r") if lines else raw):
                yield name
            mark = b""
        if not chunk:
            return
        if len(rest) > _NAME_LIMIT_BYTES:
            raise _not_names()


def _not_names() -> DataError:
    return DataError("standard input is not a list of file names; give one name a line, or NUL-separated with -0")
