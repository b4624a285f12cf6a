"""What sparse pointwise kernels gain: images per second of pruned networks against the dense kernels, by density.

    python benchmarks/bench_sparse.py [--models quicknet quicknet_s] [--isas avx2] [--densities 0.1 0.2 0.3 0.4]
                                      [--rounds 60] [--layers 0.2] [--json] [--record]

The weights that ship, of which each pointwise layer keeps the blocks (one output channel, four
neighbouring inputs) of the largest norm; accuracy does not matter here. Batch 1, one thread, network
only. Dense and sparse kernels run the same file in turn (A B A B ...), timed by the thread's
processor time, which other processes lengthen less than the clock's; a ratio is the median of the
rounds' ratios. "chosen" counts the layers that run sparse by themselves; ratios have all of them
sparse that fit ("forced") and as chosen.

--layers D: each layer alone pruned to density D, all others as they ship and dense: how many
microseconds an image it saves, and its share of the dense network's time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quicknet import engine
from quicknet.core.machine import machine_card, versions
from quicknet.inference.shipped import locate
from quicknet.measure.timing import percentile
from quicknet.qnz.container import pack_sections
from quicknet.qnz.encoding import encode_network
from quicknet.qnz.file import read_qnz
from quicknet.qnz.network import IntegerNetwork
from quicknet.study.records import write_record

ROOT = Path(__file__).resolve().parent.parent
BURST_S = 0.02


def keep_blocks(weight: NDArray[np.int8], density: float) -> NDArray[np.int8]:
    """Return weights (O, C) without all but the share `density` of blocks of the largest norm; C % 4 == 0."""
    blocks = weight.reshape(-1, 4)
    norms = (blocks.astype(np.int64) ** 2).sum(1)
    kept = np.zeros(len(blocks), bool)
    kept[np.argsort(-norms, kind="stable")[: round(density * len(blocks))]] = True
    return np.where(kept[:, None], blocks, 0).astype(np.int8).reshape(weight.shape)


def prune(network: IntegerNetwork, density: float, only: int | None = None) -> IntegerNetwork:
    """Return the network with all separable layers pruned, or one of them."""
    blocks = tuple(
        block if only not in (None, index) else dataclasses.replace(block, weight=keep_blocks(block.weight, density))
        for index, block in enumerate(network.blocks)
    )
    return dataclasses.replace(network, blocks=blocks)


def file_of(network: IntegerNetwork) -> bytes:
    netw, tens = encode_network(network)
    return pack_sections({"CARD": b"{}", "NETW": netw, "TENS": tens})


def seconds(run: Callable[[], object]) -> float:
    """Return the processor time of one call, over about BURST_S."""
    start, calls = time.thread_time(), 0
    while (spent := time.thread_time() - start) < BURST_S or calls == 0:
        run()
        calls += 1
    return spent / calls


def compare(engines: list[engine.Engine], image: NDArray[np.uint8], rounds: int) -> list[list[float]]:
    """Return each engine's seconds an image, round by round; all must give the same logits."""
    logits = [one.run(image) for one in engines]
    assert all(np.array_equal(logits[0], other) for other in logits)
    times: list[list[float]] = [[] for _ in engines]
    for _ in range(rounds):
        for one, values in zip(engines, times, strict=True):
            values.append(seconds(lambda one=one: one.run(image)))  # type: ignore[misc]
    return times


def ratio(dense: list[float], sparse: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(dense, sparse, strict=True)]
    return {name: percentile(ratios, at) for name, at in (("median", 0.5), ("p5", 0.05), ("p95", 0.95))}


def by_density(network: IntegerNetwork, isa: str, density: float, rounds: int) -> dict[str, Any]:
    blob, image = file_of(prune(network, density)), drawn_image(network)
    engines = [engine.Engine(blob, 1, isa, kind) for kind in ("dense", "sparse", "faster")]
    dense, sparse, chosen = compare(engines, image, rounds)
    return {
        "isa": isa,
        "density": density,
        "n": rounds,
        "dense_us": 1e6 * percentile(dense, 0.5),
        "chosen_us": 1e6 * percentile(chosen, 0.5),
        "forced": ratio(dense, sparse),
        "chosen": ratio(dense, chosen),
        "sparse_layers": sum(engines[2].sparse_layers()),
    }


def by_layer(network: IntegerNetwork, isa: str, density: float, rounds: int) -> list[dict[str, Any]]:
    image, rows = drawn_image(network), []
    for index, block in enumerate(network.blocks):
        blob = file_of(prune(network, density, index))
        engines = [engine.Engine(blob, 1, isa, kind) for kind in ("dense", "faster")]
        dense, chosen = compare(engines, image, rounds)
        saved = [1e6 * (a - b) for a, b in zip(dense, chosen, strict=True)]
        dense_us = 1e6 * percentile(dense, 0.5)
        outs, ins = block.weight.shape
        row = {"layer": index + 1, "in_channels": ins, "out_channels": outs, "density": density}
        row |= {"sparse": engines[1].sparse_layers()[index + 1], "saved_us": percentile(saved, 0.5)}
        rows.append({**row, "share_saved": percentile(saved, 0.5) / dense_us})
    return rows


def drawn_image(network: IntegerNetwork) -> NDArray[np.uint8]:
    size = (1, network.side, network.side, network.channels)
    return np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    network = read_qnz(locate(f"{name}.cifar10", "file")).network
    rows = [by_density(network, isa, density, options.rounds) for isa in options.isas for density in options.densities]
    layers = by_layer(network, options.isas[-1], options.layers, options.rounds) if options.layers else []
    return {"rows": rows, "layers": layers}


def print_model(name: str, result: dict[str, Any]) -> None:
    print(f"\n{name}: times the dense kernels' images/s, median of the rounds (5% to 95%)")
    for row in result["rows"]:
        forced, chosen = row["forced"], row["chosen"]
        print(
            f"  {row['isa']:11} density {row['density']:.2f}  forced {forced['median']:.2f}"
            f"  chosen {chosen['median']:.2f} ({chosen['p5']:.2f} to {chosen['p95']:.2f}; {row['sparse_layers']} layers"
            f" sparse)  {row['dense_us']:.0f} -> {row['chosen_us']:.0f} us, n = {row['n']}"
        )
    for row in result["layers"]:
        kind = "sparse" if row["sparse"] else "dense"
        print(
            f"  layer {row['layer']:2}, {row['in_channels']:4} -> {row['out_channels']:4}, density"
            f" {row['density']:.2f}: {kind}, saves {row['saved_us']:6.1f} us, {row['share_saved']:6.1%} of the network"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["quicknet", "quicknet_s"])
    parser.add_argument("--isas", nargs="+", default=[engine.instruction_sets()[-1]])
    parser.add_argument("--densities", nargs="+", type=float, default=[0.1, 0.2, 0.3, 0.4])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--layers", type=float, help="a density at which each layer is measured alone")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="write results/NNNN-sparse")
    options = parser.parse_args()
    card = machine_card()
    results = {name: measure(name, options) for name in options.models}
    if options.record:
        command = f"python benchmarks/bench_sparse.py --rounds {options.rounds}"
        command += f" --layers {options.layers}" if options.layers else ""
        write_record(ROOT / "results", "sparse", command, {"kind": "sparse", "models": results})
    if options.json:
        print(json.dumps({"machine": card, "versions": versions(), "models": results}, indent=1))
        return
    print(f"{card['cpu']}, {card['cores']} cores, load {card['load_1min']}; {engine.status()}")
    for name, result in results.items():
        print_model(name, result)


if __name__ == "__main__":
    main()
