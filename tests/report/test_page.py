"""The page: small, whole in one file, safe with hostile names, and its answers are those of `predict`."""

import base64
import hashlib
import json
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import browsing
from native import ENGINE, run, tool
from networks import network_card, random_network
from quicknet.cli.main import run as cli
from quicknet.core.card import Card, UnknownRecord
from quicknet.core.errors import ConfigError
from quicknet.engine import wasm
from quicknet.image.preprocess import load_image
from quicknet.image.vectors import draw_vectors
from quicknet.inference import metrics
from quicknet.inference.shipped import locate
from quicknet.qnz import reference
from quicknet.qnz.file import QnzFile, assemble_qnz, read_qnz
from quicknet.report.page import PageSettings, render_page

CODE = Path(wasm.__file__).parent.parent / "report" / "page"
LIMIT_BESIDE = 60_000
HOSTILE = ("</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"'&{title}", "{about}")


def small_model(tmp_path: Path, **changes: Any) -> tuple[bytes, Card]:
    network = random_network(np.random.default_rng(1), classes=4)
    blob = assemble_qnz(network, network_card(network).replace(**changes))
    path = tmp_path / "model.qnz"
    path.write_bytes(blob)
    return blob, read_qnz(path).card


@pytest.fixture(scope="module")
def shipped() -> QnzFile:
    return read_qnz(locate("quicknet_xs.cifar10", "file", True))


def scripts(page: str) -> dict[str, str]:
    """The page's scripts by their id, "" for the one that runs."""
    parts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.S)
    return {(re.findall(r'id="(\w+)"', attributes) or [""])[0]: text for attributes, text in parts}


# --- the file ------------------------------------------------------------------------------


def test_the_page_is_small_and_fetches_nothing(shipped: QnzFile) -> None:
    page = render_page(shipped.blob, shipped.card)
    assert page == render_page(shipped.blob, shipped.card)
    model = scripts(page)["model"]
    assert base64.b64decode(model) == shipped.blob
    assert len(page.encode()) - len(model) <= LIMIT_BESIDE
    assert not re.search(r"https?:|(?:src|href)=\"|@import|url\(", page.replace(model, ""))


def test_the_policy_allows_the_one_script_by_its_digest(shipped: QnzFile) -> None:
    page = render_page(shipped.blob, shipped.card)
    digest = base64.b64encode(hashlib.sha256(scripts(page)[""].encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert f"script-src 'sha256-{digest}' blob:" in policy and policy.startswith("default-src 'none'")
    assert set(scripts(page)) == {"engine", "model", ""}


def test_hostile_names_are_text(tmp_path: Path) -> None:
    blob, card = small_model(tmp_path, classes=HOSTILE, notes=HOSTILE[0], licence=HOSTILE[1])
    page = render_page(blob, card, PageSettings(title=HOSTILE[0]))
    assert set(scripts(page)) == {"engine", "model", ""}
    assert "<img src=x" not in page and "alert(1)</script>" not in page
    assert page.count("&lt;/script&gt;&lt;script&gt;alert(1)") >= 3  # title, heading, classes
    assert "{title}" in page, "a name is not a place to fill in"


def test_the_threshold_is_the_cards_or_the_callers(tmp_path: Path) -> None:
    blob, card = small_model(tmp_path)
    record = UnknownRecord(min_confidence=0.625, split="val", n=9, kept=0.9)
    for given, expected in ((card, "0.0"), (card.replace(unknown=record), "0.625")):
        assert f'data-threshold="{expected}"' in render_page(blob, given)
        assert 'data-threshold="0.9"' in render_page(blob, given, PageSettings(min_confidence=0.9))
    with pytest.raises(ConfigError, match="probability"):
        PageSettings(min_confidence=1.5)


def test_the_modules_in_the_package_are_what_their_sources_give(tmp_path: Path) -> None:
    record = json.loads(wasm.RECORD.read_text("utf-8"))
    assert record["sources_sha256"] == wasm.sources_sha256(), "run `make wasm`"
    for key, name in (("clang", "clang"), ("wasm_opt", "wasm-opt")):
        if record[key] != run(tool(name), "--version").splitlines()[0] or not tool("wasm-ld"):
            pytest.skip(f"another {name} than {record[key]}")
    run(tool("make"), "-f", ENGINE / "engine.mk", "engine-wasm", f"ENGINE_OUT={tmp_path}")
    for module in (wasm.MODULE, wasm.PLAIN):
        assert (tmp_path / module.name).read_bytes() == module.read_bytes()


def test_colours_have_the_contrast_that_readers_need() -> None:
    """WCAG 2.2, 1.4.3 (level AA): 4.5 for text, in the light and the dark colours."""
    style = (CODE.parent / "style.css").read_text("utf-8")
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w+);", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    )

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        shares = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    for colours in (light, dark):
        for text, ground in (("ink", "card"), ("ink", "page"), ("soft", "card"), ("c1", "card"), ("card", "c0")):
            one, other = sorted(luminance(colours[name]) for name in (text, ground))
            assert (other + 0.05) / (one + 0.05) >= 4.5, f"{text} on {ground}: {colours}"


# --- its code under Node -------------------------------------------------------------------


def node(tmp_path: Path, program: str, *arguments: str | Path) -> Any:
    """Run a program that sees the page's modules and the arguments as `given`; return what it gives to `show`."""
    imports = (
        f'import {{ readFileSync }} from "node:fs";\n'
        f'import * as selftest from "{(CODE / "selftest.mjs").as_uri()}";\n'
        f'import * as decode from "{(ENGINE / "js" / "decode.mjs").as_uri()}";\n'
        f'import {{ csv }} from "{(CODE / "table.mjs").as_uri()}";\n'
        f'import {{ Classifier }} from "{(ENGINE / "js" / "quicknet.mjs").as_uri()}";\n'
        "const given = process.argv.slice(2), show = (value) => console.log(JSON.stringify(value));\n"
        f'const load = (path) => Classifier.load(readFileSync("{wasm.MODULE.as_posix()}"), readFileSync(path));\n'
    )
    (tmp_path / "program.mjs").write_text(imports + program, "utf-8")
    return json.loads(run(tool("node"), tmp_path / "program.mjs", *arguments))


def test_the_test_vectors_are_pythons(tmp_path: Path) -> None:
    for size, channels in ((1, 1), (7, 3), (33, 4)):
        program = f"show(Array.from({{ length: 16 }}, (_, i) => [...selftest.vector(i, {size}, {channels})]));"
        assert node(tmp_path, program) == draw_vectors(size, channels).reshape(16, -1).tolist()


def test_the_self_test_sees_another_network(tmp_path: Path) -> None:
    _, card = small_model(tmp_path)
    program = "show([...selftest.selfTest(await load(given[0]))].at(-1));"
    assert node(tmp_path, program, tmp_path / "model.qnz") == {"right": 16, "done": 16, "n": 16, "why": ""}
    assert card.vectors is not None and card.vectors.integers is not None
    first, *others = card.vectors.integers
    wrong = card.vectors.replace(integers=((first[0] + 1, *first[1:]), *others))
    small_model(tmp_path, vectors=wrong)
    assert node(tmp_path, program, tmp_path / "model.qnz")["right"] == 15
    small_model(tmp_path, vectors=None)
    assert node(tmp_path, program, tmp_path / "model.qnz")["n"] == 0


def test_answers_are_those_of_predict(tmp_path: Path, shipped: QnzFile) -> None:
    """From the same pixels: equal logits, and the probabilities of its softmax."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (97, 61, 4), np.uint8)
    pixels[:, :, 3] = 255  # what a browser gives for an opaque picture
    (tmp_path / "pixels").write_bytes(pixels.tobytes())
    program = """
    const classifier = await load(given[0]), picture = { data: readFileSync(given[1]), width: 61, height: 97 };
    const { label, top, logits } = await classifier.classify(picture, { minConfidence: 2 });
    show([label, top, [...logits]]);"""
    label, top, logits = node(tmp_path, program, shipped.path, tmp_path / "pixels")
    image = load_image(pixels[:, :, :3], shipped.card.preprocess)
    integers = reference.run(shipped.network, image[None])[0]
    assert logits == integers.tolist()
    real = (integers * shipped.record.logit_scale).astype(np.float32)
    shares = metrics.softmax(real[None], shipped.card.temperature or 1.0)[0]
    order = np.argsort(-shares, kind="stable")[:5]
    assert [guess["name"] for guess in top] == [shipped.card.classes[i] for i in order]
    assert [guess["probability"] for guess in top] == pytest.approx(shares[order].tolist(), rel=1e-4)
    assert label is None, "unknown below the threshold"


def test_sizes_are_read_from_headers(tmp_path: Path) -> None:
    from PIL import Image

    names = ("a.png", "a.gif", "a.bmp", "a.jpg", "b.jpg", "a.webp", "a.tiff")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (31, 50, 3), np.uint8))
    for name in names:
        exif = image.getexif()
        exif[0x010E] = "x" * 3000
        extra: dict[str, Any] = {"exif": exif} if name in ("b.jpg", "a.webp") else {}
        image.save(tmp_path / name, **extra)
    program = "show(given.map((path) => decode.headerSize(readFileSync(path))));"
    sizes = node(tmp_path, program, *(tmp_path / name for name in names))
    assert sizes == [[50, 31]] * 6 + [None]


def test_refusals_are_sentences(tmp_path: Path) -> None:
    cases = '[["a", 0, null], ["a", 4e8, null], ["a", 9, [20000, 10000]], ["a", 9, [10000, 10000]], ["a", 9, null]]'
    empty, heavy, large, *good = node(tmp_path, f"show({cases}.map((c) => decode.refusal(...c)));")
    assert empty == "a is empty (0 bytes); choose a picture."
    assert heavy == "a has 400 MB, over the limit of 300; scale it down."
    assert large == "a has 20000 × 10000: 200 megapixels, over the limit of 100; scale it down."
    assert good == ["", ""]


def test_the_csv_quotes_and_starts_no_formula(tmp_path: Path) -> None:
    rows = """[{ name: '=cmd()', label: 'a "b", c', top: [{ name: "x", probability: 0.5 }] },
      { name: "n", label: null, top: [{ name: "x", probability: 0.25 }] }, { name: "e", error: "bad" }]"""
    assert node(tmp_path, f"show(csv({rows}));").splitlines() == [
        "file,answer,probability,error",
        '\'=cmd(),"a ""b"", c",0.500000,',
        "n,unknown,0.250000,",
        "e,,,bad",
    ]


# --- in a browser --------------------------------------------------------------------------


def browse(tmp_path: Path, page: str, **wish: Any) -> Any:
    pytest.importorskip("playwright", reason="make browser installs Playwright")
    tool(*browsing.CHROMIUM)
    return browsing.browse(tmp_path, page, **wish)


def test_a_browser_answers_as_python_does(tmp_path: Path, shipped: QnzFile) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((120, 161), (32, 32), (9, 700))]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, array in zip(tuple(paths), arrays, strict=True):
        Image.fromarray(array).save(path)
    array = np.dstack([arrays[0], np.arange(161, dtype=np.uint8)[None].repeat(120, 0)])
    Image.fromarray(array).save(tmp_path / "clear.png")
    turned = Image.fromarray(arrays[0]).getexif()
    turned[0x0112] = 6
    Image.fromarray(arrays[0]).save(tmp_path / "turned.jpg", quality=90, exif=turned)
    paths += [tmp_path / "clear.png", tmp_path / "turned.jpg"]
    bad = {"empty.png": b"", "text.png": b"hello" * 99, "cut.png": paths[0].read_bytes()[:300]}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    files = [str(path) for path in (*paths, *(tmp_path / name for name in bad))]
    shown = browse(tmp_path, render_page(shipped.blob, shipped.card), files=files)
    assert shown["test"] == "Self-test: 16 of 16 test vectors give the recorded answer, bit for bit."
    images = np.stack([load_image(path, shipped.card.preprocess) for path in paths])
    expected = reference.run(shipped.network, images)
    answered = [row["logits"] for row in shown["rows"][:5]]
    assert answered[:4] == expected[:4].tolist()
    # another libjpeg might differ; Chromium's did not, on 100 photographs (docs/page.md)
    assert np.abs((np.array(answered[4]) - expected[4]) * shipped.record.logit_scale).max() < 0.1
    empty, text, _ = (row.get("error", "") for row in shown["rows"][5:])
    assert empty == "empty.png is empty (0 bytes); choose a picture."
    assert text.startswith("text.png is not a whole picture")
    assert shown["problems"] == [] and shown["wider"] <= 0


def test_dropped_pictures_are_answered_as_by_predict_and_keys_reach_everything(
    tmp_path: Path, shipped: QnzFile, capfd: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    rng = np.random.default_rng(1)
    modes = ("RGB", "L", "P", "RGB")
    paths = [tmp_path / f"{i}.png" for i in range(len(modes))]
    for path, mode in zip(paths, modes, strict=True):
        smooth = Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8)).resize((90, 120))
        smooth.convert(mode).save(path)
    names = [str(path) for path in paths]
    keys = ["Tab", "Enter", "Tab", "Tab", " "]
    shown = browse(tmp_path, render_page(shipped.blob, shipped.card), dropped=names, keys=keys)
    assert shown["focused"] == ["files", "files", "photo", "camera", "camera"]
    assert shown["several_files"] == [True], "Enter opens the choice of files"
    assert {"Choose pictures", "Take a photograph", "Live camera"} <= set(shown["controls"])
    assert all(shown["controls"]), "a control has no name"

    assert cli(["predict", "quicknet_xs.cifar10", *names, "--top", "5", "--json"]) == 0
    answers = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["name"] for row in shown["rows"]] == [path.name for path in paths]
    for row, answer in zip(shown["rows"], answers, strict=True):
        assert row["label"] == answer["label"]
        assert [guess["name"] for guess in row["top"]] == [guess["label"] for guess in answer["top"]]
        shares = [guess["probability"] for guess in answer["top"]]
        assert [guess["probability"] for guess in row["top"]] == pytest.approx(shares, rel=1e-4, abs=1e-6)
    images = np.stack([load_image(path, shipped.card.preprocess) for path in paths])
    assert [row["logits"] for row in shown["rows"]] == reference.run(shipped.network, images).tolist()


def test_the_camera_and_hostile_names_on_a_narrow_dark_screen(tmp_path: Path) -> None:
    blob, card = small_model(tmp_path, classes=HOSTILE)
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    shown = browse(tmp_path, render_page(blob, card), camera=True, width=390, mobile=True, dark=True, flags=flags)
    assert shown["status"].endswith("frames/s") and shown["label"] in HOSTILE
    assert shown["problems"] == [] and shown["scripts"] == 3 and shown["wider"] <= 0
    assert shown["background"] == "rgb(16, 19, 23)"


def test_without_simd_the_plain_module_answers(tmp_path: Path) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("only on x86 has Chromium a switch for it")
    blob, card = small_model(tmp_path)
    shown = browse(tmp_path, render_page(blob, card), flags=["--js-flags=--no-enable-sse4-1 --no-enable-ssse3"])
    assert shown["test"].startswith("Self-test: 16 of 16 test vectors") and "no SIMD" in shown["test"]


def test_pictures_do_not_wait_for_the_self_test_and_go_when_it_fails(tmp_path: Path) -> None:
    from PIL import Image

    _, card = small_model(tmp_path)
    assert card.vectors is not None and card.vectors.integers is not None
    *others, last = card.vectors.integers
    blob, card = small_model(tmp_path, vectors=card.vectors.replace(integers=(*others, (last[0] + 1, *last[1:]))))
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    shown = browse(tmp_path, render_page(blob, card), files=[str(tmp_path / "a.png")], at_once=True)
    assert [text for _, text in shown["said"]][:2] == ["Loading", "Ready"]
    assert "1 of 16 test vectors gave other answers" in shown["problem"] and shown["status"] == "Not usable here"
    assert not any(shown["visible"].values()), "an answer stays, or a control works"


def test_unusual_pictures_are_answered_and_what_is_too_large_is_said(tmp_path: Path, shipped: QnzFile) -> None:
    from PIL import Image

    rng = np.random.default_rng(2)
    arrays = [rng.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(2)]
    first, second = (Image.fromarray(array).quantize(64) for array in arrays)
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    Image.fromarray(rng.integers(0, 1 << 16, (40, 50), np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(arrays[0]).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    first.save(tmp_path / "huge.png")
    huge = bytearray((tmp_path / "huge.png").read_bytes())
    huge[16:24] = (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
    (tmp_path / "huge.png").write_bytes(huge)
    names = ("moving.gif", "deep.png", "print.jpg", "huge.png")
    files = [str(tmp_path / name) for name in names]
    shown = browse(tmp_path, render_page(shipped.blob, shipped.card), files=files)
    *answered, refused = shown["rows"]
    images = np.stack([load_image(Path(path), shipped.card.preprocess) for path in files[:3]])
    expected = reference.run(shipped.network, images)
    assert answered[0]["logits"] == expected[0].tolist()
    off = np.abs(np.array([row["logits"] for row in answered]) - expected).max(1) * shipped.record.logit_scale
    assert (off < 0.1).all(), off
    assert refused["error"] == "huge.png has 20000 × 10000: 200 megapixels, over the limit of 100; scale it down."


def test_without_webassembly_the_page_says_what_is_missing(tmp_path: Path) -> None:
    shown = browse(tmp_path, render_page(*small_model(tmp_path)), flags=["--js-flags=--jitless"])
    assert shown["status"] == "Not usable here" and "This browser lacks WebAssembly; use" in shown["problem"]
    assert not any(shown["visible"].values())


def test_a_refused_camera_and_a_damaged_model_are_said(tmp_path: Path) -> None:
    blob, card = small_model(tmp_path)
    page = render_page(blob, card)
    assert "camera" in browse(tmp_path, page, camera=True, flags=["--deny-permission-prompts"])["problem"]
    damaged = bytearray(blob)
    damaged[len(blob) // 2] ^= 1
    shown = browse(tmp_path, render_page(bytes(damaged), card))
    assert shown["start"] == "Not usable here" and "damaged" in shown["problem"]
