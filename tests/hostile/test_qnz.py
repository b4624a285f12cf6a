"""A `.qnz` from somewhere else: cut, flipped, lying, out of bounds. One line, in a second, without memory."""

import hashlib
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from networks import Block, network_card, random_network
from quicknet.core.errors import FormatError
from quicknet.inference.artifact import load
from quicknet.qnz.container import pack_sections, read_sections
from quicknet.qnz.encoding import encode_network
from quicknet.qnz.file import assemble_qnz, looks_like_qnz, parse_qnz, read_qnz

from .conftest import Refused

HERE = Path("some.qnz")
NETWORK = random_network(
    np.random.default_rng(0), side=16, channels=1, classes=2, stem=3, kernel=3, stride=2, blocks=(Block(5),)
)
CARD = network_card(NETWORK)
BLOB = assemble_qnz(NETWORK, CARD)
NETW, TENS = encode_network(NETWORK)
TEXT = bytes(read_sections(BLOB, "")["CARD"].data)


def whole(card: bytes = TEXT, netw: bytes = NETW, tens: bytes = TENS, **more: bytes) -> bytes:
    """Return a file with every digest in order, whatever its sections hold."""
    return pack_sections({"CARD": card, "NETW": netw, "TENS": tens, **more})


def put(data: bytes, at: int, layout: str, *values: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, at, *values)
    return bytes(changed)


def refused_fast(blob: bytes, text: str, megabytes: int = 2) -> None:
    """Check that `blob` is refused in a line with `text` and the file, within a second and little memory."""
    tracemalloc.start()
    started = time.process_time()  # of this process: the machine may be busy
    try:
        with pytest.raises(FormatError, match=text) as caught:
            parse_qnz(blob, HERE)
        seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "some.qnz" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert seconds < 1
    assert peak < megabytes << 20


def test_what_is_not_hostile_is_read() -> None:
    assert parse_qnz(whole(), HERE).card == parse_qnz(BLOB, HERE).card
    assert [
        section.kind
        for section in parse_qnz(
            pack_sections({"CARD": TEXT, "NETW": NETW, "TENS": TENS, "FUNY": b"?"}, skippable=["FUNY"]), HERE
        ).sections
    ] == ["CARD", "NETW", "TENS", "FUNY"]


def test_cut_at_every_length() -> None:
    for length in range(len(BLOB)):
        with pytest.raises(FormatError, match=r"some\.qnz"):
            parse_qnz(BLOB[:length], HERE)


def test_every_byte_flipped() -> None:
    for at in range(len(BLOB)):
        changed = bytearray(BLOB)
        changed[at] ^= 1 << at % 8
        with pytest.raises(FormatError, match=r"some\.qnz"):
            parse_qnz(bytes(changed), HERE)


def test_bytes_behind_the_end() -> None:
    refused_fast(BLOB + b"\0", "its header says")


# --- sections that are whole but lie -------------------------------------------------------


def layers(count: int) -> bytes:
    """Return a NETW of `count` layers of 8192 channels, as large as one can be said to be."""
    layer = struct.pack("<BBBBHBBBBBB4s", 2, 5, 1, 0, 8192, 1, 0, 0, 255, 0, 255, b"")
    stem = struct.pack("<BBBBHBBBBBB4s", 1, 11, 1, 0, 8192, 1, 0, 0, 255, 0, 0, b"")
    return struct.pack("<HBBHHII", 1024, 4, 0, count, 0, 100_000, 0) + stem + layer * (count - 1)


SHAPES: dict[str, bytes] = {
    "shape is cut short": NETW[:15],
    "48 bytes cannot describe 0 layers": put(NETW, 4, "<H", 0),
    "48 bytes cannot describe 3 layers": put(NETW, 4, "<H", 3),
    "48 bytes cannot describe 65,535 layers": put(NETW, 4, "<H", 65535),
    "49 bytes cannot describe 2": NETW + b"\0",
    "image side is 15": put(NETW, 0, "<H", 15),
    "image side is 65535": put(NETW, 0, "<H", 65535),
    "image channels is 5": put(NETW, 2, "<B", 5),
    "bytes are set that must be zero": put(NETW, 3, "<B", 1),
    "are set that must be zero": put(NETW, 12, "<I", 1),
    "number of classes is 4294967295": put(NETW, 8, "<I", (1 << 32) - 1),
    "number of classes is 0": put(NETW, 8, "<I", 0),
    "layer 0 is of kind 2": put(NETW, 16, "<B", 2),
    "layer 1 is of kind 1": put(NETW, 32, "<B", 1),
    "layer 1 is of kind 3": put(NETW, 32, "<B", 3),
    "stem's kernel is 12": put(NETW, 17, "<B", 12),
    "stem's kernel is 0": put(NETW, 17, "<B", 0),
    "layer 1's kernel is 4": put(NETW, 33, "<B", 4),
    "stem's stride is 0": put(NETW, 18, "<B", 0),
    "layer 1's stride is 2": put(NETW, 34, "<B", 2),
    "the stem has a pool": put(NETW, 19, "<B", 1),
    "layer 1 has bytes set": put(NETW, 35, "<B", 2),
    "output channels is 0": put(NETW, 20, "<H", 0),
    "output channels is 65535": put(NETW, 36, "<H", 65535),
    "sums are 3": put(NETW, 38, "<B", 3),
    "shift is 31": put(NETW, 39, "<B", 31),
    "zero point of layer 1's output is 200": put(NETW, 40, "<BB", 200, 127),
    "top of layer 1's output is 0": put(NETW, 41, "<B", 0),
    "zero point of layer 1's depthwise": put(NETW, 42, "<BB", 128, 127),
    "top of layer 1's depthwise output is 254": put(NETW, 43, "<B", 254),
    "a depthwise output": put(NETW, 27, "<B", 255),
    "layer 1 has bytes set that": put(NETW, 44, "<I", 7),
    "over 268,435,456 weights|has over 67,108,864 values": layers(513),
    "number of layers|cannot describe 514": layers(514),
}


@pytest.mark.parametrize(("text", "netw"), SHAPES.items(), ids=SHAPES)
def test_a_shape_that_lies_is_refused_by_its_section(text: str, netw: bytes) -> None:
    refused_fast(whole(netw=netw), rf"(?:{text}).*some\.qnz, section NETW")


@pytest.mark.parametrize("tens", [b"", TENS[:-1], TENS + b"\0"])
def test_tensors_of_another_length(tens: bytes) -> None:
    refused_fast(whole(tens=tens), rf"have {len(tens):,} bytes where .* {len(TENS):,} \(some.qnz, section TENS")


def test_a_shape_of_gigabytes_allocates_nothing() -> None:
    """Within the limits, but the tensors are not there."""
    netw = put(put(NETW, 8, "<I", 30_000), 36, "<H", 8192)
    refused_fast(whole(netw=netw), "bytes where the network's shape needs 491,", megabytes=1)


PLACES = {  # offset in TENS of the network above → what is wrong with −128 and its like there
    "the stem's weights reach -128": (0, "<b", -128),
    "the stem's sums of output 0": (27, "<i", (1 << 31) - 1),
    "the stem's positive multipliers reach -32768": (39, "<h", -32768),
    "the stem's negative multipliers reach -32768": (45, "<h", -32768),
    "layer 1's depthwise weights reach -128": (51, "<b", -128),
    "layer 1's depthwise multipliers reach -5": (78, "<h", -5),
    "layer 1's weights reach -128": (84, "<b", -128),
    "layer 1's sums of output 4": (115, "<i", -(1 << 31)),
    "layer 1's positive multipliers reach": (119, "<h", -32768),
    "layer 1's negative multipliers reach": (129, "<h", -32768),
    "the classifier's sums of output 1": (163, "<i", -(1 << 31)),
}


@pytest.mark.parametrize(("text", "place"), PLACES.items(), ids=PLACES)
def test_numbers_outside_their_bounds_are_refused_by_section_and_layer(text: str, place: tuple[Any, ...]) -> None:
    at, layout, value = place
    refused_fast(whole(tens=put(TENS, at, layout, value)), rf"{text}.*some\.qnz, section TENS")


def test_lanes_over_their_limit() -> None:
    refused_fast(
        whole(tens=put(TENS, 84, "<3b", 127, 127, 0)), "layer 1's positive weights of output channel 0 sum to 254"
    )
    taps = TENS[:51] + bytes([127, 0, 0] * 2) + TENS[57:]
    refused_fast(whole(tens=taps), "layer 1's depthwise positive weights of channel 0 sum to")


def deep(letter: bytes) -> bytes:
    return letter * 200_000


CARDS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON"),
    "not UTF-8": (b'{"a": "\xff"}', "not JSON"),
    "NaN": (TEXT.replace(b'"logit_scale": 0.0009765625', b'"logit_scale": NaN'), "not JSON"),
    "deep lists": (deep(b"["), "not JSON"),
    "deep objects": (deep(b'{"a":'), "not JSON"),
    "a list": (b"[]", "not a JSON object"),
    "nothing in it": (b"{}", "is not valid"),
    "newer": (b'{"format": 2}', "format 2 is newer"),
    "a scale of zero": (TEXT.replace(b'"logit_scale": 0.0009765625', b'"logit_scale": 0'), "logit scale 0"),
    "a negative scale": (TEXT.replace(b'"logit_scale": 0.0009765625', b'"logit_scale": -1.5'), "logit scale -1.5"),
    "an endless scale": (
        TEXT.replace(b'"logit_scale": 0.0009765625', b'"logit_scale": 1e999'),
        "logit scale inf|not valid",
    ),
    "no integer record": (TEXT.replace(b'"integer":', b'"integers":'), "does not describe an integer network"),
    "one class more": (TEXT.replace(b'"class 0"', b'"class 0", "class 9"'), "names 3 classes .* has 2,"),
    "a huge integer logit": (
        TEXT.replace(b'"integers": [', b'"integers": [[1' + b"0" * 400 + b"],"),
        "not valid|32 bits",
    ),
}


@pytest.mark.parametrize("kind", CARDS)
def test_a_card_that_does_not_hold_is_refused_by_its_section(kind: str) -> None:
    card, text = CARDS[kind]
    assert card != TEXT
    refused_fast(whole(card=card), rf"(?:{text}).*some\.qnz, section CARD", megabytes=40)


def test_a_card_of_many_megabytes_is_not_parsed() -> None:
    refused_fast(whole(card=b" " * ((4 << 20) + 1)), "card is 4,194,305 bytes, over the limit.*section CARD")


def test_sections_that_nobody_knows() -> None:
    refused_fast(whole(EVIL=b"\0"), "does not know the section 'EVIL'")


def beside(tens: bytes, code: bytes) -> bytes:
    """A file of version 1 with a CODE that its readers may skip."""
    blob = bytearray(pack_sections({"CARD": TEXT, "NETW": NETW, "TENS": tens, "CODE": code}, skippable=["CODE"]))
    blob[8:10] = struct.pack("<H", 1)
    blob[-32:] = hashlib.sha256(blob[:-32]).digest()
    return bytes(blob)


def test_coded_numbers_in_a_file_of_version_1_hide_nothing() -> None:
    """What version 2 calls CODE is unknown to version 1: it is skipped, and its TENS is checked as ever."""
    code = struct.pack("<I", 1)
    read = parse_qnz(beside(TENS, code), HERE)
    assert (read.coding, read.sections[3].kind) == ("none", "CODE")
    assert np.array_equal(read.network.weight, NETWORK.weight)
    refused_fast(beside(TENS[:-100], code), "section TENS")
    stem = put(TENS, 0, "<9b", *(-128,) * 9)
    refused_fast(beside(stem, code), "section TENS")


# --- files ---------------------------------------------------------------------------------


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.qnz"
    with path.open("wb") as file:
        file.write(BLOB[:100])
        file.truncate(3 << 30)  # sparse
    assert looks_like_qnz(BLOB[:100])
    with pytest.raises(FormatError, match=r"huge\.qnz.*over the limit"):
        load(path)


def test_other_files_are_not_taken_for_one(tmp_path: Path) -> None:
    for head in (b"", BLOB[:7], b"\x89PNG\r\n\x1a\n", b"\x89QNZ\n\x1a\n\n", b"PK\x03\x04"):
        (tmp_path / "m.qnz").write_bytes(head)
        assert not looks_like_qnz(head)
        with pytest.raises(FormatError, match="is not a model that QuickNet reads"):
            load(tmp_path / "m.qnz")
    with pytest.raises(FormatError, match="cannot read the model"):
        read_qnz(tmp_path / "nowhere.qnz")


DAMAGES = {
    "its header says": BLOB[:-40],
    "section TENS": put(BLOB, len(BLOB) - 60, "<B", BLOB[len(BLOB) - 60] ^ 4),
    "version 3": put(BLOB, 8, "<H", 3),
    "weights reach -128": whole(tens=put(TENS, 0, "<b", -128)),
}


@pytest.mark.parametrize(("words", "blob"), DAMAGES.items(), ids=DAMAGES)
def test_predict_says_it_in_a_line(words: str, blob: bytes, tmp_path: Path, refused: Refused) -> None:
    from PIL import Image

    Image.new("L", (20, 20), 90).save(tmp_path / "picture.png")
    (tmp_path / "bad.qnz").write_bytes(blob)
    refused(["predict", tmp_path / "bad.qnz", tmp_path / "picture.png"], "bad.qnz", words)


# --- any bytes -----------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_of_sections_whose_digests_hold(data: st.DataObject) -> None:
    """Behind the digests too, a file is either refused in a line or a network within all bounds."""
    parts = {"card": TEXT, "netw": NETW, "tens": TENS}
    name = data.draw(st.sampled_from(sorted(parts)))
    part = bytearray(parts[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(part) - 1)))
        match data.draw(st.sampled_from(["set", "cut", "insert"])):
            case "set":
                part[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
            case "cut":
                del part[at : at + data.draw(st.integers(1, 20))]
            case "insert":
                part[at:at] = data.draw(st.binary(max_size=8))
    blob = whole(**{name: bytes(part)})
    try:
        file = parse_qnz(blob, HERE)
    except FormatError as error:
        assert "\n" not in str(error)
        assert "some.qnz" in str(error)
        return
    assert encode_network(file.network) == (bytes(file.sections[1].data), bytes(file.sections[2].data))


def test_the_largest_file_is_checked_in_little_memory() -> None:
    """32 MiB of weights at their bounds: temporaries stay small, beside the file itself."""
    netw = struct.pack("<HBBHHII", 16, 1, 0, 2, 0, 1, 0)
    netw += struct.pack("<BBBBHBBBBBB4s", 1, 11, 1, 0, 4096, 1, 30, 0, 255, 0, 0, b"")
    netw += struct.pack("<BBBBHBBBBBB4s", 2, 3, 1, 0, 8192, 4, 30, 0, 255, 0, 255, b"")
    stem = bytes(4096 * (121 + 8))
    weight = np.zeros((8192, 4096), np.int8)
    weight[:, ::16] = 127  # over 16: the exact test runs
    weight[-1, 1] = 2  # and fails at the very end
    tens = stem + bytes(4096 * 11) + weight.tobytes() + bytes(8192 * (8 + 2) + 4)
    blob = whole(netw=netw, tens=tens)
    del weight, tens
    refused_fast(blob, "layer 1's positive weights of output channel 8191 sum to 129", megabytes=24)


def test_digests_are_compared_before_anything_is_believed() -> None:
    """A flipped bit in a section names the section, though what it holds would be refused as well."""
    at = BLOB.index(NETW)
    with pytest.raises(FormatError, match=r"sha256 of the section NETW differs \(some\.qnz\)"):
        parse_qnz(put(BLOB, at, "<H", 5), HERE)
    sealed = put(BLOB, at, "<H", 5)
    sealed = sealed[:-32] + hashlib.sha256(sealed[:-32]).digest()
    with pytest.raises(FormatError, match="sha256 of the section NETW differs"):
        parse_qnz(sealed, HERE)
