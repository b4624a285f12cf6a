"""Augmentation: what a run depends on (the same image however it is asked for) and what a recipe
promises (the distributions, labels that fit the pixels, operations that do what their name says).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from quicknet.core.card import Mode, PreprocessSpec
from quicknet.core.errors import ConfigError, DataError
from quicknet.core.settings import from_mapping
from quicknet.data.augment import Augmenter, AugmentSettings, decide, native, normalize, ops, sample, trivial
from quicknet.data.augment.draws import Draws, Stream, beta_quantile

MODES: dict[int, Mode] = {1: "L", 3: "RGB", 4: "RGBA"}
OFF = AugmentSettings(crop=0, flip="none")
EVERYTHING = AugmentSettings(
    crop=4,
    flip="alternating",
    scale=(0.5, 1.2),
    rotate=15.0,
    jitter=0.4,
    trivial=True,
    cutout=8,
    mixup=0.3,
    cutmix=1.0,
    mix_prob=0.8,
)


def noise(count: int, side: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, side, side, channels), dtype=torch.uint8, generator=generator)


def flats(count: int, side: int = 32) -> Tensor:
    """Image i is of value i all over."""
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].repeat(1, side, side, 3)


def pictures(count: int, side: int = 48) -> Tensor:
    """Smooth colour waves with some noise: like photographs, neighbours are alike."""
    generator = torch.Generator().manual_seed(1)
    phase, frequency = torch.rand(2, count, 1, 1, 3, generator=generator) * 6
    y, x = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    wave = torch.sin(phase + frequency * x[None, :, :, None] + 2 * frequency.flip(3) * y[None, :, :, None])
    grain = torch.randn(wave.shape, generator=generator) * 6
    return (120 + 90 * wave + grain).clamp(0, 255).to(torch.uint8)


def augmenter(images: Tensor, recipe: AugmentSettings, seed: int = 0) -> Augmenter:
    """Labels are the indices; mean 0 and std 1, so that batches hold values / 255."""
    channels = images.shape[3]
    spec = PreprocessSpec(size=16, mode=MODES[channels], mean=(0.0,) * channels, std=(1.0,) * channels)
    return Augmenter(images, torch.arange(len(images)), spec, recipe, seed, len(images))


def pixels(images: Tensor) -> Tensor:
    """Normalized batch → (B, S, S, C) uint8; exact where no mixing made fractions."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def augmented(images: Tensor, recipe: AugmentSettings, epoch: int = 0, seed: int = 0) -> Tensor:
    return pixels(augmenter(images, recipe, seed).batch(torch.arange(len(images)), epoch).images)


def chi_square_is_plausible(counts: np.ndarray) -> bool:
    """Whether counts of equally likely cells look it: within 5 standard deviations of the mean."""
    expected = counts.sum() / counts.size
    statistic = ((counts - expected) ** 2 / expected).sum()
    return bool(abs(statistic - (counts.size - 1)) < 5 * np.sqrt(2 * counts.size))


# --- random numbers ----------------------------------------------------------------------


def test_samples_are_splitmix64_of_a_key() -> None:
    mask = (1 << 64) - 1

    def finalize(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
        return x ^ x >> 31

    def reference(seed: int, epoch: int, index: int, stream: int) -> float:
        key = 0
        for part in (seed, epoch, stream):
            key = finalize(((key ^ part) + 0x9E3779B97F4A7C15) & mask)
        return (finalize((key + index * 0x9E3779B97F4A7C15) & mask) >> 11) / 2**53

    for seed, epoch, stream in [(0, 0, 0), (7, 3, 11), (2**63 + 5, 200, 2), (-4, 1, 20)]:
        indices = torch.tensor([0, 1, 2, 49_999, 2**40])
        expected = [reference(seed, epoch, int(i), stream) for i in indices]
        assert sample(seed, epoch, indices, stream).tolist() == expected
        assert Draws(seed, epoch, indices).uniform(Stream(stream)).tolist() == expected


def test_samples_are_uniform_and_streams_epochs_and_seeds_are_independent() -> None:
    indices = torch.arange(20_000)
    rows = [sample(s, e, indices, t) for s in (0, 1) for e in (0, 1) for t in range(4)]
    numbers = torch.stack(rows).numpy()
    assert numbers.min() >= 0 and numbers.max() < 1
    for row in numbers:
        assert chi_square_is_plausible(np.bincount((row * 64).astype(int), minlength=64))
    correlations = np.corrcoef(np.concatenate([numbers, numbers[:, ::-1]])) - np.eye(32)
    assert np.abs(correlations).max() < 5 / np.sqrt(20_000)
    neighbours = np.corrcoef(numbers[0][:-1], numbers[0][1:])[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(20_000)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 3.0, 40.0])
def test_beta_quantiles_have_the_beta_distributions_moments(alpha: float) -> None:
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    share = beta_quantile(u, alpha)
    assert share.diff().min() >= 0 and share[0] >= 0 and share[-1] <= 1
    assert share.mean().item() == pytest.approx(0.5, abs=1e-6)
    assert share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=1e-3)
    kurtosis = (share - 0.5).pow(4).mean() / (share - 0.5).pow(2).mean() ** 2
    assert kurtosis.item() == pytest.approx(3 - 6 / (2 * alpha + 3), rel=1e-3)


# --- the same image however it is asked for ----------------------------------------------


@pytest.mark.parametrize("size", [None, 24, 40])
@settings(max_examples=10, deadline=None)
@given(
    indices=st.lists(st.integers(0, 59), min_size=1, max_size=40),
    epoch=st.integers(0, 1000),
    seed=st.integers(0, 2**64 - 1),
)
def test_an_image_does_not_depend_on_its_batch(size: int | None, indices: list[int], epoch: int, seed: int) -> None:
    source = augmenter(noise(60), EVERYTHING, seed)
    batch = source.batch(torch.tensor(indices), epoch, size)
    whole = source.batch(torch.arange(60), epoch, size)
    assert torch.equal(batch.images, whole.images[indices])
    assert torch.equal(batch.labels, whole.labels[indices])
    assert batch.mix_labels is not None and whole.mix_labels is not None
    assert batch.mix_weight is not None and whole.mix_weight is not None
    assert torch.equal(batch.mix_labels, whole.mix_labels[indices])
    assert torch.equal(batch.mix_weight, whole.mix_weight[indices])
    alone = augmenter(noise(60), EVERYTHING, seed).batch(torch.tensor(indices[-1:]), epoch, size)
    assert torch.equal(alone.images[0], batch.images[-1])


@pytest.mark.parametrize(("side", "channels"), [(33, 1), (40, 3), (16, 4)])
def test_threads_do_not_change_a_bit(side: int, channels: int) -> None:
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        source = augmenter(noise(96, side, channels), EVERYTHING)
        results.append([source.batch(torch.arange(96), 5, size).images for size in (None, 24)])
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.skipif(not native.usable(noise(1)), reason="no C compiler here, or QUICKNET_FUSED=0")
@settings(max_examples=40, deadline=None)
@given(
    side=st.integers(4, 70),
    channels=st.sampled_from([1, 3, 4]),
    recipe=st.sampled_from([EVERYTHING, AugmentSettings(crop=16), AugmentSettings(scale=(0.1, 4.0), rotate=180.0)]),
    jitter=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 2**64 - 1),
)
def test_the_compiled_operations_give_torchs_bits(
    side: int, channels: int, recipe: AugmentSettings, jitter: float, seed: int
) -> None:
    source = augmenter(noise(20, side, channels), recipe.replace(jitter=jitter), seed)
    compiled = source.batch(torch.arange(20), 3).images
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "usable", lambda images: False)
        assert torch.equal(source.batch(torch.arange(20), 3).images, compiled)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_gives_the_cpus_bits() -> None:
    images, labels, spec = noise(64), torch.arange(64), PreprocessSpec()
    batches = [
        Augmenter(images.to(device), labels, spec, EVERYTHING, 0, 64).batch(torch.arange(64), 3)
        for device in ("cpu", "cuda")
    ]
    assert torch.equal(batches[0].images, batches[1].images.cpu())


def test_epoch_and_seed_change_what_happens() -> None:
    images = noise(32)
    first = augmented(images, AugmentSettings())
    assert not torch.equal(first, augmented(images, AugmentSettings(), epoch=1))
    assert not torch.equal(first, augmented(images, AugmentSettings(), seed=1))
    assert torch.equal(first, augmented(images, AugmentSettings()))


def test_the_data_set_is_left_as_it_was() -> None:
    images = noise(16)
    for recipe in (OFF, EVERYTHING):
        augmented(images, recipe)
    assert torch.equal(images, noise(16))


# --- crop and flip -----------------------------------------------------------------------


def locate_crops(images: Tensor, results: Tensor, pad: int) -> np.ndarray:
    """Return (B, 3): dy, dx, flip of the one numpy reflect-pad crop that each result equals."""
    side, actual = images.shape[1], []
    for image, result in zip(images.numpy(), results.numpy(), strict=True):
        candidates = [
            (dy, dx, flip)
            for flip, picture in enumerate((image, image[:, ::-1]))
            for padded in [np.pad(picture, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")]
            for dy in range(2 * pad + 1)
            for dx in range(2 * pad + 1)
            if np.array_equal(padded[dy : dy + side, dx : dx + side], result)
        ]
        assert len(candidates) == 1
        actual.append(candidates[0])
    return np.array(actual)


@pytest.mark.parametrize(("side", "channels", "pad"), [(32, 3, 4), (64, 1, 8), (17, 4, 2)])
def test_every_crop_is_one_of_the_reflected_image(side: int, channels: int, pad: int) -> None:
    images = noise(24, side, channels)
    actual = locate_crops(images, augmented(images, AugmentSettings(crop=4)), pad)
    assert len(np.unique(actual[:, :2], axis=0)) > 12


def test_crops_and_flips_are_uniform() -> None:
    draws = Draws(3, 2, torch.arange(40_000))
    dy, dx = decide.shifts(AugmentSettings(crop=4), draws, 32)
    flip = decide.flips(AugmentSettings(), 3, 2, torch.arange(40_000), draws)
    assert dy.min() == dx.min() == -4 and dy.max() == dx.max() == 4
    cells = ((dy + 4) * 9 + dx + 4) * 2 + flip
    assert chi_square_is_plausible(np.bincount(cells.numpy(), minlength=162))


def test_crop_and_flip_of_a_real_photograph(cifar10_dir: Path) -> None:
    record = np.fromfile(cifar10_dir / "test_batch.bin", dtype=np.uint8, count=3073 * 16).reshape(16, 3073)
    images = torch.from_numpy(record[:, 1:].reshape(16, 3, 32, 32).transpose(0, 2, 3, 1).copy())
    locate_crops(images, augmented(images, AugmentSettings(crop=4)), 4)


def test_alternating_flip_alternates_and_starts_from_a_fair_coin() -> None:
    images, recipe = noise(400, 16), AugmentSettings(crop=0, flip="alternating")
    epochs = [augmented(images, recipe, epoch) for epoch in range(4)]
    mirrored = images.flip(2)
    flipped = (epochs[0] == mirrored).flatten(1).all(1)
    assert 140 < flipped.sum() < 260
    for epoch, result in enumerate(epochs):
        turned = flipped ^ bool(epoch % 2)
        assert torch.equal(result, torch.where(turned[:, None, None, None], mirrored, images))


def test_everything_off_changes_nothing() -> None:
    assert torch.equal(augmented(noise(8), OFF), noise(8))


@pytest.mark.parametrize("side", [4, 16, 32])
def test_reflection_is_numpys_padding(side: int) -> None:
    reach = 5 * (side - 1)
    expected = np.pad(np.arange(side), reach, mode="reflect")[: 2 * reach + 1]
    assert np.array_equal(ops.reflect(torch.arange(-reach, reach + 1), side).numpy(), expected)


# --- cutout ------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "length"), [(32, 16), (64, 32), (16, 8)])
def test_cutout_erases_a_clipped_square_to_the_mean(side: int, length: int) -> None:
    images = noise(300, side).clamp(max=199)  # the mean below is no pixel's value
    spec = PreprocessSpec(size=side, mean=(0.8, 0.85, 0.9), std=(1.0, 1.0, 1.0))
    recipe = AugmentSettings(crop=0, flip="none", cutout=16)
    batch = Augmenter(images, torch.arange(300), spec, recipe, 0, 300).batch(torch.arange(300), 0)
    untouched = normalize(images, spec.mean, spec.std)
    erased = (batch.images != untouched).any(1)  # (B, S, S)
    assert torch.equal(batch.images.permute(0, 2, 3, 1)[~erased], untouched.permute(0, 2, 3, 1)[~erased])
    assert batch.images.permute(0, 2, 3, 1)[erased].abs().max() <= 0.51 / 255  # 0 is the mean
    rows, columns = erased.any(2).sum(1), erased.any(1).sum(1)
    assert torch.equal(erased.flatten(1).sum(1), rows * columns)  # a full rectangle
    assert rows.max() == columns.max() == length and rows.min() >= length // 2
    assert 0.3 < (rows == length).double().mean() < 0.75  # clipped at the edge as often as it should
    expected = 3 / 4 * length  # mean side: length where it fits (half the centres), 3/4 of it beside
    assert rows.double().mean().item() == pytest.approx((length + expected) / 2, rel=0.05)


# --- mixing ------------------------------------------------------------------------------


def test_mixup_weighs_pixels_as_it_weighs_labels() -> None:
    source = augmenter(flats(200), AugmentSettings(mixup=0.5))
    batch = source.batch(torch.arange(200), 1)
    assert batch.mix_labels is not None and batch.mix_weight is not None
    values = batch.images[:, 0, 0, 0] * 255
    expected = batch.mix_weight * batch.labels + (1 - batch.mix_weight) * batch.mix_labels
    assert torch.allclose(values, expected, atol=1e-3)
    assert torch.equal(batch.images, batch.images[:, :1, :1, :1].expand_as(batch.images))
    assert chi_square_is_plausible(np.bincount(batch.mix_labels.numpy() // 20, minlength=10))


def test_cutmix_weight_is_the_share_of_own_pixels() -> None:
    images = flats(250, 20)
    batch = augmenter(images, AugmentSettings(cutmix=1.0)).batch(torch.arange(250), 2)
    assert batch.mix_labels is not None and batch.mix_weight is not None
    values = pixels(batch.images)[..., 0].long()
    partner = batch.mix_labels[:, None, None].expand_as(values)
    is_image = values == batch.labels[:, None, None]
    assert torch.equal(values[~is_image], partner[~is_image])
    others = batch.mix_labels != batch.labels
    shares = is_image.double().mean((1, 2)).float()
    assert torch.allclose(shares[others], batch.mix_weight[others], rtol=0, atol=1e-6)
    rows, columns = (~is_image).any(2).sum(1), (~is_image).any(1).sum(1)
    assert torch.equal((~is_image).flatten(1).sum(1), rows * columns)
    assert 0.5 < batch.mix_weight.mean() < 0.75  # clipping leaves more than Beta(1, 1)'s half


def test_mixing_probability_and_choice_of_kind() -> None:
    recipe = AugmentSettings(mixup=1.0, cutmix=1.0, mix_prob=0.4)
    mix = decide.mix(recipe, Draws(0, 0, torch.arange(20_000)), 100, 32)
    assert len(mix.blended) == pytest.approx(4000, abs=300)
    assert len(mix.boxed) == pytest.approx(4000, abs=300)
    unmixed = torch.ones(20_000, dtype=torch.bool)
    unmixed[mix.blended] = unmixed[mix.boxed] = False
    assert bool((mix.weight[unmixed] == 1).all())


def test_a_partner_is_augmented_as_in_its_own_turn() -> None:
    images, recipe = noise(40), AugmentSettings(cutmix=1.0)
    mixed = augmenter(images, recipe).batch(torch.arange(40), 6)
    plain = augmenter(images, AugmentSettings()).batch(torch.arange(40), 6).images
    assert mixed.mix_labels is not None
    either = (mixed.images == plain) | (mixed.images == plain[mixed.mix_labels])
    assert bool(either.all()) and not torch.equal(mixed.images, plain)


def test_without_mixing_there_are_no_mixed_labels() -> None:
    for recipe in (AugmentSettings(), AugmentSettings(mixup=0.2, mix_prob=0.0)):
        batch = augmenter(noise(4), recipe).batch(torch.arange(4), 0)
        assert batch.mix_labels is None and batch.mix_weight is None


# --- colour, against Pillow --------------------------------------------------------------


def planes_of(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).contiguous()


def pillow(images: Tensor, change: object) -> np.ndarray:
    modes = {1: lambda a: a[:, :, 0], 3: lambda a: a}
    prepare = modes[images.shape[3]]
    results = [np.asarray(change(Image.fromarray(prepare(image)))) for image in images.numpy()]  # type: ignore[operator]
    return np.stack(results).reshape(images.shape).transpose(0, 3, 1, 2).astype(int)


ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "color": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ENHANCERS)
@pytest.mark.parametrize("signed", [-1.0, -0.4, 0.0, 0.3, 1.0])
def test_enhancement_is_pillows(name: str, signed: float, channels: int) -> None:
    images = torch.cat([noise(2, 48), pictures(4)])[..., :channels].contiguous()
    strength = torch.full((6,), signed, dtype=torch.float64)
    operation = torch.full((6,), trivial.OPERATIONS.index(name))
    ours = planes_of(trivial.recolour(images, operation, strength.abs(), strength)).numpy().astype(int)
    theirs = pillow(images, lambda image: ENHANCERS[name](image).enhance(1 + 0.99 * signed))
    # Pillow cuts fractions off where this rounds, and rounds the smoothed image first.
    assert np.abs(ours - theirs).max() <= 1
    if signed == 0:
        assert np.array_equal(ours, planes_of(images).numpy())


EXACT = {
    "posterize": lambda image: ImageOps.posterize(image, 4),
    "solarize": lambda image: ImageOps.solarize(image, 85),
    "autocontrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", EXACT)
def test_tables_of_values_are_pillows(name: str, channels: int) -> None:
    flat = torch.full((1, 48, 48, 3), 77, dtype=torch.uint8)
    two_valued = (noise(1, 48) > 128).to(torch.uint8) * 90 + 60
    images = torch.cat([noise(2, 48), pictures(4), flat, two_valued])[..., :channels].contiguous()
    strength = torch.full((8,), 2 / 3, dtype=torch.float64)
    operation = torch.full((8,), trivial.OPERATIONS.index(name))
    ours = planes_of(trivial.recolour(images, operation, strength, strength)).numpy().astype(int)
    # Pillow stretches contrast in floating point, which may fall just short of a whole number.
    assert np.abs(ours - pillow(images, EXACT[name])).max() <= (name == "autocontrast")


def test_a_blend_is_rounded_to_the_nearest_value() -> None:
    planes, nothing = planes_of(noise(2)), torch.zeros(2, dtype=torch.float64)
    ours = ops.blend(planes, nothing + 0.7, nothing, nothing).numpy()
    assert np.array_equal(ours, np.floor(planes.numpy() * (round(0.7 * 65536) / 65536) + 0.5))


def test_smoothing_is_pillows_filter() -> None:
    images = pictures(3)
    ours = ops.sharpen(planes_of(images), torch.zeros(3, dtype=torch.float64)).numpy().astype(int)
    assert np.abs(ours - pillow(images, lambda image: image.filter(ImageFilter.SMOOTH))).max() <= 1


def test_jitter_is_brightness_then_contrast_then_saturation() -> None:
    images, draws = pictures(64).clamp(60, 150), Draws(0, 0, torch.arange(64))
    ours = augmented(images, OFF.replace(jitter=0.3)).double()
    factors = (
        draws.uniform(stream, 0.7, 1.3)[:, None, None, None]
        for stream in (Stream.BRIGHTNESS, Stream.CONTRAST, Stream.SATURATION)
    )
    brightness, contrast, saturation = factors
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    expected = images.double() * brightness
    middle = (expected @ weights).mean((1, 2))[:, None, None, None]
    expected = middle + contrast * (expected - middle)
    grey = (expected @ weights)[..., None]
    expected = (grey + saturation * (expected - grey)).clamp(0, 255)
    assert (ours - expected).abs().max() < 2.1
    assert (ours - images.double()).abs().mean() > 5


def test_colour_leaves_alpha_alone() -> None:
    recipe = OFF.replace(jitter=0.5, trivial=True)
    images = noise(200, 16, 4)
    images[..., 3] = torch.arange(200, dtype=torch.uint8)[:, None, None]
    result = augmented(images, recipe)
    assert torch.equal(result[..., 3], images[..., 3])
    assert not torch.equal(result[..., :3], images[..., :3])


# --- geometry, against Pillow ------------------------------------------------------------


def pillow_warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Pillow's bilinear affine transform of the image in its own reflection."""
    side = image.shape[0]
    padded = np.pad(image, ((side - 1, side - 1), (side - 1, side - 1), (0, 0)), mode="reflect")
    (a, b, shift_x), (c, d, shift_y) = matrix
    half = side / 2
    origin_x = half + shift_x - a * half - b * half + side - 1
    origin_y = half + shift_y - c * half - d * half + side - 1
    coefficients = (a, b, origin_x, c, d, origin_y)
    return np.asarray(
        Image.fromarray(padded).transform(
            (side, side), Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR
        )
    )


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
@pytest.mark.parametrize("signed", [-0.5, 0.1, 0.7])
def test_geometry_is_pillows(name: str, signed: float) -> None:
    images = torch.cat([pictures(3), noise(1, 48)])
    operation = torch.full((4,), trivial.OPERATIONS.index(name))
    matrix = trivial.matrices(operation, torch.full((4,), signed, dtype=torch.float64))
    ours = ops.warp(images, matrix).numpy().astype(int)
    theirs = np.stack([pillow_warp(i, m) for i, m in zip(images.numpy(), matrix.numpy(), strict=True)])
    difference = np.abs(ours - theirs)
    # Pillow cuts the fraction off at the end, this rounds after each of two interpolations.
    assert difference[:3].max() <= 2
    assert difference[:3].mean() < 0.7
    # Positions are whole 1/256 pixels: noise, up to 255 from pixel to pixel, shows each of them.
    assert difference[3].max() <= 3
    assert not np.array_equal(ours, images.numpy())


@pytest.mark.parametrize(("shift", "share"), [(0.5, 128), (0.003, 1), (0.0019, 0)])
def test_a_shift_is_rounded_to_the_nearest_256th_of_a_pixel(shift: float, share: int) -> None:
    images, matrix = noise(2), torch.eye(2, 3, dtype=torch.float64).repeat(2, 1, 1)
    matrix[:, 0, 2] = shift
    values = images.int()
    expected = (values[:, :, :-1] * (256 - share) + values[:, :, 1:] * share + 128) // 256
    assert torch.equal(ops.warp(images, matrix)[:, :, :-1].int(), expected)


def test_the_identity_warp_is_exact_and_a_right_angle_turns() -> None:
    for side, channels in ((32, 3), (33, 1), (16, 4)):
        images = noise(3, side, channels)
        operation = torch.zeros(3, dtype=torch.int64)
        assert torch.equal(ops.warp(images, trivial.matrices(operation, torch.ones(3).double())), images)
        quarter = torch.cat([trivial.rotation(torch.full((3,), 90.0).double()), torch.zeros(3, 2, 1)], 2)
        assert torch.equal(ops.warp(images, quarter), images.rot90(1, (1, 2)))


def test_scale_takes_a_window_of_that_area_inside_the_image() -> None:
    ramp = (torch.arange(64) * 4).to(torch.uint8)
    images = torch.stack([ramp[None, :].expand(64, 64), ramp[:, None].expand(64, 64)], 2)
    images = torch.cat([images, images[..., :1]], 2)[None].repeat(200, 1, 1, 1).contiguous()
    result = augmented(images, OFF.replace(scale=(0.25, 0.64))).double()
    side_x = (result[:, 32, -1, 0] - result[:, 32, 0, 0]) / 4 / 63  # source pixels per pixel
    side_y = (result[:, -1, 32, 1] - result[:, 0, 32, 1]) / 4 / 63
    assert torch.allclose(side_x, side_y, atol=0.02)
    area = side_x**2
    assert area.min() > 0.24 and area.max() < 0.66
    assert area.mean().item() == pytest.approx(0.445, abs=0.03)
    centre = result[:, 31:33, 31:33, :2].mean((1, 2)) / 4
    assert centre.min() < 22 and centre.max() > 42 and 30 < centre.mean() < 33


def test_rotation_and_trivial_geometry_are_one_resampling() -> None:
    draws = Draws(0, 0, torch.arange(50))
    window = decide.matrices(OFF.replace(scale=(0.5, 0.9), rotate=20.0), draws, 32)
    inner = decide.matrices(OFF.replace(trivial=True), draws, 32)
    both = decide.matrices(OFF.replace(scale=(0.5, 0.9), rotate=20.0, trivial=True), draws, 32)
    assert window is not None and inner is not None and both is not None
    point = torch.tensor([3.0, -5.0, 1.0], dtype=torch.float64)
    inside = torch.cat([inner @ point, torch.ones(50, 1)], 1)
    assert torch.allclose(both @ point, (window @ inside[:, :, None]).squeeze(2))


def test_trivial_augment_draws_every_operation_and_level_alike() -> None:
    operation, strength, signed = trivial.choose(Draws(0, 0, torch.arange(40_000)))
    cells = (operation * 31 + (strength * 30).round().long()) * 2 + (signed < 0)
    counts = np.bincount(cells.numpy(), minlength=14 * 62).reshape(14, 31, 2)
    assert chi_square_is_plausible(counts[:, 1:])  # at level 0 a sign cannot be seen
    assert (operation == 0).double().mean().item() == pytest.approx(1 / 14, abs=0.01)


def test_trivial_augment_changes_most_images_and_keeps_identity_ones() -> None:
    images = pictures(400, 32)
    result = augmented(images, OFF.replace(trivial=True))
    same = (result == images).flatten(1).all(1)
    operation, strength, _ = trivial.choose(Draws(0, 0, torch.arange(400)))
    assert bool(same[operation == 0].all())
    strong = (strength > 0.5) & (operation > 0) & (operation != trivial.OPERATIONS.index("autocontrast"))
    assert not bool(same[strong].any())


# --- normalizing and resizing ------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_normalization_is_the_formula_and_the_layout_channels_last(channels: int) -> None:
    images = noise(5, 20, channels)
    mean, std = (0.49, 0.48, 0.45, 0.2)[:channels], (0.25, 0.24, 0.26, 0.5)[:channels]
    result = normalize(images, mean, std)
    numbers = (images.numpy().astype(float) / 255 - np.array(mean)) / np.array(std)
    assert np.abs(result.permute(0, 2, 3, 1).numpy() - numbers).max() < 1e-6
    assert result.dtype == torch.float32 and result.shape == (5, channels, 20, 20)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalize(images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2), mean, std), result)


@pytest.mark.parametrize("size", [16, 24, 40])
def test_resizing_is_pillows_antialiased_bilinear(size: int) -> None:
    images = pictures(3, 32)
    result = normalize(images, (0.0,) * 3, (1.0,) * 3, size)
    assert result.shape == (3, 3, size, size) and result.is_contiguous(memory_format=torch.channels_last)
    for image, ours in zip(images.numpy(), result.permute(0, 2, 3, 1).numpy() * 255, strict=True):
        theirs = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
        assert np.abs(ours - theirs).max() <= 1.01


def test_batches_without_augmentation_are_the_evaluation_path() -> None:
    images, spec = noise(6), PreprocessSpec(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1))
    batch = Augmenter(images, torch.arange(6), spec, OFF, 0, 6).batch(torch.tensor([4, 1]), 0, size=28)
    assert torch.equal(batch.images, normalize(images[[4, 1]], spec.mean, spec.std, 28))
    assert batch.labels.tolist() == [4, 1]


# --- refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop": -1},
        {"crop": 17},
        {"cutout": -4},
        {"rotate": -1.0},
        {"mixup": -0.1},
        {"cutmix": float("nan")},
        {"mix_prob": 1.5},
        {"jitter": 2.0},
        {"scale": (1.0, 0.5)},
        {"scale": (0.0, 1.0)},
        {"flip": "sometimes"},
        {"trivial": "yes"},
        {"crop": 2.5},
    ],
)
def test_settings_that_mean_nothing_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        from_mapping(AugmentSettings, wrong, "recipe.toml")


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="cutmix"):
        from_mapping(AugmentSettings, {"cut_mix": 1.0}, "recipe.toml")


@settings(max_examples=30, deadline=None)
@given(
    st.builds(
        AugmentSettings,
        crop=st.integers(0, 16),
        flip=st.sampled_from(["none", "random", "alternating"]),
        scale=st.tuples(st.floats(0.01, 1), st.floats(1, 4)),
        mixup=st.floats(0, 100),
        trivial=st.booleans(),
    )
)
def test_settings_survive_a_recipe_file(recipe: AugmentSettings) -> None:
    assert from_mapping(AugmentSettings, recipe.to_dict(), "recipe.toml") == recipe


def test_data_that_does_not_fit_is_refused() -> None:
    images, labels, spec = noise(4), torch.arange(4), PreprocessSpec()
    for bad_images, bad_labels, classes in [
        (images, labels[:3], 4),
        (images, labels.int(), 4),
        (images, labels, 3),
        (images, labels - 1, 4),
        (images[:, :20], labels, 4),
        (images.float(), labels, 4),
        (images[..., :1], labels, 4),
        (images[..., :2], labels, 4),
        (images[:0], labels[:0], 4),
        (images[:, :2, :2], labels, 4),
    ]:
        with pytest.raises(DataError):
            Augmenter(bad_images, bad_labels, spec, AugmentSettings(), 0, classes)
    good = Augmenter(images, labels, spec, AugmentSettings(), 0, 4)
    for indices in (torch.tensor([4]), torch.tensor([-1]), torch.tensor([0.5]), torch.tensor(1), labels[:0]):
        with pytest.raises(DataError):
            good.batch(indices, 0)
    with pytest.raises(ConfigError, match="size"):
        good.batch(labels, 0, size=0)
    with pytest.raises(DataError, match="means"):
        normalize(images, (0.5,), (0.5,))
