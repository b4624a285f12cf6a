"""A card that costs more to parse than it is worth, in every file that carries one: under a second and 64 MB."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from networks import Block, network_card, random_network
from quicknet.core.card import LIMIT_BYTES, Card
from quicknet.core.errors import FormatError
from quicknet.qnz.container import pack_sections
from quicknet.qnz.encoding import encode_coded, encode_network
from quicknet.qnz.format import CARZ_HEADER, CONTEXTS

ROOT = Path(__file__).resolve().parents[2]
NETWORK = random_network(
    np.random.default_rng(0), side=16, channels=1, classes=2, stem=3, kernel=3, stride=2, blocks=(Block(5),)
)
CARD = network_card(NETWORK)


def with_extra(value: bytes) -> bytes:
    """Return the card's text with one field more, which a newer minor version might have."""
    return json.dumps(CARD.to_dict()).encode()[:-1] + b', "more": ' + value + b"}"


def repeated(item: bytes, size_bytes: int) -> bytes:
    return b"[" + b",".join([item] * (size_bytes // (len(item) + 1))) + b"]"


MANY, FULL = 16 << 20, LIMIT_BYTES - (1 << 14)
TEXTS = {
    "16 MiB of lists": with_extra(repeated(b"[]", MANY)),
    "lists up to the limit": with_extra(repeated(b"[]", FULL)),
    "objects": with_extra(repeated(b'{"ab":1}', FULL)),
    "as many objects as may be": with_extra(repeated(b'{"ab":1}', 130_000 * 9)),
    "as many keys as may be": with_extra(
        b"{" + b",".join(b'"key %d":%d.5' % (i, i) for i in range(180_000)) + b"}"  # up to the limit of bytes
    ),
    "one wide string": with_extra(b'"' + b"x" * (FULL - 10) + "\U0001f600".encode() + b'"'),
    "depth": with_extra(b"[" * 2_000_000 + b"]" * 2_000_000),
    "numbers": with_extra(repeated(b"1.5e3", 260_000 * 6)),
    "a number of four million digits": with_extra(b"1" * FULL),
    "classes": json.dumps({**CARD.to_dict(), "classes": [f"class {i}" for i in range(200_000)]}).encode(),
}

_READ = """
import sys, time
from pathlib import Path
from quicknet.core.card import read_card
from quicknet.core.errors import FormatError
from quicknet.onnx.file import read_onnx
from quicknet.qnz.file import read_qnz

def peak_bytes():
    # not getrusage, which starts with the parent's peak
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

path = Path(sys.argv[1])
read = {".json": read_card, ".onnx": read_onnx, ".qnz": read_qnz}[path.suffix]
before, started = peak_bytes(), time.process_time()
try:
    read(path)
    said = "read"
except FormatError as error:
    said = str(error)
print(time.process_time() - started, peak_bytes() - before, said)
"""


def coded_file(card: bytes) -> bytes:
    netw, code = encode_coded(NETWORK, CONTEXTS)
    carz = CARZ_HEADER.pack(len(card)) + zlib.compress(card)
    return pack_sections({"CARZ": carz, "NETW": netw, "CODE": code})


def onnx_file(card: bytes) -> bytes:
    import onnx
    from onnx import helper

    model = helper.make_model(helper.make_graph([], "g", [], []), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    model.metadata_props.add(key="quicknet.card", value=card.decode())
    assert isinstance(model, onnx.ModelProto)
    return bytes(model.SerializeToString())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process's peak memory")
@pytest.mark.parametrize("kind", TEXTS)
def test_a_hostile_card_costs_little(kind: str, tmp_path: Path) -> None:
    text = TEXTS[kind]
    netw, tens = encode_network(NETWORK)
    files = {
        "card.json": text,
        "model.qnz": pack_sections({"CARD": text, "NETW": netw, "TENS": tens}),
        "coded.qnz": coded_file(text),
        "model.onnx": onnx_file(text),
    }
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    for name, blob in files.items():
        (tmp_path / name).write_bytes(blob)
        done = subprocess.run(
            [sys.executable, "-c", _READ, str(tmp_path / name)], capture_output=True, text=True, check=True, env=env
        )
        seconds, peak_bytes, said = done.stdout.split(" ", 2)
        assert len(said.splitlines()) == 1
        assert said == "read\n" or name in said
        assert float(seconds) < 1, (name, done.stdout[:200])
        assert int(peak_bytes) < 64 << 20, (name, done.stdout[:200])


def test_a_card_that_nobody_could_read_is_not_written() -> None:
    card: Card = CARD.replace(notes="x" * LIMIT_BYTES)
    with pytest.raises(FormatError, match=r"the card would be 4,1.* over the limit of 4,194,304; use fewer classes"):
        card.to_json()
