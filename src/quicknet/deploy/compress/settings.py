"""What is asked of a compression, and what it came to."""

from __future__ import annotations

from typing import Literal

from quicknet.core.errors import ConfigError
from quicknet.core.lineage import Compared
from quicknet.core.settings import Settings
from quicknet.deploy.compress.paper import PaperSizes
from quicknet.deploy.compress.sensitivity import LayerSensitivity
from quicknet.deploy.compress.size import LayerSize
from quicknet.qnz.format import Bits

Pattern = Literal["block", "element", "channel"]

_TARGETS = ("density", "target_size", "max_loss", "target_speed")
_TOGETHER = {"target_size", "target_speed"}
_TRAINED = {"density": None, "target_speed": None, "pattern": "block", "keep": None, "mode": "integers"}  # field: usual


_EPOCHS, _QAT_EPOCHS, _BATCH = 12, 2.0, 256
_STEP = 0.6
_FEW = 20_000  # training images, below which batches are small
_VIEWS, _MOST_EPOCHS, _SMALL_BATCH, _CLIP = 36_000, 50, 32, 1.0  # views, epochs and batch of the recipe photos


class CompressSettings(Settings, frozen=True, kw_only=True):
    """How a run becomes a compressed `.qnz`. One of the first four says how far to go, or a size and a speed together.

    `density` is the share of the pointwise weights to keep, `target_size` the file's bytes,
    `max_loss` points of top-1 on `val` that may be lost to the run, `target_speed` how many times
    as fast as the dense file. `pattern`: four neighbouring input channels of an output channel are
    kept or absent together, or every weight by itself, or whole output channels, equally many in each
    layer of a stage, so that a dense and narrower network is left. `teacher` is what it learns from, a run folder,
    an exported file or the name of shipped weights; None: the run itself. `keep` becomes a run folder of the pruned
    network, as it was before the integers. `epochs` of pruning and fine-tuning, in batches of `batch_size` (None:
    `fitted` chooses them, and `clip_norm`, by the number of images),
    then `qat_epochs` of fine-tuning the integers (None: 2), of the width class `bits`; as they were before it they are
    kept where that is the more accurate on `val`.
    `step` is that of the integers, in root mean squares of the weights that are left (0: the finest; None: 0.6),
    `rate` what a bit costs (`QatSettings.rate`). With 0 `epochs` nothing is pruned, and `qat_epochs` are 0 if not
    given: `step` is about as fine as `target_size` allows, or as coarse as `max_loss` does, where one of them is given.
    `mode` paper adds what Deep Compression's own three steps come to, after an epoch in which shared weights
    train. `images` of the training split measure the layers' sensitivity.
    """

    density: float | None = None
    target_size: int | None = None
    max_loss: float | None = None
    target_speed: float | None = None
    pattern: Pattern = "block"
    teacher: str | None = None
    keep: str | None = None
    mode: Literal["integers", "paper"] = "integers"
    epochs: int | None = None
    qat_epochs: float | None = None
    bits: Bits = "w5a8"
    step: float | None = None
    rate: float = 0.12
    lr: float = 0.01
    batch_size: int | None = None
    clip_norm: float | None = None
    images: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be followed."""
        if not 0 <= (self.epochs or 0) <= 10_000 or not 0 <= (self.qat_epochs or 0) <= 1000:
            raise ConfigError("epochs must lie in 0..10000, qat_epochs in 0..1000")
        given = [name for name in _TARGETS if getattr(self, name) is not None]
        if len(given) != 1 and set(given) != _TOGETHER and (given or self.epochs != 0):
            both = " and ".join(f"--{name.replace('_', '-')}" for name in given[:2])
            what = f"{both} exclude each other" if given else "nothing says how far to compress"
            raise ConfigError(f"{what}; give one of --target-size, --max-loss, --target-speed and --density")
        self._check_targets()
        if self.epochs == 0:
            self._check_untrained()
        if self.target_speed is not None and self.pattern == "element":
            raise ConfigError("single weights that are absent save no time; use --pattern block with --target-speed")
        if self.mode == "paper" and self.pattern == "channel":
            raise ConfigError("--mode paper prunes weights, not channels; use --pattern element or block with it")
        if not 0 <= self.grid <= 4 or not 0 <= self.rate <= 100 or not 0 < self.lr <= 10:
            raise ConfigError("step must lie in 0..4, rate in 0..100, lr in 0..10")
        if not 16 <= self.images <= 65_536 or not 1 <= (self.batch_size or 1) <= 65_536 or not 0 <= self.seed < 1 << 63:
            raise ConfigError("images must lie in 16..65536, batch_size in 1..65536, seed in 0..2^63-1")

    @property
    def grid(self) -> float:
        """The step of the integers that is asked for, or the usual one."""
        return _STEP if self.step is None else self.step

    def fitted(self, images: int) -> CompressSettings:
        """Return the settings for so many training images, with epochs and batches where none were given.

        Few images make few steps, and a small network learns little in them. Their gradients vary more, so they are
        cut at a norm of 1 (two classes of 36 photographs, half of the weights: 57% of val without, 75% with;
        the run 79%).
        """
        few = images < _FEW
        views = min(_MOST_EPOCHS, round(_VIEWS / images))
        return self.replace(
            epochs=max(_EPOCHS, views) if self.epochs is None else self.epochs,
            qat_epochs=(_QAT_EPOCHS if self.epochs != 0 else 0.0) if self.qat_epochs is None else self.qat_epochs,
            batch_size=self.batch_size or (_SMALL_BATCH if few else _BATCH),
            clip_norm=self.clip_norm or (_CLIP if few else None),
        )

    def can_do_without_training(self) -> bool:
        """Return whether the same may be asked for with 0 epochs."""
        try:
            self.replace(epochs=0, qat_epochs=0.0)
        except ConfigError:
            return False
        return True

    def _check_untrained(self) -> None:
        """Refuse with 0 epochs what only training does, and two answers to how coarse the integers are."""
        taught = {} if self.qat_epochs else {"teacher": None}
        other = [field for field, usual in {**_TRAINED, **taught}.items() if getattr(self, field) != usual]
        if other:
            name = other[0].replace("_", "-")
            raise ConfigError(f"--{name} needs training, and with --epochs 0 there is none; leave one of the two out")
        if self.step is not None and (self.target_size is not None or self.max_loss is not None):
            raise ConfigError("with --epochs 0 a target chooses the step; give --step or the target")

    def _check_targets(self) -> None:
        if self.density is not None and not 0 < self.density <= 1:
            raise ConfigError(f"--density {self.density} must lie in 0 < x <= 1")
        if self.target_size is not None and not 1 <= self.target_size <= 1 << 29:
            raise ConfigError(f"--target-size {self.target_size} must lie in 1..{1 << 29} bytes")
        if self.max_loss is not None and not 0 <= self.max_loss <= 100:
            raise ConfigError(f"--max-loss {self.max_loss} must lie in 0..100 points")
        if self.target_speed is not None and not 1 < self.target_speed <= 100:
            raise ConfigError(f"--target-speed {self.target_speed} must lie in 1 < x <= 100")


class Plan(Settings, frozen=True, kw_only=True):
    """What training is to come to: the share of the pointwise weights that is kept, about how many bytes the file
    takes then, and the speed as a multiple of the dense network's (None without an engine). `needless`: the size that
    was asked for takes no training (`epochs` 0).
    """

    density: float
    size_bytes: int
    speed: float | None
    needless: bool = False


class Point(Settings, frozen=True, kw_only=True):
    """An epoch's end on the way: the share of weights kept then, the file's size that this would come to,
    the speed, as a multiple of the dense network's (None without an engine), and top-1 on `val` of the
    network in floating point. Epoch 0: integers that were tried without training, their step, size and top-1.
    """

    epoch: int
    density: float
    size_bytes: int
    speed: float | None
    val_accuracy: float
    step: float | None = None


class Compressed(Settings, frozen=True, kw_only=True):
    """What was written. The JSON of `compress --json` is this.

    `dense_bytes` is the size of all weights in fp32. `speed` is the file's as a multiple of the dense
    network's, one image at a time on one thread, measured here; None without an engine.
    `contexts_bytes`, `huffman_bytes` and `entropy_bytes` are `size.CodeSizes`.
    """

    path: str
    format: str
    bits: str
    pattern: str
    density: float
    epochs: int
    qat_epochs: float
    sha256: str
    weights_sha256: str
    size_bytes: int
    dense_bytes: int
    contexts_bytes: int
    huffman_bytes: int
    entropy_bytes: int
    speed: float | None
    runtimes: tuple[str, ...]
    compared: tuple[Compared, ...]
    layers: tuple[LayerSize, ...]
    sensitivity: tuple[LayerSensitivity, ...]
    points: tuple[Point, ...]
    paper: PaperSizes | None
