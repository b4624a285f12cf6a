"""A `.qnz` whose numbers are coded, from somewhere else: Python's reader and the engine's refuse it alike."""

import re
import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from networks import Block, network_card, pruned, random_network
from quicknet import engine
from quicknet.core.errors import FormatError
from quicknet.qnz.coding import encode
from quicknet.qnz.coding.model import LENGTHS
from quicknet.qnz.coding.sinks import AdaptiveSink, PlainSink
from quicknet.qnz.container import pack_sections, read_sections
from quicknet.qnz.encoding import encode_coded, encode_network
from quicknet.qnz.file import QnzFile, assemble_qnz, parse_qnz
from quicknet.qnz.format import CODE_HEADER, CONTEXTS, COUNT_BITS, GAP, HUFFMAN, LENGTH_BITS
from quicknet.qnz.network import IntegerNetwork

from .conftest import Refused

HERE = Path("some.qnz")
RNG = np.random.default_rng(0)
NETWORK = pruned(
    random_network(RNG, side=16, channels=1, classes=2, stem=10, kernel=3, stride=2, blocks=(Block(6), Block(5))),
    RNG,
    0.5,
)
CARD = network_card(NETWORK)
NETW, TENS = encode_network(NETWORK)
CODES = {coding: encode_coded(NETWORK, coding)[1] for coding in (HUFFMAN, CONTEXTS)}
TEXT = bytes(read_sections(assemble_qnz(NETWORK, CARD), "")["CARD"].data)


@pytest.fixture(params=CODES, ids=["huffman", "contexts"])
def coding(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def whole(code: bytes, netw: bytes = NETW, **more: bytes) -> bytes:
    """Return a file with every digest in order, whatever its sections hold."""
    return pack_sections({"CARD": TEXT, "NETW": netw, "CODE": code, **more})


def by_python(blob: bytes, monkeypatch: pytest.MonkeyPatch) -> QnzFile:
    with monkeypatch.context() as patch:
        patch.setattr("quicknet.engine.available", lambda: False)
        return parse_qnz(blob, HERE)


def answers(blob: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, bytes] | str:
    """Return what both readers make of a file, which must be the same: NETW and TENS, or the section they refuse."""
    results: list[tuple[bytes, bytes] | str] = []
    for read in [by_python, *([lambda blob, _: parse_qnz(blob, HERE)] if engine.available() else [])]:
        started = time.process_time()
        try:
            results.append(encode_network(read(blob, monkeypatch).network))
        except FormatError as error:
            assert "\n" not in str(error)
            assert "some.qnz" in str(error)
            results.append(re.findall(r"section ([A-Z]{4})", str(error))[-1])
        assert time.process_time() - started < 1
    assert all(result == results[0] for result in results)
    return results[0]


def refused(blob: bytes, text: str, monkeypatch: pytest.MonkeyPatch, megabytes: int = 2) -> None:
    """Check that Python refuses with `text`, file and section, in little memory, and that the engine does too."""
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=rf"(?:{text}).*some\.qnz, section CODE"):
            by_python(blob, monkeypatch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes << 20
    assert answers(blob, monkeypatch) == "CODE"


def test_what_is_not_hostile_is_read(coding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answers(whole(CODES[coding]), monkeypatch) == (NETW, TENS)


# --- header, lengths -----------------------------------------------------------------------


@pytest.mark.parametrize("at", range(CODE_HEADER.size))
def test_every_bit_of_the_header_counts(at: int, coding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for bit in range(8):
        changed = bytearray(CODES[coding])
        changed[at] ^= 1 << bit
        if changed[0] in CODES and not any(changed[1:4]):
            continue
        refused(whole(bytes(changed)), "coding", monkeypatch)


def test_the_other_coding_is_not_what_it_is(coding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    other = HUFFMAN + CONTEXTS - coding
    refused(whole(bytes([other]) + CODES[coding][1:]), "code|end|state|number", monkeypatch)


def test_cut_at_every_length(coding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    code = CODES[coding]
    for length in range(len(code)):
        assert answers(whole(code[:length]), monkeypatch) == "CODE", length


@pytest.mark.parametrize("more", [b"\0", b"\0\0", b"\xff\xff", bytes(100)])
def test_bytes_behind_the_last_number(more: bytes, coding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(whole(CODES[coding] + more), "do not end with the section|too early", monkeypatch)


def test_bits_behind_the_last_number(monkeypatch: pytest.MonkeyPatch) -> None:
    code = CODES[HUFFMAN]
    padding = 8 * (len(code) - CODE_HEADER.size) - sum(parse_qnz(whole(code), HERE).coding_bits)
    for bit in range(padding):
        refused(whole(code[:-1] + bytes([code[-1] | 1 << bit])), "do not end with the section", monkeypatch)


def test_a_state_below_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    code = CODES[CONTEXTS]
    for state in (0, 1, (1 << 16) - 1):
        refused(whole(code[:4] + struct.pack("<I", state) + code[8:]), "state is", monkeypatch)


def test_numbers_in_both_forms_or_in_none(coding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for skippable in ([], ["TENS"]):
        parts = {"CARD": TEXT, "NETW": NETW, "CODE": CODES[coding], "TENS": TENS}
        blob = pack_sections(parts, skippable=skippable)
        with pytest.raises(FormatError, match=r"numbers in CODE, not in TENS.*some\.qnz"):
            parse_qnz(blob, HERE)
        if engine.available():
            with pytest.raises(FormatError, match="sections doubled"):
                engine.Engine(blob)
    plain = bytearray(assemble_qnz(NETWORK, CARD))
    plain[8] = 2
    with pytest.raises(FormatError, match="numbers in CODE"):
        parse_qnz(bytes(plain), HERE)
    coded = bytearray(whole(CODES[coding]))
    coded[8] = 1
    with pytest.raises(FormatError, match="does not know the section 'CODE'"):
        parse_qnz(bytes(coded), HERE)


# --- sizes ---------------------------------------------------------------------------------


def netw(side: int, classes: int, *layers: tuple[int, int]) -> bytes:
    """Return a NETW of (kernel, channels) layers, the first a stem."""
    data = struct.pack("<HBBHHII", side, 1, 0, len(layers), 0, classes, 0)
    for index, (kernel, channels) in enumerate(layers):
        kind, middle = (2, 255) if index else (1, 0)
        data += struct.pack("<BBBBHBBBBBB4s", kind, kernel, 1, 0, channels, 1, 0, 0, 255, 0, middle, b"")
    return data


@pytest.mark.parametrize(
    "shape",
    [
        netw(16, 1, (1, 8192), (3, 8192), (3, 8192), (3, 8192)),  # 201 million weights
        netw(16, 30_000, (1, 8192)),
        netw(16, 1, (1, 8192), *[(3, 512)] * 40),
    ],
)
def test_bombs_are_refused_before_anything_is_allocated(
    shape: bytes, coding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code in (CODES[coding], CODES[coding] + bytes(10_000), CODES[coding] + b"\xff" * 10_000):
        refused(whole(code, netw=shape), "bytes cannot hold", monkeypatch)


def test_a_shape_that_does_not_fit(coding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer or more numbers than were coded."""
    for shape in (netw(16, 2, (3, 10), (3, 6)), netw(16, 2, (3, 10), (3, 6), (3, 5), (3, 5)), netw(16, 2, (3, 700))):
        assert answers(whole(CODES[coding], netw=shape), monkeypatch) in ("CODE", "CARD")


def test_the_most_that_a_megabyte_takes_is_read_in_little_memory(coding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no file size vouches for: a megabyte of numbers from few bytes, here damaged at the end."""
    stem = random_network(
        np.random.default_rng(0), side=16, channels=1, classes=2, stem=512, kernel=1, blocks=(Block(512),)
    )
    empty = replace(stem, blocks=(replace(stem.blocks[0], weight=np.zeros((512, 512), np.int8)),))
    shape, code = encode_coded(empty, coding)
    refused(whole(code[:-2], netw=shape), "too early|do not end|number", monkeypatch, megabytes=8)


# --- sections that are written by a liar ---------------------------------------------------


class Liar(encode._Writer):
    """A writer some of whose steps are replaced."""

    def __init__(self, coding: int, **steps: Callable[..., Any]) -> None:
        for name, step in steps.items():
            setattr(self, name, step)
        super().__init__(NETWORK, coding)

    def code(self) -> bytes:
        self.write(NETWORK)
        return CODE_HEADER.pack(self.coding, b"") + self.sink.finish()


def lengths_first(coding: int, lengths: list[int]) -> bytes:
    """Return a CODE whose first table has these lengths, and then nothing that matters."""
    sink = AdaptiveSink() if coding == CONTEXTS else PlainSink()
    before = 0
    for length in lengths:
        node = 1
        for bit in reversed(range(LENGTH_BITS)):
            sink.decide(LENGTHS + (before << LENGTH_BITS) + node, length >> bit & 1)
            node = 2 * node + (length >> bit & 1)
        before = length
    sink.plain(0, 2000)
    return CODE_HEADER.pack(coding, b"") + sink.finish()


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("without a symbol", [0] * 9),
        ("without a symbol", [2] + [0] * 8),
        ("without a symbol", [15] * 9),
        ("without a symbol", [1, 2] + [0] * 7),
        ("more symbols than codes", [1] * 9),
        ("more symbols than codes", [1, 1, 15] + [0] * 6),
        ("more symbols than codes", [2] * 5 + [0] * 4),
    ],
)
def test_a_prefix_code_that_is_none(
    text: str, lengths: list[int], coding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(whole(lengths_first(coding, lengths)), text, monkeypatch)


def test_numbers_that_do_not_fit_their_type(coding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The alphabets hold one length more than the largest positive number has."""
    for field, value in (("bias", 1 << 31), ("bias", -(1 << 31) - 1), ("weight", 32768)):
        changed: dict[str, Any] = {field: np.full_like(getattr(NETWORK, field), value, dtype=np.int64)}
        classes = replace(NETWORK, **changed)
        writer = encode._Writer(classes, coding)
        writer.write(classes)
        code = CODE_HEADER.pack(coding, b"") + writer.sink.finish()
        refused(whole(code), f"is {value} ", monkeypatch)


def test_numbers_outside_their_bounds(coding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    first = NETWORK.blocks[0]
    bad = {
        "stem's weights reach -128": replace(
            NETWORK, stem=replace(NETWORK.stem, weight=np.full_like(NETWORK.stem.weight, -128))
        ),
        "multipliers reach -32768": replace(
            NETWORK,
            stem=replace(NETWORK.stem, output=replace(NETWORK.stem.output, positive=np.full(10, -32768, np.int16))),
        ),
        "depthwise multipliers reach -1": with_block(multiplier=np.full_like(first.multiplier, -1)),
        "depthwise positive weights": with_block(depthwise=np.full_like(first.depthwise, 127)),
        "layer 1's positive weights": with_block(weight=np.full_like(first.weight, 127)),
        "layer 1's sums": with_block(bias=np.full_like(first.bias, 2**31 - 1), weight=np.full_like(first.weight, 1)),
        "classifier's sums": replace(
            NETWORK, weight=np.full_like(NETWORK.weight, 32767), bias=np.full_like(NETWORK.bias, 2**31 - 1)
        ),
    }
    for text, network in bad.items():
        refused(whole(encode_coded(network, coding)[1]), text, monkeypatch)


def with_block(**changes: Any) -> IntegerNetwork:
    return replace(NETWORK, blocks=(replace(NETWORK.blocks[0], **changes), *NETWORK.blocks[1:]))


@pytest.mark.parametrize("lie", [1, 9, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, -1])
def test_more_or_fewer_blocks_than_follow(lie: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counter(Liar):
        def __init__(self) -> None:
            super().__init__(HUFFMAN)
            plain = self.sink.plain

            def lied(number: int, bits: int) -> None:
                plain(max(0, number + lie) % (1 << 32) if bits == COUNT_BITS else number, bits)

            self.sink.plain = lied  # type: ignore[method-assign]

    assert answers(whole(Counter().code()), monkeypatch) == "CODE"


@pytest.mark.parametrize("extra", [1, 5, GAP - 1, GAP])
def test_gaps_that_end_outside_the_layer(extra: int, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = encode._gaps

    def lied(kept: Any) -> Any:
        rows = list(honest(kept))
        last = next(row for row in reversed(rows) if row)
        last[-1:] = [GAP] * 3 + [last[-1], *([extra] if extra < GAP else [GAP, 0])][: 1 if extra < GAP else 3]
        return iter(rows)

    monkeypatch.setattr(encode, "_gaps", lied)
    code = encode_coded(NETWORK, HUFFMAN)[1]
    monkeypatch.undo()
    refused(whole(code), "outside its layer", monkeypatch)


# --- any bytes -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_thousands_of_flips_behind_right_digests(seed: int, coding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both readers refuse, or both take it and read the same numbers."""
    rng = np.random.default_rng(seed)
    code = CODES[coding]
    for _ in range(100):
        changed = bytearray(code)
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(CODE_HEADER.size, len(code))] ^= 1 << rng.integers(8)
        answers(whole(bytes(changed)), monkeypatch)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_change_of_the_section(data: st.DataObject) -> None:
    code = bytearray(CODES[data.draw(st.sampled_from(sorted(CODES)))])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(code) - 1)))
        match data.draw(st.sampled_from(["set", "cut", "insert"])):
            case "set":
                code[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
            case "cut":
                del code[at : at + data.draw(st.integers(1, 20))]
            case "insert":
                code[at:at] = data.draw(st.binary(max_size=8))
    with pytest.MonkeyPatch.context() as patch:
        answers(whole(bytes(code)), patch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_ten_thousand_flips(seed: int, coding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1000 + seed)
    code = CODES[coding]
    for _ in range(1000):
        changed = bytearray(code)
        changed[rng.integers(CODE_HEADER.size, len(code))] = rng.integers(256)
        answers(whole(bytes(changed)), monkeypatch)


def test_a_command_says_it_in_a_line(tmp_path: Path, refused: Refused, coding: int) -> None:
    from PIL import Image

    Image.new("L", (20, 20), 90).save(tmp_path / "picture.png")
    (tmp_path / "bad.qnz").write_bytes(whole(CODES[coding][:-4]))
    for command in (["predict", tmp_path / "bad.qnz", tmp_path / "picture.png"], ["inspect", tmp_path / "bad.qnz"]):
        refused(command, "bad.qnz", "coded numbers")
