"""A comparison counts, measures in turn, goes on where it was interrupted, and keeps ours and theirs apart."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import quicknet
from compared import speed, without_processes
from quicknet.core.card import Costs
from quicknet.core.errors import ConfigError, FormatError, ToolError
from quicknet.inference.artifact import open_artifact
from quicknet.measure.energy import energy_uj
from quicknet.report.compare_cells import busy, how, tables
from quicknet.report.compare_page import render_comparison
from quicknet.report.comparison import ComparedNetwork, Comparison, Ours, Untrained
from quicknet.report.scatter import Mark, front, scatter_chart
from quicknet.report.svg import Axes
from quicknet.study import compare_speed
from quicknet.study.compare import CompareSettings, compare
from quicknet.study.reached import reached
from quicknet.study.references import paper_table

ROOT = Path(__file__).resolve().parents[2]
XS = CompareSettings(base="quicknet_xs", rounds=1)


def compared(names: list[str], patch: pytest.MonkeyPatch, settings: CompareSettings = XS) -> Comparison:
    """Without what the checkout's records of trainings alike add."""
    without_processes(patch)
    result = compare(names, settings)
    return with_ours(result, lambda row: tuple(ours for ours in row.ours if not ours.alike))


def with_ours(result: Comparison, change: Callable[[ComparedNetwork], tuple[Ours, ...]]) -> Comparison:
    rows = tuple(msgspec.structs.replace(row, ours=change(row)) for row in result.networks)
    return msgspec.structs.replace(result, networks=rows)


# --- what is measured ----------------------------------------------------------------------


def test_networks_are_exported_and_measured_in_turn() -> None:
    result = quicknet.compare(["lenet_5"], XS)
    base, lenet = result.networks
    assert (base.name, lenet.name) == ("quicknet_xs", "lenet_5")
    assert base.float32 is not None and lenet.float32 is not None and base.int8 is not None
    assert base.float32.ratio == base.int8.ratio == 1
    assert base.float32.runtime == "onnxruntime" and base.int8.runtime == "engine"
    assert lenet.float32.ratio == pytest.approx(base.float32.cpu_ms / lenet.float32.cpu_ms)
    assert min(base.float32.n, base.int8.n, lenet.float32.n) >= 1
    assert lenet.int8 is None and re.search("no int8 file: .* chain of layers only", lenet.notes[0])
    assert (base.int8_bytes, base.int8_bytes_measured) == (259_446, True)  # the shipped file
    assert (lenet.int8_bytes, lenet.int8_bytes_measured) == (lenet.parameters, False)
    assert 4 * base.parameters < base.float_bytes < 4.2 * base.parameters + 50_000 and base.float_bytes_measured
    assert (lenet.parameters, lenet.macs, lenet.input) == (60_850, 328_096, "1x32x32")


def test_a_ratio_is_the_median_over_rounds() -> None:
    """One disturbed round moves a mean, and neither the ratio nor the CPU time."""

    class Measured:
        def __init__(self, *cpu_s: float) -> None:
            self._answers = iter(cpu_s)

        def ask(self, verb: str, **request: Any) -> dict[str, Any]:
            return {"seconds": [0.002] * 2, "calls": 2, "cpu_s": next(self._answers)} if verb == "burst" else {}

    base, own = (
        compare_speed._Turns(name, "float32", Measured(*cpu_s))  # type: ignore[arg-type]
        for name, cpu_s in (("a", (0.004, 0.008, 0.004)), ("b", (0.002, 0.004, 0.032)))
    )
    for turns in (base, own) * 3:
        turns.take()
    speed = own.speed(base)
    assert (speed.ratio, speed.n, own.speed(None).ratio) == (2.0, 6, None)
    assert speed.cpu_ms == pytest.approx(2.0)


def test_what_no_shipped_file_fits_is_measured_with_random_integers(tmp_path: Path) -> None:
    built = compare_speed.build("quicknet_xs", 64, tmp_path)
    assert not built.notes and built.files["int8"].parent == tmp_path
    card = open_artifact(built.files["int8"]).card
    assert (card.preprocess.size, card.model.name) == (64, "quicknet_xs")
    measured = compare_speed.measure([built], built, 1, lambda n: None)["quicknet_xs"]
    assert measured.int8 is not None and measured.int8.ratio == 1
    assert compare_speed.shipped_file("quicknet_xs", 32) and not compare_speed.shipped_file("quicknet_xs", 64)


def test_what_cannot_be_exported_is_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*arguments: Any) -> None:
        raise ConfigError("Nin cannot be exported: no rule folds it")

    monkeypatch.setattr(compare_speed, "fold", refuse)
    built = compare_speed.build("nin", 32, tmp_path)
    assert not built.files
    assert built.notes[0] == "no float32 file: Nin cannot be exported: no rule folds it"
    measured = compare_speed.measure([built], built, 1, lambda n: None)["nin"]
    assert measured.float32 is measured.int8 is measured.float_bytes is None


def test_a_file_that_its_runtime_refuses_is_noted(tmp_path: Path) -> None:
    built = compare_speed.build("lenet_5", 32, tmp_path)
    blob = bytearray(built.files["float32"].read_bytes())
    blob[len(blob) // 2] ^= 1
    built.files["float32"].write_bytes(blob)
    measured = compare_speed.measure([built], built, 1, lambda n: None)["lenet_5"]
    assert measured.float32 is None
    assert any(note.startswith("float32 not measured: its file was changed or damaged") for note in measured.notes)


def test_energy_is_that_of_the_source() -> None:
    costs = Costs(parameters=3, macs=7, activation_bytes=4 * 11, peak_activation_bytes=0)
    assert energy_uj(costs, 32) == pytest.approx((7 * (3.7 + 0.9) + 3 * 640 + 2 * 11 * 5) / 1e6)
    assert energy_uj(costs, 8) == pytest.approx((7 * (0.2 + 0.1) + 3 / 4 * 640 + 2 * 11 / 4 * 5) / 1e6)


# --- going on ------------------------------------------------------------------------------


NAMES = ["lenet_5", "alexnet_cifar", "mobilenet_v2_x05", "shufflenet_v2_x05", "squeezenet", "factorized"]


def test_a_second_call_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = tmp_path / "state.json"

    def interrupt(asked: list[str]) -> None:
        if len(asked) > 4:
            raise KeyboardInterrupt

    without_processes(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        compare(NAMES, XS, state)
    asked = without_processes(monkeypatch)
    result = compare(NAMES, XS, state)
    assert asked == ["shufflenet_v2_x05", "squeezenet", "factorized"]  # groups of four, the base among them
    assert result.kept == 4
    assert [row.name for row in result.networks] == ["quicknet_xs", *NAMES]
    assert compare(NAMES[:2], XS, state).kept == 3 and len(asked) == 3
    again = compare(NAMES[:2], XS.replace(rounds=2), state)
    assert again.kept == 0, "other rounds are measured anew"


@pytest.mark.parametrize("changed", ["version", "machine", "config", "shipped"])
def test_another_version_machine_or_network_is_measured_anew(
    changed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from quicknet.models.zoo import lenet
    from quicknet.study import compare as module
    from quicknet.study import compare_state

    state, machine = tmp_path / "state.json", {"cpu": "a", "cores": 2, "flags": [], "system": "s"}
    without_processes(monkeypatch)
    monkeypatch.setattr(module, "machine_card", lambda: machine)
    compare(["lenet_5"], XS, state)
    if changed == "version":
        monkeypatch.setattr(compare_state, "__version__", "0")
    elif changed == "machine":
        machine["cpu"] = "b"
    elif changed == "shipped":
        other = tmp_path / "quicknet_xs.cifar10.qnz"
        other.write_bytes(b"other weights")
        monkeypatch.setattr(module, "shipped_file", lambda name, size: other if name == "quicknet_xs" else None)
    else:
        monkeypatch.setattr(lenet, "lenet_5", lenet.lenet_5.replace(num_classes=12))
    asked = without_processes(monkeypatch)
    assert compare(["lenet_5"], XS, state).kept == (1 if changed == "config" else 0)
    assert asked == (["lenet_5"] if changed == "config" else ["quicknet_xs", "lenet_5"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"networks": {"a": {}}}'])
def test_a_file_that_is_not_a_state_is_refused(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text)
    asked = without_processes(monkeypatch)
    with pytest.raises(FormatError, match=r"is not a state that `quicknet compare` wrote .*; name another file"):
        compare(["lenet_5"], XS, tmp_path / "state.json")
    with pytest.raises(ToolError, match="is a folder; name a file with --state"):
        compare(["lenet_5"], XS, tmp_path)
    assert not asked
    assert (tmp_path / "state.json").read_text() == text


# --- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["resnet20"], {}, r"no model is called 'resnet20' \(did you mean 'resnet_20'\?\)"),
        (["lenet_5"], {"base": "quicknet_m"}, "no model is called 'quicknet_m'"),
        (["nin", "lenet_5", "nin"], {}, "nin is named twice; name each network once"),
        (["vgg_16"], {"size": 16}, "vgg_16 cannot be compared at 16 pixels: "),
        (["nin"], {"size": 4000}, "quicknet_xs cannot be compared at 4000 pixels: image size 4000 must lie in"),
    ],
)
def test_names_and_sizes_are_checked_before_anything_is_measured(
    names: list[str], settings: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = without_processes(monkeypatch)
    with pytest.raises(ConfigError, match=message):
        compare(names, XS.replace(**settings))
    assert not asked


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="rounds 0 must lie in"):
        CompareSettings(rounds=0)


def record(results: Path, name: str, top1: list[float], **changes: Any) -> Path:
    """A record of quicknet_xs, beside it the card of one of its runs."""
    folder = results / name
    (folder / "seed0").mkdir(parents=True)
    fields: dict[str, Any] = {"name": name[5:], "kind": "accuracy", "network": "quicknet_xs", "data": "cifar10"}
    fields |= {
        "protocol": "standard",
        "split": "test",
        "n": 100,
        "seeds": list(range(len(top1))),
        "top1": top1,
        **changes,
    }
    (folder / "record.json").write_text(json.dumps(fields))
    card = next(ROOT.glob("results/0011-*/seed0/card.json")).read_text(encoding="utf-8")
    (folder / "seed0" / "card.json").write_text(card)
    return folder


def test_the_record_with_most_seeds_counts_whatever_it_reached(tmp_path: Path) -> None:
    record(tmp_path, "0001-a", [0.5, 0.7])
    record(tmp_path, "0002-b", [0.95])
    record(tmp_path, "0003-c", [0.9], protocol="paper")
    record(tmp_path, "0004-d", [0.9], data="cifar100")
    record(tmp_path, "0005-e", [0.9], network="quicknet_s")
    ours, integers = reached("quicknet_xs", 236_538, tmp_path).ours
    assert (ours.source, ours.numbers, ours.seeds, ours.n) == ("a", "float32", (0, 1), 100)
    assert ours.top1 == pytest.approx(0.6) and ours.spread == pytest.approx(0.1414, abs=1e-4)
    assert (integers.source, integers.numbers, integers.n) == ("quicknet_xs.cifar10", "int8", 9980)
    shipped = reached("quicknet_xs", 236_538, None).ours
    assert [(o.numbers, o.source) for o in shipped] == [(n, "quicknet_xs.cifar10") for n in ("float32", "int8")]
    assert reached("nin", 966_986, tmp_path) == ((), (), ())
    record(tmp_path, "0006-f", [0.3, 0.4], teacher_sha256="ab")
    newest = reached("quicknet_xs", 236_538, tmp_path).ours[0]
    assert (newest.source, newest.teacher, ours.teacher) == ("f", True, False)
    assert how(newest) == "float32, standard, test, n = 100, seeds 0, 1, with a teacher: f"


def test_shipped_weights_had_the_teacher_that_card_or_record_names() -> None:
    """The card of quicknet_xs is older than that step of the lineage; its training's record is there."""
    for name, parameters in (("quicknet_xs", 236_538), ("quicknet_s", 908_266)):
        assert all(ours.teacher for ours in reached(name, parameters, ROOT / "results").ours if not ours.alike)


@pytest.mark.parametrize(("setting", "value"), [("options", {"residual": True}), ("image_size", 64)])
def test_a_record_with_other_settings_of_a_network_does_not_count(setting: str, value: Any, tmp_path: Path) -> None:
    """They have as many parameters as the plain network."""
    record(tmp_path, "0001-plain", [0.5])
    path = record(tmp_path, "0002-changed", [0.9, 0.9]) / "seed0" / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    assert card["model"]["config"]["dropout"] == 0, "a setting of the training, which the plain network's record has"
    card["model"]["config"] |= {setting: value}
    path.write_text(json.dumps(card))
    found = reached("quicknet_xs", 236_538, tmp_path)
    assert found.ours[0].source == "plain"
    assert found.notes == (f"accuracy: the record changed has another {setting}",)


def test_a_record_that_does_not_match_its_network_is_refused(tmp_path: Path) -> None:
    folder = record(tmp_path, "0001-a", [0.5])
    with pytest.raises(ConfigError, match=r"record does not match its network: 236,538 parameters, .* has 236,539 \("):
        reached("quicknet_xs", 236_539, tmp_path)
    fields = json.loads((folder / "record.json").read_text())
    del fields["top1"]
    (folder / "record.json").write_text(json.dumps(fields))
    with pytest.raises(FormatError, match="the record lacks what a comparison needs: 'top1'"):
        reached("quicknet_xs", 236_538, tmp_path)


def alike(
    results: Path, name: str, networks: dict[str, list[float]], changes: dict[str, Any] | None = None, **same: float
) -> None:
    """A record of networks that were trained alike."""
    parameters = {"quicknet_xs": 236_538, "resnet_20": 269_722, "quicknet_s": 930_000}
    rows = [
        {"network": n, "parameters": parameters[n], "epochs": 5, "seconds": [90.0], "test": top1}
        for n, top1 in networks.items()
    ]
    fields = {"kind": "alike", "data": "cifar10", "protocol": "standard", "split": "test", "n": 100, "seeds": [0]}
    (results / name).mkdir(parents=True)
    record = {**fields, "same": same, "networks": rows, **(changes or {})}
    (results / name / "record.json").write_text(json.dumps(record))


def test_trainings_alike_stand_beside_those_of_their_own(tmp_path: Path) -> None:
    record(tmp_path, "0001-a", [0.5])
    alike(tmp_path, "0002-alike-30-minutes", {"quicknet_xs": [0.9], "quicknet_s": [0.8]}, minutes=30)
    alike(tmp_path, "0003-alike-5-epochs", {"quicknet_xs": [0.7]}, epochs=5)
    own, _, *same = reached("quicknet_xs", 236_538, tmp_path).ours
    assert (own.top1, own.alike) == (0.5, "")
    assert [(o.alike, o.top1, o.epochs) for o in same] == [("about 30 minutes", 0.9, 5), ("5 epochs", 0.7, 5)]
    assert same[0].minutes == 1.5
    left_out = {"recipe": "teacher", "not_trained": {"nin": "9 images/s, fewer than 60"}}
    alike(tmp_path, "0009-alike-5-epochs-teacher", {"quicknet_xs": [0.6]}, left_out, epochs=5)
    assert reached("quicknet_xs", 236_538, tmp_path).ours[-1].alike == "5 epochs by recipe teacher"
    (untrained,) = reached("nin", 966_986, tmp_path).untrained
    assert (untrained.source, untrained.why) == ("alike-5-epochs-teacher", "9 images/s, fewer than 60")
    with pytest.raises(ConfigError, match=r"does not match its network: 930,000 parameters, quicknet_s has 1,000 \("):
        reached("quicknet_s", 1000, tmp_path)
    alike(tmp_path, "0004-alike-1-minutes", {"quicknet_xs": []}, minutes=1)
    with pytest.raises(FormatError, match="lacks what a comparison needs"):
        reached("quicknet_xs", 236_538, tmp_path)


# --- ours and theirs -----------------------------------------------------------------------


def test_accuracies_stand_beside_cifar_networks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {row.name: row for row in compared(["resnet_20", "squeezenet"], monkeypatch).networks}
    assert [p.top1 for p in rows["resnet_20"].published] == [0.9125, 0.926] and not rows["resnet_20"].ours
    assert rows["quicknet_xs"].ours and not rows["quicknet_xs"].published
    assert rows["squeezenet"].input == "3x224x224" and not rows["squeezenet"].published
    larger = compared(["resnet_20"], monkeypatch, XS.replace(size=64))
    assert not any(row.ours or row.published for row in larger.networks), "other sizes were not measured"


def test_the_papers_table_has_a_column_of_ours_and_its_traps(monkeypatch: pytest.MonkeyPatch) -> None:
    result = compared([], monkeypatch, XS.replace(paper=True))
    assert [row.name for row in result.networks[1:]] == [row.network for row in paper_table()]
    table = tables(result)[0]
    rows = {cells[0].rpartition(" [")[0]: dict(zip(table.heads, cells, strict=True)) for cells in table.rows}
    assert rows["AlexNet"]["the paper, %"] == "81.96" and rows["AlexNet"]["ours, %"] == "not trained here"
    assert rows["All-CNN"]["published, %"] == "92.75"
    assert rows["Fractional max pooling"]["published, %"] == "95.50 / 96.53 (100 passes)"
    assert rows["Maxout"]["the paper, %"] == "–"
    assert rows["QuickNet"]["ours, %"] == "94.72 [1]"
    assert table.under[0].startswith("[1] measured on 6,000 images")
    assert "Ours: float32, standard, test, n = 9,980, seed 0, with a teacher: cifar10-quicknet-kept" in table.under[0]
    assert "no source of this figure" in table.under[1] and "100 passes" in " ".join(table.under)


def test_the_tables_mark_what_was_counted_and_name_what_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    result = compared(["lenet_5", "nin"], monkeypatch)
    counted, measured, accuracies = tables(result)
    assert counted.rows[1][4:6] == ("243*", "61*") and counted.rows[0][5] == "1"
    assert measured.rows[1][5:] == ("–",) * 4
    assert "– no int8 file: made up (lenet_5, nin)" in measured.under
    assert [row[3:] for row in accuracies.rows if row[0] == "quicknet_xs"] == [("92.43", "")]
    assert [row[1:] for row in accuracies.rows if row[0] == "nin"] == [("not trained here", "", "–", "")]
    assert ("", "", "arxiv.org/abs/1312.4400 (flips and shifts; 89.59% without)", "", "91.19") in accuracies.rows
    assert "without 20 images" in accuracies.under[0]
    assert all(len(row) == len(table.heads) for table in tables(result) for row in table.rows)
    assert busy(result) == pytest.approx(0)
    slow = result.networks[0].replace(float32={**speed(1.0).to_dict(), "images_per_second": 250.0})
    assert busy(msgspec.structs.replace(result, networks=(slow,))) == pytest.approx(0.75)


def test_a_folded_network_is_counted_as_it_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    result = compared(["repvgg_a0", "repvgg_a0_folded"], monkeypatch)
    _, branches, folded = result.networks
    for field in ("parameters", "macs", "peak_activation_bytes", "energy_float_uj"):
        assert getattr(branches, field) == getattr(folded, field)
    assert (branches.parameters, branches.counted_as, folded.counted_as) == (7_041_194, *["repvgg_a0_folded"] * 2)
    counted = tables(result)[0]
    assert "repvgg_a0 is counted as repvgg_a0_folded, the form in which it is exported and measured." in counted.under


# --- the page ------------------------------------------------------------------------------


def test_the_page_is_self_contained_and_draws_ours_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    result = compared(["resnet_20", "nin"], monkeypatch)
    text = render_comparison(result)
    assert text == render_comparison(result)
    assert "<script" not in text and not re.search(r'(?:src|href)="(?!data:)', text)
    assert text.count('<figure class="chart">') == 2
    filled, hollow = re.findall(r'class="mark" cx', text), re.findall(r'class="mark hollow" cx', text)
    # a key of each kind in each picture; quicknet_xs as float and int8; resnet_20 twice and nin
    assert (len(filled), len(hollow)) == (2 * (1 + 2), 2 * (1 + 3))
    assert "resnet_20: 91.25% (published)" in text and "quicknet_xs, int8: 92.41% (ours)" in text
    hostile = msgspec.structs.replace(result, networks=(result.networks[0].replace(name="<b>&"),))
    assert "<b>&" not in render_comparison(hostile).replace("&lt;b&gt;&amp;", "")


def test_trainings_alike_have_a_table_and_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    result = compared(["resnet_20", "nin", "lenet_5"], monkeypatch)
    fields: dict[str, Any] = {"numbers": "float32", "spread": None, "protocol": "standard", "split": "test", "n": 100}
    fields |= {"seeds": (0,), "minutes": 7.5}
    top1 = {"quicknet_xs": 0.8, "resnet_20": 0.7, "nin": 0.9}
    # measured in other minutes, when the machine was slow, nin took more milliseconds than quicknet_xs
    speeds = {"quicknet_xs": (2.0, 1.0), "resnet_20": (1.0, 0.8), "nin": (3.0, 1.5), "lenet_5": (1.0, None)}

    def given(row: ComparedNetwork) -> tuple[Ours, ...]:
        if row.name not in top1:
            return row.ours
        return (*row.ours, Ours(top1=top1[row.name], source="alike", alike="8 minutes", epochs=5, **fields))

    rows = (row.replace(float32=speed(*speeds[row.name]).to_dict()) for row in result.networks)
    result = with_ours(msgspec.structs.replace(result, networks=tuple(rows)), given)
    left_out = Untrained(alike="8 minutes", source="alike", why="9 images/s, fewer than 60")
    rows = (msgspec.structs.replace(r, untrained=(left_out,) if r.name == "lenet_5" else ()) for r in result.networks)
    result = msgspec.structs.replace(result, networks=tuple(rows))
    table = next(table for table in tables(result) if table.title == "trained alike: each for 8 minutes")
    assert table.rows == (
        ("nin", "none is as fast", "90.00", "5", "7.5", "1.50"),
        ("quicknet_xs", "", "80.00", "5", "7.5", "1.00"),
        ("resnet_20", "quicknet_xs +10.00", "70.00", "5", "7.5", "0.80"),
        ("lenet_5", "not trained here: 9 images/s, fewer than 60", "–", "–", "–", "–"),
    )
    accuracies = tables(result)[-1].rows
    assert not any("8 minutes" in cell for cells in accuracies for cell in cells)
    assert ("resnet_20", "trained alike only", "", "–", "") in accuracies
    text = render_comparison(result)
    assert text.count('<figure class="chart">') == 3 and "All trained alike, each for 8 minutes" in text
    assert "resnet_20: 70.00% (ours) at 2.5" in text, "2 ms of the base, 0.8 times as fast"
    assert "nin: 90.00% (ours) at 1.333" in text
    assert "not trained here: 9 images/s" in text


def test_what_needed_many_passes_is_not_drawn_at_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    text = render_comparison(compared(["fractional"], monkeypatch))
    time, size = re.findall(r'<figure class="chart">.*?</figure>', text, re.DOTALL)
    assert "fractional: 95.50%" in time and "fractional: 95.50%" in size
    assert "96.53%" not in time and "96.53%" in size
    assert "Not in the picture of time, which is that of one pass: fractional, 96.53% by 100 passes." in text
    assert "<td>96.53</td>" in text


def test_a_base_without_integers_leaves_int8_out_of_the_pictures_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    result = compared(["nin"], monkeypatch)
    base, nin = result.networks
    rows = (base.replace(int8=None), nin.replace(int8=speed(1.0, None).to_dict()))
    text = render_comparison(msgspec.structs.replace(result, networks=rows))
    assert "Not in the pictures of time: int8, since quicknet_xs has no int8 time to compare with." in text


def test_the_front_holds_what_nothing_else_dominates() -> None:
    marks = [Mark(name, x, y, True) for name, x, y in (("a", 1, 0.5), ("b", 1, 0.6), ("c", 5, 0.6), ("d", 9, 0.9))]
    assert [mark.name for mark in front(marks)] == ["b", "d"]
    axes = Axes("Accuracy", "ms", "accuracy")
    assert scatter_chart([], axes) == ""
    one = scatter_chart(marks[:1], axes)
    assert "NaN" not in one and one.count("<polyline") == 0
    assert scatter_chart(marks, axes).count("<polyline") == 1
    assert re.search(r"<text [^>]*rotate\(-90[^>]*>accuracy</text>", one), "the y axis has its name"


def test_an_axis_within_a_step_of_2_has_ticks() -> None:
    marks = [Mark("a", 1.1, 0.9, True), Mark("b", 1.9, 0.92, True)]
    text = scatter_chart(marks, Axes("Accuracy", "ms", "accuracy"))
    assert re.findall(r'text-anchor="middle">([\d.]+)</text>', text) == ["1.2", "1.4", "1.6", "1.8"]
    large = scatter_chart([Mark("a", 900, 0.9, True), Mark("b", 30_000, 0.92, True)], Axes("Size", "KB", "accuracy"))
    assert ">10,000</text>" in large


def test_a_network_with_two_accuracies_is_named_once() -> None:
    marks = [Mark("resnet_20", 1.3, y, False) for y in (0.9125, 0.926)] + [Mark("other", 9, 0.8, True)]
    text = scatter_chart(marks, Axes("Accuracy", "ms", "accuracy"))
    assert (text.count(">resnet_20</text>"), text.count("<title>resnet_20:")) == (1, 2)


def test_names_in_the_picture_do_not_cover_each_other() -> None:
    marks = [Mark(f"network_{n}", 1 + n / 50, 0.9 + n / 1000, n % 2 == 0) for n in range(30)]
    text = scatter_chart(marks, Axes("Accuracy", "ms", "accuracy"))
    boxes = [
        (float(x), float(y), 6.9 * len(name))
        for x, y, name in re.findall(r'<text x="([\d.]+)" y="([\d.]+)">(network_\d+)</text>', text)
    ]
    assert len(boxes) >= 8
    for i, (x, y, wide) in enumerate(boxes):
        for other_x, other_y, other_wide in boxes[:i]:
            assert abs(y - other_y) >= 12.9 or x + wide <= other_x + 0.1 or other_x + other_wide <= x + 0.1
