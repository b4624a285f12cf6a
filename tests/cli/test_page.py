"""`quicknet page`: one file, or one line that says why not."""

import hashlib
import json
from pathlib import Path

import pytest

from quicknet.cli.main import run
from schema import follows


def test_a_page_is_written_and_described(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    arguments = ["quicknet_xs.cifar10", "--out", str(out), "--title", "Ten <things>", "--min-confidence", "0.5"]
    assert run(["page", *arguments, "--json"]) == 0
    fields = json.loads(capfd.readouterr().out)
    follows("page", fields)
    page = out.read_bytes()
    assert fields["size_bytes"] == len(page) <= 420_000 and fields["beside_model_bytes"] <= 60_000
    assert fields["sha256"] == hashlib.sha256(page).hexdigest() and fields["min_confidence"] == 0.5
    assert "<h1>Ten &lt;things&gt;</h1>" in page.decode()


def test_without_out_the_page_has_the_models_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["page", "quicknet_xs.cifar10"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["quicknet_xs.cifar10.html"]
    assert "are not the model" in capfd.readouterr().out


def test_what_is_no_qnz_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = Path(__file__).parents[2] / "src" / "quicknet" / "weights" / "quicknet_xs.cifar10"
    assert run(["page", str(weights), "--out", str(tmp_path / "page.html")]) == 2
    assert "is not one; write one with quicknet export" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
