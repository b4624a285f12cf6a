"""Variants and networks trained side by side: what an earlier call left behind is used only where it is the same."""

import argparse
import json
import shutil
from pathlib import Path

import pytest

from helpers import TINY, write_cifar
from quicknet.core.errors import ToolError
from quicknet.study import ablate, alike
from quicknet.study.records import read_records, write_record


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    """The options of an ablation whose one run is finished; it has a share of the views of two epochs."""
    root = tmp_path_factory.mktemp("ablate")
    data = str(write_cifar(root / "tiny", 40))
    options = argparse.Namespace(
        name="two", data=data, recipe="fast", set=[], jobs=1, runs=root / "runs", seeds=[0], variant=[["plain"]]
    )
    changes = [*TINY, "train.views=70"]
    assert ablate.top1(ablate.train(ablate.run_folder(options, "plain", 0), options, changes, 0), "test") is not None
    options.set = changes
    return options


def test_a_finished_run_is_found_though_views_have_become_epochs(done: argparse.Namespace) -> None:
    folder = ablate.run_folder(done, "plain", 0)
    before = (folder / "last.json").read_bytes()
    ablate.train(folder, done, done.set, 0)
    assert (folder / "last.json").read_bytes() == before


@pytest.mark.parametrize(
    "change", ["prune.density=0.5", "hardest.by=quicknet_xs.cifar10", "share.bits=3", "data.split_seed=1"]
)
def test_another_setting_is_another_run(change: str, done: argparse.Namespace) -> None:
    changes = [*done.set, change, *(["hardest.share=0.5"] if change.startswith("hardest") else [])]
    with pytest.raises(ToolError, match="holds a run with other settings; name another folder with --runs"):
        ablate.train(ablate.run_folder(done, "plain", 0), done, changes, 0)


def test_other_data_is_another_run(done: argparse.Namespace, tmp_path: Path) -> None:
    other = argparse.Namespace(**{**vars(done), "data": str(shutil.copytree(done.data, tmp_path / "copy"))})
    with pytest.raises(ToolError, match="holds a run with other settings"):
        ablate.train(ablate.run_folder(done, "plain", 0), other, done.set, 0)


def test_a_record_has_the_splits_that_were_measured(done: argparse.Namespace, tmp_path: Path) -> None:
    cards = ablate.carry_out(done)
    without = {
        label: [card.replace(metrics=tuple(m for m in card.metrics if m.split != "test")) for card in some]
        for label, some in cards.items()
    }
    fields = ablate.record_fields(done, without)
    assert "test" not in fields and fields["val"]["plain"]["top1"]
    write_record(tmp_path, "two", "a command", fields)
    assert read_records(tmp_path)


def test_a_record_of_trainings_alike_is_named_by_amount_and_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["alike", *words])
        return str(alike.parse().name)

    assert name("--minutes", "6") == "alike-6-minutes"
    assert name("--epochs", "8", "--recipe", "fast") == "alike-8-epochs"
    assert name("--minutes", "6", "--recipe", "teacher") == "alike-6-minutes-teacher"
    assert name("--minutes", "6", "--recipe", "runs/My run/recipe.toml") == "alike-6-minutes-runs-my-run-recipe-toml"


@pytest.mark.parametrize("change", ["model.overrides.options.residual=true", "data.size=64"])
def test_trainings_alike_are_of_the_plain_networks(
    change: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["alike", "--epochs", "1", "--set", change])
    with pytest.raises(SystemExit):
        alike.parse()
    assert f"--set {change} makes other networks" in capsys.readouterr().err


def test_a_record_of_another_training_alike_is_not_replaced(tmp_path: Path) -> None:
    options = argparse.Namespace(name="alike-6-minutes", data="cifar10", recipe="fast", set=["augment.cutout=0"])
    alike.require_same(tmp_path, options)  # nothing is there
    write_record(tmp_path, options.name, "-", {"data": "cifar10", "recipe": "fast", "changes": options.set})
    alike.require_same(tmp_path, options)
    options.set = []
    with pytest.raises(ToolError, match="alike-6-minutes has other data, another recipe or other changes of it; give"):
        alike.require_same(tmp_path, options)


def test_rates_are_kept_for_the_same_recipe_and_data_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timed: list[str] = []

    def rate(name: str, _: argparse.Namespace) -> dict[str, object]:
        timed.append(name)
        return {"rate": 40.0, "images": 100, "why": ""}

    monkeypatch.setattr(alike, "training_rate", rate)
    options = argparse.Namespace(
        name="alike-1-epochs", runs=tmp_path, recipe="fast", data="cifar10", set=[], least=60.0, networks=["lenet_5"]
    )
    assert alike.left_out(alike.rates(options)["lenet_5"], 60) == "40 images/s, fewer than 60"
    assert alike.left_out(alike.rates(options)["lenet_5"], 20) == ""  # --least is asked for now, not when it was timed
    assert timed == ["lenet_5"]
    assert json.loads((tmp_path / "alike-1-epochs" / "rates.json").read_text())["asked"]["data"] == "cifar10"
    options.data = "cifar100"
    with pytest.raises(ToolError, match="rates of another recipe or other data; name another folder with --runs"):
        alike.rates(options)
