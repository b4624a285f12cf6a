"""Recipes: every file is whole and says what it reaches; wrong settings are named."""

import importlib.resources
import typing

import pytest

from quicknet.core.errors import ConfigError, FormatError
from quicknet.models.registry import create_model
from quicknet.training.recipe import Recipe, default_recipe, list_recipes, load_recipe, lower_rate
from quicknet.training.settings import OptimSettings
from quicknet.training.setup import with_epochs


def test_the_shipped_recipes_load_and_begin_with_a_comment():
    names = list_recipes()
    assert {"fast", "paper", "best", "photos", "scratch"} <= set(names)
    for name in names:
        recipe = load_recipe(name, ["model.start_from=none"])
        assert recipe.name == name
        create_model(recipe.model.name, **recipe.model.overrides)
        text = (importlib.resources.files("quicknet.training") / "recipes" / f"{name}.toml").read_text("utf-8")
        assert text.startswith("# ")


def test_the_paper_recipe_follows_section_4():
    paper = load_recipe("paper")
    assert paper.model.name == "quicknet"
    assert paper.model.overrides["dropout"] == 0.5
    assert paper.data.protocol == "paper"
    assert paper.optim.name == "sgd"
    assert paper.train.epochs >= 190
    assert paper.train.patience is not None


@pytest.mark.parametrize("name", list_recipes())
def test_a_resolved_recipe_says_the_same(name, tmp_path):
    recipe = load_recipe(name, ["data.source=cifar10", "model.start_from=none"])
    (tmp_path / "recipe.toml").write_text("# head\n" + recipe.to_toml())
    again = load_recipe(str(tmp_path / "recipe.toml"))
    assert again == recipe
    assert again.sha256() == recipe.sha256()


def test_with_a_parent_a_shipped_recipe_leaves_the_images_to_it(tmp_path):
    assert load_recipe("scratch").data.size == 96
    for parent in ("model.start_from=runs/parent", 'model={start_from = "runs/parent"}'):
        assert load_recipe("scratch", [parent]).data.size is None
        asked = load_recipe("scratch", [parent, "data.size=48", "data.mode=L", "data.resize=pad"]).data
        assert (asked.size, asked.mode, asked.resize) == (48, "L", "pad")
        assert load_recipe("scratch", [parent], {"data.size": 64}).data.size == 64
    recipe = tmp_path / "own.toml"  # what stands in one's own file is asked for
    recipe.write_text('data = { size = 80 }\nmodel = { start_from = "runs/parent" }\n')
    assert load_recipe(str(recipe)).data.size == 80


@pytest.mark.parametrize(
    ("name", "changes", "proposed"),
    [
        ("scratch", [], "optim.lr=0.0005"),
        ("scratch", ["optim.lr=0.008"], "optim.lr=0.002"),
        ("scratch", ["optim.lr=1e30"], "optim.lr=0.002"),
        ("fast", ["optim.lr=0.2"], "optim.lr=0.03"),
        ("fast", ["optim.vector_lr=1e9"], "optim.vector_lr=0.2"),
        ("paper", ["optim.lr=1e30"], "optim.lr=0.1"),
        ("fast", ["optim.name=sgd", "optim.lr=1e30"], "optim.lr=0.4"),  # no value of `fast` is for SGD
    ],
)
def test_a_rate_to_try_after_divergence(name, changes, proposed):
    assert lower_rate(load_recipe(name, changes)) == proposed


def test_every_optimizer_has_a_usual_rate():
    for name in typing.get_args(typing.get_type_hints(OptimSettings)["name"]):
        assert lower_rate(load_recipe("fast", [f"optim.name={name}", "optim.lr=1e30"])) != "optim.lr=2.5e+29"


def test_the_digest_does_not_depend_on_where_the_data_lay():
    assert load_recipe("fast", ["data.source=a"]).sha256() == load_recipe("fast", ["data.source=b"]).sha256()
    assert load_recipe("fast").sha256() != load_recipe("fast", ["train.seed=1"]).sha256()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("lr=0.1", "unknown setting 'lr' .recipe fast. .did you mean 'optim.lr'"),
        ("name.x=1", "'name' holds a value"),
        ("seed=1", "did you mean 'train.seed' or 'distill.seed'"),
        ("train.epoch=3", "unknown setting 'train.epoch'.*did you mean 'epochs'"),
        ("optimm.lr=3", "did you mean 'optim'"),
        ("train.epochs=many", "expected `?'?int"),
        ("train.epochs=0", "at least 1"),
        ("optim.name=adam", "optim.name"),
        ("schedule.milestones=[0.7, 0.5]", "must rise"),
        ("train.sizes=[[0.5, 24]]", "start at share 0"),
        ("train.epochs", "KEY=VALUE"),
        ("train.epochs.more=1", "not further settings"),
        ("data.mode=CMYK", "data.mode"),
        ("data.val_share=0.5", "val_share 0.5"),
    ],
)
def test_a_wrong_setting_is_named_with_the_mend(change, words):
    with pytest.raises(ConfigError, match=words):
        load_recipe("fast", [change])


def test_values_may_be_bare_words_or_toml():
    recipe = load_recipe("fast", ["model.name=quicknet", "schedule.milestones=[0.1]", "train.compile=true"])
    assert (recipe.model.name, recipe.schedule.milestones, recipe.train.compile) == ("quicknet", (0.1,), True)


def test_a_recipe_that_is_not_there_or_not_toml(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'fast'"):
        load_recipe("fats")
    with pytest.raises(FormatError, match="cannot read the recipe"):
        load_recipe(str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_text("[train\n")
    with pytest.raises(ConfigError, match="not TOML"):
        load_recipe(str(tmp_path / "bad.toml"))


def test_a_recipe_is_frozen():
    with pytest.raises(AttributeError):
        setattr(Recipe(), "name", "other")  # noqa: B010


def test_a_folder_gets_the_recipe_for_photos():
    assert default_recipe("cifar10") == default_recipe("cifar100") == "fast"
    with_parent = default_recipe("photos/")
    assert default_recipe("data/cifar10") == with_parent == default_recipe("photos/", "quicknet_xs")
    assert default_recipe("photos/", "quicknet_xs", "runs/parent") == "photos"
    assert default_recipe("photos/", "quicknet_xs", "none") == "scratch"
    assert default_recipe("photos/", "darknet") == "scratch"  # no weights of it have seen photographs


def test_the_parent_is_named_after_the_network(monkeypatch):
    monkeypatch.setattr("quicknet.training.recipe.names_with_run", lambda: ["quicknet_s.photos"])
    recipe = load_recipe("photos", ["model.name=quicknet_s"])
    assert recipe.model.start_from == "quicknet_s.photos"
    assert recipe.data.size is None  # the parent's
    with pytest.raises(ConfigError, match=r"no weights darknet\.photos.*--recipe scratch"):
        load_recipe("photos", ["model.name=darknet"])
    from_nothing = load_recipe("photos", ["model.start_from=none"])
    assert from_nothing.model.start_from is None
    assert from_nothing.optim.freeze == 0 < load_recipe("photos", ["model.name=quicknet_s"]).optim.freeze


def test_epochs_follow_from_the_number_of_images_unless_they_are_asked_for():
    recipe = load_recipe("fast", ["train.views=20000", "train.views=1000", "train.epochs=60"])
    assert [with_epochs(recipe, images).train.epochs for images in (5, 20, 100, 900, 5000)] == [60, 50, 10, 1, 1]
    assert with_epochs(recipe, 20).train.views is None  # so that the resolved recipe makes the same run
    asked = load_recipe("photos", ["model.start_from=none", "train.epochs=7"])
    assert with_epochs(asked, 1_000_000).train.epochs == 7
