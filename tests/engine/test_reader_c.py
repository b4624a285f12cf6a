"""The C reader: it takes and refuses the files that Python's does, and no input harms it."""

import ctypes
import hashlib
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native import bare_file, compile_c, engine_sources, run, tool
from networks import Block, networks, pruned, random_network
from quicknet.core.errors import FormatError
from quicknet.qnz.container import pack_sections, read_sections
from quicknet.qnz.encoding import check_code, decode_coded, decode_network, decode_shape, encode_coded, encode_network
from quicknet.qnz.network import IntegerNetwork

READER = ("read.c", "container.c", "shape.c", "bounds.c", "coding.c", "sha256.c")
CODES = ("OK", "MAGIC", "VERSION", "LENGTH", "TABLE", "HASH", "SHAPE", "BOUNDS", "MEMORY", "ISA", "THREADS", "CODE")
SMALL: dict[str, Any] = {
    "side": 16,
    "stem": 3,
    "blocks": (Block(20, sums=4, pool=True), Block(5, kernel=5, top=127)),
    "classes": 3,
}


class Info(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("side", "channels", "classes", "layers")),
        ("multiply_adds", ctypes.c_uint64),
        ("section", ctypes.c_char * 5),
    ]


class Reader:
    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.qn_strerror.restype = ctypes.c_char_p
        self.info = Info()

    def __call__(self, blob: bytes) -> str:
        """Return the name of the code, with the section's: "HASH TENS"."""
        code = self.library.qn_check(blob, ctypes.c_size_t(len(blob)), ctypes.byref(self.info))
        return f"{CODES[code]} {self.info.section.decode()}".strip()

    def sha256(self, data: bytes) -> bytes:
        digest = ctypes.create_string_buffer(32)
        self.library.qn_sha256(data, ctypes.c_size_t(len(data)), digest)
        return digest.raw


def build(folder: Path, *flags: str) -> Reader:
    return Reader(compile_c(folder / "reader.so", READER, "-O2", "-shared", "-fPIC", *flags))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return build(tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="module")
def network() -> IntegerNetwork:
    return random_network(np.random.default_rng(5), **SMALL)


def python_takes(blob: bytes) -> bool:
    try:
        sections = read_sections(blob, "a file")
        if "CODE" in sections:
            check_code(decode_shape(sections["NETW"].data, "a file"), sections["CODE"].data, "a file")
            decode_coded(sections["NETW"].data, sections["CODE"].data, "a file")
        else:
            decode_network(sections["NETW"].data, sections["TENS"].data, "a file")
    except FormatError:
        return False
    return True


def sealed(netw: bytes, tens: bytes, card: bytes = b"{}") -> bytes:
    return pack_sections({"CARD": card, "NETW": netw, "TENS": tens})


@settings(max_examples=60, deadline=None)
@given(networks())
def test_every_network_within_the_bounds_is_taken(reader: Reader, network: IntegerNetwork) -> None:
    assert reader(bare_file(network)) == "OK"
    info = reader.info
    assert (info.side, info.channels, info.classes) == (network.side, network.channels, len(network.bias))
    assert info.layers == 1 + len(network.blocks)


@settings(max_examples=30, deadline=None)
@given(networks(), st.integers(0, 2**32 - 1), st.sampled_from([1, 2]))
def test_every_network_is_taken_coded(reader: Reader, network: IntegerNetwork, seed: int, coding: int) -> None:
    assert reader(bare_file(pruned(network, np.random.default_rng(seed)), coding)) == "OK"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_changed_codes_with_right_hashes(reader: Reader, network: IntegerNetwork, data: st.DataObject) -> None:
    coding = data.draw(st.sampled_from([1, 2]))
    netw, code = encode_coded(pruned(network, np.random.default_rng(0), 0.4), coding)
    changed = bytearray(code)
    for _ in range(data.draw(st.integers(1, 2))):
        changed[data.draw(st.integers(0, len(code) - 1))] = data.draw(st.integers(0, 255))
    blob = pack_sections({"CARD": b"{}", "NETW": netw, "CODE": bytes(changed)})
    result = reader(blob)
    assert (result == "OK") == python_takes(blob)
    assert result in ("OK", "CODE CODE", "BOUNDS CODE")


def test_multiply_adds_are_those_of_the_design(reader: Reader) -> None:
    widths = [width for width in (32, 64, 128, 256) for _ in range(3)]
    blocks = tuple(Block(width, pool=index in (3, 6, 9)) for index, width in enumerate(widths))
    reader(bare_file(random_network(np.random.default_rng(0), stem=16, blocks=blocks)))
    assert reader.info.multiply_adds == 9_478_720  # quicknet_xs


def test_sha256_is_the_one_of_the_standard(reader: Reader, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(300)
    plain = build(tmp_path, "-DQN_PORTABLE_ONLY")
    for length in range(len(data)):
        expected = hashlib.sha256(data[:length]).digest()
        assert reader.sha256(data[:length]) == plain.sha256(data[:length]) == expected, length


def test_truncated_at_every_length(reader: Reader, network: IntegerNetwork) -> None:
    blob = bare_file(network)
    for length in range(len(blob)):
        assert reader(blob[:length]) in (("MAGIC",) if length < 8 else ("LENGTH",)), length
    assert reader(blob + b"\0") == "LENGTH"


def test_every_byte_flipped_is_noticed_and_its_section_named(reader: Reader, network: IntegerNetwork) -> None:
    blob = bytearray(bare_file(network))
    sections = read_sections(bytes(blob), "a file")
    for index in range(len(blob)):
        blob[index] ^= 1 << index % 8
        result = reader(bytes(blob))
        assert result != "OK", index
        for kind, section in sections.items():
            if section.offset <= index < section.offset + section.size_bytes:
                assert result == f"HASH {kind}", index
        blob[index] ^= 1 << index % 8


TABLE_LIES: dict[str, tuple[Callable[[bytearray], None], str]] = {
    "major version": (lambda b: struct.pack_into("<H", b, 8, 3), "VERSION"),
    "major version of coded numbers": (lambda b: struct.pack_into("<H", b, 8, 2), "TABLE TENS"),
    "no section": (lambda b: struct.pack_into("<I", b, 12, 0), "TABLE"),
    "4 billion sections": (lambda b: struct.pack_into("<I", b, 12, 2**32 - 1), "TABLE"),
    "more sections than bytes": (lambda b: struct.pack_into("<I", b, 12, 64), "LENGTH"),
    "length": (lambda b: struct.pack_into("<Q", b, 16, 2**63), "LENGTH"),
    "zeros of the header": (lambda b: struct.pack_into("<B", b, 31, 1), "TABLE"),
    "kind": (lambda b: struct.pack_into("<4s", b, 32, b"XTRA"), "TABLE XTRA"),
    "letters": (lambda b: struct.pack_into("<4s", b, 32, b"CA\0D"), "TABLE"),
    "doubled": (lambda b: struct.pack_into("<4s", b, 96, b"CARD"), "TABLE CARD"),
    "flags": (lambda b: struct.pack_into("<I", b, 36, 2), "TABLE CARD"),
    "zeros of an entry": (lambda b: struct.pack_into("<B", b, 95, 1), "TABLE CARD"),
    "overlap": (lambda b: struct.pack_into("<Q", b, 104, 0), "TABLE NETW"),
    "offset past the end": (lambda b: struct.pack_into("<Q", b, 104, 2**64 - 1), "TABLE NETW"),
    "length that wraps": (lambda b: struct.pack_into("<Q", b, 112, 2**64 - 1), "LENGTH NETW"),
    "hole at the end": (lambda b: struct.pack_into("<Q", b, 176, 0), "LENGTH"),
}


@pytest.mark.parametrize("lie", TABLE_LIES)
def test_a_table_that_lies(reader: Reader, network: IntegerNetwork, lie: str) -> None:
    blob = bytearray(bare_file(network))
    change, expected = TABLE_LIES[lie]
    change(blob)
    assert reader(bytes(blob)) == expected
    assert not python_takes(bytes(blob))


def test_sections_unknown_but_skippable_and_newer_minor_versions_are_taken(
    reader: Reader, network: IntegerNetwork
) -> None:
    netw, tens = encode_network(network)
    sections = {"XTRA": b"new", "CARD": b"", "TENS": tens, "NETW": netw}
    assert reader(pack_sections(sections, skippable=["XTRA", "NETW"])) == "OK"
    sections.pop("CARD")
    assert reader(pack_sections(sections, skippable=["XTRA"])) == "TABLE CARD"
    assert reader(pack_sections({"CARD": bytes((4 << 20) + 1), "NETW": netw, "TENS": tens})) == "LENGTH CARD"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_lying_shapes_with_right_hashes(reader: Reader, network: IntegerNetwork, data: st.DataObject) -> None:
    netw, tens = encode_network(network)
    changed = bytearray(netw)
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(netw) - 1))
        changed[at] = data.draw(st.sampled_from([0, 1, 2, 3, 4, 5, 127, 128, 255]) | st.integers(0, 255))
    blob = sealed(bytes(changed), tens)
    result = reader(blob)
    assert (result == "OK") == python_takes(blob)
    assert result in ("OK", "SHAPE NETW", "LENGTH TENS", "BOUNDS TENS")


def test_sizes_of_gigabytes_are_refused_at_once(reader: Reader) -> None:
    layer = struct.pack("<BBBBHBBBBBB4x", 2, 3, 1, 0, 8192, 1, 0, 0, 255, 0, 255)
    stem = struct.pack("<BBBBHBBBBBB4x", 1, 11, 8, 0, 8192, 1, 0, 0, 255, 0, 0)
    for layers, classes in ((1, 100_000), (512, 1), (513, 1)):
        netw = struct.pack("<HBBHHII", 1024, 4, 0, layers, 0, classes, 0) + stem + layer * (layers - 1)
        start = time.perf_counter()
        assert reader(sealed(netw, b"")) in ("SHAPE NETW", "LENGTH TENS")
        assert time.perf_counter() - start < 0.1


def test_weights_outside_the_bounds(reader: Reader, network: IntegerNetwork) -> None:
    """Each bound: taken at it, refused one beyond, by both readers."""
    first = network.blocks[0]
    multipliers = np.full(len(first.output.positive), -32768, np.int16)
    bad = [
        replace(network, stem=replace(network.stem, weight=np.full_like(network.stem.weight, -128))),
        replace(network, weight=np.full_like(network.weight, 32767), bias=np.full_like(network.bias, 2**31 - 1)),
        with_block(network, weight=np.full_like(first.weight, 65)),
        with_block(network, bias=np.full_like(first.bias, 2**31 - 1), weight=np.full_like(first.weight, 1)),
        with_block(network, depthwise=np.full_like(first.depthwise, 127)),
        with_block(network, multiplier=np.full_like(first.multiplier, -1)),
        with_block(network, output=replace(first.output, negative=multipliers)),
        with_block(network, output=replace(first.output, positive=multipliers)),
    ]
    for changed in bad:
        blob = sealed(*encode_network(changed))
        assert reader(blob) == "BOUNDS TENS"
        assert not python_takes(blob)


def with_block(network: IntegerNetwork, **changes: Any) -> IntegerNetwork:
    return replace(network, blocks=(replace(network.blocks[0], **changes), *network.blocks[1:]))


@settings(max_examples=150, deadline=None)
@given(networks(), st.integers(0, 2**32 - 1))
def test_numbers_at_random_places_moved_over_the_bound(reader: Reader, network: IntegerNetwork, seed: int) -> None:
    """Extreme networks lie at their bounds: a byte more here or there breaks one or does not, for both readers."""
    rng = np.random.default_rng(seed)
    netw, tens = encode_network(network)
    changed = bytearray(tens)
    for at in rng.integers(0, len(tens), rng.integers(1, 4)):
        changed[at] = (changed[at] + rng.choice((-1, 1, 128))) % 256
    blob = sealed(netw, bytes(changed))
    assert (reader(blob) == "OK") == python_takes(blob)


def test_the_largest_files_are_read_in_a_second(reader: Reader) -> None:
    """64 MB here: the reader's time is the file's bytes', and 512 MiB are 8 times as many."""
    network = random_network(np.random.default_rng(0), side=16, kernel=11, stride=8, stem=8192, blocks=())
    wide = replace(network, weight=np.zeros((3900, 8192), np.int16), bias=np.zeros(3900, np.int32))
    blob = bare_file(wide)
    start = time.perf_counter()
    assert reader(blob) == "OK"
    assert time.perf_counter() - start < 1


FUZZ = ("fuzz.c", *READER)
SANITIZE = ("-g", "-O1", "-fno-sanitize-recover=all")


@pytest.fixture
def corpus(tmp_path: Path) -> list[Path]:
    """Small files of several shapes, usual and extreme, plain and coded."""
    (tmp_path / "corpus").mkdir()
    paths = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        network = pruned(random_network(rng, extreme=seed % 2 == 1, **SMALL), rng)
        paths.append(tmp_path / "corpus" / f"{seed}.qnz")
        paths[-1].write_bytes(bare_file(network, coding=seed % 3))
    return paths


def fuzz(folder: Path, corpus: list[Path], seconds: int, sources: Sequence[str | Path], *flags: str) -> int:
    """Fuzz with the mutator of our own, under gcc's sanitizers; return the number of inputs."""
    flags = (*SANITIZE, "-DQN_FUZZ_MAIN", "-fsanitize=address,undefined", "-pthread", *flags)
    program = compile_c(folder / "own", sources, *flags, compiler=tool("gcc", "cc"))
    return int(run(program, str(seconds), "1", *corpus, timeout_s=seconds + 60).split()[0])


def test_fuzzed_for_three_seconds(tmp_path: Path, corpus: list[Path]) -> None:
    assert fuzz(tmp_path, corpus, 3, FUZZ) > 1000


@pytest.mark.slow
def test_what_the_reader_takes_the_engine_runs(tmp_path: Path, corpus: list[Path]) -> None:
    """A minute; every instruction set gives the same logits for whatever the mutator makes."""
    assert fuzz(tmp_path, corpus, 60, ["fuzz.c", *engine_sources()], "-DQN_FUZZ_ENGINE") > 1000


@pytest.mark.slow
def test_fuzzed_by_libfuzzer_for_a_minute(tmp_path: Path, corpus: list[Path]) -> None:
    clang = tool("clang")
    try:
        program = compile_c(tmp_path / "lib", FUZZ, *SANITIZE, "-fsanitize=fuzzer,address,undefined", compiler=clang)
    except AssertionError:
        pytest.skip("clang is here without its fuzzing runtime (libclang-rt-dev)")
    assert run(program, "-max_total_time=60", "-max_len=4096", "-seed=1", corpus[0].parent, timeout_s=120) == ""
