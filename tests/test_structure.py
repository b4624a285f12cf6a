"""The shape of the code: short functions, and no two files that import each other."""

import ast
import statistics
from pathlib import Path

import grimp

SOURCE = Path(__file__).resolve().parent.parent / "src" / "quicknet"


def test_functions_are_short() -> None:
    """Half of them within 7 lines, nine of ten within 21, docstrings counted."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCE.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    functions = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lengths = sorted((node.end_lineno or node.lineno) - node.lineno + 1 for node in functions)
    assert len(lengths) > 1000
    assert statistics.median(lengths) <= 7
    assert lengths[len(lengths) * 9 // 10] <= 21


def test_no_files_import_each_other() -> None:
    """But for the package's face, whose names are loaded when they are asked for."""
    graph = grimp.build_graph("quicknet", cache_dir=None)
    modules = graph.modules - {"quicknet"}
    below = {module: graph.find_modules_directly_imported_by(module) & modules for module in modules}
    assert len(below) > 150
    while leaves := [module for module, imported in below.items() if not imported & below.keys()]:
        for module in leaves:  # a file that imports none of the rest is in no circle
            del below[module]
    assert not below, f"circles among {sorted(below)}"
