"""What --help shows, as it is rendered, and what --json-schema promises."""

import contextlib
import importlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from quicknet.cli.main import VERBS, cli, run
from quicknet.cli.schemas import SCHEMAS
from schema import follows

FIRST_SCREEN = 24  # lines of the smallest usual terminal
# a description that begins so is not a sentence
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PREPOSITIONS = {"Of", "For", "To", "With", "In", "On", "By", "From", "At"}


def rendered(name: str, columns: int = 80) -> str:
    """What `quicknet NAME --help` prints on a terminal of so many columns; "" for the whole command."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setenv("COLUMNS", str(columns))
        assert run([*filter(None, [name]), "--help"]) == 0
    return output.getvalue()


@pytest.fixture(params=["", *VERBS], ids=lambda name: name or "quicknet")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("columns", [80, 60, 200])
def test_no_markup_and_no_long_lines(name: str, columns: int) -> None:
    text = rendered(name, columns)
    assert set(re.findall(r"[^ -~]", text)) == {"\n"}, "a terminal may have no other letters"
    assert "\\" not in text
    assert "{" not in text, "JSON belongs into --json-schema"
    for line in text.splitlines():
        assert len(line) <= 100, line
        assert not re.search(r"\w-$", line), f"a word or an option is broken: {line}"


def test_the_first_screen_has_a_sentence_examples_and_options(name: str) -> None:
    lines = rendered(name).splitlines()
    heads = [line for line in lines if re.fullmatch(r"[A-Z][\w ]+:", line)]
    middle = ["Commands:"] if not name else ["Arguments:"]
    expected = ["Examples:", *middle, "Options:", "Notes:", "Exit codes:"]
    assert heads == [head for head in expected if head in heads]
    assert {"Examples:", *middle, "Options:", "Exit codes:"} <= set(heads)
    assert lines[0].startswith(f"Usage: quicknet {name}".rstrip())
    sentence = " ".join(line.strip() for line in lines[2 : lines.index("", 2)])
    assert sentence[0].isupper() and sentence.endswith(".") and sentence.count(". ") == 0
    if name:
        assert lines.index("Options:") + 3 <= FIRST_SCREEN


def test_the_examples_parse(name: str) -> None:
    examples = re.findall(r"^  \$ (quicknet .+)$", rendered(name), re.MULTILINE)
    assert 1 <= len(examples) <= 3
    for example in examples:
        words = example.split()[1:]
        assert not name or words[0] == name
        command = cli.get_command(click.Context(cli), words[0])
        assert command is not None
        command.make_context(words[0], words[1:])


def test_every_option_and_argument_is_described_by_a_sentence(name: str) -> None:
    top = click.Context(cli, info_name="quicknet")
    command = cli.get_command(top, name) if name else cli
    assert command is not None
    flat = " ".join(rendered(name).split())
    for parameter in command.get_params(top):
        text = parameter.help or ""
        sentence = re.sub(r"  \[default: [^]]*\]$", "", text)
        assert re.fullmatch(r"[A-Z].+[.)]", sentence), f"{parameter.name}: {text!r}"
        assert sentence.endswith(".") and len(sentence.split()) >= 3, f"{parameter.name}: {text!r}"
        assert sentence.split()[0] not in PREPOSITIONS, f"{parameter.name}: {text!r}"
        assert " ".join(text.split()) in flat, f"{parameter.name} is not shown"
        assert isinstance(parameter, click.Argument) or parameter.opts[0] in flat


def test_exit_codes_are_said(name: str) -> None:
    codes = re.findall(r"^  (\d+) +[A-Z]", rendered(name).partition("Exit codes:")[2], re.MULTILINE)
    assert codes == [code for code in ("0", "1", "2", "130") if code in codes]
    assert {"0", "2", "130"} <= set(codes)
    checks = {"", "verify", "doctor", "export", "compress", "benchmark"}
    assert ("1" in codes) == (name in checks)


def test_the_drawing_of_scenes_has_such_help_too(capfd: pytest.CaptureFixture[str]) -> None:
    from quicknet.data import scenes

    with pytest.raises(SystemExit, match="0"):
        scenes.main(["--help"])
    text = capfd.readouterr().out
    assert "\\" not in text and "`" not in text
    assert max(map(len, text.splitlines())) <= 100
    for option in ("folder", "--per-class", "--seed", "--size"):
        assert re.search(rf"^  {option}( [A-Z_]+)? +\w+", text, re.MULTILINE), option


# --- --json-schema -------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_json_schema_needs_nothing_else(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--json-schema"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    schema = json.loads(captured.out)
    assert schema == SCHEMAS[verb]
    assert schema["title"] == f"quicknet {verb} --json"
    described(schema)


def described(schema: Any) -> None:
    """Check that every field of a schema has a sentence."""
    for variant in schema.get("anyOf", [schema]):
        assert re.fullmatch(r"[A-Z0-9n].*\.", variant["description"], re.DOTALL), variant
        for field in variant.get("properties", {}).values():
            described(field)
        for key in ("items", "additionalProperties"):
            if key in variant:
                described(variant[key])


def test_json_schema_loads_no_torch() -> None:
    code = (
        "import sys; from quicknet.cli.main import VERBS, run\n"
        "assert not any(run([verb, '--json-schema']) for verb in VERBS)\n"
        "assert not {'torch', 'numpy', 'onnxruntime'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def records() -> dict[str, tuple[tuple[str, set[str]], ...]]:
    """For each verb and variant of its output: the record that is printed, and what the command adds to it."""
    return {
        "train": (("quicknet.training.checkpoint:EpochRecord", {"event"}),),
        "evaluate": (("quicknet.inference.evaluate:Evaluation", set()),),
        "predict": (("quicknet.inference.video:FramePrediction", set()),),
        "export": (("quicknet.deploy.qnz:ExportedQnz", set()), ("quicknet.deploy.export:Exported", set())),
        "compress": (("quicknet.deploy.compress.settings:Compressed", set()),),
        "verify": (("quicknet.inference.verify:Verification", {"holds"}),),
        "benchmark": (("quicknet.measure.benchmark:Benchmark", set()),),
        "compare": (("quicknet.report.comparison:Comparison", set()),),
    }


def parts() -> list[tuple[dict, str]]:
    """Records that stand inside what a verb prints."""
    inspection, realtime = SCHEMAS["inspect"]["anyOf"][0]["properties"], SCHEMAS["benchmark"]["anyOf"][1]["properties"]
    return [
        (inspection["layers"]["items"], "quicknet.measure.layers:IntegerLayerFacts"),
        (inspection["sections"]["items"], "quicknet.measure.facts:SectionFacts"),
        ({**inspection["coding"], "type": "object"}, "quicknet.measure.facts:CodingFacts"),
        (realtime["rows"]["items"], "quicknet.measure.frames:FrameRow"),
        (realtime["smallest"]["items"], "quicknet.measure.realtime:SmallestShare"),
        (SCHEMAS["doctor"]["properties"]["findings"]["items"], "quicknet.data.doctor:Finding"),
    ]


def check_record(schema: dict, place: str, more: set[str]) -> None:
    """Check that a schema has the fields and types of a record, and `more`."""
    module, _, name = place.partition(":")
    derived = msgspec.json.schema(getattr(importlib.import_module(module), name))
    same(schema, derived, derived["$defs"], more, place)


def same(ours: dict, derived: dict, known: dict, more: set[str], where: str) -> None:
    if "$ref" in derived:
        derived = known[derived["$ref"].rpartition("/")[2]]
    if "anyOf" in derived:  # X or null
        (inner,) = (part for part in derived["anyOf"] if part.get("type") != "null")
        assert "null" in ours["type"], where
        same({**ours, "type": next(t for t in ours["type"] if t != "null")}, inner, known, more, where)
        return
    if "type" in derived:
        assert ours["type"] == derived["type"], where
    if "enum" in derived and "enum" in ours:
        assert set(ours["enum"]) == set(derived["enum"]), where
    if "items" in derived and isinstance(derived["items"], dict):
        same(ours["items"], derived["items"], known, set(), f"{where}[]")
    if "properties" in ours:
        assert set(ours["properties"]) - more == set(derived["properties"]), where
        for key in set(ours["properties"]) - more:
            same(ours["properties"][key], derived["properties"][key], known, set(), f"{where}.{key}")


@pytest.mark.parametrize("verb", records())
def test_schemas_have_the_fields_and_types_of_the_records(verb: str) -> None:
    variants = SCHEMAS[verb].get("anyOf", [SCHEMAS[verb]])
    for schema, (place, more) in zip(variants, records()[verb], strict=False):
        check_record(schema, place, more)


def test_the_parts_of_schemas_have_the_fields_of_their_records() -> None:
    for schema, place in parts():
        check_record(schema, place, set())


@pytest.mark.parametrize("verb", ["inspect", "evaluate", "predict", "verify", "doctor"])
def test_what_is_printed_follows_the_schema(verb: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from quicknet.data import draw_scenes

    scenes = draw_scenes(tmp_path / "scenes", per_class=4, seed=1)
    model = "quicknet_xs.cifar10"
    for name, folder in zip(CIFAR10, sorted(path.name for path in (scenes / "test").iterdir()), strict=True):
        for split in ("train", "val", "test"):
            (scenes / split / folder).rename(scenes / split / name)  # classes that the model knows
    picture = str(next(scenes.rglob("*.png")))
    arguments = {
        "inspect": [model],
        "predict": [model, picture, "--quiet"],
        "verify": [model, "--quiet"],
        "doctor": [str(scenes), "--quiet"],
        "evaluate": [model, str(scenes), "--quiet"],
    }[verb]
    code = run([verb, *arguments, "--json"])
    captured = capfd.readouterr()
    assert code == (1 if verb == "doctor" else 0), captured.err
    follows(verb, json.loads(captured.out))
