"""Every example in a docstring holds."""

import doctest
import importlib
from pathlib import Path

import pytest

import quicknet

SOURCE = Path(quicknet.__file__).parent
WITH_EXAMPLES = sorted(path for path in SOURCE.rglob("*.py") if ">>>" in path.read_text("utf-8"))


def test_there_are_examples():
    assert len(WITH_EXAMPLES) >= 15


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_examples_hold(path):
    name = ".".join(("quicknet", *path.relative_to(SOURCE).with_suffix("").parts))
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.failed == 0
    assert outcome.attempted > 0
