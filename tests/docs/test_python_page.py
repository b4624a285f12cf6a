"""docs/python.md: its blocks run one after the other, and print what stands under them."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from quicknet.data.scenes import SHAPES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "python.md"
_BLOCK = re.compile(
    r"<!-- run(?:: (?P<file>\w+\.py))? -->\n```python\n(?P<code>.*?)^```\n\n```text\n(?P<output>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
# what makes the page's own training short enough for a test
SHORTER = {"per_class=100": "per_class=12", "train.epochs=12": "train.epochs=3", "max_loss=2.0": "max_loss=100.0"}
SHORTER |= {"record.epoch % 4 == 0": "record.epoch > 0", "record.epoch == 2": "record.epoch == 1"}


class Block(NamedTuple):
    """Code and what it printed; `file` is where it is saved to be run as a program."""

    code: str
    output: str
    file: str | None


def blocks(text: str) -> list[Block]:
    return [Block(match["code"], match["output"], match["file"]) for match in _BLOCK.finditer(text)]


def run_blocks(page: list[Block], folder: Path) -> list[str]:
    """Run every block in `folder`, in one namespace; return what each printed."""
    names: dict[str, object] = {"__name__": "__main__"}
    printed = []
    for block in page:
        if block.file is None:
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(block.code, "python.md", "exec"), names)
            printed.append(output.getvalue())
        else:
            (folder / block.file).write_text(block.code, encoding="utf-8")
            settings = {**os.environ, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, block.file]
            done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=240)
            assert done.returncode == 0, done.stderr
            printed.append(done.stdout)
    return printed


def form(text: str) -> list[str]:
    """The lines of an output without figures and classes, which another training changes."""
    lines = re.sub(rf"\b({'|'.join(SHAPES)})\b", "CLASS", text).splitlines()
    return [re.sub(r"\d[\d.,]*", "0", line) for line in lines]


def test_every_python_block_has_an_output_and_is_run() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(blocks(text)) == text.count("```python") >= 9


@pytest.mark.timeout(600)
def test_the_blocks_print_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    text = PAGE.read_text(encoding="utf-8")
    for long, short in SHORTER.items():
        assert long in text
        text = text.replace(long, short)
    page = blocks(text)
    for block, printed in zip(page, run_blocks(page, tmp_path), strict=True):
        assert form(printed) == form(block.output), block.code


def test_the_page_and_the_commands_link_each_other() -> None:
    page, commands = PAGE.read_text(encoding="utf-8"), (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    from quicknet.cli.main import VERBS

    for verb in VERBS:
        assert f"commands.md#{verb}" in page, verb
        section = commands.partition(f"\n## {verb}\n")[2].partition("\n## ")[0]
        assert "](python.md" in section, verb
