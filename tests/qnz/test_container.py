"""The container: what is packed is read back; what does not hold is refused by what is wrong with it."""

import hashlib
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicknet.core.errors import FormatError
from quicknet.qnz.container import pack_sections, read_sections
from quicknet.qnz.format import MAGIC, REQUIRED

PARTS = {"CARD": b"card!", "NETW": b"", "TENS": b"tensors"}
LETTERS = st.text("abcXYZ", min_size=4, max_size=4)


@given(st.dictionaries(LETTERS, st.binary(max_size=40), max_size=5), st.permutations(REQUIRED), st.binary(max_size=40))
def test_sections_survive(others: dict[str, bytes], required: list[str], data: bytes) -> None:
    parts = {**others, **dict.fromkeys(required, data)}
    blob = pack_sections(parts, skippable=others)
    actual = read_sections(blob, "here")
    assert {kind: bytes(section.data) for kind, section in actual.items()} == parts
    assert list(actual) == list(parts)
    assert {kind for kind, section in actual.items() if section.skippable} == set(others)
    assert pack_sections(parts, skippable=others) == blob
    for section in actual.values():
        assert blob[section.offset : section.offset + section.size_bytes] == parts[section.kind]
        assert section.sha256 == hashlib.sha256(parts[section.kind]).hexdigest()


def test_the_bytes_are_those_of_the_format() -> None:
    blob = pack_sections(PARTS)
    assert blob[:8] == bytes.fromhex("89514E5A0D0A1A0A") == MAGIC
    assert struct.unpack_from("<HHIQQ", blob, 8) == (1, 0, 3, len(blob), 0)
    assert blob[32:36] == b"CARD"
    assert struct.unpack_from("<IQQ", blob, 36) == (0, 32 + 3 * 64, 5)
    assert blob[56:88] == hashlib.sha256(b"card!").digest()
    assert blob[88:96] == bytes(8)
    assert blob[32 + 3 * 64 : -32] == b"card!tensors"
    assert blob[-32:] == hashlib.sha256(blob[:-32]).digest()


def test_a_newer_minor_version_is_read_and_a_newer_major_one_named() -> None:
    assert list(read_sections(changed(lambda b: struct.pack_into("<H", b, 10, 9)), "here")) == list(PARTS)
    with pytest.raises(FormatError, match=r"version 3 is newer than this QuickNet reads, 2 \(here\); update"):
        read_sections(changed(lambda b: struct.pack_into("<H", b, 8, 3))[:40], "here")  # even cut short


def test_only_what_a_reader_takes_is_written() -> None:
    for parts in ({}, {"CARDS": b""}, {"CAR": b""}, {"CA D": b""}, {"CARÄ": b""}, {"CAR1": b""}):
        with pytest.raises(FormatError, match="section"):
            pack_sections(parts)
    with pytest.raises(FormatError, match="65 sections"):
        pack_sections({f"{chr(65 + i // 26)}{chr(65 + i % 26)}AA": b"" for i in range(65)})


# --- what is refused -----------------------------------------------------------------------


def sealed(blob: bytearray) -> bytes:
    """Make the last digest that of the bytes, as an attacker would."""
    blob[-32:] = hashlib.sha256(blob[:-32]).digest()
    return bytes(blob)


def changed(change: Callable[[bytearray], object], parts: dict[str, bytes] = PARTS) -> bytes:
    blob = bytearray(pack_sections(parts))
    change(blob)
    return sealed(blob)


def entry(index: int) -> int:
    return 32 + 64 * index


def put(layout: str, at: int, value: int) -> Callable[[bytearray], object]:
    return lambda blob: struct.pack_into(layout, blob, at, value)


def swap(blob: bytearray) -> None:
    blob[entry(0) : entry(1)], blob[entry(2) : entry(3)] = blob[entry(2) : entry(3)], blob[entry(0) : entry(1)]


def rename(index: int, kind: bytes) -> Callable[[bytearray], object]:
    return lambda blob: blob.__setitem__(slice(entry(index), entry(index) + 4), kind)


LIES: dict[str, Callable[[bytearray], object]] = {
    "does not begin as a .qnz file": put("<B", 4, 10),
    "version 0 does not exist": put("<H", 8, 0),
    r"has 268 bytes, its header says 9,223": put("<Q", 16, (1 << 63) + 5),
    "cannot hold the 4,294,967,295 sections": put("<I", 12, (1 << 32) - 1),
    "cannot hold the 0 sections": put("<I", 12, 0),
    "cannot hold the 4 sections": put("<I", 12, 4),
    "header has bytes set": put("<B", 31, 1),
    "set for NETW that must be zero": put("<I", entry(1) + 4, 2),
    "set for TENS that must be zero": put("<B", entry(2) + 63, 1),
    "CARD lies at 225 with 5": put("<Q", entry(0) + 8, 225),  # a hole
    "CARD lies at 223 with 5": put("<Q", entry(0) + 8, 223),  # over the table
    "NETW lies at 229 with 9,223": put("<Q", entry(1) + 16, 1 << 63),
    "TENS lies at 229 with 8": put("<Q", entry(2) + 16, 8),  # over the digest
    "TENS lies at 228 with 7": put("<Q", entry(2) + 8, 228),  # over another
    "1 bytes do not belong to any section": put("<Q", entry(2) + 16, 6),
    "TENS lies at 229 .* where 224": swap,
    "two sections are called CARD": rename(2, b"CARD"),
    "name of section 2 is not four letters": rename(1, b"NE\0W"),
    "does not know the section 'NETX'": rename(1, b"NETX"),
    "sha256 of the section CARD differs": put("<B", entry(0) + 24, 1),
    "sha256 of the section TENS differs": put("<B", 230, 1),
}


@pytest.mark.parametrize(("text", "lie"), LIES.items(), ids=LIES)
def test_a_file_that_lies(text: str, lie: Callable[[bytearray], object]) -> None:
    with pytest.raises(FormatError, match=rf"(?s){text}.* \(some\.qnz\); "):
        read_sections(changed(lie), "some.qnz")


def test_a_missing_section_is_named() -> None:
    for kind in REQUIRED:
        parts = {name: data for name, data in PARTS.items() if name != kind}
        with pytest.raises(FormatError, match=f"section {kind} is missing"):
            read_sections(pack_sections(parts), "here")


def test_the_last_digest_covers_all() -> None:
    blob = bytearray(pack_sections(PARTS))
    blob[10] = 1  # the minor version, which no section's digest covers
    with pytest.raises(FormatError, match="sha256 of the whole file differs"):
        read_sections(bytes(blob), "here")
