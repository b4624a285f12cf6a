"""Recipes, options and names that cannot be followed."""

from pathlib import Path

import pytest

from .conftest import Refused, contents

RECIPES = {
    "unknown-key": (b"[train]\nepoch = 3\n", ("unknown setting 'train.epoch'", "did you mean 'epochs'")),
    "unknown-table": (b"[optimizer]\nlr = 3\n", ("unknown setting 'optimizer'", "did you mean 'optim'")),
    "value-for-a-table": (b"train = 3\n", ("train must be a table",)),
    "table-for-a-value": (b"[train.epochs]\na = 1\n", ("train.epochs", "expected")),
    "float-epochs": (b"[train]\nepochs = 1e18\n", ("train.epochs", "expected 'int'")),
    "endless": (b"[train]\nepochs = 1000000000000000000\n", ("at most 1,000,000 epochs",)),
    "huge-number": (b"[train]\nseed = " + b"9" * 5000, ("not TOML",)),
    "nan": (b"[optim]\nlr = nan\n", ("'optim.lr' is nan", "finite")),
    "infinite": (b"[train]\nclip_norm = inf\n", ("'train.clip_norm' is inf",)),
    "nan-inside": (b"[train]\nsizes = [[nan, 32]]\n", ("'train.sizes' is nan",)),
    "betas": (b"[optim]\nname = 'adamw'\nbetas = [0.9, 1.5]\n", ("optim.betas", "0 <= beta < 1")),
    "no-seed": (b"[train]\nseed = -1\n", ("a seed in 0..2^63-1",)),
    "parameters": (
        b"[model.overrides]\nwidths = [8192, 8192, 8192, 8192]\ndepths = [64, 64, 64, 64]\n",
        ("weights, over the limit of 268,435,456", "choose smaller ones"),
    ),
    "widths": (b"[model.overrides]\nwidths = [1000000000000, 1]\ndepths=[1,1]\n", ("kernel_sizes need one entry",)),
    "one-width": (b"[model.overrides]\nwidths = [1000000000000, 1, 1, 1]\n", ("widths must lie in 1..8192",)),
    "darknet": (
        b"[model]\nname = 'darknet'\noverrides = { widths = [8192, 8192, 8192, 8192, 8192, 8192, 8192] }\n",
        ("weights, over the limit",),
    ),
    "override-type": (b"[model.overrides]\nwidths = 'wide'\n", ("widths", "expected")),
    "override-date": (b"[model.overrides]\ndropout = 1979-05-27\n", ("dropout", "expected")),
    "unknown-override": (b"[model.overrides]\nwidth = [3]\n", ("unknown setting 'width'", "'widths'")),
    "not-toml": (b"[train\n", ("recipe is not TOML", "line 1")),
    "deep": (b"x = " + b"[" * 100_000, ("recipe is not TOML",)),
    "no-text": (b"name = '\xff\xfe'\n", ("recipe is not UTF-8",)),
    "huge": (b"# " + b"x" * (2 << 20), ("2,097,154 bytes", "over the limit")),
    "sizes": (b"[train]\nsizes = [[0.0, 8]]\n", ("image size 8 must lie in 16..1024",)),
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_that_cannot_be_followed(kind: str, tiny_data: Path, tmp_path: Path, refused: Refused):
    blob, words = RECIPES[kind]
    (tmp_path / "mine.toml").write_bytes(blob)
    refused(["train", tiny_data, "--recipe", tmp_path / "mine.toml", "--run", "new", "--quiet"], *words)
    assert not (tmp_path / "new").exists()


def test_a_nul_in_a_name(tiny_data: Path, tmp_path: Path, refused: Refused):
    for key in ("model.start_from", "distill.teacher", "data.source"):
        table, _, name = key.partition(".")
        (tmp_path / "mine.toml").write_text(f'[{table}]\n{name} = "a\\u0000b"\n')
        data = [] if key == "data.source" else [tiny_data]
        refused(["train", *data, "--recipe", tmp_path / "mine.toml", "--run", "new", "--quiet"], "a\\x00b")


def test_a_recipe_that_never_ends_is_not_read(tiny_data: Path, refused: Refused):
    refused(["train", tiny_data, "--recipe", "/dev/zero"], "/dev/zero", "not a regular file")
    refused(["train", tiny_data, "--recipe", "./none.toml"], "cannot read the recipe", "none.toml", "No such file")
    refused(["train", tiny_data, "--recipe", "fsat"], "there is no recipe 'fsat'", "did you mean 'fast'")


def test_the_name_in_a_recipe_leads_nowhere_else(tiny_data: Path, tmp_path: Path, refused: Refused):
    """Runs land below runs/, whatever a recipe from elsewhere calls itself."""
    recipe = 'name = "../../../evil\\n\\u001b[2J"\n[schedule]\nwarmup = 0.0\n[optim]\nlr = 1e38\n'
    (tmp_path / "mine.toml").write_text(recipe)
    line = refused(["train", tiny_data, "--recipe", tmp_path / "mine.toml", "--quiet"], "at epoch 1, step ")
    (folders,) = (path.parent for path in tmp_path.rglob("log.jsonl"))
    assert folders.parent == tmp_path / "runs"
    assert folders.name.isprintable()
    assert f"(runs/{folders.name})" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ("no command is called 'trian'", "did you mean 'train'")),
        (["x\ny\x1b[2J"], ("no command is called", "known: ")),
        (["--frob"], ("No such option", "--frob", "quicknet --help")),
        (["train", "--epoch", "3"], ("No such option", "--epoch", "--epochs", "quicknet train --help")),
        (["train"], ("no DATA given", "cifar10")),
        (["train", ""], ("no DATA given",)),
        (["doctor"], ("Missing argument 'DATA'", "quicknet doctor --help")),
        (["predict", "m"], ("give FILES to classify", "--watch FOLDER")),
        (["train", "cifar10", "--threads", "0"], ("--threads", "1<=x<=256")),
        (["train", "cifar10", "--threads", "100000"], ("--threads", "1<=x<=256")),
        (["train", "cifar10", "--epochs", "many"], ("--epochs", "'many' is not a valid integer")),
        (["train", "cifar10", "--epochs", "0"], ("at least 1",)),
        (["train", "cifar10", "--epochs", "1" + "0" * 18], ("at most 1,000,000 epochs",)),
        (["train", "cifar10", "--batch-size", "1" + "0" * 40], ("1,048,576 images a batch",)),
        (["train", "cifar10", "--batch-size", "1" + "0" * 12], ("1,048,576 images a batch",)),
        (["train", "cifar10", "--model", "quicknet_z"], ("no model is called 'quicknet_z'", "did you mean 'quicknet_")),
        (["train", "cifar10", "--recipe", "fsat"], ("did you mean 'fast'",)),
        (["train", "cifar10", "--device", "gpu"], ("a device 'gpu'", "use cpu, cuda or cuda:1")),
        (["train", "cifar10", "--device", "meta"], ("a device 'meta'", "use cpu")),
        (["train", "cifar10", "--device", "cuda:99"], ("CUDA device",)),
        (["train", "cifar10", "--set", "train.epochs"], ("'train.epochs' is not KEY=VALUE", "for example")),
        (["train", "cifar10", "--set", "train.epcohs=3"], ("unknown setting 'train.epcohs'", "'epochs'")),
        (["train", "cifar10", "--set", "=3"], ("unknown setting ''",)),
        (["train", "cifar10", "--set", "x=" + "[" * 100_000], ("nested too deeply",)),
        (["train", "cifar10", "--set", "optim.lr=nan"], ("'optim.lr' is nan",)),
        (["train", "cifar10", "--from", "x", "--model", "quicknet"], ("--from brings its own", "leave --model out")),
        (["train", "a", "b"], ("unexpected extra argument", "quicknet train --help")),
    ],
)
def test_a_command_line_that_cannot_be_followed(
    arguments: list[str], words: tuple[str, ...], tmp_path: Path, refused: Refused
):
    refused(arguments, *words)
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize("size", [0, 1, 8, 15, 1025, 4096, 10**9])
def test_an_image_size_the_network_cannot_take(size: int, tiny_data: Path, tmp_path: Path, refused: Refused):
    refused(["train", tiny_data, "--size", size, "--run", "new", "--quiet"], f"size {size} must lie in", "pixels")
    assert not (tmp_path / "new").exists()
    assert not contents(tmp_path / "cache")  # told before any image was decoded


def test_a_network_that_leaves_nothing_of_an_image(tiny_data: Path, refused: Refused):
    deep = "model.overrides={widths=[8,8,8,8,8,8], depths=[1,1,1,1,1,1], kernel_sizes=[3,3,3,3,3,3]}"
    refused(
        ["train", tiny_data, "--size", 32, "--set", deep, "--run", "new", "--quiet"],
        "image size 32 is too small for 6 stages",
        "use larger images",
    )


@pytest.mark.parametrize("split", ["tset", "", "../x"])
def test_a_split_that_is_not_there(split: str, finished_run: Path, refused: Refused):
    refused(["evaluate", finished_run, "--split", split, "--quiet"], "split", keeps=finished_run)
