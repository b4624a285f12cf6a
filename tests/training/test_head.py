"""The first answer: a classifier fitted to the parent's features, before anything else is trained."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from quicknet import training
from quicknet.core.card import read_card
from quicknet.inference.artifact import load
from quicknet.training.head import _folds, fit_linear, logistic_regression
from quicknet.training.recipe import load_recipe

CPU = torch.device("cpu")
TINY = (
    "model.overrides={stem_width = 8, widths = [8, 16], depths = [1, 1], kernel_sizes = [3, 3]}",
    "train.batch_size=32",
    "train.ema_decay=0.9",
)
SHADES = {"dark": 40, "middle": 120, "light": 210}


@pytest.fixture(scope="module")
def parent(tmp_path_factory, tiny_cifar) -> Path:
    folder = tmp_path_factory.mktemp("parent") / "run"
    settings = load_recipe("fast", [*TINY, f"data.source={json.dumps(str(tiny_cifar))}", "train.epochs=1"])
    run = training.start(settings, folder, CPU)
    list(training.fit(run))
    training.finish(run)
    return folder


@pytest.fixture
def shades(tmp_path: Path) -> Path:
    """Pictures that differ in brightness: 20, 20 and 100 of a class."""
    rng = np.random.default_rng(0)
    for (name, level), count in zip(SHADES.items(), (20, 20, 100), strict=True):
        (tmp_path / "shades" / name).mkdir(parents=True)
        for number in range(count):
            noise = rng.integers(-30, 30, (40, 40, 3)) + level
            Image.fromarray(noise.astype(np.uint8)).save(tmp_path / "shades" / name / f"{number}.png")
    return tmp_path / "shades"


def child(parent: Path, data: Path, *changes: str):
    start = [f"model.start_from={json.dumps(str(parent))}", f"data.source={json.dumps(str(data))}"]
    return load_recipe("photos", [*start, "model.overrides={}", "train.epochs=3", *changes])


def test_the_run_folder_answers_before_the_first_epoch(parent, shades, tmp_path):
    run = training.start(child(parent, shades), tmp_path / "run", CPU)
    records = training.fit(run)
    head = next(records)
    assert head.epoch == 0
    assert head.val_accuracy == 1.0
    assert head.train_accuracy >= 0.95  # of images that the fit has not seen
    classifier = load(tmp_path / "run")
    split = run.data.split("train")
    assert (classifier.logits(split.images).argmax(1) == split.labels).mean() > 0.95
    assert classifier.card.training.epochs == 0
    assert [record.epoch for record in records] == [1, 2, 3]
    assert read_card(tmp_path / "run" / "card.json").training.epochs >= 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]  # the head is not an epoch of the log


def test_a_run_stopped_after_the_head_goes_on_to_the_same_weights(parent, shades, tmp_path):
    for name, stops in (("whole", False), ("stopped", True)):
        run = training.start(child(parent, shades), tmp_path / name, CPU)
        records = training.fit(run)
        next(records)
        if stops:
            run = training.resume(tmp_path / name, CPU)
            records = training.fit(run)
        assert [record.epoch for record in records] == [1, 2, 3]
    whole, stopped = ((tmp_path / name / "last.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped


def test_the_report_says_how_the_first_classifier_did_after_a_resume_too(parent, shades, tmp_path):
    run = training.start(child(parent, shades), tmp_path / "run", CPU)
    records = training.fit(run)
    next(records)
    first = run.head
    assert first is not None
    next(records)  # an epoch: the fit is not made again
    run = training.resume(tmp_path / "run", CPU)
    assert run.head == first
    list(training.fit(run))
    training.finish(run)
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"was right on {first.describe()}" in page
    assert "predict --unknown answers" in page
    assert "images of val are still answered" in page


def test_classes_of_the_parent_keep_its_classifier(parent, tiny_cifar, tmp_path):
    run = training.start(child(parent, tiny_cifar), tmp_path / "run", CPU)
    assert next(iter(training.fit(run))).epoch == 1


def test_the_fit_is_at_the_minimum():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 5, generator=generator)
    labels = (features[:, 0] + 0.5 * torch.randn(60, generator=generator) > 0).long()
    start = torch.zeros(2, 5), torch.zeros(2)
    weight, bias = logistic_regression(features, labels, 0.1, None, start)
    weight.requires_grad_()
    bias.requires_grad_()
    loss = F.cross_entropy(F.linear(features, weight, bias), labels) + 0.05 * weight.square().sum()
    for gradient in torch.autograd.grad(loss, (weight, bias)):
        assert gradient.abs().max() < 1e-3


def test_features_of_any_scale_give_the_same_answers():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(1, 90, 4, generator=generator)
    labels = features[0].argmax(1) % 3
    scaled = features * torch.tensor([1.0, 100.0, 0.01, 3.0]) + 5
    answers = []
    for views in (features, scaled):
        (weight, bias), fit = fit_linear(views, labels, 3)
        answers.append(F.linear(views[0], weight, bias).argmax(1))
        assert fit.accuracy > 0.5
    assert (answers[0] == answers[1]).float().mean() > 0.97


@pytest.mark.parametrize("count", [2, 7, 23])
def test_every_image_is_left_out_once_and_classes_are_spread(count):
    labels = np.repeat([0, 1], [count, 3 * count])
    folds = _folds(labels, min(5, len(labels)), 0)
    assert (np.sum(folds, axis=0) == 1).all()
    for number in (0, 1):
        per_fold = [int((labels[fold] == number).sum()) for fold in folds]
        assert max(per_fold) - min(per_fold) <= 1


def test_rare_classes_count_as_much_as_common_ones(parent, shades, tmp_path):
    run = training.start(child(parent, shades), tmp_path / "auto", CPU)  # 5 to 1
    counts = run.class_counts("train")
    weights = run.class_weights.numpy()
    np.testing.assert_allclose(weights * counts, (weights * counts).mean().repeat(3), rtol=1e-5)
    assert (weights * counts).sum() == pytest.approx(counts.sum())
    validation = run.validate()
    lopsided = dataclasses.replace(validation, accuracy=0.9, balanced_accuracy=0.4)
    assert run.score(lopsided) == 0.4  # what epochs are compared by
    off = training.start(child(parent, shades, "train.balance=off"), tmp_path / "off", CPU)
    assert off.class_weights is None
    assert off.score(lopsided) == 0.9


def test_few_validation_images_do_not_choose_the_epoch(parent, shades, tmp_path, monkeypatch):
    run = training.start(child(parent, shades), tmp_path / "run", CPU)
    worse = dataclasses.replace(run.validate(), accuracy=0.0, balanced_accuracy=0.0)
    run.state.best_accuracy = 1.0
    assert run.keeps_last
    assert run.is_best(worse)  # 14 images: the last epoch's weights are kept
    monkeypatch.setattr(training.run, "_FEW_IMAGES", 14)
    assert not run.is_best(worse)


def test_layers_far_from_the_classifier_learn_slower(parent, shades, tmp_path):
    run = training.start(
        child(parent, shades, "optim.name=adamw", "optim.layer_decay=0.5", "optim.lr=1.0", "optim.freeze=0"),
        tmp_path / "run",
        CPU,
    )
    rates = {}
    for part in run.optimizer.parts:
        for group in part.param_groups:
            for parameter in group["params"]:
                name = next(name for name, other in run.model.named_parameters() if other is parameter)
                rates[name] = group["peak_lr"]
    assert rates["classifier.weight"] == 1.0
    assert rates["blocks.1.pointwise.weight"] == rates["blocks.1.bn.bias"] == 0.5
    assert rates["blocks.0.depthwise.weight"] == 0.25
    assert rates["stem.conv.weight"] == 0.125


def test_frozen_layers_keep_the_parents_weights_and_the_others_learn(parent, shades, tmp_path):
    run = training.start(child(parent, shades, "optim.freeze=0.67", "train.epochs=2"), tmp_path / "run", CPU)
    before = {name: tensor.clone() for name, tensor in run.model.named_parameters()}
    records = training.fit(run)
    assert [next(records).epoch for _ in range(2)] == [0, 1]
    resumed = training.resume(tmp_path / "run", CPU)
    list(training.fit(resumed))
    for name, tensor in resumed.model.named_parameters():
        frozen = name.startswith(("stem.", "blocks.0."))  # two of three layers
        assert torch.equal(tensor, before[name]) == frozen, name
        assert (tensor.grad is None) == frozen, name
