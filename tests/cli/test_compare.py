"""`quicknet compare`: what it prints, and one line for what cannot be compared."""

import json
from pathlib import Path

import pytest

from compared import without_processes
from quicknet.cli.main import run
from schema import follows

XS = ["--base", "quicknet_xs", "--rounds", "1"]


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return without_processes(monkeypatch)


def test_json_follows_its_schema(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "resnet_20", *XS, "--json", "--quiet"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    printed = json.loads(captured.out)
    follows("compare", printed)
    assert [row["name"] for row in printed["networks"]] == ["quicknet_xs", "resnet_20"]
    assert printed["networks"][1]["int8"] is None
    assert run(["compare", "--paper", *XS, "--json", "--quiet"]) == 0
    printed = json.loads(capfd.readouterr().out)
    follows("compare", printed)
    assert len(printed["paper"]) == 6


def test_tables_say_what_they_assume(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "resnet_20", *XS]) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "resnet_20 3x32x32 269,722 40,551,040 1,079* 270*" in out
    assert "arXiv:1506.02626" in out and "from DRAM 640" in out
    assert "no int8 file: made up (resnet_20)" in out
    assert "int8 multiply 0.2, int32 add 0.1" in out
    assert "arxiv.org/abs/1512.03385 91.25" in out
    assert "the paper's table" not in out


def test_the_page_and_its_state_lie_beside_each_other(
    tmp_path: Path, asked: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "new" / "compared.html"
    assert run(["compare", "nin", *XS, "--html", str(page)]) == 0
    assert asked == ["quicknet_xs", "nin"]
    assert f"the page is in {page}" in capfd.readouterr().err
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert run(["compare", "nin", "lenet_5", *XS, "--html", str(page), "--json"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["kept"] == 2 and asked[2:] == ["lenet_5"]
    assert f"2 of 3 networks were measured before ({tmp_path / 'new' / 'compared.state.json'})" in captured.err
    assert run(["compare", "nin", *XS, "--state", str(page.with_suffix(".json")), "--quiet"]) == 0
    assert page.with_suffix(".json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet20"], "no model is called 'resnet20' (did you mean 'resnet_20'?)"),
        (["nin", "nin"], "nin is named twice; name each network once"),
        (["vgg_16", "--size", "16"], "vgg_16 cannot be compared at 16 pixels: "),
        (["--base", "x"], "no model is called 'x'"),
        (["nin", "--paper"], "--paper has its own networks; leave the names out"),
        (["nin", "--rounds", "0"], "rounds 0 must lie in 1..1000"),
        (["nin", "--html", "."], ". is a folder; name a file with --html"),
        (["nin", "--state", "."], ". is a folder; name a file with --state"),
        (["nin", "--results", "nowhere"], "--results nowhere is not a folder; name one that holds records"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, asked: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert run(["compare", *arguments, "--quiet"]) == 2
    captured = capfd.readouterr()
    assert captured.out == "" and not asked
    (line,) = captured.err.splitlines()
    assert line.startswith("quicknet: error: ") and message in line


def test_a_record_of_another_network_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "0001-other"
    (folder / "seed0").mkdir(parents=True)
    fields = {"name": "other", "kind": "accuracy", "network": "quicknet_s", "data": "cifar10", "protocol": "standard"}
    (folder / "record.json").write_text(json.dumps(fields))
    card = Path(__file__).resolve().parents[2] / "src/quicknet/weights/quicknet_xs.cifar10/card.json"
    (folder / "seed0" / "card.json").write_bytes(card.read_bytes())
    assert run(["compare", "nin", "--results", str(tmp_path), "--quiet"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "the record does not match its network: 236,538 parameters, quicknet_s has 908,266" in line
