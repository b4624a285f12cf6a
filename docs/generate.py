"""Writes the parts of README and docs that come from code and records, so that they stay up to date.

    python docs/generate.py [--check]

A page holds `<!-- generated: NAME -->` ... `<!-- end -->`. The text between is replaced by what the
block NAME returns. `--check` writes nothing; it fails and names the pages that would change.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import figure
import folders
import msgspec
import runtimes
import screenshot
import studies
import tables

from quicknet.core.card import Card, PreprocessSpec
from quicknet.core.files import write_atomically
from quicknet.core.flow import chain
from quicknet.core.settings import Settings
from quicknet.models.config import QuickNetConfig
from quicknet.models.options.settings import Options
from quicknet.report.network import Drawing, draw_network
from quicknet.study.references import read_references
from quicknet.training.recipe import Recipe, list_recipes, load_recipe

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_SIZES = (32, 64, 96, 128, 160, 224)


def pages(root: Path) -> list[Path]:
    """Return every Markdown page that may carry blocks."""
    return [*sorted(root.glob("*.md")), *sorted((root / "docs").glob("*.md"))]


def generated(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield each page and generated file with the text that it should have."""
    blocks = _blocks(root / "results")
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        yield page, _BLOCK.sub(lambda found: f"{found[1]}{blocks[found['name']]()}{found[3]}", text)
    records, known = tables.Records(root / "results"), read_references()
    path, picture = root / "docs" / "accuracy-size.svg", figure.accuracy_against_size(tables.points(records, known))
    present = path.read_text(encoding="utf-8") if path.is_file() else ""
    yield path, present if figure.without_places(present) == figure.without_places(picture) else picture
    claim = (known["paper"]["converged_epochs"], known["paper"]["converged_accuracy"])
    yield root / "docs" / "training-curves.svg", figure.training_curves(tables.curves(root / "results"), claim)
    layers = tables.counted("quicknet_s").layers
    yield root / "docs" / "quicknet_s.svg", draw_network(Drawing("quicknet_s", 3, 32, chain(layers)))


def outdated(root: Path) -> list[Path]:
    """Return the files that differ from what would be generated."""
    return [path for path, text in generated(root) if not path.is_file() or path.read_text(encoding="utf-8") != text]


def _blocks(results: Path) -> dict[str, Callable[[], str]]:
    records = tables.Records(results)
    groups = {f.name: type(f.default) for f in msgspec.structs.fields(Recipe) if isinstance(f.default, Settings)}
    return {
        "summary": lambda: tables.summary(records),
        "predict": lambda: tables.predict_example(records),
        "costs": lambda: tables.network_costs(_SIZES),
        "throughput": lambda: tables.throughput(records),
        "trained": lambda: tables.trained(records),
        "shipped": tables.shipped,
        "ablations": lambda: studies.ablations(records),
        "alike": lambda: studies.alike(records),
        "compressed": lambda: studies.compressed(records),
        "engine": lambda: tables.engine(records),
        "onnx-layers": lambda: runtimes.layers(records),
        "onnx-speed": lambda: runtimes.speed(records),
        "quantize": lambda: tables.quantized(records),
        "records": lambda: tables.all_records(records),
        "photographs": tables.photographs,
        "folders": lambda: folders.learned(records),
        "folders-starts": lambda: folders.learned(records, "folders-starts"),
        "folders-few": lambda: folders.learned(records, "folders-few"),
        "references": lambda: tables.published(read_references()),
        "commands": _commands,
        "recipes": _recipes,
        "network-settings": lambda: _settings(QuickNetConfig),
        "network-options": lambda: _settings(Options),
        "preprocess-settings": lambda: _settings(PreprocessSpec),
        "card": lambda: _settings(Card),
        **{f"settings-{name}": functools.partial(_settings, cls) for name, cls in groups.items()},
    }


# --- from the code ------------------------------------------------------------------------


_IN_PYTHON = {
    "train": "In Python: [`quicknet.train`](python.md#train).",
    "evaluate": "In Python: [`quicknet.evaluate`](python.md#evaluate).",
    "predict": "In Python: [`quicknet.predict`](python.md#predict-files-arrays-and-bytes).",
    "export": "In Python: [`quicknet.export_qnz`, `quicknet.export`](python.md#export-and-verify).",
    "compress": "In Python: [`quicknet.compress`](python.md#compress).",
    "page": "[The page](page.md) says how to use it; [Python](python.md) has no function for it.",
    "verify": "In Python: [`quicknet.verify`](python.md#export-and-verify).",
    "benchmark": "In Python: [`quicknet.benchmark`](python.md#check-data-measure-speed).",
    "compare": "In Python: [`quicknet.compare`](python.md#check-data-measure-speed); "
    "[an example](networks.md#comparing-networks).",
    "inspect": "In Python: the card of a [loaded model](python.md#load-a-model).",
    "doctor": "In Python: [`quicknet.doctor`](python.md#check-data-measure-speed).",
}


def _commands() -> str:
    """The help of the command and of every verb, as a terminal of 80 columns shows it, and what --json prints."""
    from quicknet.cli.main import VERBS
    from quicknet.cli.schemas import SCHEMAS

    parts = [_help_text()]
    for verb in VERBS:
        parts.append(f"\n## {verb}\n{_help_text(verb)}\n{_IN_PYTHON[verb]}\n\n### JSON of `quicknet {verb}`\n")
        parts += [_schema_table(variant) for variant in SCHEMAS[verb].get("anyOf", [SCHEMAS[verb]])]
    return "".join(parts) + "\n"


def _help_text(*verb: str) -> str:
    from quicknet.cli.main import run

    columns, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "80"
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            run([*verb, "--help"])
    finally:
        del os.environ["COLUMNS"]
        if columns is not None:
            os.environ["COLUMNS"] = columns
    return f"\n```text\n$ {' '.join(('quicknet', *verb, '--help'))}\n{output.getvalue().rstrip()}\n```\n"


def _schema_table(schema: dict[str, Any]) -> str:
    """A variant of what a verb prints, as a table of its fields."""
    rows = list(_fields(schema, "", schema["required"]))
    return f"\n{schema['description']}\n\n{tables.markdown(('field', 'type', 'meaning'), rows)}"


def _fields(schema: dict[str, Any], place: str, required: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield a row for each field, and for each field of the objects and lists in it."""
    for name, field in schema.get("properties", {}).items():
        absent = name not in required
        yield f"`{place}{name}`", _type(field) + (", or absent" if absent else ""), field["description"]
        inner, below = field, f"{place}{name}."
        while "items" in inner:
            inner, below = inner["items"], f"{below.removesuffix('.')}[]."
        yield from _fields(inner, below, inner.get("required", ()))


def _type(field: dict[str, Any]) -> str:
    """A field's type in words, such as "list of objects" or "number or null"."""
    kinds: list[str] = field["type"] if isinstance(field["type"], list) else [field["type"]]
    names = {"array": "list", "boolean": "true or false"}
    words: list[str] = [names.get(kind, kind) for kind in kinds]
    if "items" in field:
        first, *rest = _type(field["items"]).split(" ")
        words[0] = " ".join(["list of", f"{first}s" if first[-1] != "s" else first, *rest])
    if "enum" in field:
        words[0] = " or ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        words[0] = f"`{field['const']}`"
    return " or ".join(words)


def _settings(cls: type[msgspec.Struct]) -> str:
    """The docstring of a settings class and a table of its fields."""
    rows = []
    # as written in the source, a class's own before those of its base
    kinds = {name: kind for base in cls.__mro__ for name, kind in vars(base).get("__annotations__", {}).items()}
    fields = {field.name: field for field in msgspec.structs.fields(cls)}
    for field in (fields[name] for name in kinds if name in fields):
        kind = kinds[field.name]
        rows.append((f"`{field.name}`", f"`{kind}`", _default(field)))
    return f"\n{inspect.getdoc(cls)}\n\n{tables.markdown(('setting', 'type', 'default'), rows)}\n"


def _default(field: Any) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    elif field.default is msgspec.NODEFAULT:
        return "required"
    else:
        value = field.default
    if value is None:
        return "not set"
    return f"`{json.dumps(msgspec.to_builtins(value))}`"


def _recipes() -> str:
    """One line for each recipe that comes with the package."""
    rows = []
    folder = ROOT / "src" / "quicknet" / "training" / "recipes"
    for name in list_recipes():
        recipe = load_recipe(name, ["model.start_from=none"])
        head = (folder / f"{name}.toml").read_text(encoding="utf-8").split("\nname", 1)[0]
        about = " ".join(line.removeprefix("#").strip() for line in head.splitlines())
        how = f"{recipe.optim.name}, {recipe.schedule.name}, batch {recipe.train.batch_size}"
        link = f"[`{name}`](../src/quicknet/training/recipes/{name}.toml)"
        rows.append((link, about, f"`{recipe.model.name}`", str(recipe.train.epochs), how))
    return f"\n{tables.markdown(('recipe', 'what it reaches', 'network', 'epochs', 'optimizer'), rows)}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file would change")
    options = parser.parse_args(arguments)
    for path, text in generated(ROOT):
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        print(f"{'out of date' if options.check else 'written'}: {path.relative_to(ROOT)}")
        if not options.check:
            write_atomically(path, text)
    if not options.check and (line := screenshot.update()):
        print(line)
    return 1 if options.check and outdated(ROOT) else 0


if __name__ == "__main__":
    sys.exit(main())
