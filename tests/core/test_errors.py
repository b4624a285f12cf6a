"""The tree of exceptions: as it is drawn is as it is."""

import ast
import re
from pathlib import Path

import pytest

from quicknet.core import errors

ROOT = Path(__file__).resolve().parents[2]


def written() -> dict[str, str]:
    """Return exception → its parent, of every class in the sources that descends from QuickNetError."""
    parents = {}
    for path in (ROOT / "src" / "quicknet").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.bases:
                parents[node.name] = ast.unparse(node.bases[0]).rpartition(".")[2]
    tree = {"QuickNetError": "Exception"}
    while actual := {name: base for name, base in parents.items() if base in tree and name not in tree}:
        tree |= actual
    return tree


def drawn(text: str) -> list[tuple[str, str, str]]:
    """Return (name, parent, what it says) of every line of the picture in `text`."""
    lines, above = [], ["Exception"]
    for indent, name, says in re.findall(r"^((?:[│├└]?[─ ]{3} ?)*)([A-Z]\w+) {2,}(\S.*)$", text, re.MULTILINE):
        depth = len(indent) // 4 + 1
        lines.append((name, above[depth - 1], says))
        above[depth:] = [name]
    return lines


@pytest.mark.parametrize("page", ["src/quicknet/core/errors.py", "docs/python.md"])
def test_the_picture_is_the_tree_of_the_sources(page: str) -> None:
    lines = drawn((ROOT / page).read_text(encoding="utf-8"))
    assert {name: parent for name, parent, _ in lines} == written()
    assert len(lines) == len(written()) >= 8
    for name, _, says in lines:
        code = getattr(errors, name).exit_code if hasattr(errors, name) else 2
        match = re.search(r"exit code (\d)", says)
        assert code == (int(match[1]) if match else 2), name


def test_both_pictures_are_one() -> None:
    pages = [(ROOT / page).read_text(encoding="utf-8") for page in ("src/quicknet/core/errors.py", "docs/python.md")]
    assert drawn(pages[0]) == drawn(pages[1])
