"""Models that came from somewhere else: pickles, lying headers, cards that claim too much."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from quicknet.core.files import sha256_file

from .conftest import Refused


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def plant(folder: Path, blob: bytes, name: str = "model.safetensors") -> None:
    """Put other weights in place and make the record vouch for them, as an attacker would."""
    (folder / name).write_bytes(blob)
    record, key = ("card.json", "weights_sha256") if name.startswith("model") else ("last.json", "sha256")
    change_json(folder / record, lambda fields: fields.update({key: sha256_file(folder / name)}))


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def header(fields: dict[str, Any], payload: bytes = b"") -> bytes:
    text = json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text + payload


class Planted:
    def __reduce__(self):
        return os.system, ("touch executed",)


TENSOR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
NOT_SAFETENSORS = {
    "pickle": pickle.dumps(Planted()),
    "empty": b"",
    "seven-bytes": b"\x00" * 7,
    "huge-header": struct.pack("<Q", 1 << 62) + b"{}",
    "header-past-the-end": struct.pack("<Q", 10_000) + b"{}",
    "header-no-json": struct.pack("<Q", 4) + b"\xff\xfe[[",
    "deep-header": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "overlap": header({"a": TENSOR, "b": {**TENSOR, "data_offsets": [8, 24]}}, b"\0" * 24),
    "hole": header({"a": TENSOR, "b": {**TENSOR, "data_offsets": [24, 40]}}, b"\0" * 40),
    "offsets-past-the-end": header({"a": {**TENSOR, "data_offsets": [0, 1 << 50]}}, b"\0" * 16),
    "shape-of-terabytes": header({"a": {**TENSOR, "shape": [1 << 31, 1 << 31]}}, b"\0" * 16),
    "unknown-type": header({"a": {**TENSOR, "dtype": "F1"}}, b"\0" * 16),
    "trailing-bytes": header({"a": TENSOR}, b"\0" * 64),
}


@pytest.mark.parametrize("kind", NOT_SAFETENSORS)
def test_weights_that_are_no_safetensors(kind: str, run_dir: Path, picture: Path, refused: Refused):
    plant(run_dir, NOT_SAFETENSORS[kind])
    refused(["predict", run_dir, picture], "model.safetensors", "not a whole safetensors file", "copy", keeps=run_dir)
    assert not Path("executed").exists()


def test_a_torch_checkpoint_is_never_unpickled(run_dir: Path, picture: Path, refused: Refused):
    torch.save(Planted(), run_dir / "model.pt")
    plant(run_dir, (run_dir / "model.pt").read_bytes())
    refused(["predict", run_dir, picture], "not a whole safetensors file", keeps=run_dir)
    refused(["evaluate", run_dir / "model.pt"], "model.pt", "is not a model that QuickNet reads")
    assert not Path("executed").exists()


@pytest.mark.parametrize("verb", ["predict", "evaluate", "export", "benchmark", "train --from", "train --teacher"])
def test_weights_that_were_altered_are_refused_by_every_verb_that_runs_them(
    verb: str, run_dir: Path, picture: Path, tiny_data: Path, refused: Refused
):
    blob = bytearray((run_dir / "model.safetensors").read_bytes())
    blob[-1] ^= 1
    (run_dir / "model.safetensors").write_bytes(blob)
    arguments = {
        "predict": ["predict", run_dir, picture],
        "evaluate": ["evaluate", run_dir, "--quiet"],
        "export": ["export", run_dir, "--quiet"],
        "benchmark": ["benchmark", run_dir, "--quiet"],
        "train --from": ["train", tiny_data, "--from", run_dir, "--run", "new", "--quiet"],
        "train --teacher": ["train", tiny_data, "--teacher", run_dir, "--run", "new", "--quiet"],
    }[verb]
    refused(arguments, "model.safetensors is damaged or belongs to another run", "from a copy", keeps=run_dir)
    assert not Path("new/last.json").exists()


def test_tensors_that_are_not_the_networks(run_dir: Path, picture: Path, refused: Refused):
    tensors = safetensors.torch.load((run_dir / "model.safetensors").read_bytes())
    name = "classifier.weight"

    def planted(change: Callable[[dict], Any], *words: str) -> None:
        changed = dict(tensors)
        change(changed)
        plant(run_dir, safetensors.torch.save(changed))
        refused(["predict", run_dir, picture], "model.safetensors", *words, keeps=run_dir)

    nan = tensors[name].clone()
    nan[0, 0] = float("nan")
    planted(lambda t: t.update({name: nan}), f"{name!r} holds values that are NaN or infinite", "copy")
    planted(lambda t: t.update({name: tensors[name].bfloat16()}), "is torch.bfloat16, the network's is torch.float32")
    planted(lambda t: t.update({name: tensors[name].to(torch.int8)}), "is torch.int8")
    planted(lambda t: t.update({name: tensors[name][:-1].clone()}), f"{name!r} has shape (9, 24)")
    planted(lambda t: t.pop(name), f"lacks the tensor {name!r}", "another network")
    planted(lambda t: t.update(more=torch.zeros(1)), "a tensor 'more' that the network does not have")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(format=2), ("card format 2 is newer", "update")),
        (lambda c: c.update(format="1"), ("card is not valid", "format")),
        (lambda c: c.pop("classes"), ("card is not valid", "classes")),
        (lambda c: c["classes"].pop(), ("names 9 classes, its network has 10", "copy")),
        (lambda c: c["classes"].__setitem__(1, c["classes"][0]), ("repeated",)),
        (lambda c: c["classes"].__setitem__(1, 7), ("card is not valid", "classes[1]")),
        (lambda c: c["classes"].__setitem__(1, "\ud800"), ("not all Unicode",)),
        (lambda c: c.update(temperature=-1), ("temperature -1", "positive")),
        (lambda c: c.update(temperature=0), ("temperature 0", "positive")),
        (lambda c: c.update(model=3), ("card is not valid", "model")),
        (lambda c: c["model"].update(family="os"), ("unknown model family 'os'", "known:")),
        (lambda c: c["model"].update(family="../../os"), ("unknown model family",)),
        (lambda c: c["model"]["config"].update(widths=[8192] * 4, depths=[64] * 4), ("weights, over the limit",)),
        (lambda c: c["model"]["config"].update(widths=[10**12] * 4), ("widths must lie in 1..8192",)),
        (lambda c: c["model"]["config"].update(widths="wide"), ("widths", "expected")),
        (lambda c: c["model"]["config"].update(widths=[8, 12, 16, 32]), ("has shape", "the network's is")),
        (lambda c: c["model"]["config"].update(with_=1), ("unknown setting 'with_'", "did you mean 'widths'")),
        (lambda c: c["model"]["config"].update(num_classes=10**9), ("at most 100,000 classes",)),
        (lambda c: c["preprocess"].update(size=64), ("prepares 64x64 RGB images", "32x32", "copy")),
        (lambda c: c["preprocess"].update(mode="L", mean=[0.5], std=[0.2]), ("L images", "3 channels")),
        (lambda c: c["preprocess"].update(size=10**9), ("size within 1..4096",)),
        (lambda c: c["preprocess"].update(std=[0, 0, 0]), ("std must be positive",)),
        (lambda c: c["preprocess"].update(filter="magic"), ("card is not valid", "filter")),
        (lambda c: c.pop("weights_sha256"), ("does not name a weights_sha256",)),
    ],
)
def test_a_card_that_lies(change, words: tuple[str, ...], run_dir: Path, picture: Path, refused: Refused):
    change_json(run_dir / "card.json", change)
    refused(["predict", run_dir, picture], *words, keeps=run_dir)


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (b"", ("card.json is not JSON", "copy")),
        (b"[" * 250_000, ("card.json is not JSON",)),
        (b"[" * 5_000_000, ("card.json has over 262,144 values",)),
        (b'{"temperature": NaN}', ("card.json is not JSON", "NaN")),
        (b'{"format": ' + b"9" * 100_000 + b"}", ("card.json is not JSON",)),
        (b"\xff\xfe\x00", ("card.json is not JSON",)),
        (b"3", ("card.json does not name a weights_sha256",)),
    ],
    ids=["empty", "deep", "many", "nan", "long-number", "no-text", "number"],
)
def test_a_card_that_is_no_card(blob: bytes, words: tuple[str, ...], run_dir: Path, picture: Path, refused: Refused):
    (run_dir / "card.json").write_bytes(blob)
    refused(["predict", run_dir, picture], *words, keeps=run_dir)


def test_a_card_of_terabytes_is_refused_by_its_size(run_dir: Path, picture: Path, refused: Refused):
    os.truncate(run_dir / "card.json", 1 << 40)  # a hole: it takes no room
    refused(["predict", run_dir, picture], "1,099,511,627,776 bytes", "card.json", "over the limit")
    os.truncate(run_dir / "model.safetensors", 1 << 20)
    (run_dir / "card.json").unlink()
    os.mkfifo(run_dir / "card.json")  # reading it would wait for ever
    refused(["predict", run_dir, picture], "card.json")


@pytest.mark.parametrize("verb", ["evaluate", "inspect", "export", "benchmark", "verify"])
def test_every_verb_refuses_what_is_no_model(verb: str, tmp_path: Path, picture: Path, refused: Refused):
    (tmp_path / "empty").mkdir()
    for name in ("none", "empty", "picture.png", "odd\x1b[2J\nname"):
        line = refused([verb, name], name[:3], "; ", keeps=tmp_path)
        assert line.isprintable()


def test_places_that_hold_no_model(tmp_path: Path, run_dir: Path, picture: Path, refused: Refused):
    (tmp_path / "empty").mkdir()
    refused(["predict", tmp_path / "empty", picture], "empty is not a run folder", "quicknet train")
    refused(["predict", tmp_path / "rum", picture], "no model at", "did you mean", "run")
    refused(["predict", picture, picture], "picture.png is not a model that QuickNet reads", "run folder")
    refused(["evaluate", "no\x1b[2Jsuch\nmodel"], "no model at")
    (run_dir / "model.safetensors").unlink()
    (run_dir / "model.safetensors").mkdir()
    refused(["predict", run_dir, picture], "model.safetensors is damaged")


# --- what --resume believes ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(epoch="3"), ("last.json does not hold", "epoch", "copy")),
        (lambda c: c.update(step=-1), ("last.json does not hold", "step")),
        (lambda c: c.update(format=7), ("last.json does not hold", "7", "another version")),
        (lambda c: c.update(history=[3]), ("last.json does not hold", "history")),
        (lambda c: c["history"][0].pop("seconds"), ("last.json does not hold", "seconds")),
        (lambda c: c.pop("lineage"), ("last.json does not hold", "lineage")),
        (lambda c: c.update(best_epoch=99), ("last.json has no validation of its best epoch 99", "copy")),
        (lambda c: [r.update(val_loss=None) for r in c["history"]], ("no validation of its best epoch", "copy")),
        (lambda c: c["classes"].pop(), ("last.json names 9 classes", "network has 10")),
        (lambda c: c.update(classes=3), ("last.json does not hold", "classes")),
        (lambda c: c["model"]["config"].update(widths=[8192] * 4, depths=[64] * 4), ("over the limit",)),
        (lambda c: c.update(sha256="0" * 64), ("last.safetensors is damaged", "copy")),
        (lambda c: c.update(sha256=None), ("last.json does not name a sha256",)),
        (lambda c: c.update(data_sha256=""), ("trained on other data", "where its data lies now")),
    ],
)
def test_counters_that_lie(change, words: tuple[str, ...], run_dir: Path, refused: Refused):
    change_json(run_dir / "last.json", change)
    refused(["train", "--resume", run_dir, "--quiet"], *words, keeps=run_dir)


def test_tensors_of_another_run(run_dir: Path, refused: Refused):
    tensors = safetensors.torch.load((run_dir / "last.safetensors").read_bytes())
    slot = next(name for name in tensors if name.startswith("optimizer."))

    def planted(change: Callable[[dict], Any], *words: str) -> None:
        changed = dict(tensors)
        change(changed)
        plant(run_dir, safetensors.torch.save(changed), "last.safetensors")
        refused(["train", "--resume", run_dir, "--quiet"], *words, keeps=run_dir)

    planted(lambda t: t.update({slot: torch.zeros(2, 2)}), "saved optimizer is not the one of recipe.toml", "copy")
    planted(lambda t: t.update({f"{slot}_more": t.pop(slot)}), "saved optimizer")
    planted(lambda t: t.pop("state.correct"), "last.safetensors lacks 'correct'")
    planted(lambda t: t.pop("model.stem.conv.weight"), "lacks the tensor 'stem.conv.weight'")
    plant(run_dir, NOT_SAFETENSORS["pickle"], "last.safetensors")
    refused(["train", "--resume", run_dir], "last.safetensors is not a whole safetensors file", keeps=run_dir)


def test_starting_from_what_is_not_there(tmp_path: Path, tiny_data: Path, refused: Refused):
    refused(["train", tiny_data, "--from", tmp_path / "none"], "none does not exist", "run folder or shipped")
    (tmp_path / "empty").mkdir()
    refused(["train", tiny_data, "--from", tmp_path / "empty"], "empty holds no card.json")
    refused(["train", tiny_data, "--teacher", tmp_path / "none"], "no model at", "an exported file or shipped")


def test_resuming_what_is_no_run(tmp_path: Path, run_dir: Path, refused: Refused):
    refused(["train", "--resume", tmp_path / "none"], "none does not exist", "quicknet train")
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    refused(["train", "--resume", tmp_path / "empty"], "no last.json to resume from", keeps=tmp_path / "empty")
    refused(["train", "--resume", run_dir / "card.json"], f"name its folder, {run_dir}", keeps=run_dir)
    refused(["train", "--resume", run_dir, "--epochs", "9"], "--resume takes every setting", "--from", keeps=run_dir)
    (run_dir / "recipe.toml").unlink()
    refused(["train", "--resume", run_dir], "cannot read the recipe", "recipe.toml", keeps=run_dir)
