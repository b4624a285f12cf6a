"""Which networks a recipe may name, before any image is decoded."""

import pytest

from quicknet.core.errors import ConfigError
from quicknet.training.recipe import load_recipe
from quicknet.training.setup import _check_model


@pytest.mark.parametrize("name", ["fractional", "alexnet", "quicknet", "lenet_5"])
def test_a_network_that_fits_some_usual_size_is_taken(name: str) -> None:
    """`fractional` has too many levels for 1,024 pixels, AlexNet none for 32: the data decides."""
    _check_model(load_recipe("fast", [f"model.name={name}"]))


@pytest.mark.parametrize(("name", "size"), [("fractional", 1024), ("alexnet", 32)])
def test_a_size_that_is_named_must_fit(name: str, size: int) -> None:
    with pytest.raises(ConfigError):
        _check_model(load_recipe("fast", [f"model.name={name}", f"data.size={size}"]))
