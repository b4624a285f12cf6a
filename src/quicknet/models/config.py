"""What every network's config has; the config of the whole QuickNet family; and `plan`, which says layer by layer
what that means.

Source: Ghosh 2017 (arXiv:1701.02291), §3 and §4; the widths and depths are the round ones
that give the paper's 3.56 million parameters, since its layer table is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from quicknet.core.errors import ConfigError
from quicknet.core.limits import MAX_IMAGE_SIZE, MAX_WEIGHTS, MIN_IMAGE_SIZE
from quicknet.core.settings import Settings
from quicknet.models.options.settings import Options

Activation = Literal["prelu", "prelu_shared", "leaky_relu", "relu"]

# (below this many pixels, stem stride): the last map stays between 2x2 and 7x7 up to 224
_STRIDES = ((48, 1), (112, 2), (MAX_IMAGE_SIZE + 1, 4))


class NetworkConfig(Settings, frozen=True, kw_only=True):
    """Base of every network's config: what all of them are rebuilt from, with its checks.

    A family adds its own fields and, in its own `__post_init__`, their checks.
    """

    dropout: float = 0.0
    in_channels: int = 3
    num_classes: int = 10
    image_size: int = 32

    def __post_init__(self) -> None:
        """Refuse values that cannot make a network, before anything is allocated."""
        if not 1 <= self.in_channels <= 16 or not 1 <= self.num_classes <= 100_000:
            raise ConfigError("1 to 16 input channels, and at least 1 and at most 100,000 classes")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout} must lie in 0 <= dropout < 1")
        check_image_range(self.image_size)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; the family's own fields come first."""
        fields = super().to_dict()
        shared = {name: fields.pop(name) for name in NetworkConfig.__struct_fields__}
        return {**fields, **shared}


def check_image_range(size: int) -> None:
    """Raise ConfigError for an image size that no network takes."""
    if not MIN_IMAGE_SIZE <= size <= MAX_IMAGE_SIZE:
        raise ConfigError(f"image size {size} must lie in {MIN_IMAGE_SIZE}..{MAX_IMAGE_SIZE} pixels")


def check_weights(what: str, weights: int) -> None:
    """Raise ConfigError where the settings named by `what` make more weights than a network may have."""
    if weights > MAX_WEIGHTS:
        raise ConfigError(f"{what} make {weights:,} weights, over the limit of {MAX_WEIGHTS:,}; choose smaller ones")


class QuickNetConfig(NetworkConfig, frozen=True, kw_only=True):
    """Everything a QuickNet is rebuilt from.

    `stem_stride` None is chosen by `image_size`: 1 under 48 pixels, 2 under 112, 4 from there.
    `negative_slope` is where PReLU's slopes start and what a leaky ReLU keeps.
    `options` are those of the paper's §7, none in its own network.
    Raises ConfigError for a shape that leaves nothing of the image.
    """

    stem_width: int = 64
    stem_kernel: int = 5
    stem_stride: int | None = None
    widths: tuple[int, ...] = (128, 256, 512, 1024)
    depths: tuple[int, ...] = (3, 3, 3, 3)
    kernel_sizes: tuple[int, ...] = (3, 3, 3, 3)
    activation: Activation = "prelu"
    negative_slope: float = 0.25
    dropout: float = 0.5
    options: Options = Options()

    def __post_init__(self) -> None:
        """Refuse values that cannot make a network, before anything is allocated."""
        NetworkConfig.__post_init__(self)
        stages = len(self.widths)
        numbers = (*self.widths, *self.depths, self.stem_width, self.stem_kernel)
        if not 1 <= stages <= 8 or len(self.depths) != stages or len(self.kernel_sizes) != stages:
            raise ConfigError("widths, depths and kernel_sizes need one entry for each of 1 to 8 stages")
        if min(numbers) < 1 or max(*self.widths, self.stem_width) > 8192 or max(self.depths) > 64:
            raise ConfigError("widths must lie in 1..8192, depths in 1..64, the stem from 1")
        if self.stem_kernel > 11:
            raise ConfigError("at most an 11x11 stem")
        if any(k not in (3, 5, 7) for k in self.kernel_sizes):
            raise ConfigError(f"kernel_sizes {self.kernel_sizes} must each be 3, 5 or 7")
        if self.stem_stride is not None and not 1 <= self.stem_stride <= 8:
            raise ConfigError(f"stem_stride {self.stem_stride} must lie in 1..8")
        groups = self.options.groups
        if any(width % groups for width in (self.stem_width, *self.widths)):
            raise ConfigError(
                f"options.groups {groups} must divide stem_width {self.stem_width} and widths {self.widths}"
            )
        check_image_size(self, self.image_size)
        layers = plan(self)
        weights = sum(layer.weights for layer in layers) + layers[-1].out_channels * self.num_classes
        check_weights(f"widths {self.widths} and depths {self.depths}", weights)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; without options, as configs were written before there were any."""
        fields = super().to_dict()
        if not fields["options"]:
            del fields["options"]
        return fields

    @property
    def stride(self) -> int:
        """Stem stride, resolved by image size where none was set."""
        if self.stem_stride is not None:
            return self.stem_stride
        return next(stride for below, stride in _STRIDES if self.image_size < below)


def check_image_size(config: QuickNetConfig, size: int) -> None:
    """Raise ConfigError where the network has nothing left of a size x size image."""
    check_image_range(size)
    side = _sides(config, size)[-1]
    if side < 1:
        raise ConfigError(
            f"image size {size} is too small for {len(config.widths)} stages after a "
            f"{config.stem_kernel}x{config.stem_kernel} stem of stride {config.stride}; "
            "use larger images, a smaller stem_stride or fewer stages"
        )
    if side < max(config.options.pyramid, default=1):
        raise ConfigError(
            f"image size {size} leaves a last map of {side}x{side} pixels, fewer than options.pyramid "
            f"{config.options.pyramid} has bins; use larger images or fewer bins"
        )


def _sides(config: QuickNetConfig, size: int) -> list[int]:
    """Return the side of each stage's maps, the first of them the stem's too."""
    sides = [(size - config.stem_kernel) // config.stride + 1]
    for _ in config.widths[1:]:
        sides.append(int(sides[-1] / config.options.pool_ratio))
    return sides


IMAGE = "image"  # what the first layer takes


class Layer(NamedTuple):
    """One convolution layer with its batch norm and activation; sides are of its output.

    Two options are layers too: a transformer of the image before the stem, and a pyramid in place of the average.
    """

    name: str
    inputs: tuple[str, ...]  # names of the layers whose outputs it takes, side by side
    kind: Literal["transformer", "stem", "separable", "pyramid"]
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    pool: bool  # max pool on the way in, 2x2 unless `fractional`
    stage: int  # 0 for the stem
    side: int
    # what options change
    adds: bool = False  # its input to its output
    weight_norm: bool = False  # and mean-only batch norm
    groups: int = 1  # of its pointwise convolution
    fractional: bool = False  # its pool

    @property
    def weights(self) -> int:
        """How many weights its convolutions have; each is used once per output pixel. A transformer tells none."""
        taps = self.kernel**2
        match self.kind:
            case "stem":
                return self.in_channels * self.out_channels * taps
            case "separable":
                return self.in_channels * (taps + self.out_channels // self.groups)
            case _:
                return 0


def plan(config: QuickNetConfig, image_size: int | None = None) -> tuple[Layer, ...]:
    """Return the layers in the order in which an image passes them.

    >>> [layer.side for layer in plan(QuickNetConfig()) if layer.pool]
    [14, 7, 3]
    """
    size, options = config.image_size if image_size is None else image_size, config.options
    check_image_size(config, size)
    sides, channels, width = _sides(config, size), config.in_channels, config.stem_width
    layers = [Layer("stem", (IMAGE,), "stem", channels, width, config.stem_kernel, config.stride, False, 0, sides[0])]
    for stage, (out, depth, kernel, side) in enumerate(
        zip(config.widths, config.depths, config.kernel_sizes, sides, strict=True), 1
    ):
        for block in range(depth):
            earlier = block if options.dense and block else 1  # outputs that it takes
            inputs = tuple(layer.name for layer in layers[-earlier:])
            name, ins, pool = f"stage{stage}.{block}", width * earlier, stage > 1 and block == 0
            layers.append(Layer(name, inputs, "separable", ins, out, kernel, 1, pool, stage, side))
            width = out
    return tuple(layers) if options == Options() else _with_options(layers, config, size)


def _with_options(layers: list[Layer], config: QuickNetConfig, size: int) -> tuple[Layer, ...]:
    """Return the layers as options change them, with those that options add."""
    options, channels = config.options, config.in_channels
    changed = [layer._replace(weight_norm=options.weight_norm) for layer in layers]
    for index, layer in enumerate(changed[1:], 1):
        adds = options.residual and not layer.pool and layer.in_channels == layer.out_channels
        fractional = layer.pool and options.pool_ratio < 2
        changed[index] = layer._replace(adds=adds, fractional=fractional, groups=options.groups)
    if options.transformer:
        first = Layer("transformer", (IMAGE,), "transformer", channels, channels, 5, 1, False, 0, size)
        changed = [first, changed[0]._replace(inputs=(first.name,)), *changed[1:]]
    if options.pyramid:
        last = changed[-1]
        features = last.out_channels * sum(bins**2 for bins in options.pyramid)
        changed.append(Layer("pyramid", (last.name,), "pyramid", last.out_channels, features, 1, 1, False, 0, 1))
    return tuple(changed)


def is_chain(layers: Sequence[Layer]) -> bool:
    """Return whether every layer takes the output of the one before it and nothing else, and hands on its own alone.

    >>> is_chain(plan(QuickNetConfig())), is_chain(plan(QuickNetConfig(options=Options(residual=True))))
    (True, False)
    """
    before = (IMAGE, *(layer.name for layer in layers))
    alone = all(layer.inputs == (name,) for layer, name in zip(layers, before, strict=False))
    return alone and not any(layer.adds for layer in layers)
