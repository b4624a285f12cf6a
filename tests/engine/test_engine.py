"""The engine is the reference bit for bit, by every instruction set of this CPU; and refuses what it cannot run."""

import ctypes
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from native import bare_file, compile_c, engine_sources, run_all, write_cases
from networks import Block, Shape, network_blob, networks, pruned, random_images, random_network
from quicknet import engine
from quicknet.core.errors import ConfigError, DataError, FormatError, ToolError
from quicknet.engine import Engine, binding
from quicknet.qnz import reference
from quicknet.qnz.container import pack_sections
from quicknet.qnz.encoding import encode_coded, encode_network
from quicknet.qnz.network import IntegerNetwork

pytestmark = pytest.mark.skipif(not engine.available(), reason=engine.status())

DRIVER = Path(__file__).parent / "run_all.c"
CLASSES = {"w7a8": (1, 255, 1), "w7a7": (2, 127, 1), "w6a7": (4, 127, 2), "w5a8": (4, 255, 2)}  # N, top, the stem's N


def check_equal(network: IntegerNetwork, images: np.ndarray) -> None:
    """Compare the logits of all instruction sets, by dense and by sparse kernels, with the reference's."""
    expected, blob = reference.run(network, images), network_blob(network)
    for isa in engine.instruction_sets():
        for pointwise in ("faster", "sparse"):
            actual = Engine(blob, isa=isa, pointwise=pointwise).run(images)
            assert actual.dtype == np.int32
            assert np.array_equal(actual, expected), (isa, pointwise)


def check_tensors(network: IntegerNetwork, image: np.ndarray) -> None:
    """Compare every tensor on the way with the reference's."""
    blob = network_blob(network)
    kinds = itertools.product(engine.instruction_sets(), ("faster", "sparse"))
    opened = {kind: Engine(blob, isa=kind[0], pointwise=kind[1]) for kind in kinds}
    for name, tensor in reference.trace(network, image[None]):
        if name == "logits":
            continue
        layer, _, part = name.partition(".")
        index = int(layer) if part else 0
        for kind, one in opened.items():
            actual = one.trace(
                image, index, {"": "output", "pointwise": "output"}.get(part, part) if name != "sums" else name
            )
            assert np.array_equal(actual, tensor[0]), (name, kind)


def quicknet_like(rng: np.random.Generator, stem: int, widths: tuple[int, ...], bits: str) -> IntegerNetwork:
    sums, top, stem_sums = CLASSES[bits]
    blocks = [
        Block(width, pool=stage > 0 and layer == 0, sums=sums, top=top, middle_top=top)
        for stage, width in enumerate(widths)
        for layer in range(3)
    ]
    return random_network(rng, Shape(stem=stem, sums=stem_sums, top=top, blocks=tuple(blocks)))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(0, 2**32 - 1))
def test_logits_are_the_references(network: IntegerNetwork, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_equal(network, random_images(rng, network, 3))
    check_equal(pruned(network, rng), random_images(rng, network, 3))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(0, 2**32 - 1), st.sampled_from([1, 2]), st.integers(1, 2))
def test_coded_networks_give_the_same_logits(network: IntegerNetwork, seed: int, coding: int, threads: int) -> None:
    """Decoding takes the memory that the workspaces will have: small networks have less of it than a decoder wants."""
    rng = np.random.default_rng(seed)
    network = pruned(network, rng)
    images, blob = random_images(rng, network, 2), bare_file(network, coding)
    for isa in engine.instruction_sets():
        assert np.array_equal(Engine(blob, threads, isa).run(images), reference.run(network, images)), isa


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(0, 2**32 - 1))
def test_every_tensor_is_the_references(network: IntegerNetwork, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_tensors(network, random_images(rng, network, 1)[0])
    check_tensors(pruned(network, rng), random_images(rng, network, 1)[0])


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ten_thousand_networks() -> None:
    for seed in range(10_000):
        rng = np.random.default_rng(seed)
        network = random_network(rng, extreme=seed % 2 == 1)
        network = pruned(network, rng) if seed % 3 == 0 else network
        images = random_images(rng, network, 2)
        check_equal(network, images)
        if seed % 10 == 0:
            check_tensors(network, images[0])


@pytest.mark.parametrize("bits", CLASSES)
@pytest.mark.parametrize(("stem", "widths"), [(16, (32, 64, 128, 256)), (32, (64, 128, 256, 512))])
def test_whole_networks_of_the_family(bits: str, stem: int, widths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(stem)
    network = quicknet_like(rng, stem, widths, bits)
    check_equal(network, random_images(rng, network, 4))
    check_equal(pruned(network, rng), random_images(rng, network, 4))


# Beyond what random networks reach in the time: long runs of steps, maps wider than a tile, a stem's every shape.
@pytest.mark.parametrize(
    "shape",
    [
        Shape(side=16, stem=8, blocks=(Block(1100), Block(64, sums=4, middle_top=127))),
        Shape(side=17, stem=520, kernel=11, stride=3, blocks=(Block(40, sums=2, middle_top=127),)),
        Shape(side=224, channels=1, stem=16, kernel=3, stride=1, blocks=(Block(8, pool=True, kernel=5),)),
        Shape(side=131, channels=4, stem=33, kernel=11, stride=2, sums=2, blocks=(Block(5, pool=True),)),
        Shape(side=1024, channels=3, stem=1, kernel=1, stride=8, classes=3, blocks=()),
        Shape(side=16, channels=2, stem=8192, kernel=1, stride=8, classes=1, blocks=(Block(1), Block(96))),
        # tiles of 100 pixels, of 115 and 69: 13, 15 and 9 half vectors of a sparse row
        Shape(side=16, stem=32, kernel=7, stride=1, blocks=(Block(64), Block(48))),
        Shape(side=24, stem=48, kernel=2, stride=1, blocks=(Block(64), Block(33))),
        Shape(side=20, stem=3, classes=5000, blocks=(Block(2, pool=True), Block(3, pool=True), Block(4, pool=True))),
    ],
    ids=lambda shape: f"{shape.side}x{shape.channels}-{shape.stem}",
)
def test_unusual_shapes(shape: Shape) -> None:
    rng = np.random.default_rng(7)
    network = random_network(rng, shape)
    check_equal(network, random_images(rng, network, 2))
    check_equal(pruned(network, rng), random_images(rng, network, 2))


def test_images_of_any_number_and_layout() -> None:
    rng = np.random.default_rng(0)
    network = random_network(rng, Shape())
    opened, images = Engine(network_blob(network)), random_images(rng, network, 6)
    assert opened.run(images[:0]).shape == (0, 10)
    expected = reference.run(network, images)
    assert np.array_equal(opened.run(images[::2]), expected[::2])
    assert np.array_equal(opened.run(np.asfortranarray(images)), expected)
    wrong: Any
    for wrong in (images[0], images[:, :-1], images[..., :1], images.astype(np.int8)):
        with pytest.raises(DataError, match="takes uint8 images"):
            opened.run(wrong)


def test_what_cannot_be_opened() -> None:
    blob = network_blob(random_network(np.random.default_rng(0), Shape()))
    for damaged in (b"", blob[:-1], blob[:-33] + b"\0" + blob[-32:], b"PK" + blob[2:]):
        with pytest.raises(FormatError, match="not a network that the engine runs"):
            Engine(damaged)
    with pytest.raises(ConfigError, match="did you mean 'avx2'"):
        Engine(blob, isa="avx")
    with pytest.raises(ToolError, match="use QN_BEST"):
        Engine(blob, isa="wasm")
    for threads in (0, -1, 257):
        with pytest.raises(ConfigError, match="1 to 256 threads"):
            Engine(blob, threads)


def test_parts_that_a_network_does_not_have() -> None:
    rng = np.random.default_rng(0)
    network = random_network(rng, Shape())
    opened, image = Engine(network_blob(network)), random_images(rng, network, 1)[0]
    for layer, part in ((5, "output"), (-1, "output"), (0, "depthwise"), (1, "pointwise")):
        with pytest.raises(ConfigError, match="there is no"):
            opened.trace(image, layer, part)
        with pytest.raises(ConfigError, match="there is no"):
            opened.seconds(image, layer, part)
    for method in (opened.trace, opened.seconds):
        with pytest.raises(DataError, match="takes a uint8 image"):
            method(image[1:], 1, "output")


def test_timing_a_layer_changes_no_answer() -> None:
    rng = np.random.default_rng(0)
    network = random_network(rng, Shape())
    opened, images = Engine(network_blob(network)), random_images(rng, network, 2)
    expected = opened.run(images)
    for layer, part in ((0, "output"), (1, "depthwise"), (3, "output"), (0, "sums")):
        assert 0 < opened.seconds(images[0], layer, part, 1e-4) < 1
        assert np.array_equal(opened.run(images), expected)


def test_the_best_instruction_set_is_the_last_named() -> None:
    blob = network_blob(random_network(np.random.default_rng(0), Shape(blocks=())))
    assert Engine(blob).isa == engine.instruction_sets()[-1]
    assert engine.status().endswith(f"by {Engine(blob).isa}")
    for isa in engine.instruction_sets():
        assert Engine(blob, isa=isa).isa == isa
        assert engine.peak_rate(isa, 2, samples=1) > 1e8


def open_codes(blob: bytes) -> dict[str, int]:
    """Return the codes of qn_check, and of qn_open with enough memory, with none, and for no instruction set."""
    library, handle, file = binding.loaded_library(), ctypes.c_void_p(), (blob, len(blob))
    size = library.qn_memory(*file, 1)
    memory = np.empty(size + 64, np.uint8)
    address = -(-memory.ctypes.data // 64) * 64
    codes = {"check": library.qn_check(*file, None)}
    for name, room, isa in (("open", size, 0), ("no memory", 0, 0), ("no such instructions", size, 99)):
        codes[name] = library.qn_open(ctypes.byref(handle), *file, address, room, 1, isa)
        if codes[name] == 0:
            library.qn_close(handle)
    return codes


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(0, 2**32 - 1))
def test_opening_refuses_what_checking_refuses(network: IntegerNetwork, seed: int) -> None:
    """Opening checks each layer as it packs it: it must find what the check of the whole file finds, and name it."""
    rng = np.random.default_rng(seed)
    netw, tens = encode_network(network)
    changed = bytearray(tens)
    for at in rng.integers(0, len(tens), rng.integers(1, 4)):
        changed[at] = (changed[at] + rng.choice((-1, 1, 128))) % 256
    codes = open_codes(pack_sections({"CARD": b"{}", "NETW": netw, "TENS": bytes(changed)}))
    bad = codes["check"]
    assert bad in (0, 7)  # QN_BOUNDS
    assert codes == {"check": bad, "open": bad, "no memory": bad or 8, "no such instructions": bad or 9}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2]))
def test_opening_refuses_the_coded_numbers_that_checking_refuses(seed: int, coding: int) -> None:
    rng = np.random.default_rng(seed)
    netw, code = encode_coded(pruned(random_network(rng, side=16, stem=5, blocks=(Block(9), Block(6))), rng), coding)
    changed = bytearray(code)
    changed[rng.integers(len(code))] ^= 1 << rng.integers(8)
    codes = open_codes(pack_sections({"CARD": b"{}", "NETW": netw, "CODE": bytes(changed)}))
    bad = codes["check"]
    assert bad in (0, 7, 11)  # QN_BOUNDS, QN_CODE
    assert codes == {"check": bad, "open": bad, "no memory": bad or 8, "no such instructions": bad or 9}


def test_only_coded_numbers_are_decoded() -> None:
    network = random_network(np.random.default_rng(0), blocks=(Block(9),))
    size = len(encode_network(network)[1])
    for blob, expected in ((bare_file(network), size), (bare_file(network, 2), size - 1), (b"", size)):
        with pytest.raises(FormatError):
            engine.decode(blob, expected)


def test_a_network_is_ready_within_20_ms() -> None:
    """Of processor time, the best of several: other processes take and slow down the rest."""
    rng = np.random.default_rng(0)
    network = quicknet_like(rng, 64, (128, 256, 512, 1024), "w7a7")
    blob, images = network_blob(network), random_images(rng, network, 1)
    spent = []
    for _ in range(10):
        start = time.process_time()
        Engine(blob).run(images)
        spent.append(time.process_time() - start)
    assert min(spent) < 0.02


def test_the_library_is_small() -> None:
    from quicknet.engine.build import ensure_built

    library = ensure_built().library
    assert library is not None
    assert library.stat().st_size <= 140_000


def test_the_environment_switches_it_off() -> None:
    program = "from quicknet import engine; print(engine.available(), engine.status())"
    done = subprocess.run(
        [sys.executable, "-c", program], env={"QUICKNET_ENGINE": "0"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("False engine: switched off by QUICKNET_ENGINE=0")


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The driver with the engine's sources under AddressSanitizer and UBSan."""
    target = tmp_path_factory.mktemp("sanitized") / "run_all"
    flags = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread")
    yield compile_c(target, [*engine_sources(), DRIVER], *flags)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_under_sanitizers(sanitized: Path, tmp_path: Path) -> None:
    for start in range(0, 400, 100):
        files, expected = write_cases(tmp_path, range(start, start + 100))
        actual = run_all([sanitized], files, timeout_s=400)
        assert set(actual) == set(engine.instruction_sets())
        assert all(logits == expected for logits in actual.values())
