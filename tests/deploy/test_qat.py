import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from networks import random_network, some_images
from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import CheckpointError, ConfigError, TrainingError
from quicknet.data import DataRequest, Dataset, load_data
from quicknet.data.augment import AugmentSettings, normalize
from quicknet.deploy.fold import fold
from quicknet.deploy.quantize import Lesson, QatSettings, Quantized, fine_tune, quantize, resume, simulate
from quicknet.deploy.quantize.qat import pixels_of
from quicknet.deploy.quantize.student import Student
from quicknet.models import fused
from quicknet.models.network import Network
from quicknet.qnz import reference
from quicknet.qnz.bounds import check_network
from quicknet.qnz.encoding import encode_network
from quicknet.training.checkpoint import TorchClassifier


@contextlib.contextmanager
def silent(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda n: None


# --- the same numbers ----------------------------------------------------------------------


@pytest.mark.parametrize("extreme", [False, True])
def test_the_simulation_is_the_integer_network(extreme: bool) -> None:
    """Same int32 logits on networks of every shape, and the network that comes back is the one that went in."""
    rng = np.random.default_rng(extreme)
    for _ in range(25):
        network = random_network(rng, extreme=extreme)
        images = some_images(rng, (2, network.side, network.side, network.channels))
        student = Student(Quantized(network, 0.01))
        assert np.array_equal(student.logits(images), reference.run(network, images))
        back = student.integers()
        check_network(back)
        assert np.array_equal(reference.run(back, images), reference.run(network, images))


def test_whatever_is_learned_stays_within_the_format() -> None:
    """Changes a hundred times larger than any training makes, and still the simulation says what will run."""
    rng = np.random.default_rng(5)
    torch.manual_seed(0)
    for size in (0.1, 1.0, 30.0):
        for _ in range(5):
            network = random_network(rng)
            student = Student(Quantized(network, 1e-4))
            with torch.no_grad():
                for parameter in student.parameters():
                    parameter.normal_(0, size)
            learned = student.integers()
            check_network(learned)
            images = some_images(rng, (2, network.side, network.side, network.channels))
            assert np.array_equal(student.logits(images), reference.run(learned, images))


def test_real_images_through_a_run_of_its_own(run_dir: Path, pictures: Path) -> None:
    parent = TorchClassifier(run_dir)
    spec = parent.card.preprocess
    data = load_data(pictures, DataRequest(spec=spec, classes=parent.card.classes, quiet=True))
    images = np.array(data.split("test").images)
    for bits in ("w7a7", "w5a8"):
        quantized = quantize(fold(parent.model, spec), np.array(data.split("train").images), bits)
        assert np.array_equal(Student(quantized).logits(images), reference.run(quantized.network, images))


def test_the_pixels_come_back_whole() -> None:
    """What augmentation normalizes is the same 256 levels for the integers."""
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3).contiguous()
    for mean, std in (((0.49, 0.48, 0.45), (0.247, 0.243, 0.262)), ((0.0, 1.0, 0.5), (1.0, 0.01, 0.004))):
        spec = PreprocessSpec(mean=mean, std=std)
        actual = pixels_of(normalize(levels, mean, std), spec)
        assert torch.equal(actual, levels.permute(0, 3, 1, 2).float())


# --- gradients -----------------------------------------------------------------------------


def through(value: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Straight-through, the plain way."""
    return value + (whole - value).detach()


@pytest.fixture(params=["compiled", "plain"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "compiled" and not fused.available():
        pytest.skip(fused.status())
    with fused.disabled() if request.param == "plain" else contextlib.nullcontext():
        yield request.param


def test_gradients_are_straight_through(path: str) -> None:
    """Of the rules against the same formula written with autograd's own operations."""
    torch.manual_seed(1)
    acc = torch.randint(-40_000, 40_000, (3, 6, 5, 7)).float().contiguous(memory_format=torch.channels_last)
    positive, negative = torch.randint(100, 900, (6,)).double(), torch.randint(-300, 300, (6,)).double()
    weight = torch.randn(3, 6, 5, 7)
    leaves = [[t.clone().requires_grad_() for t in (acc, positive, negative)] for _ in range(2)]
    one, other = leaves

    actual = simulate.requantize(one[0] * 1, 3, one[1], one[2], (-40, 60))
    (actual * weight).sum().backward()

    t = other[0] / 8
    t = through(t, t.floor())
    sign = (t >= 0).float()
    factor = [(m.float() / 32768).view(1, -1, 1, 1) for m in other[1:]]
    v = t * (sign * factor[0] + (1 - sign) * factor[1])
    v = through(v, (v + 0.5).floor())
    inside = ((v > -40) & (v < 60)).float()
    plain = v * inside + v.clamp(-40, 60).detach() * (1 - inside)
    (plain * weight).sum().backward()

    assert torch.equal(actual, plain)
    for mine, theirs in zip(one, other, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, rtol=1e-5, atol=1e-6)
        assert float(mine.grad.abs().max()) > 0


@pytest.mark.skipif(not fused.available(), reason=fused.status())
@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 12),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_compiled_and_plain_agree(
    shape: tuple[int, ...], shift: int, dtype: torch.dtype, shifted: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    reach = 1 << (15 + shift) if shifted else 1 << 15
    acc = torch.randint(-reach, reach, shape, generator=generator).to(dtype)
    if seed % 2:
        acc = acc.contiguous(memory_format=torch.channels_last)
    first, second = torch.randint(-32767, 32768, (2, shape[1]), generator=generator).double()
    weight = torch.randn(shape, generator=generator)

    def answers() -> tuple[torch.Tensor, list[torch.Tensor]]:
        leaves = [tensor.clone().requires_grad_() for tensor in (acc, first, second)]
        if shifted:
            maps = simulate.requantize(leaves[0] * 1, shift, leaves[1], leaves[2], (-40, 215))
        else:
            maps = simulate.mulr((leaves[0] * 1).float(), leaves[1], (-40, 215))
            leaves.pop()
        (maps * weight).sum().backward()
        return maps.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None]

    compiled, gradients = answers()
    with fused.disabled():
        plain, expected = answers()
    assert torch.equal(compiled, plain)
    assert len(gradients) == len(expected)
    for mine, theirs in zip(gradients, expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-3)


def test_every_number_of_a_network_learns(path: str) -> None:
    network = random_network(np.random.default_rng(2))
    student = Student(Quantized(network, 1e-5))
    images = some_images(np.random.default_rng(3), (8, network.side, network.side, network.channels))
    logits = student(torch.from_numpy(images).permute(0, 3, 1, 2).float())
    logits.square().sum().backward()
    still = [name for name, p in student.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not [name for name in still if "multiplier" not in name and "negative" not in name], still


# --- fine-tuning ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task(run_dir: Path, pictures: Path) -> tuple[Network, Dataset]:
    parent = TorchClassifier(run_dir)
    card = parent.card
    return parent.model, load_data(pictures, DataRequest(spec=card.preprocess, classes=card.classes, quiet=True))


def damaged(quantized: Quantized) -> Quantized:
    """The same network with every second bias of the last layer moved by 40 levels of its output."""
    *first, last = quantized.network.blocks
    per_level = 2 ** (15 + last.output.shift) // np.maximum(last.output.positive.astype(np.int64), 1)
    bias = last.bias.copy()
    bias[::2] += (40 * per_level[::2]).astype(np.int32)
    blocks = (*first, dataclasses.replace(last, bias=bias))
    return Quantized(dataclasses.replace(quantized.network, blocks=blocks), quantized.logit_scale)


def divergence(parent: nn.Module, quantized: Quantized, data: Dataset) -> float:
    images = np.array(data.split("val").images)
    with torch.no_grad():
        expected = parent(normalize(torch.from_numpy(images), data.spec.mean, data.spec.std)).double()
    actual = torch.from_numpy(reference.run(quantized.network, images) * quantized.logit_scale)
    return float(F.kl_div(F.log_softmax(actual, 1), F.log_softmax(expected, 1), reduction="batchmean", log_target=True))


def test_fine_tuning_mends_what_is_broken(task: tuple[Network, Dataset]) -> None:
    parent, data = task
    quantized = quantize(fold(parent, data.spec), np.array(data.split("train").images), "w5a8")
    start = damaged(quantized)
    settings = QatSettings(epochs=20, lr=1e-2, batch_size=10, checks=3)
    actual, tuned = fine_tune(start, Lesson(parent, data, AugmentSettings(crop=0, flip="none")), settings, silent)
    check_network(actual.network)
    assert tuned.steps == 60
    assert len(tuned.checks) == 3
    assert tuned.kept == max(tuned.before, *tuned.checks)
    assert tuned.kept > tuned.before
    assert divergence(parent, actual, data) < 0.5 * divergence(parent, start, data)


def test_fine_tuning_keeps_the_start_where_nothing_is_better(task: tuple[Network, Dataset]) -> None:
    parent, data = task
    quantized = quantize(fold(parent, data.spec), np.array(data.split("train").images), "w7a8")
    settings = QatSettings(epochs=1, lr=100.0, batch_size=10)
    actual, tuned = fine_tune(quantized, Lesson(parent, data, AugmentSettings()), settings, silent)
    assert tuned.kept == tuned.before
    assert actual is quantized


def test_the_same_settings_give_the_same_integers(task: tuple[Network, Dataset]) -> None:
    parent, data = task
    start = damaged(quantize(fold(parent, data.spec), np.array(data.split("train").images), "w7a7"))
    settings = QatSettings(epochs=5, lr=1e-2, batch_size=30, checks=1, seed=4)
    nets = [fine_tune(start, Lesson(parent, data, AugmentSettings()), settings, silent)[0].network for _ in range(2)]
    for one, other in zip(nets[0].blocks, nets[1].blocks, strict=True):
        assert np.array_equal(one.weight, other.weight)
        assert np.array_equal(one.bias, other.bias)


def test_a_part_of_an_epoch_is_told_of_as_it_goes(task: tuple[Network, Dataset]) -> None:
    parent, data = task
    quantized = quantize(fold(parent, data.spec), np.array(data.split("train").images), "w7a8")
    shown: list[Any] = []

    @contextlib.contextmanager
    def show(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        shown.append((label, total, unit))
        yield shown.append

    fine_tune(quantized, Lesson(parent, data, AugmentSettings()), QatSettings(epochs=0.5, batch_size=5, checks=1), show)
    (what, total, unit), *done = shown
    assert (what, unit) == ("fine-tune", "images")
    assert sum(done) == total == 15  # of 30


def test_fine_tuning_refuses_what_cannot_descend(task: tuple[Network, Dataset]) -> None:
    for changes in ({"epochs": 0.0}, {"lr": -1.0}, {"batch_size": 0}, {"checks": 0}, {"temperature": 0.0}):
        with pytest.raises(ConfigError, match="qat"):
            QatSettings(**changes)
    parent, data = task
    quantized = quantize(fold(parent, data.spec), np.array(data.split("train").images), "w7a8")

    def broken(images: torch.Tensor) -> torch.Tensor:
        return torch.full((len(images), 3), torch.nan)

    with pytest.raises(TrainingError, match="loss of fine-tuning is nan"):
        fine_tune(quantized, Lesson(broken, data, AugmentSettings()), QatSettings(epochs=0.2), silent)


def test_fine_tuning_that_was_killed_goes_on_to_the_same_integers(
    task: tuple[Network, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, data = task
    start = damaged(quantize(fold(parent, data.spec), np.array(data.split("train").images), "w5a8"))
    settings = QatSettings(epochs=4, lr=1e-2, batch_size=10, checks=2, rate=0.1)
    lesson = Lesson(parent, data, AugmentSettings())
    whole, expected = fine_tune(start, lesson, settings, silent)

    class Killed(BaseException):
        pass

    seen = 0

    def dying(images: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += 1
        if seen == 9:
            raise Killed
        return parent(images)

    monkeypatch.setattr(resume, "_EVERY_S", -1.0)  # after each step
    with pytest.raises(Killed):
        fine_tune(start, lesson._replace(teacher=dying), settings, silent, tmp_path)
    seen = 100
    actual, tuned = fine_tune(start, lesson._replace(teacher=dying), settings, silent, tmp_path)
    assert (seen, tuned) == (104, expected)
    for one, other in zip(whole.network.blocks, actual.network.blocks, strict=True):
        assert np.array_equal(one.weight, other.weight)
        assert np.array_equal(one.bias, other.bias)
    (tmp_path / "tuning.json").write_text((tmp_path / "tuning.json").read_text().replace('"step": 12', '"step": -1'))
    with pytest.raises(CheckpointError, match="remove it to fine-tune anew"):
        fine_tune(start, lesson, settings, silent, tmp_path)


def test_what_was_saved_of_another_network_does_not_go_on(task: tuple[Network, Dataset], tmp_path: Path) -> None:
    """A network of one and the shifts of another would answer like neither."""
    parent, data = task
    images, lesson = np.array(data.split("train").images), Lesson(parent, data, AugmentSettings())
    one = quantize(fold(parent, data.spec), images, "w5a8")
    two = quantize(fold(parent, data.spec), images, "w5a8", coarse=[1.0] * len(one.network.blocks))
    settings = QatSettings(epochs=1, batch_size=10, checks=1, rate=0.1)
    expected, tuned = fine_tune(two, lesson, settings, silent)
    fine_tune(one, lesson, settings, silent, tmp_path)
    actual, _ = fine_tune(two, lesson, settings, silent, tmp_path)
    assert encode_network(actual.network) == encode_network(expected.network)
    _, longer = fine_tune(two, lesson, settings.replace(epochs=2), silent, tmp_path)
    assert longer.steps == 2 * tuned.steps
