"""What shows none of the classes is learned from spoilt pictures; the classes keep their probabilities."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quicknet import training
from quicknet.core.card import read_card
from quicknet.image.preprocess import load_image
from quicknet.inference.artifact import load
from quicknet.inference.metrics import confidences, softmax
from quicknet.inference.unknown import choose_unknown
from quicknet.training.none_class import fit_none, spoil
from quicknet.training.recipe import load_recipe
from quicknet.training.run import Run

CPU = torch.device("cpu")
TINY = "model.overrides={stem_width = 8, widths = [8, 16], depths = [1, 1], kernel_sizes = [3, 3]}"
HUES = {"red": (200, 60, 40), "green": (60, 190, 60)}


@pytest.fixture
def hues(tmp_path: Path) -> Path:
    """Noisy pictures of two colours."""
    rng = np.random.default_rng(0)
    for name, colour in HUES.items():
        (tmp_path / "hues" / name).mkdir(parents=True)
        for number in range(40):
            noise = rng.integers(-40, 40, (32, 32, 3)) + colour
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(tmp_path / "hues" / name / f"{number}.png")
    return tmp_path / "hues"


def finished(data: Path, folder: Path, *changes: str) -> Run:
    source = (f"data.source={json.dumps(str(data))}", "data.size=32", "model.start_from=none", TINY)
    recipe = load_recipe("photos", [*source, "train.head_first=false", "train.epochs=3", *changes])
    run = training.start(recipe, folder, CPU)
    list(training.fit(run))
    training.finish(run)
    return run


def test_the_classes_keep_their_probabilities_and_none_has_the_logit_zero(hues, tmp_path):
    run = finished(hues, tmp_path / "run")
    finished(hues, tmp_path / "plain", "train.none_class=false")
    images = run.data.split("train").images
    logits, plain = (load(tmp_path / name).logits(images) for name in ("run", "plain"))
    np.testing.assert_allclose(softmax(logits), softmax(plain), atol=1e-4)
    shift = logits - plain
    assert shift.std(1).max() < 1e-3 < shift.std()  # the same for each class of an image, another for each image
    card = read_card(tmp_path / "run" / "card.json")
    assert card.unknown is not None
    assert card.unknown.none_class
    assert card.weights_sha256 != read_card(tmp_path / "plain" / "card.json").weights_sha256


def test_a_run_that_is_finished_twice_comes_to_the_same(hues, tmp_path):
    run = finished(hues, tmp_path / "run")
    files = ("model.safetensors", "card.json")
    once = {name: (tmp_path / "run" / name).read_bytes() for name in files}
    training.finish(run)
    assert {name: (tmp_path / "run" / name).read_bytes() for name in files} == once


def test_the_row_of_none_separates_what_lies_elsewhere():
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(300, 6, generator=generator)
    others = torch.randn(200, 6, generator=generator) + torch.tensor([4.0, 0, 0, 0, 0, 0])
    layer = torch.randn(3, 6, generator=generator)
    logits = [torch.logsumexp(features @ layer.T, 1) for features in (known, others)]
    weight, bias = fit_none(known, others, logits[0], logits[1])
    shifted = [(features @ (layer - weight).T - bias).numpy() for features in (known, others)]
    record = choose_unknown(shifted[0], 1.0, "val", none_class=True)
    assert record.kept >= 0.95
    assert (confidences(shifted[1], 1.0, none_class=True) < record.min_confidence).mean() > 0.8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 33])
def test_spoilt_pictures_have_the_shape_of_the_pictures_and_nothing_else_of_one(channels, size):
    images = np.random.default_rng(0).integers(0, 256, (5, size, size, channels), dtype=np.uint8)
    before = images.copy()
    kinds = spoil(images, np.random.default_rng(1))
    assert np.array_equal(images, before)
    for kind in kinds:
        assert kind.shape == images.shape
        assert kind.dtype == np.uint8
    same = [np.array_equal(kind, images) for kind in kinds]
    assert same.count(True) == (1 if channels == 1 else 0)  # grey has no colours to change places


def _apart(photos_dir, cifar10_dir, place, seed):
    """How often a picture of the classes is more confident than one of none: by the largest probability, by none."""
    source = f"data.source={json.dumps(str(photos_dir))}"
    run = training.start(load_recipe("photos", [source, "train.views=1500", f"train.seed={seed}"]), place, CPU)
    list(training.fit(run))
    training.finish(run)
    classifier = load(place)
    rows = np.fromfile(cifar10_dir / "test_batch.bin", np.uint8, 200 * 3073).reshape(200, 3073)[:, 1:]
    pictures = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    others = classifier.logits(np.stack([load_image(picture, classifier.card.preprocess) for picture in pictures]))
    val = classifier.logits(run.data.split("val").images)
    shares = []
    for none_class in (False, True):
        known, strange = (confidences(logits, 1.0, none_class) for logits in (val, others))
        shares.append(float((known[:, None] > strange).mean()))
    return shares


def test_real_photographs_of_other_things_are_told_apart_more_often(photos_dir, cifar10_dir, tmp_path):
    """Ants and bees, learned from the shipped weights; the others are the first of CIFAR-10's test set.

    Pairs, since 28 pictures of val choose a threshold too roughly. Measured with seeds 0, 1, 2 by the largest
    probability 0.61, 0.42, 0.67, by none 0.70, 0.64, 0.84: CIFAR's 32 pixels are blurred at 128, which no
    spoilt picture is. Photographs in full: results/0022.
    """
    shares = [_apart(photos_dir, cifar10_dir, tmp_path / str(seed), seed) for seed in range(3)]
    gains = [told - largest for largest, told in shares]
    assert min(gains) > 0, shares
    assert sum(gains) / 3 > 0.05, shares  # 0.16; other CPUs round otherwise
