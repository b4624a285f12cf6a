"""WebAssembly under Node: small, bit for bit the reference, and a damaged file is refused with its reason."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from native import ENGINE, bare_file, run, tool, write_cases
from networks import network_card, random_network
from quicknet.image.preprocess import load_image
from quicknet.inference.metrics import softmax
from quicknet.qnz import reference
from quicknet.qnz.card import encode_card
from quicknet.qnz.container import pack_sections
from quicknet.qnz.encoding import encode_coded
from quicknet.qnz.file import Coding, assemble_qnz
from quicknet.qnz.format import CARZ_HEADER, CONTEXTS

LIMIT_BYTES, LIMIT_WITHOUT_RESIZING = 33_000, 28_000
_FILTERS: tuple[Any, ...] = ("nearest", "bilinear", "bicubic", "lanczos")

RUN = """
import { readFileSync } from "node:fs";
import { Classifier } from "./quicknet.mjs";
const [wasm, sparse, ...paths] = process.argv.slice(2);
const answers = [], { instantiate } = WebAssembly;
WebAssembly.instantiate = async (...parts) => { // qn_open's last argument: the instruction set
  const all = await instantiate(...parts), exports = all.instance?.exports;
  if (!exports?.qn_open) return all; // one of Node's
  const qn_open = (...given) => exports.qn_open(...given.slice(0, -1), Number(sparse));
  return { instance: { exports: { ...exports, qn_open } } };
};
for (let i = 0; i + 1 < paths.length; i += 2) {
  const classifier = await Classifier.load(readFileSync(wasm), readFileSync(paths[i]));
  const images = readFileSync(paths[i + 1]), size = classifier.side ** 2 * classifier.channels, logits = [];
  for (let at = 0; at < images.length; at += size) {
    logits.push(...classifier.logits(images.subarray(at, at + size)));
  }
  answers.push(logits);
}
console.log(JSON.stringify(answers));
"""

DESCRIBE = """
import { readFileSync } from "node:fs";
import { Classifier } from "./quicknet.mjs";
const [wasm, path] = process.argv.slice(2);
try {
  const c = await Classifier.load(readFileSync(wasm), readFileSync(path));
  const image = new Uint8Array(c.side ** 2 * c.channels);
  console.log(JSON.stringify([c.side, c.names, c.logitScale, c.answer(c.logits(image)), [...c.logits(image)]]));
} catch (error) {
  console.log(JSON.stringify(error.message));
}
"""

PREPARE = """
import { readFileSync } from "node:fs";
import { Classifier } from "./quicknet.mjs";
const [wasm, ...cases] = process.argv.slice(2);
const answers = [];
for (let i = 0; i < cases.length; i += 4) {
  const classifier = await Classifier.load(readFileSync(wasm), readFileSync(cases[i]));
  const [width, height] = [Number(cases[i + 2]), Number(cases[i + 3])];
  const picture = { data: readFileSync(cases[i + 1]), width, height };
  classifier.prepare({ data: new Uint8Array(3), width: 1, height: 1 });
  const pixels = classifier.prepare(picture), logits = classifier.logits(pixels);
  answers.push([[...pixels], [...logits], [...classifier.probabilities(logits)]]);
}
console.log(JSON.stringify(answers));
"""


# QN_BEST, and with QN_SPARSE; the module without SIMD
MODES = (("quicknet.wasm", "0"), ("quicknet.wasm", "512"), ("quicknet-plain.wasm", "0"))


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with quicknet.wasm and its loader."""
    tool("node"), tool("clang"), tool("wasm-ld")
    out = tmp_path_factory.mktemp("wasm")
    run(tool("make"), "-f", ENGINE / "engine.mk", "engine-wasm", f"ENGINE_OUT={out}", "WERROR=-Werror")
    (out / "run.mjs").write_text(RUN)
    (out / "describe.mjs").write_text(DESCRIBE)
    (out / "prepare.mjs").write_text(PREPARE)
    return out


def describe(module: Path, model: Path) -> Any:
    return json.loads(run(tool("node"), module / "describe.mjs", module / "quicknet.wasm", model))


def test_the_modules_are_small(module: Path, tmp_path: Path) -> None:
    tool("wasm-opt")
    run(tool("make"), "-f", ENGINE / "engine.mk", "engine-wasm", f"ENGINE_OUT={tmp_path}", "WASM_RESIZE=0")
    for name in ("quicknet.wasm", "quicknet-plain.wasm"):
        assert (module / name).stat().st_size <= LIMIT_BYTES
        assert (tmp_path / name).stat().st_size <= LIMIT_WITHOUT_RESIZING


def test_equal_to_the_reference(module: Path, tmp_path: Path) -> None:
    files, expected = write_cases(tmp_path, range(100, 160))
    for name, mode in MODES:
        actual = run(tool("node"), module / "run.mjs", module / name, mode, *files)
        assert json.loads(actual) == expected


@pytest.mark.slow
def test_equal_to_the_reference_on_many(module: Path, tmp_path: Path) -> None:
    for start in range(3000, 5000, 200):
        files, expected = write_cases(tmp_path, range(start, start + 200))
        for name, mode in MODES:
            actual = run(tool("node"), module / "run.mjs", module / name, mode, *files, timeout_s=600)
            assert json.loads(actual) == expected


@pytest.mark.parametrize("coding", ["none", "contexts"])
def test_the_card_gives_names_and_scale(module: Path, tmp_path: Path, coding: Coding) -> None:
    network = random_network(np.random.default_rng(1), classes=4)
    card = network_card(network)
    path = tmp_path / "model.qnz"
    path.write_bytes(assemble_qnz(network, card, coding))
    side, names, scale, best, logits = describe(module, path)
    assert (side, tuple(names), scale) == (network.side, card.classes, card.integer.logit_scale)
    real = np.array(logits) * scale
    first = best["top"][0]
    assert first["name"] == best["label"] == names[int(np.argmax(logits))]
    assert first["probability"] == pytest.approx(1 / np.exp(real - real.max()).sum())


def test_a_compressed_card_that_lies_is_refused(module: Path, tmp_path: Path) -> None:
    network = random_network(np.random.default_rng(1), classes=4)
    carz = encode_card(network_card(network))
    netw, code = encode_coded(network, CONTEXTS)
    stream, size = carz[CARZ_HEADER.size :], CARZ_HEADER.unpack_from(carz)[0]
    sizes = {size: stream[:-1], size + 1: stream, size - 1: stream, 1: zlib.compress(bytes(50 << 20)), 9: b"nothing"}
    for stated, data in sizes.items():
        path = tmp_path / f"{stated}.qnz"
        path.write_bytes(pack_sections({"CARZ": CARZ_HEADER.pack(stated) + data, "NETW": netw, "CODE": code}))
        assert describe(module, path).startswith("CARZ: the compressed card is damaged ("), stated
    path.write_bytes(pack_sections({"CARZ": CARZ_HEADER.pack(1 << 31), "NETW": netw, "CODE": code}))
    assert describe(module, path).startswith("CARZ: truncated, or lengths that lie")


def test_pictures_of_any_size_are_prepared_as_pillow_does_it(module: Path, tmp_path: Path) -> None:
    """All filters and ways of resizing, then logits and calibrated probabilities as in Python."""
    rng, cases, expected = np.random.default_rng(7), list[Any](), []
    ways = [(f, r, a) for f in _FILTERS for r in ("shorter", "stretch", "pad") for a in (True, False)]
    for i, (filter_, resize, antialias) in enumerate(ways):  # one network each
        network = random_network(rng, classes=4)
        card = network_card(network).replace(temperature=1.7)
        spec = card.preprocess.replace(filter=filter_, resize=resize, antialias=antialias, fill=9)
        card = card.replace(preprocess=spec)
        model, raw = tmp_path / f"{i}.qnz", tmp_path / f"{i}.raw"
        model.write_bytes(assemble_qnz(network, card))
        pixels = rng.integers(0, 256, (int(rng.integers(1, 200)), int(rng.integers(1, 200)), 4), np.uint8)
        raw.write_bytes(pixels.tobytes())
        cases += [model, raw, str(pixels.shape[1]), str(pixels.shape[0])]
        image = load_image(pixels, spec)
        logits = reference.run(network, image[None])[0]
        expected.append((image, logits, softmax(logits[None] * card.integer.logit_scale, 1.7)[0]))
    answers = json.loads(run(tool("node"), module / "prepare.mjs", module / "quicknet.wasm", *cases))
    for (pixels, logits, probabilities), (image, integers, shares) in zip(answers, expected, strict=True):
        assert pixels == image.ravel().tolist()
        assert logits == integers.tolist()
        assert probabilities == pytest.approx(shares.tolist(), rel=1e-5)


def test_a_damaged_file_is_refused_with_its_reason(module: Path, tmp_path: Path) -> None:
    blob = bytearray(bare_file(random_network(np.random.default_rng(1), classes=4)))
    path = tmp_path / "model.qnz"
    blob[len(blob) // 2] ^= 1
    path.write_bytes(blob)
    assert str(describe(module, path)).startswith("TENS: damaged")
    path.write_bytes(blob[:100])
    assert str(describe(module, path)).startswith("truncated")
    path.write_bytes(b"no model")
    assert str(describe(module, path)).startswith("not a .qnz file")


def test_the_benchmark_prints_images_per_second(module: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.qnz"
    path.write_bytes(bare_file(random_network(np.random.default_rng(1))))
    assert "images/s" in run(tool("node"), module / "benchmark.mjs", module / "quicknet.wasm", path, "0.1")
