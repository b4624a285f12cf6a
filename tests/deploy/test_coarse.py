"""Integers with few low bits set: valid whatever the network, near it, and shorter when they are coded."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings

from networks import Block, networks, random_network
from quicknet.deploy.export import load_run_data
from quicknet.deploy.fold import fold
from quicknet.deploy.quantize import Quantized, quantize
from quicknet.deploy.quantize.coarse import coarsen
from quicknet.qnz import reference
from quicknet.qnz.bounds import check_network, shape_of
from quicknet.qnz.encoding import encode_coded
from quicknet.qnz.format import CONTEXTS, INT32_MAX
from quicknet.qnz.network import IntegerNetwork
from quicknet.training.checkpoint import TorchClassifier


def coarse(network: IntegerNetwork) -> IntegerNetwork:
    return coarsen(Quantized(network, 1.0)).network


@settings(max_examples=60, deadline=None)
@given(networks())
def test_every_network_stays_within_the_bounds(network: IntegerNetwork) -> None:
    changed = coarse(network)
    check_network(changed)
    if changed is network:
        return
    pairs: list[Any] = [(network.stem, changed.stem), *zip(network.blocks, changed.blocks, strict=True)]
    for before, after in pairs:
        assert np.array_equal(before.weight, after.weight)
        for numbers, rounded in (
            (before.output.positive, after.output.positive),
            (before.output.negative, after.output.negative),
        ):
            exact, size = numbers.astype(np.int64), np.abs(rounded.astype(np.int64))
            assert (np.abs(exact - rounded) <= np.abs(exact) / 64).all()
            lowest = size & -size
            assert (size < 128 * np.maximum(lowest, 1)).all()  # seven significant bits


def test_a_network_at_its_bounds_stays_as_it_is() -> None:
    network = random_network(np.random.default_rng(0), blocks=(Block(20), Block(9)))
    pixels, top = shape_of(network).sides()[-1] ** 2, network.blocks[-1].output.top
    weight = np.full_like(network.weight, 1007)  # to 1008
    bias = np.full_like(network.bias, INT32_MAX - pixels * top * 1007 * weight.shape[1])
    full = dataclasses.replace(network, weight=weight, bias=bias)
    check_network(full)
    assert coarse(full) is full
    assert coarse(dataclasses.replace(full, bias=bias // 2)) is not full


def test_the_file_is_shorter_and_answers_nearly_the_same(run_dir: Path, pictures: Path) -> None:
    parent, data = TorchClassifier(run_dir), load_run_data(run_dir, str(pictures), True)
    images = np.array(data.split("train").images)
    quantized = quantize(fold(parent.model, data.spec), images, "w5a8")
    network, changed = quantized.network, coarse(quantized.network)
    # a few hundred numbers, too few for the coder to learn much of which bits are zero
    assert len(encode_coded(changed, CONTEXTS)[1]) < 0.97 * len(encode_coded(network, CONTEXTS)[1])
    before, after = (reference.run(one, images).astype(np.float64) for one in (network, changed))
    assert np.abs(before - after).mean() < 0.1 * before.std()  # integers alone: 0.05
    assert (before.argmax(1) == after.argmax(1)).mean() >= 0.95
