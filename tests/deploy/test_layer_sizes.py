"""The table of layers that `compress` prints: its figures are the file's, and add up to it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from networks import Block, network_card, pruned, random_network
from quicknet.cli.compress import _print
from quicknet.deploy.compress.settings import Compressed
from quicknet.deploy.compress.size import blocks_kept, code_sizes, kept_weights, layer_sizes
from quicknet.qnz.coding.encode import layer_bits
from quicknet.qnz.encoding import encode_coded
from quicknet.qnz.file import CODINGS, QnzFile, assemble_qnz, parse_qnz, read_qnz
from quicknet.qnz.format import CODE, CODE_HEADER, CODED_BLOCK, CONTEXTS, HUFFMAN
from quicknet.report.path import render_path

RESULT = Path(__file__).resolve().parents[2] / "results" / "0048-compressed-s-again" / "quicknet_s.qnz"
STATE_BYTES = 4


def small_file(coding: Any) -> QnzFile:
    rng = np.random.default_rng(7)
    network = random_network(rng, side=16, stem=48, classes=3, blocks=(Block(70), Block(33), Block(64)))
    network = pruned(network, rng, 0.3)
    return parse_qnz(assemble_qnz(network, network_card(network), coding), Path("small.qnz"))


@pytest.mark.parametrize("coding", ["huffman", "contexts", "result"])
def test_layers_tables_and_the_rest_are_the_file(coding: str) -> None:
    file = read_qnz(RESULT) if coding == "result" else small_file(coding)
    layers = layer_sizes(file.network, CODED_BLOCK, coding=file.coding)
    tables = sum(layer.tables for layer in layer_bits(file.network, CODINGS[file.coding])) / 8
    code = next(section.size_bytes for section in file.sections if section.kind == CODE)
    rest = len(file.blob) - code + CODE_HEADER.size  # card, shape, table of sections, digests
    rest += STATE_BYTES if file.coding == "contexts" else 0
    total = sum(layer.bytes_coded for layer in layers) + tables + rest
    assert abs(total - len(file.blob)) < 0.5 * len(layers) + 4
    assert sum(layer.bytes_coded for layer in layers) < code


def test_weights_and_places_take_what_the_coder_writes() -> None:
    file = small_file("huffman")
    for layer, parts in zip(
        layer_sizes(file.network, CODED_BLOCK, coding="huffman"), layer_bits(file.network, HUFFMAN), strict=True
    ):
        assert layer.kept * layer.coded_bits == pytest.approx(parts.values)
        assert layer.kept * layer.coded_index_bits == pytest.approx(parts.places)
        assert layer.bytes_coded == round((parts.values + parts.places + parts.others) / 8)
        assert bool(parts.places) == ("pointwise" in layer.name)


def test_every_layer_has_its_weights_of_the_run_and_its_time() -> None:
    network = small_file("contexts").network
    count = len(layer_sizes(network, CODED_BLOCK))
    layers = layer_sizes(network, CODED_BLOCK, range(1, count + 1), [0.5] * count)
    assert [layer.weights for layer in layers] == list(range(1, count + 1))
    assert {layer.time_share for layer in layers} == {0.5}


def test_a_block_at_the_end_of_a_row_is_short() -> None:
    weight = np.zeros((2, 9), np.int8)
    weight[0, 3], weight[1, 8] = 5, 7
    assert kept_weights(weight, 4).sum(1).tolist() == [4, 1]
    assert blocks_kept(weight, 4).tolist() == [[True, False, False], [False, False, True]]


def test_both_codings_stand_beside_the_entropy() -> None:
    sizes = {coding: code_sizes(small_file(coding)) for coding in ("none", "huffman", "contexts")}
    assert sizes["none"] == sizes["huffman"] == sizes["contexts"]
    network = small_file("none").network
    assert sizes["none"].contexts_bytes == len(encode_coded(network, CONTEXTS)[1])
    assert sizes["none"].huffman_bytes == len(encode_coded(network, HUFFMAN)[1])
    trained = code_sizes(read_qnz(RESULT))
    assert trained.entropy_bytes < trained.contexts_bytes < 1.03 * trained.entropy_bytes
    assert trained.contexts_bytes < trained.huffman_bytes < 1.15 * trained.entropy_bytes
    assert trained.contexts_bytes == 116_014  # record.json


def test_the_command_and_the_page_show_the_same(capsys: Any) -> None:
    file = small_file("contexts")
    compressed = compressed_of(file)
    _print(compressed)
    said = capsys.readouterr().out
    page = render_path(json.loads(json.dumps(compressed.to_dict())))
    sizes = code_sizes(file)
    for text in (said, page):
        assert all(f"{count:,}" in text for count in sizes)
    share = f"{100 * compressed.layers[0].bytes_coded / len(file.blob):.1f}%"
    assert share in said and share in page


def compressed_of(file: QnzFile) -> Compressed:
    """Return what `compress` says of a file, with nothing measured."""
    return Compressed(
        path=str(file.path),
        format="qnz",
        bits="w5a8",
        pattern="block",
        density=0.3,
        epochs=0,
        qat_epochs=0.0,
        sha256=file.sha256,
        weights_sha256=file.weights_sha256,
        size_bytes=len(file.blob),
        dense_bytes=4 * 10_000,
        speed=None,
        runtimes=(),
        compared=(),
        layers=layer_sizes(file.network, CODED_BLOCK, coding=file.coding),
        **code_sizes(file)._asdict(),
        sensitivity=(),
        points=(),
        paper=None,
    )
