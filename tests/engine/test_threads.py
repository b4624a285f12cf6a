"""Threads change nothing but the time: of an engine, of Python around it, after a fork, and at the end."""

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from native import compile_c, engine_sources, run
from networks import Block, Shape, network_blob, pruned, random_images, random_network
from quicknet import engine
from quicknet.engine import Engine
from quicknet.qnz import reference
from quicknet.qnz.network import IntegerNetwork

pytestmark = pytest.mark.skipif(not engine.available(), reason=engine.status())

DRIVER = Path(__file__).parent / "run_threads.c"
BLOCKS = (Block(48), Block(96, pool=True), Block(96, kernel=5), Block(200, pool=True, sums=4, middle_top=127))


def make(seed: int, **changes: Any) -> tuple[IntegerNetwork, np.ndarray]:
    rng = np.random.default_rng(seed)
    network = random_network(rng, Shape(**{"blocks": BLOCKS, **changes}))
    return network, random_images(rng, network, 9)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_logits_do_not_depend_on_threads(threads: int) -> None:
    """Batches that come out even, leave some images over, or have fewer than threads."""
    network, images = make(0)
    expected, blob = reference.run(network, images), network_blob(network)
    for isa in engine.instruction_sets():
        opened = Engine(blob, threads, isa)
        for count in (1, 2, 3, 4, 8, 9):
            for _ in range(5):
                assert np.array_equal(opened.run(images[:count]), expected[:count]), (isa, count)


def test_logits_of_random_networks_by_three_threads() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        network = random_network(rng, extreme=seed % 2 == 1)
        network = pruned(network, rng) if seed % 3 == 0 else network
        images = random_images(rng, network, 4)
        expected, blob = reference.run(network, images), network_blob(network)
        for isa in engine.instruction_sets():
            assert np.array_equal(Engine(blob, 3, isa).run(images), expected), (seed, isa)
            assert np.array_equal(Engine(blob, 3, isa, "sparse").run(images), expected), (seed, isa)


def test_many_more_threads_than_cores_or_work() -> None:
    network, images = make(1, side=16, kernel=11, blocks=(Block(8),))
    opened = Engine(network_blob(network), 40)
    for count in (1, 9):
        assert np.array_equal(opened.run(images[:count]), reference.run(network, images[:count]))


@pytest.mark.parametrize("threads", [1, 2])
def test_python_threads_share_an_engine(threads: int) -> None:
    network, images = make(2)
    opened, expected = Engine(network_blob(network), threads), reference.run(network, images)

    def ask(index: int) -> bool:
        first = index % 8
        return all(np.array_equal(opened.run(images[first:]), expected[first:]) for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(32)))


def test_the_interpreter_goes_on_while_it_computes() -> None:
    """Another thread counts while one call lasts longer than the interpreter would let it wait."""
    network, images = make(3, side=96, stem=64)
    opened, counted, stop = Engine(network_blob(network), isa="portable"), 0, threading.Event()
    batch = np.concatenate([images] * 4)

    def count() -> None:
        nonlocal counted
        while not stop.is_set():
            counted += 1

    counter = threading.Thread(target=count)
    counter.start()
    before = counted
    opened.run(batch)
    during = counted - before
    stop.set()
    counter.join()
    assert during > 100


def _in_child(opened: Engine, images: np.ndarray, answers: object) -> None:
    answers.put(opened.run(images))  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 3])
def test_a_forked_child_runs_the_engine_it_inherited(threads: int) -> None:
    network, images = make(4)
    opened, expected = Engine(network_blob(network), threads), reference.run(network, images)
    assert np.array_equal(opened.run(images), expected)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(opened, images, answers))
    child.start()
    assert np.array_equal(answers.get(), expected)
    child.join(20)
    assert child.exitcode == 0
    assert np.array_equal(opened.run(images), expected)


def test_engines_end_with_their_threads() -> None:
    network, images = make(5)
    blob = network_blob(network)

    def alive() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    if not Path("/proc/self/task").is_dir():
        pytest.skip("threads are counted in /proc")
    before = alive()
    for _ in range(20):
        Engine(blob, 3).run(images)
    assert alive() == before
    opened = Engine(blob, 3)
    assert alive() == before + 2
    del opened
    assert alive() == before


def test_the_interpreter_ends_while_an_engine_is_open(tmp_path: Path) -> None:
    network, images = make(6)
    (tmp_path / "network").write_bytes(network_blob(network))
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys, numpy, pathlib; from quicknet.engine import Engine\n"
        "opened = Engine(pathlib.Path('network').read_bytes(), 3); print(opened.run(numpy.load('images.npy')).sum())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == reference.run(network, images).sum()


@pytest.mark.slow
def test_under_the_thread_sanitizer(tmp_path: Path) -> None:
    """Runs of few and many images by four threads, engines opened and closed, checked for data races."""
    flags = ("-O1", "-g", "-fsanitize=thread", "-pthread")
    program = compile_c(tmp_path / "run_threads", [*engine_sources(), DRIVER], *flags)
    network, images = make(7)
    (tmp_path / "network").write_bytes(network_blob(network))
    (tmp_path / "images").write_bytes(images.tobytes())
    actual = run(program, tmp_path / "network", tmp_path / "images", timeout_s=250).split()
    assert list(map(int, actual)) == reference.run(network, images).ravel().tolist()
