"""The `.qnz` file: one classifier with its card, read, checked and run.

FORMAT.md fixes its bytes and its arithmetic, so every runtime gives the same integer logits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import Card, IntegerRecord, card_from_dict
from quicknet.core.errors import ConfigError, FormatError, ToolError
from quicknet.core.files import read_bounded, sha256_bytes
from quicknet.core.options import MOST_THREADS, QnzRuntime, checked_threads, environment_runtime
from quicknet.image.preprocess import check_images
from quicknet.qnz import reference
from quicknet.qnz.bounds import check_network, check_numbers, shape_of
from quicknet.qnz.card import decode_card, encode_card
from quicknet.qnz.container import Section, pack_sections, read_sections
from quicknet.qnz.encoding import (
    check_code,
    check_tensor_bytes,
    coding_number,
    decode_coded,
    decode_shape,
    encode_coded,
    encode_network,
    network_of,
    tensor_bytes,
)
from quicknet.qnz.format import CARD, CARZ, CODE, CONTEXTS, HUFFMAN, MAGIC, MAX_FILE_BYTES, NETW, TENS
from quicknet.qnz.network import IntegerNetwork, NetworkShape

Images = NDArray[np.uint8]
IntegerLogits = NDArray[np.int32]


Coding = Literal["none", "huffman", "contexts"]
CODINGS: dict[Coding, int] = {"huffman": HUFFMAN, "contexts": CONTEXTS}


@dataclass(frozen=True)
class QnzFile:
    """A checked file: `blob` holds its bytes, `sections` are in the file's order."""

    path: Path
    card: Card
    shape: NetworkShape
    blob: bytes
    sections: tuple[Section, ...]

    @property
    def network(self) -> IntegerNetwork:
        """The integer network, decoded when it is first asked for: the engine decodes for itself.

        Raises FormatError for coded numbers that are damaged or outside FORMAT.md's bounds.
        """
        return self._decoded[0]

    @property
    def coding_bits(self) -> tuple[int, ...]:
        """How many bits of CODE are tables, places of blocks, values of blocks, and other numbers; () without CODE."""
        return self._decoded[1]

    @cached_property
    def _decoded(self) -> tuple[IntegerNetwork, tuple[int, ...]]:
        if TENS in self._data:
            return network_of(self.shape, self._data[TENS]), ()
        from quicknet import engine

        if not engine.available():
            return decode_coded(self._data[NETW], self._data[CODE], str(self.path))
        try:
            tens, bits = engine.decode(self.blob, tensor_bytes(self.shape))
        except FormatError as error:
            what = str(error).partition(";")[0]
            raise FormatError(f"{what} ({self.path}, section {CODE}); export the model again") from error
        return network_of(self.shape, tens.data), bits

    def plain_network(self) -> IntegerNetwork:
        """Return the network, its coded numbers decoded in Python whatever there is: seconds for a large one."""
        if TENS in self._data:
            return self.network
        return decode_coded(self._data[NETW], self._data[CODE], str(self.path))[0]

    @property
    def _data(self) -> dict[str, memoryview]:
        return {section.kind: section.data for section in self.sections}

    @property
    def coding(self) -> Coding:
        """How the numbers are coded."""
        if TENS in self._data:
            return "none"
        number = coding_number(self._data[CODE], str(self.path))
        return next(name for name, value in CODINGS.items() if value == number)

    @property
    def sha256(self) -> str:
        """Return the digest of the whole file, computed each time: 2 ms that a first answer should not wait for."""
        return sha256_bytes(self.blob)

    @property
    def weights_sha256(self) -> str:
        """Return the digest over NETW and TENS, as they are without coding: of the network without its card."""
        if TENS in self._data:
            return _weights_sha256(self._data[NETW], self._data[TENS])
        return _weights_sha256(*encode_network(self.network))

    @property
    def record(self) -> IntegerRecord:
        """Return the card's record of the integer network; every file that was read has one."""
        assert self.card.integer is not None
        return self.card.integer


def looks_like_qnz(head: bytes) -> bool:
    """Return whether a file that begins with `head` begins as a `.qnz` does."""
    return head.startswith(MAGIC)


def assemble_qnz(network: IntegerNetwork, card: Card, coding: Coding = "none") -> bytes:
    """Return the file of a network and its card; equal arguments give equal bytes.

    `coding` "huffman" or "contexts" makes a smaller file of version 2, with the same network and a compressed card
    (whose bytes another zlib may write otherwise). The card's `weights_sha256` becomes that of the network. Raises
    FormatError for a network outside FORMAT.md's bounds, and for a card without `integer` or of another network.
    """
    check_network(network, "the network to write")
    netw, tens = encode_network(network)
    card = card.replace(weights_sha256=_weights_sha256(netw, tens))
    shape = shape_of(network, "the network to write")
    _check_card(card_from_dict(card.to_dict(), "the card to write"), shape, "the card to write")
    if coding == "none":
        return pack_sections({CARD: card.to_json().encode(), NETW: netw, TENS: tens})
    code = encode_coded(network, CODINGS[coding])[1]
    return pack_sections({CARZ: encode_card(card), NETW: netw, CODE: code})


def read_qnz(path: Path, bounds: bool = True) -> QnzFile:
    """Read and check a file. Raises FormatError naming the file and what is wrong in which section.

    `bounds` False leaves the bounds of the numbers to the engine, which checks them too.
    """
    return parse_qnz(read_bounded(path, MAX_FILE_BYTES, "the model"), path, bounds)


def parse_qnz(blob: bytes, path: Path, bounds: bool = True) -> QnzFile:
    """Check a file's bytes; `path` is for messages. Raises FormatError as `read_qnz` does."""
    sections = read_sections(blob, str(path))
    shape = decode_shape(sections[NETW].data, str(path))
    coded = TENS not in sections  # a CODE beside it is a section that version 1 does not know, to be skipped
    if coded:
        check_code(shape, sections[CODE].data, str(path))
    else:
        check_tensor_bytes(shape, sections[TENS].data, str(path))
        if bounds:
            check_numbers(network_of(shape, sections[TENS].data), shape, f"{path}, section {TENS}")
    card, where = decode_card(sections, str(path))
    _check_card(card, shape, where)
    file = QnzFile(path, card, shape, blob, tuple(sections.values()))
    if bounds and coded:
        _ = file.network  # decoding checks
    return file


def _check_card(card: Card, shape: NetworkShape, where: str) -> None:
    """Refuse the card of another network."""
    if card.integer is None:
        raise FormatError(f"the card does not describe an integer network ({where}); export the model again")
    spec = card.preprocess
    stated = (len(card.classes), spec.size, spec.channels)
    actual = (shape.classes, shape.side, shape.channels)
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
        self.threads = checked_threads(threads, MOST_THREADS)
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
