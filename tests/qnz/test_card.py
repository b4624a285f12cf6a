"""The card of a coded file: compressed, the same card when read, and refused where it is not what it says."""

import json
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from networks import Block, network_card, random_network
from quicknet import engine
from quicknet.core.card import LIMIT_BYTES
from quicknet.core.errors import FormatError
from quicknet.inference.shipped import locate
from quicknet.qnz.card import encode_card
from quicknet.qnz.container import pack_sections
from quicknet.qnz.encoding import encode_coded, encode_network
from quicknet.qnz.file import assemble_qnz, parse_qnz, read_qnz
from quicknet.qnz.format import CONTEXTS

HERE = Path("some.qnz")
NETWORK = random_network(
    np.random.default_rng(0), side=16, channels=1, classes=2, stem=3, kernel=3, stride=2, blocks=(Block(5),)
)
CARD = network_card(NETWORK)
NETW, CODE = encode_coded(NETWORK, CONTEXTS)
CARZ = encode_card(CARD)
TEXT = zlib.decompress(CARZ[4:])


def whole(carz: bytes = CARZ, **more: bytes) -> bytes:
    """Return a file of version 2 with every digest in order, whatever its card is."""
    return pack_sections({"CARZ": carz, "NETW": NETW, "CODE": CODE, **more})


def refused(blob: bytes, text: str, section: str = ", section CARZ", megabytes: float = 1) -> None:
    """Check that a file is refused by what is wrong and where, at once, and in little memory."""
    parse_qnz(whole(), HERE)  # what is imported late is
    started = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=rf"(?:{text}).*some\.qnz{section}") as error:
            parse_qnz(blob, HERE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert time.process_time() - started < 1
    assert peak < megabytes * (1 << 20)


# --- what is written is read ---------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.text(max_size=200),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2, max_size=2, unique=True),
    st.dictionaries(st.text("abc", min_size=4), st.integers() | st.text(), max_size=3),
)
def test_a_card_survives_compression(notes: str, names: list[str], newer: dict[str, int | str]) -> None:
    notes = notes.encode("utf-8", "replace").decode()
    card = CARD.replace(notes=notes, classes=tuple(names), extra=newer)
    blob = assemble_qnz(NETWORK, card, "contexts")
    file = parse_qnz(blob, HERE)
    assert file.card.vectors is not None
    assert CARD.vectors is not None
    assert (file.card.vectors.logits, file.card.vectors.integers) == ((), CARD.vectors.integers)
    same = {"vectors": CARD.vectors, "weights_sha256": ""}
    assert file.card.replace(**same) == card.replace(**same)
    assert assemble_qnz(file.network, file.card, "contexts") == blob
    assert assemble_qnz(file.network, file.card) == assemble_qnz(NETWORK, file.card), "version 1 has its own form"


def test_a_shipped_card_takes_a_quarter() -> None:
    file = read_qnz(locate("quicknet_xs.cifar10", "file", True))
    size_bytes = len(encode_card(file.card))
    assert len(file.card.to_json()) > 10_000
    assert size_bytes < 2_500, size_bytes


def test_any_zlib_stream_is_read() -> None:
    """Other levels and windows; what is in no stream that QuickNet writes."""
    for level, window in ((0, 15), (1, 15), (9, 9), (6, 12)):
        packer = zlib.compressobj(level, zlib.DEFLATED, window)
        assert parse_qnz(whole(packed(packer.compress(TEXT) + packer.flush())), HERE).card.classes == CARD.classes


def test_a_file_of_version_2_may_have_its_card_as_it_is(tmp_path: Path) -> None:
    blob = pack_sections({"CARD": CARD.to_json().encode(), "NETW": NETW, "CODE": CODE})
    assert parse_qnz(blob, HERE).card == CARD
    if engine.available():
        engine.Engine(blob)


# --- what is refused -----------------------------------------------------------------------


def packed(stream: bytes, size_bytes: int = len(TEXT)) -> bytes:
    return struct.pack("<I", size_bytes) + stream


def with_dictionary() -> bytes:
    packer = zlib.compressobj(zdict=TEXT[:1000])
    return packer.compress(TEXT) + packer.flush()


STREAM = CARZ[4:]
BOMB = zlib.compress(bytes(20 << 20), 9)  # 20 KB
LIES = {
    "does not end after 4,194,304 bytes": packed(BOMB, LIMIT_BYTES),
    r"does not end after 1,000 bytes": packed(BOMB, 1000),
    "does not end after 0 bytes": packed(BOMB, 0),
    "would be 4,194,305 bytes, over the limit": packed(BOMB, LIMIT_BYTES + 1),
    "would be 4,294,967,295 bytes, over": packed(STREAM, (1 << 32) - 1),
    "would be 2,147,483,648 bytes, over": packed(STREAM, 1 << 31),
    rf"does not end after {len(TEXT) - 1:,} bytes": packed(STREAM, len(TEXT) - 1),
    rf"does not end after {len(TEXT) + 1:,} bytes": packed(STREAM, len(TEXT) + 1),
    rf"does not end after {len(TEXT):,} bytes and with its section": packed(STREAM + b"\0"),
    "card is 0 bytes, outside": b"",
    "card is 3 bytes, outside": b"\0\0\0",
    "card is 4,194,305 bytes, outside": bytes(LIMIT_BYTES + 1),
    "does not end after 5 bytes": packed(b"", 5),
    "incorrect header check": packed(b"no deflate at all"),
    "damaged: Error 2": packed(with_dictionary()),
    "is not JSON": packed(zlib.compress(TEXT[:-1]), len(TEXT) - 1),
    "values, which is the limit": packed(zlib.compress(b"[]," * (1 << 20)), 3 << 20),
    "does not describe an integer network": packed(
        zlib.compress(TEXT.replace(b'"integer":', b'"whatever":')), len(TEXT) + 1
    ),
    "names 3 classes .* has 2": packed(
        zlib.compress(TEXT.replace(b'"class 0"', b'"class 0","class 9"')), len(TEXT) + 10
    ),
}


@pytest.mark.parametrize("text", LIES)
def test_a_section_that_lies(text: str) -> None:
    refused(whole(LIES[text]), text, megabytes=20)


@pytest.mark.parametrize("name", ["a bomb", "gigabytes"])
def test_a_bomb_takes_no_memory(name: str) -> None:
    """No more than the text that it states, however much its stream holds or it says that there is."""
    lie = {"a bomb": packed(BOMB, 1000), "gigabytes": packed(BOMB, (1 << 32) - 1)}[name]
    refused(whole(lie), "does not end after|over the limit", megabytes=0.6)


def test_cut_at_every_length() -> None:
    for length in range(len(CARZ)):
        with pytest.raises(FormatError, match=r"compressed card.*section CARZ"):
            parse_qnz(whole(CARZ[:length]), HERE)


def test_every_bit_counts() -> None:
    """The stream ends with a sum over its text; two bits of its header say how hard its writer tried."""
    for at in range(len(CARZ)):
        changed = bytearray(CARZ)
        changed[at] ^= 1 << at % 8
        with pytest.raises(FormatError, match="section CARZ"):
            parse_qnz(whole(bytes(changed)), HERE)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 5000))
def test_any_bytes(stream: bytes, size_bytes: int) -> None:
    with pytest.raises(FormatError, match=r"some\.qnz"):
        parse_qnz(whole(packed(stream, size_bytes)), HERE)


def test_two_cards_one_of_version_1_or_none() -> None:
    text = CARD.to_json().encode()
    tens = encode_network(NETWORK)[1]
    for blob, said in (
        (whole(CARD=text), "card lies in CARD and in CARZ"),
        (pack_sections({"NETW": NETW, "CODE": CODE}), "section CARZ is missing"),
        (pack_sections({"CARZ": CARZ, "NETW": NETW, "TENS": tens}), "does not know the section 'CARZ'"),
        (pack_sections({"CARZ": CARZ, "NETW": NETW, "TENS": tens}, skippable=["CARZ"]), "section CARD is missing"),
    ):
        refused(blob, said, section="")
        if engine.available():
            with pytest.raises(FormatError, match="sections doubled, missing"):
                engine.Engine(blob)
    skipped = pack_sections({"CARD": text, "NETW": NETW, "TENS": tens, "CARZ": b"?"}, skippable=["CARZ"])
    assert parse_qnz(skipped, HERE).card == CARD


@pytest.mark.skipif(not engine.available(), reason="the engine is not available")
def test_the_engine_refuses_what_the_section_states() -> None:
    """It skips the stream: of what is in it, it needs nothing."""
    for carz in (b"", b"\0\0\0", bytes(LIMIT_BYTES + 1), packed(b"", LIMIT_BYTES + 1)):
        with pytest.raises(FormatError, match="CARZ"):
            engine.Engine(whole(carz))
    for carz in (packed(b"", LIMIT_BYTES), packed(b"no deflate at all")):
        engine.Engine(whole(carz))


# --- commands ------------------------------------------------------------------------------


@pytest.fixture
def coded(tmp_path: Path) -> Path:
    path = tmp_path / "coded.qnz"
    path.write_bytes(assemble_qnz(NETWORK, CARD, "contexts"))
    return path


def test_commands_take_it(coded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    from quicknet.cli.main import run

    Image.new("L", (20, 20), 90).save(tmp_path / "picture.png")

    def say(*arguments: str) -> str:
        assert run([*arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    inspected = json.loads(say("inspect", str(coded), "--json"))
    assert [section["kind"] for section in inspected["sections"]] == ["CARZ", "NETW", "CODE"]
    assert inspected["card"]["classes"] == ["class 0", "class 1"]
    assert "16 test vectors" in say("verify", str(coded))
    plain = tmp_path / "plain.qnz"
    plain.write_bytes(assemble_qnz(NETWORK, CARD))
    answers = [say("predict", str(path), str(tmp_path / "picture.png")) for path in (coded, plain)]
    assert answers[0] == answers[1]
    assert "class 0" in answers[0]


def test_verify_finds_a_card_with_other_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from quicknet.cli.main import run

    assert CARD.vectors is not None
    assert CARD.vectors.integers is not None
    (first, *more), *rows = CARD.vectors.integers
    vectors = msgspec.structs.replace(CARD.vectors, integers=((first + 1, *more), *rows))
    bad = tmp_path / "bad.qnz"
    bad.write_bytes(assemble_qnz(NETWORK, CARD.replace(vectors=vectors), "contexts"))
    assert run(["verify", str(bad)]) == 1
    assert "1 have other logits than recorded" in capsys.readouterr().out
