"""The npm package in web/: its tests under Node, what `npm pack` would publish, and that it has no second version."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import quicknet
from native import run, tool
from quicknet.engine import wasm

WEB = Path(__file__).resolve().parents[2] / "web"
EXPECTED = {"LICENSE", "README.md", "package.json", "index.d.ts", "index.mjs", "node.mjs"}
COPIED = {"decode.mjs", "quicknet.mjs", "quicknet.wasm", "quicknet-plain.wasm"}


def manifest() -> Any:
    return json.loads((WEB / "package.json").read_text("utf-8"))


def node() -> str:
    """Node 18 or newer, which `node --test` needs; skip without it."""
    program = tool("node")
    version = run(program, "--version").strip()
    if int(version.removeprefix("v").split(".")[0]) < 18:
        pytest.skip(f"node {version} is older than 18")
    return program


def test_its_tests_pass() -> None:
    program = node()
    run(program, WEB / "build.mjs")
    assert re.search(r"^. pass [6-9]", run(program, "--test", "--test-reporter=tap", cwd=WEB), re.MULTILINE)


def test_npm_would_publish_what_is_expected() -> None:
    node()
    (packed,) = json.loads(run(tool("npm"), "pack", "--dry-run", "--json", "--offline", cwd=WEB))
    assert packed["name"] == "quicknet-web"
    assert {file["path"] for file in packed["files"]} == EXPECTED | COPIED
    sizes = {file["path"]: file["size"] for file in packed["files"]}
    for name in COPIED:  # by its `prepack`
        assert sizes[name] == (wasm.MODULE.parent / name).stat().st_size


def test_it_is_of_this_version_and_licence() -> None:
    fields = manifest()
    assert fields["version"] == quicknet.__version__
    licence = re.search(r'^license = "(.*)"', (WEB.parent / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert licence is not None and fields["license"] == licence[1]


def test_types_name_what_the_class_has() -> None:
    """Every public member, and none besides."""
    code = (wasm.MODULE.parent / "quicknet.mjs").read_text("utf-8")
    body = re.search(r"export class Classifier \{\n(.*?)^\}", code, re.DOTALL | re.MULTILINE)
    types = re.search(
        r"export class Classifier \{\n(.*?)^\}", (WEB / "index.d.ts").read_text(), re.DOTALL | re.MULTILINE
    )
    assert body is not None and types is not None
    methods = set(re.findall(r"^  (?:static )?(?:async )?(\w+)\(.*\{$", body[1], re.MULTILINE)) - {"constructor"}
    declared = set(re.findall(r"^  (?:static )?(\w+)\(", types[1], re.MULTILINE))
    assert declared == methods
    for name in re.findall(r"^  readonly (\w+)", types[1], re.MULTILINE):
        assert re.search(rf"this\.{name}\b.* = ", body[1]), name
