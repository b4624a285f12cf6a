"""The container of a `.qnz`: a table of sections, each with its digest, and a digest over all.

FORMAT.md, "Bytes". This module knows bytes only; the reader of a section knows what they mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from quicknet.core.errors import FormatError
from quicknet.qnz.format import (
    CARD,
    CARZ,
    CODE,
    CODED_MAJOR,
    CODED_REQUIRED,
    DIGEST_BYTES,
    ENTRY,
    HEADER,
    MAGIC,
    MAJOR,
    MAX_FILE_BYTES,
    MAX_SECTIONS,
    MINOR,
    REQUIRED,
    SKIPPABLE,
    TENS,
)

_DAMAGED = "it is damaged or was not written by QuickNet: export it again"


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a file; `data` looks into the file's bytes."""

    kind: str
    offset: int
    size_bytes: int
    sha256: str
    skippable: bool
    data: memoryview


def pack_sections(sections: Mapping[str, bytes], skippable: Collection[str] = ()) -> bytes:
    """Return the file that holds `sections`, kind (four letters) → bytes, in their order.

    A reader may skip those named in `skippable` if it does not know them. A file with CODE is of major version 2,
    without it of version 1. Raises FormatError for
    sections that every reader refuses: by count, kind or size.
    """
    offset = HEADER.size + ENTRY.size * len(sections)
    length = offset + sum(map(len, sections.values())) + DIGEST_BYTES
    if not 1 <= len(sections) <= MAX_SECTIONS or length > MAX_FILE_BYTES:
        raise FormatError(
            f"{len(sections)} sections of {length:,} bytes do not fit a .qnz file: at most {MAX_SECTIONS} of "
            f"{MAX_FILE_BYTES:,} bytes; use a smaller network"
        )
    major = CODED_MAJOR if CODE in sections else MAJOR
    head = [HEADER.pack(MAGIC, major, MINOR, len(sections), length, b"")]
    for kind, data in sections.items():
        letters = kind.encode("ascii", "replace")
        if not _is_kind(letters):
            raise FormatError(f"{kind!r} cannot name a section of a .qnz file; use four ASCII letters")
        flags = SKIPPABLE if kind in skippable else 0
        head.append(ENTRY.pack(letters, flags, offset, len(data), hashlib.sha256(data).digest(), b""))
        offset += len(data)
    body = b"".join([*head, *sections.values()])
    return body + hashlib.sha256(body).digest()


def read_sections(blob: bytes, where: str) -> dict[str, Section]:
    """Return a file's sections by kind, in order, after every check of FORMAT.md's "A reader refuses".

    Nothing is copied, and no number from the file decides how much is allocated. Of TENS and CODE
    there is the one that belongs to the file's major version, and of CARD and CARZ one. Raises
    FormatError naming what is wrong and `where`, the file.
    """
    major, count = _check_header(blob, where)
    known = (CARD, *CODED_REQUIRED) if major == CODED_MAJOR else REQUIRED
    sections = {}
    for section in _entries(blob, count, where):
        if section.kind in sections:
            raise FormatError(f"two sections are called {section.kind} ({where}); {_DAMAGED}")
        if major == CODED_MAJOR and section.kind == TENS:
            raise FormatError(
                f"a file of version {major} has its numbers in {CODE}, not in {TENS} ({where}); {_DAMAGED}"
            )
        if section.kind not in known and not section.skippable:
            raise FormatError(f"this QuickNet does not know the section {section.kind!r} ({where}); update QuickNet")
        sections[section.kind] = section
    _check_kinds(major, sections, where)
    for section in sections.values():
        if hashlib.sha256(section.data).hexdigest() != section.sha256:
            raise FormatError(f"the sha256 of the section {section.kind} differs ({where}); {_DAMAGED}")
    if hashlib.sha256(memoryview(blob)[:-DIGEST_BYTES]).digest() != blob[-DIGEST_BYTES:]:
        raise FormatError(f"the sha256 of the whole file differs ({where}); {_DAMAGED}")
    return sections


def _check_header(blob: bytes, where: str) -> tuple[int, int]:
    """Return the major version, and the number of sections of a file whose table and digest fit into it."""
    if not blob.startswith(MAGIC):
        raise FormatError(f"the file does not begin as a .qnz file ({where}); use one that `quicknet export` wrote")
    if len(blob) < HEADER.size:
        raise FormatError(f"the file is cut short after {len(blob)} bytes ({where}); copy or export it again")
    _, major, _, count, length, zeros = HEADER.unpack_from(blob)
    if major > CODED_MAJOR:
        raise FormatError(
            f".qnz version {major} is newer than this QuickNet reads, {CODED_MAJOR} ({where}); update QuickNet"
        )
    if major < MAJOR:
        raise FormatError(f".qnz version {major} does not exist ({where}); {_DAMAGED}")
    if len(blob) > MAX_FILE_BYTES:
        raise FormatError(
            f"the file has {len(blob):,} bytes, over the limit of {MAX_FILE_BYTES:,} ({where}); {_DAMAGED}"
        )
    if length != len(blob):
        raise FormatError(f"the file has {len(blob):,} bytes, its header says {length:,} ({where}); copy it again")
    if not 1 <= count <= MAX_SECTIONS or length < HEADER.size + count * ENTRY.size + DIGEST_BYTES:
        raise FormatError(f"the file cannot hold the {count:,} sections that its header says ({where}); {_DAMAGED}")
    if any(zeros):
        raise FormatError(f"the header has bytes set that must be zero ({where}); {_DAMAGED}")
    return int(major), int(count)


def _check_kinds(major: int, sections: Collection[str], where: str) -> None:
    """Refuse a file in which a section that its version has is missing, or that has its card twice."""
    required: tuple[str, ...] = REQUIRED
    if major == CODED_MAJOR:
        if CARD in sections and CARZ in sections:
            raise FormatError(f"the card lies in {CARD} and in {CARZ} ({where}); {_DAMAGED}")
        required = tuple(CARD if kind == CARZ and CARD in sections else kind for kind in CODED_REQUIRED)
    for kind in required:
        if kind not in sections:
            raise FormatError(f"the section {kind} is missing ({where}); {_DAMAGED}")


def _entries(blob: bytes, count: int, where: str) -> Iterator[Section]:
    """Yield the sections of a table that covers the file without holes."""
    offset, end = HEADER.size + count * ENTRY.size, len(blob) - DIGEST_BYTES
    for index in range(count):
        letters, flags, begin, length, digest, zeros = ENTRY.unpack_from(blob, HEADER.size + index * ENTRY.size)
        if not _is_kind(letters):
            raise FormatError(f"the name of section {index + 1} is not four letters ({where}); {_DAMAGED}")
        kind = letters.decode()
        if flags & ~SKIPPABLE or any(zeros):
            raise FormatError(f"the table has bytes set for {kind} that must be zero ({where}); {_DAMAGED}")
        if begin != offset or length > end - offset:
            raise FormatError(
                f"the section {kind} lies at {begin:,} with {length:,} bytes, where {offset:,} to {end:,} are free "
                f"({where}); {_DAMAGED}"
            )
        data = memoryview(blob)[begin : begin + length]
        yield Section(kind, begin, length, digest.hex(), bool(flags & SKIPPABLE), data)
        offset += length
    if offset != end:
        raise FormatError(f"{end - offset:,} bytes do not belong to any section ({where}); {_DAMAGED}")


def _is_kind(letters: bytes) -> bool:
    return len(letters) == 4 and letters.isalpha()  # of bytes: ASCII letters
