"""A `.qnz` holds a network and its card whole, and answers the same by every runtime."""

import json
import threading
import zlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quicknet
from networks import Block, network_card, networks, random_images, random_network
from quicknet import engine
from quicknet.core import options
from quicknet.core.card import IntegerRecord, card_from_dict
from quicknet.core.errors import ConfigError, DataError, FormatError, ToolError
from quicknet.core.files import sha256_bytes
from quicknet.core.options import MOST_THREADS
from quicknet.image.vectors import draw_vectors
from quicknet.inference.classifier import Classifier
from quicknet.qnz import reference
from quicknet.qnz.container import pack_sections
from quicknet.qnz.encoding import decode_network, encode_coded, encode_network
from quicknet.qnz.file import CODINGS, QnzClassifier, assemble_qnz, looks_like_qnz, parse_qnz, read_qnz
from quicknet.qnz.implementations import implementations
from quicknet.qnz.network import IntegerNetwork

GOLDEN = Path(__file__).parents[1] / "golden"
HERE = Path("here.qnz")
NETWORK = random_network(np.random.default_rng(7), side=24, blocks=(Block(33, sums=2), Block(20, pool=True, kernel=5)))


def leaves(value: Any) -> Iterator[Any]:
    """Yield every number and array of a network, in order."""
    if is_dataclass(value):
        for field in fields(value):
            yield from leaves(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def same(a: IntegerNetwork, b: IntegerNetwork) -> bool:
    first, second = list(leaves(a)), list(leaves(b))
    return len(first) == len(second) and all(
        np.array_equal(x, y) and getattr(x, "dtype", type(x)) == getattr(y, "dtype", type(y))
        for x, y in zip(first, second, strict=True)
    )


# --- bytes ---------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(networks())
def test_a_network_survives_its_bytes(network: IntegerNetwork) -> None:
    netw, tens = encode_network(network)
    actual = decode_network(memoryview(netw), memoryview(tens), "here")
    assert same(actual, network)
    assert encode_network(actual) == (netw, tens)


@settings(max_examples=25, deadline=None)
@given(networks().filter(lambda network: network.channels != 2 and len(network.weight) <= 100), st.text(max_size=20))
def test_a_file_survives(network: IntegerNetwork, notes: str) -> None:
    card = network_card(network, notes=notes)
    blob = assemble_qnz(network, card)
    file = parse_qnz(blob, HERE)
    assert same(file.network, network)
    assert file.card == card.replace(weights_sha256=file.weights_sha256)
    assert assemble_qnz(file.network, file.card) == blob
    assert file.sha256 == sha256_bytes(blob)
    netw, tens = encode_network(network)
    assert file.weights_sha256 == sha256_bytes(netw + tens)
    assert [(section.kind, section.size_bytes) for section in file.sections][1:] == [
        ("NETW", len(netw)),
        ("TENS", len(tens)),
    ]


def test_what_a_newer_minor_version_adds_to_the_card_is_passed_on() -> None:
    card = card_from_dict({**network_card(NETWORK).to_dict(), "watermark": [1]}, "here")
    assert parse_qnz(assemble_qnz(NETWORK, card), HERE).card.to_dict()["watermark"] == [1]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"integer": None}, "does not describe an integer network"),
        ({"integer": IntegerRecord(bits="w7a8", logit_scale=0.0)}, "logit scale 0.0 is not a positive number"),
        ({"integer": IntegerRecord(bits="w7a8", logit_scale=float("nan"))}, "logit scale nan"),
        (
            {"classes": ("a", "b")},
            "names 2 classes and images of 24 pixels and 3 channels, the network has 10, 24 and 3",
        ),
    ],
)
def test_a_card_of_another_network_is_not_written(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(FormatError, match=text):
        assemble_qnz(NETWORK, network_card(NETWORK).replace(**changes))


def test_a_network_outside_its_bounds_is_not_written() -> None:
    network = random_network(np.random.default_rng(0))
    network.stem.weight[0, 0, 0, 0] = -128
    with pytest.raises(FormatError, match=r"the stem's weights reach -128, below -127 \(the network to write\)"):
        assemble_qnz(network, network_card(NETWORK))


# --- running it ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qnz") / "a network.qnz"
    path.write_bytes(assemble_qnz(NETWORK, network_card(NETWORK)))
    return path


@pytest.fixture(params=["engine", "engine-portable", "reference"])
def runtime(request: pytest.FixtureRequest) -> str:
    if request.param != "reference" and not engine.available():
        pytest.skip(engine.status())
    return str(request.param)


IMAGES = random_images(np.random.default_rng(1), NETWORK, 9)


def test_every_runtime_answers_alike(runtime: str, path: Path) -> None:
    model = QnzClassifier(path, runtime, threads=1)
    _: Classifier = model  # by mypy
    assert (model.runtime, model.threads, model.source) == (runtime, 1, path)
    assert model.status
    expected = reference.run(NETWORK, IMAGES)
    for count in (0, 1, 2, 9):
        actual = model.integer_logits(IMAGES[:count])
        assert (actual.shape, actual.dtype) == ((count, 10), np.int32)
        assert np.array_equal(actual, expected[:count])
    assert np.array_equal(model.integer_logits(IMAGES[::2, :, ::-1]), reference.run(NETWORK, IMAGES[::2, :, ::-1]))
    logits = model.logits(IMAGES)
    assert logits.dtype == np.float32
    assert np.array_equal(logits, expected.astype(np.float32) * np.float32(2.0**-10))


def test_answers_are_the_callers_own(runtime: str, path: Path) -> None:
    model = QnzClassifier(path, runtime)
    first = model.integer_logits(IMAGES[:1])
    kept = first.copy()
    model.integer_logits(IMAGES[1:2])
    assert np.array_equal(first, kept)


def test_a_machine_of_many_cores_runs_on_as_many_as_the_engine_takes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "usable_cores", lambda: 384)
    assert QnzClassifier(path).threads == MOST_THREADS
    assert "reference" in implementations(read_qnz(path), 384)
    with pytest.raises(ConfigError, match=r"threads 300 must lie in 1\.\.256"):
        QnzClassifier(path, threads=300)


def test_threads_share_one_classifier(runtime: str, path: Path) -> None:
    model = QnzClassifier(path, runtime, threads=1)
    expected = reference.run(NETWORK, IMAGES)
    good = []

    def work(offset: int) -> None:
        order = [(i + offset) % 9 for i in range(18)]
        good.append(all(np.array_equal(model.integer_logits(IMAGES[i : i + 1]), expected[i : i + 1]) for i in order))

    threads = [threading.Thread(target=work, args=(2 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 4


def test_images_of_another_kind_are_refused(runtime: str, path: Path) -> None:
    model = QnzClassifier(path, runtime)
    images: Any
    for images in (np.zeros((1, 24, 24, 4), np.uint8), np.zeros((1, 24, 24, 3)), np.zeros((24, 24, 3), np.uint8)):
        with pytest.raises(DataError, match="takes uint8 images"):
            model.integer_logits(images)


def test_load_opens_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QUICKNET_RUNTIME may name what runs another kind of file, as it does in these tests."""
    monkeypatch.setenv("QUICKNET_RUNTIME", "onnxruntime")
    model = quicknet.load(path)
    assert isinstance(model, QnzClassifier)
    assert model.runtime == ("engine" if engine.available() else "reference")
    monkeypatch.setenv("QUICKNET_RUNTIME", "reference")
    model = quicknet.load(path, threads=2)
    assert isinstance(model, QnzClassifier) and model.runtime == "reference"
    monkeypatch.setenv("QUICKNET_RUNTIME", "engin")
    with pytest.raises(ConfigError, match=r"no runtime called 'engin' runs a \.qnz; use auto, engine"):
        quicknet.load(path)
    with pytest.raises(ConfigError, match="no runtime called 'onnxruntime' runs"):
        quicknet.load(path, runtime="onnxruntime")


def test_without_an_engine_the_reference_runs_and_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUICKNET_RUNTIME", raising=False)
    monkeypatch.setattr(engine, "available", lambda: False)
    monkeypatch.setattr(engine, "status", lambda: "engine: no C compiler")
    model = QnzClassifier(path)
    assert model.runtime == "reference"
    assert "numpy's reference, many times slower" in model.status
    assert "no C compiler" in model.status
    with pytest.raises(ToolError, match=r"engine-portable is not available \(engine: no C compiler\)"):
        QnzClassifier(path, "engine-portable")


def test_what_the_engine_refuses_is_named_with_its_place(runtime: str, tmp_path: Path) -> None:
    """An engine checks the bounds by itself; the message is the reader's, by section and layer."""
    netw, tens = encode_network(NETWORK)
    damaged = bytearray(tens)
    damaged[0] = 0x80  # −128
    card = network_card(NETWORK).to_json().encode()
    bad = tmp_path / "bad.qnz"
    bad.write_bytes(pack_sections({"CARD": card, "NETW": netw, "TENS": bytes(damaged)}))
    with pytest.raises(FormatError, match=r"the stem's weights reach -128.*bad\.qnz, section TENS"):
        QnzClassifier(bad, runtime)


# --- files that stay -----------------------------------------------------------------------

# name → sha256: bytes and logits may change only with a version of the format
GOLDENS = {
    "usual.qnz": "aeefd06581ecf2ec84f7b904f154e879f4d2382197a85b14fd5d095b4a26f26e",
    "mixed.qnz": "6109c18daf80a0b4a4e468d8b9a1af33aea9edd4128a3312853e4607d0833d7e",
    "huffman.qnz": "c8c96c755c54accce1bafd4fc8b1590700eac86ae1733c85c66c0f1e742c5799",
    "contexts.qnz": "baade9f9fc5f53773758927dee352b2580259975ceab77fab7d082c756256365",
    "compressed-card.qnz": "74ee19b084ff3e850b5b362d7d25a64afcdcdc65361c56d9fab7d4abbe8a425c",
}


def test_every_golden_file_is_known() -> None:
    assert {file.name for file in GOLDEN.glob("*.qnz")} == set(GOLDENS)
    assert GOLDENS


@pytest.mark.parametrize("name", GOLDENS)
def test_a_golden_file_reads_writes_and_answers_as_ever(name: str, runtime: str) -> None:
    assert looks_like_qnz((GOLDEN / name).read_bytes())
    file = read_qnz(GOLDEN / name)
    assert file.sha256 == GOLDENS[name]
    card = file.sections[0]  # a later minor version may write the same card with more fields
    assert card.kind == ("CARZ" if name == "compressed-card.qnz" else "CARD")
    assert file.coding == ("huffman" if name == "huffman.qnz" else "contexts" if file.blob[8] == 2 else "none")
    if file.coding == "none":
        netw, tens = encode_network(file.network)
        assert pack_sections({card.kind: bytes(card.data), "NETW": netw, "TENS": tens}) == file.blob
    else:
        netw, code = encode_coded(file.network, CODINGS[file.coding])
        assert pack_sections({card.kind: bytes(card.data), "NETW": netw, "CODE": code}) == file.blob
    images = draw_vectors(file.network.side, file.network.channels)
    text = bytes(card.data) if card.kind == "CARD" else zlib.decompress(card.data[4:])
    expected = json.loads(text)["vectors"]["integers"]
    assert len(expected) == 16
    assert QnzClassifier(GOLDEN / name, runtime).integer_logits(images).tolist() == expected
