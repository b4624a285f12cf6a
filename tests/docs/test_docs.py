"""What README and docs say: tables as generated, commands that exist, examples that run."""

import contextlib
import html
import importlib
import importlib.util
import io
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import click
import pytest
from PIL import Image

import quicknet
from helpers import TINY
from quicknet import training
from quicknet.cli.main import cli, run
from quicknet.core.errors import ToolError
from quicknet.data import draw_scenes
from quicknet.study.records import read_records
from quicknet.training.recipe import list_recipes, load_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(
    r"(?:<!-- run(?:: exit (?P<code>\d))? -->\n)?(?:<!-- generated: [\w-]+ -->\n\n?)?"
    r"```(?P<kind>\w+)\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


class Fence(NamedTuple):
    """A code block of a page; `code` is the exit code its commands must have, None: not run."""

    page: str
    kind: str
    body: str
    code: int | None


def fences(kind: str) -> Iterator[Fence]:
    for page in PAGES:
        for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
            if match["kind"] == kind:
                runs = match[0].startswith("<!-- run")
                yield Fence(page.name, kind, match["body"], int(match["code"] or 0) if runs else None)


def commands(fence: Fence) -> list[str]:
    return [line[2:] for line in fence.body.splitlines() if line.startswith("$ ")]


def quicknet_words(line: str) -> Iterator[list[str]]:
    """Yield the arguments of each `quicknet` command in a line: in pipes, loops and by torchrun too."""
    for piece in re.split(r"&&|[|;]", line):
        words = shlex.split(piece, comments=True)
        script = words[:2] == ["python", "-m"] and words[2] != "quicknet"  # a network may be its argument
        if "quicknet" in words and not script:
            yield words[words.index("quicknet") + 1 :]


def shown() -> list[tuple[str, list[str]]]:
    """Every `quicknet` command line on any page, in blocks and between backticks."""
    examples = [
        (fence.page, words) for fence in fences("console") for line in commands(fence) for words in quicknet_words(line)
    ]
    for page in PAGES:
        for line in re.findall(r"`(quicknet [a-z]+ [^`\n]*)`", page.read_text(encoding="utf-8")):
            examples += [(page.name, words) for words in quicknet_words(line)]
    return examples


def script(path: Path) -> ModuleType:
    """Import a script of ours, which lies in no package."""
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generate() -> Iterator[ModuleType]:
    """docs/generate.py, its neighbours importable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        yield script(ROOT / "docs" / "generate.py")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what the examples name: pictures, a run of each name, exported files."""
    place = tmp_path_factory.mktemp("docs")
    scenes = draw_scenes(place / "demo" / "scenes", per_class=12, seed=1)
    (place / "photos").symlink_to(scenes)
    (place / "camera").mkdir()
    for number, path in enumerate(sorted((scenes / "test").glob("*/*.png"))[:3], 1):
        Image.open(path).save(place / "camera" / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUICKNET_CACHE", str(place / "cache"))
        list(training.train(str(scenes), place / "demo" / "run", "demo", [*TINY, "train.epochs=1"], "cpu"))
        (place / "runs").mkdir()
        (place / "runs" / "photos").symlink_to(place / "demo" / "run")
        carry_out(place, "quicknet export runs/photos --out photos.onnx --data photos/")
        carry_out(place, "quicknet export runs/photos --format qnz --out photos.qnz --data photos/")
        (place / "demo" / "scenes.qnz").write_bytes((place / "photos.qnz").read_bytes())
        yield place


def carry_out(place: Path, line: str, code: int = 0) -> str:
    """Carry out a command line in `place`, as a reader would; return what it printed.

    In this process, where torch is imported already, unless the line needs a shell.
    """
    if "|" in line:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        settings = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            ["bash", "-c", line], cwd=place, env=settings, capture_output=True, text=True, timeout=120
        )
        outcome, printed = done.returncode, done.stdout
    else:
        output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        with contextlib.chdir(place), contextlib.redirect_stdout(output):
            outcome = run(shlex.split(line, comments=True)[1:])
        output.flush()
        printed = output.buffer.getvalue().decode()
    assert outcome == code, f"{line}: exit code {outcome}\n{printed}"
    return printed


def test_generated_blocks_are_up_to_date(generate: ModuleType) -> None:
    stale = [str(path.relative_to(ROOT)) for path in generate.outdated(ROOT)]
    assert not stale, f"run `make docs`: {', '.join(stale)}"


def test_a_changed_block_is_noticed_and_mended(generate: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "networks.md"
    page.write_text("before\n<!-- generated: costs -->\n127,863,041\n<!-- end -->\nafter\n")
    assert page in generate.outdated(tmp_path)
    for path, text in generate.generated(tmp_path):
        path.write_text(text)
    assert not generate.outdated(tmp_path)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "127,863,040" in text and "127,863,041" not in text


def test_a_name_of_the_picture_may_lie_elsewhere(generate: ModuleType, tmp_path: Path) -> None:
    """Its place depends on the machine's rounding; what it names does not."""
    (tmp_path / "docs").mkdir()
    for path, text in generate.generated(tmp_path):
        path.write_text(text)
    picture = tmp_path / "docs" / "accuracy-size.svg"
    text = picture.read_text()
    name = re.search(r'<text x="(\d+)" y="\d+"[^>]*>DenseNet', text)
    assert name is not None
    at = name.start(1)
    picture.write_text(f"{text[:at]}1{text[at:]}")
    assert not generate.outdated(tmp_path)
    picture.write_text(text.replace("DenseNet", "Densenet"))
    assert generate.outdated(tmp_path) == [picture]


def test_the_summary_is_of_the_records(generate: ModuleType, tmp_path: Path) -> None:
    from quicknet.study.records import write_record

    assert generate.tables.summary(generate.tables.Records(tmp_path)).count("not measured") == 15
    generate_record(tmp_path)
    table = generate.tables.summary(generate.tables.Records(tmp_path))
    assert "| not measured | 93.00 ± 1.00 | not measured | 95.7 |" in table
    assert "`quicknet_s` recipe `fast`, 3 seeds, test images of the protocol standard (n = 10,000)." in table
    assert "| 3,645,000 |" in table and "`quicknet_s` `model.safetensors`" in table
    assert table.count("not measured") == 13
    for top1, size in ((0.92, 120_000), (0.93, 130_000)):
        compared = [{"split": "val", "top1": 0.99}, {"split": "test", "top1": top1, "parent_top1": 0.935}]
        fields = {"kind": "compressed", "network": "quicknet_s", "pattern": "block", "density": 0.2, "file_bytes": size}
        write_record(tmp_path, f"compressed-{size}", "quicknet compress", {**fields, "compared": compared})
    table = generate.tables.summary(generate.tables.Records(tmp_path))
    assert "| compressed, bytes | not measured | 130,000 | not measured |" in table
    assert "| its accuracy, % | not measured | 93.00 | not measured |" in table
    assert "; that of `quicknet_s` was made of earlier weights, of 93.50%." in table
    assert all(len(cell.strip()) <= 20 for line in table.splitlines() if line[:1] == "|" for cell in line.split("|"))


def test_labels_of_the_picture_overlap_nothing() -> None:
    """Measured with matplotlib's font, which is wider than the fonts of browsers."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    boxes: list[tuple[str, tuple[float, float, float, float]]] = []
    svg = (ROOT / "docs" / "accuracy-size.svg").read_text(encoding="utf-8")
    for attributes, text in re.findall(r"<text ([^>]*)>([^<]*)</text>", svg):
        x, y = (float(re.search(rf'{name}="([\d.]+)"', attributes)[1]) for name in "xy")  # type: ignore[index]
        weight = "bold" if "bold" in attributes else "normal"
        width = TextPath((0, 0), html.unescape(text), 12, prop=FontProperties(weight=weight)).get_extents().width
        x -= {"end": width, "middle": width / 2}.get("".join(re.findall(r'anchor="(\w+)"', attributes)), 0)
        boxes.append((text, (x, y - 9, x + width, y + 2)))
    for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg):
        boxes.append((f"mark at {x}", (float(x) - 5, float(y) - 5, float(x) + 5, float(y) + 5)))
    for x, y in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', svg):
        boxes.append((f"mark at {x}", (float(x), float(y), float(x) + 12, float(y) + 12)))
    assert len(boxes) > 40
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart or {one[:4], other[:4]} == {"mark"}, f"{one} overlaps {other}"
    for text, (left, top, right, bottom) in boxes:
        assert left >= 0 and right <= 760 and top >= 0 and bottom <= 420, text


def generate_record(results: Path) -> None:
    from quicknet.study.records import write_record

    fields = {
        "kind": "accuracy",
        "network": "quicknet_s",
        "data": "cifar10",
        "protocol": "standard",
        "recipe": "fast",
        "top1": [0.92, 0.93, 0.94],
        "n": 10_000,
        "file": "model.safetensors",
        "file_bytes": 3_645_000,
    }
    write_record(results, "fast", "quicknet train cifar10", fields)
    write_record(results, "flattering", "-", {**fields, "protocol": "paper", "top1": [0.99]})


@pytest.mark.parametrize(("page", "words"), shown(), ids=lambda value: " ".join(value) if len(value) < 9 else None)
def test_every_command_shown_parses(page: str, words: list[str]) -> None:
    context = click.Context(cli, info_name="quicknet")
    command = cli.get_command(context, words[0])
    assert command is not None, f"{page}: no verb {words[0]}"
    if words[1:] != ["--help"]:
        parsed = command.make_context(words[0], list(words[1:]), parent=context).params
        check_names(words, parsed)


def check_names(words: list[str], parsed: dict[str, Any]) -> None:
    """What a command names and needs nothing to be there for: recipes, settings, networks, weights, records."""
    if words[0] == "train":
        recipe = parsed["recipe"] if parsed["recipe"] in list_recipes() else None
        assert recipe or parsed["recipe"] in (None, "runs/NAME/recipe.toml"), words
        teacher = {"distill.teacher": parsed["teacher"]} if parsed["teacher"] else None
        load_recipe(recipe or "fast", parsed["changes"], teacher)
        assert parsed["model"] in (None, *quicknet.list_models()), words
    for word in words:
        if re.fullmatch(r"quicknet\w*\.\w+", word):
            assert word in quicknet.list_weights(), words
        if word.startswith("results/"):
            assert (ROOT / word).is_dir(), words


def test_there_are_commands_to_check() -> None:
    assert len(shown()) >= 20
    assert {words[0] for _, words in shown()} >= {"train", "evaluate", "predict", "doctor", "export", "verify"}
    assert sum(fence.code is not None for fence in fences("console")) >= 5


@pytest.mark.parametrize("fence", [f for f in fences("console") if f.code is not None], ids=lambda f: f.page)
def test_examples_run(fence: Fence, workplace: Path) -> None:
    for line in commands(fence):
        if not line.startswith("quicknet train"):  # learning takes longer than a test may
            carry_out(workplace, line, fence.code or 0)


# test_python_page.py runs that page, whose blocks build on each other
PYTHON = [fence for fence in fences("python") if fence.code is not None and fence.page != "python.md"]


@pytest.mark.parametrize("fence", PYTHON, ids=lambda f: f.page)
def test_python_examples_run(fence: Fence, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    exec(compile(fence.body, fence.page, "exec"), {})


def test_the_predict_example_is_what_the_record_holds(workplace: Path) -> None:
    """Its figures are of a longer training; what it prints has the same form here."""
    recorded = read_records(ROOT / "results")["demo"]["predict"]
    printed = carry_out(workplace, recorded["command"]).splitlines()
    lines = recorded["output"].splitlines()
    assert [line.split("\t")[0] for line in printed] == [line.split("\t")[0] for line in lines]
    assert [line.count("\t") for line in printed] == [line.count("\t") for line in lines]
    assert recorded["output"].strip() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_run_becomes_a_record_with_the_command_that_makes_it_again(workplace: Path) -> None:
    record = importlib.import_module("quicknet.study.record")
    folder = workplace / "demo" / "run"
    fields = record.accuracy([folder])
    measured = carry_out(workplace, "quicknet evaluate demo/run --json")
    assert fields["top1"] == [json.loads(measured)["top1"]]
    assert (fields["seeds"], fields["n"], fields["epochs"]) == ([0], json.loads(measured)["n"], [1])
    with pytest.raises(ToolError, match=r"differ in train\.seed"):
        record.accuracy([folder, folder])

    loop = record.training_command([folder])
    words = shlex.split(loop.partition("do ")[2].partition(";")[0])
    changes = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    source = f"data.source={json.dumps(words[2])}"
    assert load_recipe("demo", [*changes, source]) == load_recipe(str(folder / "recipe.toml"))


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), f"{page.name}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = [re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads]
                assert anchor in anchors, f"{page.name}: {target}"


def test_the_log_is_dated_entries_with_a_verdict() -> None:
    _, *entries = (ROOT / "docs" / "log.md").read_text(encoding="utf-8").split("\n## ")
    heads = [re.fullmatch(r"(\d{4}-\d\d-\d\d): .+ \([^()]+\)", entry.splitlines()[0]) for entry in entries]
    assert all(heads), [entry.splitlines()[0] for entry, head in zip(entries, heads, strict=True) if head is None]
    dates = [head[1] for head in heads if head is not None]
    assert dates == sorted(dates) and len(dates) >= 17
    for entry in entries:
        lines = re.findall(r"^- \*\*(.+?)\*\*: \S", entry, re.MULTILINE)
        assert (lines[:3], lines[-1]) == (["Why", "What", "Result"], "Record"), entry.splitlines()[0]


def test_the_changelog_has_the_version_in_the_usual_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = re.search(r"^## \[(.+?)\] - (unreleased|\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    assert first is not None and first[1] == quicknet.__version__
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


def test_the_demo_recipe_is_the_smallest_network_at_the_scenes_size() -> None:
    assert "demo" in list_recipes()
    recipe = load_recipe("demo")
    assert (recipe.model.name, recipe.data.size, recipe.train.epochs) == ("quicknet_xs", 32, 10)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_learns_its_scenes_twice_over(tmp_path: Path) -> None:
    """The main job from nothing, and again where it has been: at least 95% both times."""
    for _ in range(2):
        out = demo(tmp_path / "demo")
        accuracy = re.search(r"test accuracy ([\d.]+)%.*n = 1,000", out)
        assert accuracy is not None and float(accuracy[1]) >= 95, out
        assert "the receipt holds" in out
        answers = [line.split("\t") for line in out.splitlines() if line.count("\t") == 3]
        assert sum(Path(name).parent.name in first for name, first, *_ in answers) >= 3, answers
        report = tmp_path / "demo" / "run" / "report.html"
        assert str(report) in out
        assert report.stat().st_size < 2_000_000
        assert out.count("the receipt holds") == 3 and (tmp_path / "demo" / "small.qnz").stat().st_size <= 60_000
        page = tmp_path / "demo" / "scenes.html"
        assert str(page) in out and "<title>Drawn scenes</title>" in page.read_text(encoding="utf-8")
        assert page.stat().st_size < 140_000


def demo(folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # One thread: two that wait for each other on a busy machine take ten times as long.
    settings = {"PATH": path, "DEMO": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "demo.sh")],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_picture_of_the_page_is_small_and_shown() -> None:
    picture = ROOT / "docs" / "page.png"
    assert picture.stat().st_size < 60_000
    with Image.open(picture) as image:
        assert image.info["looks"], "docs/screenshot.py writes of which looks it is"
    assert "](page.png)" in (ROOT / "docs" / "page.md").read_text(encoding="utf-8")
