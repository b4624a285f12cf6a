"""FORMAT.md, its numbers in Python, the C headers, the binding and the web page's loader say the same."""

import ast
import ctypes
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from native import CSRC, ENGINE
from quicknet import engine
from quicknet.core import card
from quicknet.engine import binding, resize
from quicknet.qnz import format as numbers
from quicknet.qnz import reference
from quicknet.qnz.coding.model import BITS
from quicknet.qnz.container import pack_sections
from quicknet.qnz.encoding import decode_coded, decode_network, encode_coded, encode_network
from quicknet.qnz.network import IntegerNetwork, IntegerSeparable, IntegerStem, Requantization

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "FORMAT.md").read_text()
PACKAGE = ROOT / "src" / "quicknet"
FIELDS = {
    "HEADER": ("MAGIC", "MAJOR", "MINOR", "SECTIONS", "LENGTH", "ZEROS"),
    "ENTRY": ("KIND", "FLAGS", "OFFSET", "LENGTH", "SHA256", "ZEROS"),
    "SHAPE": ("SIDE", "CHANNELS", "ZERO1", "LAYERS", "ZERO2", "CLASSES", "ZERO3"),
    "LAYER": ("KIND", "KERNEL", "STRIDE", "POOL", "CHANNELS", "SUMS", "SHIFT", "ZERO", "TOP", "MIDDLE_ZERO",
              "MIDDLE_TOP", "ZEROS"),
    "CODE_HEADER": ("CODING", "ZEROS"),
    "CARZ_HEADER": ("LENGTH",),
}  # fmt: skip


def offsets(record: str) -> dict[str, int]:
    """Return where each field of a record of format.py begins: HEADER_MAJOR → 8, .., and HEADER_BYTES."""
    layout = getattr(numbers, record)
    codes = re.findall(r"\d*[a-zA-Z]", layout.format)
    assert len(codes) == len(FIELDS[record])
    offset_of = {}
    for index, name in enumerate(FIELDS[record]):
        offset_of[f"{record}_{name}"] = struct.calcsize("<" + "".join(codes[:index]))
    return {**offset_of, f"{record}_BYTES": layout.size}


# --- the page ------------------------------------------------------------------------------


def span(limits: tuple[int, int]) -> str:
    return f"{limits[0]}..{limits[1]}"


def listed(values: tuple[int, ...], last: str = "or") -> str:
    return f"{', '.join(map(str, values[:-1]))} {last} {values[-1]}"


SENTENCES = [
    f"magic: {numbers.MAGIC.hex(' ').upper()}",
    f"u16 major version: {numbers.MAJOR}; {numbers.CODED_MAJOR} with CODE\n",
    f"u16 minor version: {numbers.MINOR}\n",
    f"u32 number of sections, 1..{numbers.MAX_SECTIONS}\n",
    f"a file above {numbers.MAX_FILE_BYTES >> 20} MiB",
    f"JSON in UTF-8, at most {card.LIMIT_BYTES >> 20} MiB",
    f"end − {numbers.DIGEST_BYTES}  {numbers.DIGEST_BYTES}  SHA-256 of everything before it",
    f"u16 side of the image in pixels, {span(numbers.SIDES)}\n",
    f"u8 channels of the image, {span(numbers.IMAGE_CHANNELS)}\n",
    f"u16 layers: the stem and the separable layers, {span(numbers.LAYERS)}\n",
    f"u32 classes, {span(numbers.CLASSES)}\n",
    f"u8  kind: {numbers.STEM} stem (the first layer, and only that), {numbers.SEPARABLE} separable\n",
    f"u8  kernel k: stem {span(numbers.STEM_KERNELS)}; separable {listed(numbers.KERNELS)}\n",
    f"u8  stride: stem {span(numbers.STEM_STRIDES)}; separable 1\n",
    f"u16 output channels, {span(numbers.CHANNELS)}\n",
    f"u8  sums N: {listed(numbers.SUMS)}\n",
    f"u8  shift s, {span(numbers.SHIFTS)}\n",
    f"u8  top of the output: {listed(numbers.TOPS)}\n",
    f"u8  top of the depthwise output: {listed(numbers.TOPS)}; stem 0\n",
    f"clamp(v, −{-numbers.INT16_MIN}, {numbers.INT16_MAX})",
    f"multipliers in −{numbers.INT16_MAX}..{numbers.INT16_MAX} (depthwise multipliers in 0..{numbers.INT16_MAX})",
    f"All `i8` weights lie in −{numbers.MAX_WEIGHT}..{numbers.MAX_WEIGHT}",
    f"P·T ≤ {numbers.INT16_MAX} and M·T ≤ {numbers.INT16_MAX}",
    f"(T = 255: at most {numbers.INT16_MAX // 255} each; T = 127: at most {numbers.INT16_MAX // 127})",
    f"T is the top of the layer's input ({numbers.IMAGE_TOP} for the stem",
    f"In every block of {numbers.BLOCK} of the sequence",
    f"filled up with zeros to a multiple of {numbers.BLOCK}",
    f"u32 size of the text in bytes, at most {card.LIMIT_BYTES >> 20} MiB\n",
    f"u8 coding: {numbers.HUFFMAN} huffman, {numbers.CONTEXTS} contexts\n",
    f"at most {numbers.EXPANSION} bytes for each byte of `CODE`",
    f"p = {1 << numbers.CHANCE_BITS - 1}, n = {numbers.FIRST_COUNT}. A decision",
    f"q = (p >> {numbers.CHANCE_BITS - numbers.CODED_CHANCE_BITS}) | 1 ",
    f"r = state mod {1 << numbers.CODED_CHANCE_BITS}\n",
    f"state = ({1 << numbers.CODED_CHANCE_BITS} − q) · (state >> {numbers.CODED_CHANCE_BITS}) + r − q",
    f"p = p + ((({(1 << numbers.CHANCE_BITS) - 1} − p) · R) >> {numbers.CHANCE_BITS})",
    f"state < {numbers.STATE_LOW}:  state",
    f"with R = {2 << numbers.CHANCE_BITS} div (2n + 3)",
    f"n grows by one, to at most {numbers.LAST_COUNT}.",
    f"an alphabet a length, 0..{numbers.MAX_CODE_BITS};",
    f"{numbers.COUNT_BITS} even decisions from the highest bit, and a table of gaps",
    f"lie in blocks of {numbers.CODED_BLOCK} neighbouring input channels",
    f"the largest magnitude M, {numbers.MAGNITUDE_BITS} even decisions",
    f"a chance is one of {numbers.CLASSES_OF_DENSITY}·{numbers.CLASSES_OF_DENSITY} for places, "
    f"and one of {numbers.CLASSES_OF_MAGNITUDE} for each node",
    f"(min({numbers.CLASSES_OF_DENSITY - 1}, ({numbers.DENSITY_SCALE}·a + {numbers.DENSITY_PRIOR}) div (o + 1)),",
    f"symbols 0..{numbers.GAP} of the table of gaps, of which {numbers.GAP} stands for {numbers.GAP} blocks",
    f"below its highest, at most {numbers.CLASSES_OF_MAGNITUDE - 1}. After a value v, "
    f"m = m + (({1 << numbers.MAGNITUDE_SHIFT}·|v| − m) >> {numbers.MAGNITUDE_RATE})",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_the_page_has_the_number(sentence: str) -> None:
    assert sentence in PAGE


def test_powers_of_two_on_the_page() -> None:
    digits = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
    powers = {text: 1 << int(text.translate(digits)) for text in re.findall("2([⁰¹²³⁴⁵⁶⁷⁸⁹]+)", PAGE)}
    assert "At most 2²⁸ weights in all (" in PAGE
    assert powers["²⁸"] == numbers.MAX_WEIGHTS
    assert "no feature map of more than 2²⁶ values" in PAGE
    assert powers["²⁶"] == numbers.MAX_MAP
    assert "bias + P·T ≤ 2³¹ − 1 and bias − M·T ≥ −2³¹" in PAGE
    assert (powers["³¹"] - 1, -powers["³¹"]) == (numbers.INT32_MAX, numbers.INT32_MIN)
    assert f"(t·m + 2¹⁴) >> {numbers.FRACTION_BITS}" in PAGE
    assert (powers["¹⁴"], powers["¹⁵"]) == (numbers.UNIT // 2, numbers.UNIT)


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ("CARZ_HEADER", PAGE[PAGE.index("\n0   4  u32 size of the text") : PAGE.index("\n4   …  a zlib stream")]),
        ("CODE_HEADER", PAGE[PAGE.index("\n0   1  u8 coding") : PAGE.index("\n4   …  decisions")]),
        ("HEADER", PAGE[PAGE.index("\n0       8     magic") : PAGE.index("\n32      64×n")]),
        ("ENTRY", PAGE[PAGE.index("\n                 4   kind") : PAGE.index("\n…             the sections")]),
        ("SHAPE", PAGE[PAGE.index("\n0   2  u16 side") : PAGE.index("\n16  16 for each layer")]),
        ("LAYER", PAGE[PAGE.index("\n       0   u8  kind") : PAGE.index("```\n\nZero points")]),
    ],
)
def test_records_lie_as_the_page_says(record: str, text: str) -> None:
    fields = offsets(record)
    starts = [fields[f"{record}_{name}"] for name in FIELDS[record]]
    ends = [*starts[1:], fields[f"{record}_BYTES"]]
    first = [int(number) for number in re.findall(r"^ *(\d+) ", text, re.MULTILINE)]
    assert first == (starts if record != "ENTRY" else [end - start for start, end in zip(starts, ends, strict=True)])
    if record not in ("ENTRY", "LAYER"):
        sizes = re.findall(r"^ *\d+ +(\d+) ", text, re.MULTILINE)
        assert [int(size) for size in sizes] == [end - start for start, end in zip(starts, ends, strict=True)]


def test_kinds_of_sections() -> None:
    rows = re.findall(r"^\| `(\w{4})` \|", PAGE[: PAGE.index("### `NETW`")], re.MULTILINE)
    assert tuple(rows) == (*numbers.REQUIRED, numbers.CARZ, numbers.CODE, *numbers.RESERVED)
    other = {numbers.TENS: numbers.CODE, numbers.CARD: numbers.CARZ}
    assert tuple(other.get(kind, kind) for kind in numbers.REQUIRED) == numbers.CODED_REQUIRED
    assert all(kind.isupper() for kind in rows)
    assert numbers.SKIPPABLE == 1 << 0 and "flags: bit 0 set" in PAGE


def test_lanes() -> None:
    for sums, text in re.findall(r"N = (\d): ((?:\{[\d,]+\}[ …]*)+)", PAGE):
        groups = [tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", text)]
        lanes = numbers.LANES[int(sums)]
        if "…" in text:  # {0,1} {2,3} {4,5} … {14,15}
            assert tuple(groups) == (*lanes[:3], lanes[-1])
        else:
            assert tuple(groups) == lanes
    assert tuple(numbers.LANES) == numbers.SUMS
    for sums, lanes in numbers.LANES.items():
        assert sorted(index for lane in lanes for index in lane) == list(range(numbers.BLOCK))
        assert {len(lane) for lane in lanes} == {2 * sums}


def test_kinds_of_numbers() -> None:
    rows = re.findall(r"^\| (\d) \| (\d+) \|", PAGE, re.MULTILINE)
    assert [(int(kind), int(bits)) for kind, bits in rows] == list(enumerate(BITS))
    assert "beside the first 2²⁰" in PAGE and numbers.EXPANSION_FREE == 1 << 20
    assert 1 << numbers.LENGTH_BITS == numbers.MAX_CODE_BITS + 1


def test_width_classes() -> None:
    rows = re.findall(r"^\| `(w\da\d)` \| (\d+) \| (\d) \|", PAGE, re.MULTILINE)
    assert {name: (int(top), int(sums)) for name, top, sums in rows} == {
        name: (width.top, width.sums) for name, width in numbers.WIDTHS.items()
    }
    twice = [f"`{name}`" for name, width in numbers.WIDTHS.items() if width.stem_sums == 2]
    assert f"has N = 1, in {' and '.join(twice)} N = 2." in PAGE
    assert {width.stem_sums for width in numbers.WIDTHS.values()} == {1, 2}


# --- the engine ----------------------------------------------------------------------------


def enumerators(path: Path) -> dict[str, int]:
    """Return the enumerators of a C header by name; those without a value count on."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
    value_of = {}
    for body in re.findall(r"enum \{(.*?)\}", text, re.DOTALL):
        value = -1
        for item in filter(None, map(str.strip, body.split(","))):
            name, _, expression = map(str.strip, item.partition("="))
            value = eval(expression, {}, {}) if expression else value + 1
            value_of[name] = value
    return value_of


def limits(name: str, pair: tuple[int, int]) -> dict[str, int]:
    return {f"MIN_{name}": pair[0], f"MAX_{name}": pair[1]}


def test_the_c_header_has_the_same_numbers_and_no_others() -> None:
    small, large = numbers.KERNELS
    same = ("MAJOR", "CODED_MAJOR", "HUFFMAN", "CONTEXTS", "CODED_BLOCK", "EXPANSION", "EXPANSION_FREE",
            "MAX_CODE_BITS", "MAGNITUDE_BITS", "COUNT_BITS", "GAP", "STATE_LOW", "CHANCE_BITS", "CODED_CHANCE_BITS",
            "FIRST_COUNT", "LAST_COUNT", "CLASSES_OF_DENSITY", "CLASSES_OF_MAGNITUDE", "DENSITY_SCALE",
            "DENSITY_PRIOR", "MAGNITUDE_SHIFT", "MAGNITUDE_RATE",
            "MAX_SECTIONS", "MAX_FILE_BYTES", "SKIPPABLE", "DIGEST_BYTES", "STEM", "SEPARABLE", "IMAGE_TOP",
            "MAX_WEIGHTS", "MAX_MAP", "BLOCK", "MAX_WEIGHT")  # fmt: skip
    expected = {
        **{name: getattr(numbers, name) for name in same},
        **offsets("HEADER"), **offsets("ENTRY"), **offsets("SHAPE"), **offsets("LAYER"),
        **offsets("CODE_HEADER"), **offsets("CARZ_HEADER"),
        **limits("SIDE", numbers.SIDES), **limits("IMAGE_CHANNELS", numbers.IMAGE_CHANNELS),
        **limits("LAYERS", numbers.LAYERS), **limits("CLASSES", numbers.CLASSES),
        **limits("CHANNELS", numbers.CHANNELS), **limits("SHIFT", numbers.SHIFTS),
        **limits("STEM_KERNEL", numbers.STEM_KERNELS), **limits("STEM_STRIDE", numbers.STEM_STRIDES),
        "KERNEL_SMALL": small, "KERNEL_LARGE": large, "TOP_SMALL": numbers.TOPS[0], "TOP_LARGE": numbers.TOPS[1],
        "MAX_CARD_BYTES": card.LIMIT_BYTES, "KIND_BYTES": len(numbers.CARD),
    }  # fmt: skip
    assert enumerators(CSRC / "format.h") == {f"QNZ_{name}": value for name, value in expected.items()}


def test_the_c_header_has_the_same_texts() -> None:
    text = (CSRC / "format.h").read_text()
    texts = {name: ast.literal_eval(f"b{value}") for name, value in re.findall(r'#define QNZ_(\w+) (".*")', text)}
    assert texts == {
        "MAGIC": numbers.MAGIC,
        **{kind: kind.encode() for kind in (*numbers.REQUIRED, *numbers.CODED_REQUIRED)},
    }


def test_the_binding_counts_as_the_c_headers_do() -> None:
    codes = enumerators(CSRC / "quicknet.h")
    names = {f"QN_{name.upper().replace('-', '_')}": code for name, code in binding._ISAS.items()}
    pointwise = {f"QN_{name.upper()}": code for name, code in binding._POINTWISE.items() if code}
    assert names | pointwise == {name: codes[name] for name in list(codes)[list(codes).index("QN_BEST") :]}
    named = {name: codes[name] for name in ("QN_MEMORY", "QN_ISA", "QN_THREADS")}
    assert named == {"QN_MEMORY": binding._MEMORY, "QN_ISA": binding._ISA, "QN_THREADS": binding._THREADS}
    align = re.search(r"#define QN_ALIGN (\d+)", (CSRC / "kernels.h").read_text())
    assert align is not None and int(align[1]) == binding._ALIGN


def test_the_binding_has_the_c_struct() -> None:
    body = re.search(r"typedef struct \{([^}]*)\} qn_info;", (CSRC / "quicknet.h").read_text())
    assert body is not None
    types = {"uint32_t": ctypes.c_uint32, "uint64_t": ctypes.c_uint64}
    fields: list[tuple[str, object]] = []
    for declared, names in re.findall(r"^ *(\w+) ([^;]*);", body[1], re.MULTILINE):
        for name in names.split(", "):
            bare, _, size = name.partition("[")
            fields.append((bare, ctypes.c_char * int(size[:-1]) if size else types[declared]))
    assert list(binding._Info._fields_) == fields


def test_the_web_pages_loader_has_the_same_numbers() -> None:
    text = (ENGINE / "js" / "quicknet.mjs").read_text()
    constants = {name: int(value) for name, value in re.findall(r"^const ([A-Z_]+) = (\d+);", text, re.MULTILINE)}
    known = offsets("HEADER") | offsets("ENTRY") | offsets("CARZ_HEADER")
    known |= {"INFO_BYTES": ctypes.sizeof(binding._Info), "SECTION_AT": binding._Info.section.offset}
    spec = re.search(r"int32_t ([\w, ]+);\n} qn_spec;", (CSRC / "resize.h").read_text())
    known["SPEC_AT"] = 4 * len(resize._Picture._fields_)  # a pointer has 4 bytes there
    known["PICTURE_BYTES"] = known["SPEC_AT"] + 4 * len(spec[1].split(",") if spec else ())
    known["READ_SHAPE"] = enumerators(CSRC / "reading.h")["QN_READ_SHAPE"]
    assert constants == {name: known[name] for name in constants}
    assert len(constants) == 11


def test_no_module_spells_a_limit_out_again() -> None:
    telling = {513, 8192, 32767, 32768, 100_000, 1 << 26, 1 << 28, 512 << 20}
    modules = [*(PACKAGE / "qnz").glob("*.py"), *(PACKAGE / "deploy" / "quantize").glob("*.py")]
    modules += [PACKAGE / "deploy" / "onnx_int8.py", PACKAGE / "inference" / "shipped.py"]
    assert len(modules) > 15
    for path in modules:
        if path.name == "format.py":
            continue
        actual = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not {value for value in actual if isinstance(value, int)} & telling, path


# --- the page's example --------------------------------------------------------------------

I8, I16, I32 = np.int8, np.int16, np.int32


def example() -> IntegerNetwork:
    """Return the network of FORMAT.md, "A file, byte by byte"."""
    multipliers = np.array([512], I16), np.array([128], I16)
    depthwise = np.zeros((3, 3, 1), I8)
    depthwise[1, 1:, 0] = 64, 32
    stem = IntegerStem(
        stride=8,
        sums=1,
        weight=np.full((1, 1, 1, 1), 64, I8),
        bias=np.array([1], I32),
        output=Requantization(1, *multipliers, zero=0, top=255),
    )
    block = IntegerSeparable(
        pool=False,
        depthwise=depthwise,
        multiplier=np.array([512], I16),
        middle_zero=10,
        middle_top=255,
        sums=1,
        weight=np.full((1, 1), -64, I8),
        bias=np.array([641], I32),
        output=Requantization(1, *multipliers, zero=20, top=255),
    )
    return IntegerNetwork(16, 1, stem, (block,), np.array([[3], [-3]], I16), np.array([-240, 240], I32))


def printed() -> bytes:
    """Return the bytes that the page prints, whose offsets must count on."""
    section = PAGE[PAGE.index("## A file, byte by byte") :]
    data = b""
    for line in section.split("```")[1].strip().splitlines():
        offset, text = re.match(r"(\d+) +((?:[0-9A-F]{2} ?)+)(?: |$)", line).groups()
        assert int(offset) == len(data), line
        data += bytes.fromhex(text)
    return data


def test_the_pages_bytes_are_what_is_written() -> None:
    netw, tens = encode_network(example())
    blob = pack_sections({"CARD": b"{}", "NETW": netw, "TENS": tens})
    assert printed() == blob
    sizes = [int(number) for number in re.findall(r"(\d+) bytes in all", PAGE)]
    assert sizes == [len(blob)]


def test_the_pages_bytes_classify_as_it_says() -> None:
    blob = printed()
    start = len(blob) - numbers.DIGEST_BYTES - 41
    network = decode_network(memoryview(blob)[start - 48 : start], memoryview(blob)[start:-32], "the page")
    image = np.full((1, 16, 16, 1), 100, np.uint8)
    tensors = {name: tensor.ravel().tolist() for name, tensor in reference.trace(network, image)}
    assert tensors == {
        "stem": [50] * 4,
        "1.depthwise": [85, 60, 85, 60],
        "1.pointwise": [11, 14, 11, 14],
        "sums": [50],
        "logits": [-90, 90],
    }
    if engine.available():
        for isa in engine.instruction_sets():
            assert engine.Engine(blob, isa=isa).run(image).tolist() == [[-90, 90]], isa


# --- the page's example of CARZ ------------------------------------------------------------


def test_the_pages_carz_is_what_is_read() -> None:
    found = re.search(r"^((?:[0-9A-F]{2} )+)  the card \{\}$", PAGE, re.MULTILINE)
    assert found is not None
    (size_bytes,) = numbers.CARZ_HEADER.unpack_from(bytes.fromhex(found[1]))
    text = zlib.decompress(bytes.fromhex(found[1])[numbers.CARZ_HEADER.size :])
    assert (text, size_bytes) == (b"{}", 2)


# --- the page's example of CODE ------------------------------------------------------------


def sparse_example() -> IntegerNetwork:
    """Return the network of FORMAT.md, "CODE, byte by byte"."""
    multipliers = np.full(6, 512, I16), np.full(6, 128, I16)
    stem = IntegerStem(8, 1, np.full((6, 1, 1, 1), 64, I8), np.ones(6, I32), Requantization(1, *multipliers, 0, 255))
    depthwise = np.zeros((3, 3, 6), I8)
    depthwise[1, 1] = 64
    weight = np.array([[5, -2, 5, 5, 0, 0], [0] * 6, [0, 0, 0, 0, -2, 5]], I8)
    block = IntegerSeparable(
        pool=False,
        depthwise=depthwise,
        multiplier=np.full(6, 512, I16),
        middle_zero=10,
        middle_top=255,
        sums=1,
        weight=weight,
        bias=np.ones(3, I32),
        output=Requantization(1, multipliers[0][:3], multipliers[1][:3], zero=20, top=255),
    )
    return IntegerNetwork(16, 1, stem, (block,), np.array([[3, 0, -3], [-3, 0, 3]], I16), np.array([0, 0], I32))


@pytest.mark.parametrize(("name", "coding"), [("huffman", numbers.HUFFMAN), ("contexts", numbers.CONTEXTS)])
def test_the_pages_code_is_what_is_written(name: str, coding: int) -> None:
    text = PAGE[PAGE.index("## `CODE`, byte by byte") :]
    text = text[text.index(f"`{name}`:") :].split("```")[1]
    page = bytes.fromhex("".join(re.findall(r"^(?:\d+ +)?((?:[0-9A-F]{2} ?)+)", text.strip(), re.MULTILINE)))
    netw, code = encode_coded(sparse_example(), coding)
    assert page == code
    assert f"{name}`: {len(code)} bytes" in PAGE
    decoded, _ = decode_coded(memoryview(netw), memoryview(page), "the page")
    assert encode_network(decoded) == encode_network(sparse_example())
