"""CODE: what is written is read again, by Python and by the engine, number for number; and how small it is."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native import bare_file
from networks import Block, network_card, networks, pruned, random_images, random_network
from quicknet import engine
from quicknet.core.errors import FormatError
from quicknet.deploy.compress.size import blocks_kept, entropy, kept_weights
from quicknet.inference.artifact import open_artifact
from quicknet.qnz import reference
from quicknet.qnz.coding import sinks, sources
from quicknet.qnz.coding.encode import layer_bits
from quicknet.qnz.coding.model import CHANCES
from quicknet.qnz.coding.prefix import code_lengths, prefix_code
from quicknet.qnz.container import read_sections
from quicknet.qnz.encoding import decode_coded, encode_coded, encode_network
from quicknet.qnz.file import QnzClassifier, assemble_qnz, parse_qnz, read_qnz
from quicknet.qnz.format import CODE_HEADER, CODED_BLOCK, CONTEXTS, HUFFMAN, MAX_CODE_BITS
from quicknet.qnz.network import IntegerNetwork

CODINGS = (HUFFMAN, CONTEXTS)
HERE = Path("here.qnz")
RESULTS = Path(__file__).resolve().parents[2] / "results"
SMALL: dict[str, Any] = {
    "side": 16,
    "stem": 6,
    "classes": 3,
    "blocks": (Block(20, sums=4, pool=True), Block(7), Block(9)),
}


def check_round_trip(network: IntegerNetwork, coding: int) -> bytes:
    """Check that both readers give the network again; return CODE."""
    netw, tens = encode_network(network)
    same_netw, code = encode_coded(network, coding)
    assert same_netw == netw
    decoded, parts = decode_coded(memoryview(netw), memoryview(code), "here")
    assert encode_network(decoded) == (netw, tens)
    assert 0 <= 8 * len(code) - sum(parts) - 32 < 8
    if engine.available():
        numbers, bits = engine.decode(bare_file(network, coding), len(tens))
        assert (numbers.tobytes(), bits) == (tens, parts)
    return code


# --- whole networks ------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(networks(), st.integers(0, 2**32 - 1), st.sampled_from(CODINGS))
def test_every_network_comes_back(network: IntegerNetwork, seed: int, coding: int) -> None:
    check_round_trip(pruned(network, np.random.default_rng(seed)), coding)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("value", [0, 1, -3, 127])
def test_layers_of_one_value(coding: int, density: float, value: int) -> None:
    """Empty rows, full rows, one block, none; a table with a single symbol, and one that holds on."""
    rng = np.random.default_rng(3)
    network = random_network(rng, **SMALL)
    blocks = (replace(block, weight=np.full_like(block.weight, value)) for block in network.blocks)
    check_numbers_only(pruned(replace(network, blocks=tuple(blocks)), rng, density), coding)


def check_numbers_only(network: IntegerNetwork, coding: int) -> None:
    """As check_round_trip, for networks beyond the bounds of sums: which readers refuse after decoding."""
    netw, tens = encode_network(network)
    code = encode_coded(network, coding)[1]
    try:
        assert encode_network(decode_coded(memoryview(netw), memoryview(code), "here")[0]) == (netw, tens)
    except FormatError as error:
        assert "layer" in str(error) and "over" in str(error)


@pytest.mark.parametrize("coding", CODINGS)
def test_extreme_numbers(coding: int) -> None:
    network = random_network(np.random.default_rng(1), **SMALL)
    head = np.array([[-32768, 32767, 0] * 3, [1, -1, 0] * 3, [2, -2, 255] * 3], np.int16)
    check_round_trip(replace(network, weight=head, bias=np.array([-(2**31) + 2**30, 2**30, 0], np.int32)), coding)


@pytest.mark.parametrize("coding", CODINGS)
def test_equal_networks_give_equal_bytes(coding: int) -> None:
    first, second = (encode_coded(random_network(np.random.default_rng(2), **SMALL), coding) for _ in range(2))
    assert first == second


def test_pruned_networks_are_smaller_by_contexts_than_by_huffman() -> None:
    rng = np.random.default_rng(0)
    network = pruned(random_network(rng, side=16, stem=64, blocks=(Block(128), Block(128))), rng, 0.2)
    plain, huffman, contexts = (len(bare_file(network, coding)) for coding in (0, HUFFMAN, CONTEXTS))
    assert contexts < huffman < 0.5 * plain


def test_a_network_of_nothing_is_written_without_coding() -> None:
    """Readers take a megabyte from few bytes; not what only an attacker would write."""
    network = random_network(np.random.default_rng(0), side=16, stem=1024, kernel=1, stride=8, blocks=(Block(1024),))
    empty = pruned(network, np.random.default_rng(0), 0.0)
    check_round_trip(empty, CONTEXTS)  # the other numbers are there


# --- how many bits it takes ----------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(networks(), st.integers(0, 2**32 - 1), st.sampled_from(CODINGS))
def test_the_bits_of_layers_are_those_of_the_section(network: IntegerNetwork, seed: int, coding: int) -> None:
    network = pruned(network, np.random.default_rng(seed))
    netw, code = encode_coded(network, coding)
    parts = decode_coded(memoryview(netw), memoryview(code), "here")[1]
    layers = layer_bits(network, coding)
    assert len(layers) == 2 * len(network.blocks) + 2
    total = sum(map(sum, layers))
    section = 8 * (len(code) - CODE_HEADER.size)
    if coding == HUFFMAN:
        assert total == sum(parts) and 0 <= section - total < 8
        assert sum(layer.tables for layer in layers) == parts.tables
        assert sum(layer.places for layer in layers) == parts.places
    else:  # the state has 32 bits, begins with a number of 17 and ends with one of 17 to 32
        assert abs(section - 24 - total) < 8 + 2 * len(layers) + 1e-3 * total
    assert all(not layer.places for layer in (*layers[:2], layers[-1]))


@pytest.mark.parametrize("name", ["0042-compressed-quicknet/quicknet", "0048-compressed-s-again/quicknet_s"])
def test_trained_weights_take_no_more_than_their_entropy_of_order_0(name: str) -> None:
    """The pointwise weights with the tables of all: by contexts 0.966 and 0.997 of it, by Huffman 1.018 and 1.040."""
    network = read_qnz(RESULTS / f"{name}.qnz").network
    weights = [block.weight for block in network.blocks]
    arrays = [weight[kept_weights(weight, CODED_BLOCK)] for weight in weights]
    places = [blocks_kept(weight, CODED_BLOCK) for weight in weights]
    bound = sum(entropy(array) * array.size for array in [*arrays, *places])
    shares = []
    for coding in (CONTEXTS, HUFFMAN):
        layers = layer_bits(network, coding)
        bits = sum(layer.places + layer.values for layer in layers[2:-1:2]) + sum(layer.tables for layer in layers)
        shares.append(bits / bound)
    assert 0.9 < shares[0] < 1 < shares[1] < 1.05  # what was asked for: within 3% by one of them


# --- files ---------------------------------------------------------------------------------


@pytest.fixture(params=["engine", "engine-portable", "reference"])
def runtime(request: pytest.FixtureRequest) -> str:
    if request.param != "reference" and not engine.available():
        pytest.skip(engine.status())
    return str(request.param)


@pytest.fixture(params=["huffman", "contexts"])
def coding(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def network() -> IntegerNetwork:
    rng = np.random.default_rng(5)
    return pruned(random_network(rng, side=24, classes=4, blocks=(Block(33, sums=2), Block(20, pool=True))), rng, 0.3)


def test_a_coded_file_is_the_plain_one_but_for_its_bytes(network: IntegerNetwork, coding: Any, runtime: str) -> None:
    card = network_card(network)
    plain = parse_qnz(assemble_qnz(network, card), HERE)
    blob = assemble_qnz(network, card, coding)
    assert blob == assemble_qnz(network, card, coding)
    file = parse_qnz(blob, HERE)
    assert (plain.coding, file.coding) == ("none", coding)
    assert [section.kind for section in file.sections] == ["CARZ", "NETW", "CODE"]
    assert encode_network(file.network) == encode_network(plain.network) == encode_network(file.plain_network())
    assert file.weights_sha256 == plain.weights_sha256 == file.card.weights_sha256
    images = random_images(np.random.default_rng(0), network, 3)
    classifier = QnzClassifier(file, runtime)
    assert np.array_equal(classifier.integer_logits(images), reference.run(network, images))


def test_a_file_of_version_1_is_written_as_ever(network: IntegerNetwork) -> None:
    blob = assemble_qnz(network, network_card(network))
    assert blob[8:10] == b"\1\0" and list(read_sections(blob, "here")) == ["CARD", "NETW", "TENS"]


def test_a_coded_file_is_read_without_its_numbers_where_the_engine_decodes(
    network: IntegerNetwork, coding: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not engine.available():
        pytest.skip(engine.status())
    path = tmp_path / "coded.qnz"
    path.write_bytes(assemble_qnz(network, network_card(network), coding))
    monkeypatch.setattr("quicknet.engine.decode", None)
    classifier = QnzClassifier(path, "engine")
    images = random_images(np.random.default_rng(0), network, 3)
    assert np.array_equal(classifier.integer_logits(images), reference.run(network, images))


def test_inspect_tells_the_coding(network: IntegerNetwork, coding: Any, tmp_path: Path, capsys: Any) -> None:
    from quicknet.cli.main import run

    path = tmp_path / "coded.qnz"
    path.write_bytes(assemble_qnz(network, network_card(network), coding))
    assert open_artifact(path).intact
    assert run(["inspect", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["coding"]["name"] == coding
    assert sum(size for part, size in said["coding"].items() if part != "name") == (
        next(part["size_bytes"] for part in said["sections"] if part["kind"] == "CODE")
    )


# --- prefix codes --------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(0, 1 << 40) | st.integers(0, 3), min_size=1, max_size=255).filter(any))
def test_huffman_codes_are_whole_and_no_code_is_too_long(counts: list[int]) -> None:
    lengths = code_lengths(counts)
    assert [bool(length) for length in lengths] == [bool(count) for count in counts]
    assert max(lengths) <= MAX_CODE_BITS
    paths = prefix_code(lengths, "here").paths()
    assert sorted(paths) == [symbol for symbol, length in enumerate(lengths) if length]
    if len(paths) > 1:
        assert all(len(path) == lengths[symbol] for symbol, path in paths.items())
        assert sum(2.0**-length for length in lengths if length) == 1


def test_codes_are_canonical() -> None:
    paths = prefix_code([3, 1, 0, 3, 2], "here").paths()
    codes = {symbol: "".join(str(bit) for _, bit in path) for symbol, path in paths.items()}
    assert codes == {1: "0", 4: "10", 0: "110", 3: "111"}
    assert [node for node, _ in paths[3]] == [0, 1, 2]


def test_few_counts_like_fibonacci_are_cut_to_15_bits() -> None:
    counts = [1, 1]
    while len(counts) < 40:
        counts.append(counts[-1] + counts[-2])
    assert max(code_lengths(counts)) == MAX_CODE_BITS


@pytest.mark.parametrize(
    "lengths",
    [[0, 0], [1, 1, 1], [2, 2, 2], [1, 2], [2], [15], [1] * 255, [15] * 255, [1, 2, 3, 3, 3], [0, 2, 2, 2, 3]],
)
def test_lengths_of_no_code(lengths: list[int]) -> None:
    with pytest.raises(FormatError, match=r"prefix code.*\(here\)"):
        prefix_code(lengths, "here")


# --- decisions -----------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, CHANCES - 1) | st.integers(0, 3), st.integers(0, 1)), max_size=300))
def test_decisions_come_back(decisions: list[tuple[int, int]]) -> None:
    for sink, source in ((sinks.PlainSink, sources.PlainSource), (sinks.AdaptiveSink, sources.AdaptiveSource)):
        writer = sink()
        for index, (chance, bit) in enumerate(decisions):
            if index % 5:
                writer.decide(chance, bit)
            else:
                writer.plain(chance, 20)
        reader = source(memoryview(writer.finish()), "here")
        for index, (chance, bit) in enumerate(decisions):
            assert (reader.decide(chance), bit) == (bit, bit) if index % 5 else reader.plain(20) == chance
        reader.check_end()


def test_long_sections_are_read_in_little_memory() -> None:
    """Numbers that reach over the pieces come back, and a section takes no more memory than it is long."""
    writer = sinks.PlainSink()
    numbers = [(number * 7919) % (1 << 20) for number in range(40_000)]
    for number in numbers:
        writer.plain(number, 20)
    source = sources.PlainSource(memoryview(writer.finish()), "here")
    assert [source.plain(20) for _ in numbers] == numbers
    assert source.bits_read == 20 * len(numbers)
    source.check_end()
    section = memoryview(b"\x01" * (16 << 20))
    for kind in (sources.PlainSource, sources.AdaptiveSource):
        tracemalloc.start()
        kind(section, "here")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 << 20, kind  # a slice of the section is a copy at most


def test_long_runs_cost_next_to_nothing() -> None:
    """20,000 equal decisions: the chance goes to its end."""
    writer = sinks.AdaptiveSink()
    for _ in range(20_000):
        writer.decide(0, 1)
    assert len(writer.finish()) < 30  # 1 in 256 is the least chance that is reached


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01])
def test_a_coder_is_near_the_entropy(rate: float) -> None:
    bits = np.random.default_rng(0).random(40_000) < rate
    writer = sinks.AdaptiveSink()
    for bit in bits:
        writer.decide(0, int(bit))
    share = bits.mean()
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) * len(bits) / 8
    assert entropy < len(writer.finish()) < 1.01 * entropy + 20


def test_constriction_agrees_on_the_entropy_coder() -> None:
    """The maintained library codes the same decisions with the same chances in the same size."""
    constriction = pytest.importorskip("constriction")
    rng = np.random.default_rng(0)
    chances = rng.integers(1, 4096, 20_000) | 1
    bits = (rng.integers(0, 4096, len(chances)) >= chances).astype(np.int32)
    writer = sinks.AdaptiveSink()
    for chance, bit in zip(chances.tolist(), bits.tolist(), strict=True):
        writer._decisions.append(chance << 1 | bit)
    coder = constriction.stream.stack.AnsCoder()
    model = constriction.stream.model.Bernoulli(perfect=False)
    coder.encode_reverse(bits, model, 1 - chances / 4096)
    assert abs(len(writer.finish()) - coder.num_bits() / 8) < 40
