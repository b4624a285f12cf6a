"""The `.qnz` file: one classifier with its card, read, checked and run.

FORMAT.md fixes its bytes and its arithmetic, so every runtime gives the same integer logits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import Card, IntegerRecord, card_from_dict, parse_card
from quicknet.core.errors import ConfigError, FormatError, ToolError
from quicknet.core.files import read_bounded, sha256_bytes
from quicknet.core.options import QnzRuntime, checked_threads, environment_runtime
from quicknet.image.preprocess import check_images
from quicknet.qnz import reference
from quicknet.qnz.bounds import check_network
from quicknet.qnz.container import Section, pack_sections, read_sections
from quicknet.qnz.encoding import decode_network, encode_network
from quicknet.qnz.format import CARD, MAGIC, MAX_FILE_BYTES, NETW, TENS
from quicknet.qnz.network import IntegerNetwork

Images = NDArray[np.uint8]
IntegerLogits = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class QnzFile:
    """A checked file: `blob` holds its bytes, `sections` are in the file's order."""

    path: Path
    card: Card
    network: IntegerNetwork
    blob: bytes
    sections: tuple[Section, ...]

    @property
    def sha256(self) -> str:
        """Return the digest of the whole file, computed each time: 2 ms that a first answer should not wait for."""
        return sha256_bytes(self.blob)

    @property
    def weights_sha256(self) -> str:
        """Return the digest over NETW and TENS: of the network without its card."""
        return _weights_sha256(*(section.data for section in self.sections if section.kind in (NETW, TENS)))

    @property
    def record(self) -> IntegerRecord:
        """Return the card's record of the integer network; every file that was read has one."""
        assert self.card.integer is not None
        return self.card.integer


def looks_like_qnz(head: bytes) -> bool:
    """Return whether a file that begins with `head` begins as a `.qnz` does."""
    return head.startswith(MAGIC)


def assemble_qnz(network: IntegerNetwork, card: Card) -> bytes:
    """Return the file of a network and its card; equal arguments give equal bytes.

    The card's `weights_sha256` becomes that of the network. Raises FormatError for a network
    outside FORMAT.md's bounds, and for a card without `integer` or of another network.
    """
    check_network(network, "the network to write")
    netw, tens = encode_network(network)
    card = card.replace(weights_sha256=_weights_sha256(netw, tens))
    _check_card(card_from_dict(card.to_dict(), "the card to write"), network, "the card to write")
    return pack_sections({CARD: card.to_json().encode(), NETW: netw, TENS: tens})


def read_qnz(path: Path, bounds: bool = True) -> QnzFile:
    """Read and check a file. Raises FormatError naming the file and what is wrong in which section.

    `bounds` False leaves the bounds of the numbers to the engine, which checks them too.
    """
    return parse_qnz(read_bounded(path, MAX_FILE_BYTES, "the model"), path, bounds)


def parse_qnz(blob: bytes, path: Path, bounds: bool = True) -> QnzFile:
    """Check a file's bytes; `path` is for messages. Raises FormatError as `read_qnz` does."""
    sections = read_sections(blob, str(path))
    network = decode_network(sections[NETW].data, sections[TENS].data, str(path), bounds)
    where = f"{path}, section CARD"
    card = parse_card(sections[CARD].data, where)
    _check_card(card, network, where)
    return QnzFile(path, card, network, blob, tuple(sections.values()))


def _check_card(card: Card, network: IntegerNetwork, where: str) -> None:
    """Refuse the card of another network."""
    if card.integer is None:
        raise FormatError(f"the card does not describe an integer network ({where}); export the model again")
    spec = card.preprocess
    stated = (len(card.classes), spec.size, spec.channels)
    actual = (len(network.weight), network.side, network.channels)
    if stated != actual:
        raise FormatError(
            f"the card names {stated[0]} classes and images of {stated[1]} pixels and {stated[2]} channels, "
            f"the network has {actual[0]}, {actual[1]} and {actual[2]} ({where}); export the model again"
        )


def _weights_sha256(*parts: bytes | memoryview) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


# --- running it ----------------------------------------------------------------------------


class QnzClassifier:
    """A `.qnz` file, ready to run (the interface of `inference/classifier.py`).

    `runtime`: `engine` uses the best instructions of this CPU, `engine-portable` plain C,
    `reference` numpy; `auto` is the one that QUICKNET_RUNTIME names, else the engine where it is
    available, else the reference. All give the same logits. `threads` is by default the number of
    cores. Threads may share one classifier; it pickles as the file's bytes, for other processes.
    Raises FormatError for a file that is foreign or damaged, ToolError for an engine that is not
    available, ConfigError for an unknown runtime.
    """

    def __init__(self, file: str | Path | QnzFile, runtime: str = "auto", threads: int | None = None) -> None:
        self._open(lambda bounds: file if isinstance(file, QnzFile) else read_qnz(Path(file), bounds), runtime, threads)

    def _open(self, read: Callable[[bool], QnzFile], runtime: str, threads: int | None) -> None:
        self._arguments = (runtime, threads)
        self.threads = checked_threads(threads)
        self.runtime, self.status = _choose(runtime)
        self.file = read(self.runtime == "reference")
        self._run = _opened(self.file, self.runtime, self.threads)

    def __reduce__(self) -> tuple[Callable[..., QnzClassifier], tuple[Any, ...]]:
        """Pickle with the runtime as it was given: another machine may have another engine, with the same logits."""
        return _unpickled, (self.file.blob, self.file.path, *self._arguments)

    @property
    def card(self) -> Card:
        """The card in the file."""
        return self.file.card

    @property
    def source(self) -> Path:
        """The file."""
        return self.file.path

    @property
    def file_sha256(self) -> str:
        """The digest of the file's bytes."""
        return self.file.sha256

    def integer_logits(self, images: Images) -> IntegerLogits:
        """Return (N, classes) int32, the same on every CPU, for (N, size, size, channels) uint8, for any N.

        Raises DataError for images of another shape or type.
        """
        check_images(images, self.card.preprocess)
        if not len(images):
            return np.empty((0, len(self.card.classes)), np.int32)
        return self._run(np.ascontiguousarray(images))

    def logits(self, images: Images) -> NDArray[np.float32]:
        """Return the integer logits times the card's scale, float32. Raises DataError."""
        return self.integer_logits(images).astype(np.float32) * np.float32(self.file.record.logit_scale)


def _unpickled(blob: bytes, path: Path, runtime: str, threads: int | None) -> QnzClassifier:
    classifier = QnzClassifier.__new__(QnzClassifier)
    classifier._open(lambda bounds: parse_qnz(blob, path, bounds), runtime, threads)
    return classifier


def _choose(runtime: str) -> tuple[str, str]:
    """Return a runtime's name and one line that says which one it is, and why."""
    from quicknet import engine

    if runtime == "auto":
        runtime = environment_runtime(QnzRuntime)
    if runtime not in get_args(QnzRuntime):
        raise ConfigError(f"no runtime called {runtime!r} runs a .qnz; use {', '.join(get_args(QnzRuntime))}")
    if runtime == "reference":
        return runtime, "numpy's reference, as requested"
    if runtime != "auto" and not engine.available():
        raise ToolError(f"the runtime {runtime} is not available ({engine.status()}); use --runtime reference")
    if engine.available():
        return "engine" if runtime == "auto" else runtime, engine.status()
    return "reference", f"numpy's reference, many times slower than the engine ({engine.status()})"


def _opened(file: QnzFile, runtime: str, threads: int) -> Callable[[Images], IntegerLogits]:
    if runtime == "reference":
        return lambda images: reference.run(file.network, images)
    from quicknet import engine

    try:
        opened = engine.Engine(file.blob, threads, "portable" if runtime == "engine-portable" else "best")
    except FormatError as error:
        parse_qnz(file.blob, file.path)  # raises the same with its place: section, layer, channel
        raise FormatError(f"{error} ({file.path}); export the model again") from error
    return opened.run
