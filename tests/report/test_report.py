import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quicknet.core.card import Card, DataRecord, ModelRecord, PreprocessSpec, TrainingRecord
from quicknet.inference.evaluate import Evaluation, Subject, summarize
from quicknet.report import svg
from quicknet.report.data import Mistake, ReportData, read_log, worst_mistakes
from quicknet.report.html import render, write_report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&\x1b[2J\udcff"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks nesting, collects tags with attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data + " "


def card(classes: tuple[str, ...], temperature: float | None = 1.5) -> Card:
    return Card(
        model=ModelRecord(family="quicknet", name="quicknet_xs", config={}),
        classes=classes,
        preprocess=PreprocessSpec(size=32),
        data=DataRecord(name="scenes", protocol="standard", counts={"train": 90, "test": 10}, sha256="ab" * 32),
        training=TrainingRecord(
            recipe_sha256="cd" * 32, recipe_name="fast", seed=3, epochs=9, seconds=90.0, best_epoch=8
        ),
        temperature=temperature,
        licence="MIT",
    )


def measured(of: Card, n: int = 400) -> tuple[Evaluation, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % len(of.classes)
    logits = rng.normal(size=(n, len(of.classes))).astype(np.float32)
    logits[np.arange(n), labels] += 2
    subject = Subject(model="runs/a", file_sha256="ef" * 32, data="scenes", split="test", protocol="standard")
    return summarize(logits, labels, of, subject, 2.0), logits, labels


def epochs(count: int) -> list[dict[str, float | int | None]]:
    return [
        {
            "epoch": number,
            "train_loss": 2.0 / number,
            "val_loss": None if number % 2 else 2.2 / number,
            "val_accuracy": None if number % 2 else 1 - 0.5 / number,
            "train_accuracy": 1 - 0.6 / number,
            "learning_rate": 0.1,
            "images_per_second": 500.0,
        }
        for number in range(1, count + 1)
    ]


def full_report(classes: tuple[str, ...] = ("cat", "dog", "frog"), size: int = 32) -> ReportData:
    of = card(classes)
    evaluation, logits, labels = measured(of)
    images = np.random.default_rng(1).integers(0, 256, (400, size, size, 3), np.uint8)
    return ReportData(
        title="quicknet_xs on scenes",
        card=of,
        evaluation=evaluation,
        epochs=epochs(9),
        mistakes=worst_mistakes(images, labels, logits, of),
        notes=("2 files were skipped",),
    )


def test_the_page_says_what_was_measured() -> None:
    data = full_report()
    page = Page(render(data))
    assert data.evaluation is not None
    evaluation = data.evaluation
    for text in (
        f"{100 * evaluation.top1:.2f}%",
        "of 400 images right",
        "test",
        "standard",
        f"{100 * evaluation.top1_low:.2f}",
    ):
        assert text in page.text
    for text in (
        "Loss",
        "Accuracy",
        "Learning rate",
        "Speed",
        "Class by class",
        "fast, seed 3, 9 epochs, best 8",
    ):
        assert text in page.text
    assert "2 files were skipped" in page.text
    cells = re.findall(r'<td class="(?:hit|miss|none)" style="--v:[\d.]+">(\d+)</td>', render(data))
    assert [int(cell) for cell in cells] == np.array(evaluation.confusion).ravel().tolist()


def test_nothing_is_fetched_and_nothing_runs() -> None:
    text = render(full_report())
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "form", "base"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert "href" not in attributes
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
            assert attributes["alt"]
    assert "url(" not in text
    assert "@import" not in text
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_hostile_names_are_shown_not_obeyed(tmp_path: Path) -> None:
    of = card((HOSTILE, "b", "c")).replace(notes=HOSTILE, licence=HOSTILE, versions={HOSTILE: HOSTILE})
    evaluation, _, _ = measured(of)
    mistake = Mistake(np.zeros((8, 8, 3), np.uint8), HOSTILE, "b", 0.9, HOSTILE)
    data = ReportData(HOSTILE, of, evaluation.replace(data=HOSTILE), epochs(2), (mistake,), (HOSTILE,))
    write_report(tmp_path / "report.html", data)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert "\x1b" not in page.text


def test_the_worst_mistakes_are_the_surest_ones_and_their_pictures_are_exact() -> None:
    data = full_report()
    sure = [mistake.probability for mistake in data.mistakes]
    assert sure == sorted(sure, reverse=True)
    assert 3 <= len(sure) <= 24
    assert all(mistake.true != mistake.predicted for mistake in data.mistakes)
    shown = [attributes["src"] for tag, attributes in Page(render(data)).tags if tag == "img"]
    assert len(shown) == len(sure)
    with Image.open(io.BytesIO(base64.b64decode(shown[0].partition(",")[2]))) as image:
        np.testing.assert_array_equal(np.asarray(image), data.mistakes[0].image)


@pytest.mark.parametrize(("classes", "size"), [(3, 224), (100, 32), (1000, 16)])
def test_the_page_stays_under_two_megabytes(classes: int, size: int, tmp_path: Path) -> None:
    data = full_report(tuple(f"class number {index}" for index in range(classes)), size)
    data = ReportData(data.title, data.card, data.evaluation, epochs(3000), data.mistakes)
    write_report(tmp_path / "report.html", data)
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
    Page((tmp_path / "report.html").read_text("utf-8"))


def test_any_part_may_be_missing() -> None:
    of = card(("a", "b"), temperature=None).replace(data=None, training=None)
    Page(render(ReportData("bare", of)))
    evaluation, _, _ = measured(of)
    page = Page(render(ReportData("x", of, evaluation, [{"epoch": 1, "train_loss": float("nan")}])))
    assert "Not calibrated" in page.text
    assert "Training" not in page.text
    perfect = np.eye(2, dtype=np.float32)
    subject = Subject(model="m", file_sha256="", data="d", split="test", protocol="standard")
    right = summarize(perfect, np.arange(2), of, subject, 1.0)
    assert "every image was right" in Page(render(ReportData("x", of, right))).text


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_mistakes_of_every_colour_mode_are_drawn(channels: int) -> None:
    of = card(("a", "b"))
    evaluation, _, _ = measured(of)
    mistake = Mistake(np.zeros((20, 20, channels), np.uint8), "a", "b", 0.5)
    assert 'alt="a, taken for b"' in render(ReportData("x", of, evaluation, (), (mistake,)))


def test_the_same_records_give_the_same_bytes() -> None:
    assert render(full_report()) == render(full_report())


def test_a_log_cut_short_by_a_kill_is_read_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    path.write_text('{"epoch": 1}\n[3]\n{"epoch": 2}\n{"epo')
    assert read_log(path) == [{"epoch": 1}, {"epoch": 2}]


def test_charts_stay_within_their_frame_whatever_the_numbers() -> None:
    axes = svg.Axes("t", "x", "y")
    for values in ([1.0], [5.0, 5.0], [0.0, 0.0], [-1e9, 1e9], [1e-9, 2e-9], list(range(5000))):
        text = svg.line_chart([svg.Line("a", list(enumerate(map(float, values))))], axes)
        points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", re.findall(r'points="([^"]*)"', text)[0])
        assert all(0 <= float(x) <= 400 and 0 <= float(y) <= 220 for x, y in points)
        assert len(points) <= 1001
    assert svg.line_chart([svg.Line("a", [(0.0, float("inf"))])], axes) == ""
