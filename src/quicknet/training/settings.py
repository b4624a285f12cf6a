"""The tables of a recipe: what each part of a run can be set to, and what is refused."""

from __future__ import annotations

from typing import Any, Literal

from quicknet.core.errors import ConfigError
from quicknet.core.settings import Settings, from_mapping
from quicknet.data.request import DataRequest

_MAX_EPOCHS = 1_000_000


class ModelSettings(Settings, frozen=True, kw_only=True):
    """Which network: a registry name with overrides, or a run folder to start from (or `none`)."""

    name: str = "quicknet_s"
    overrides: dict[str, Any] = {}
    start_from: str | None = None


class DataSettings(Settings, frozen=True, kw_only=True):
    """Which data, how it is decoded and split (`quicknet.data.DataRequest`).

    Not set, `size` is the source's own, for `mode` (L is grey, RGB, RGBA) RGB and
    `resize` shorter; with `model.start_from` all three are the parent's.
    """

    source: str = ""
    protocol: Literal["standard", "paper"] = "standard"
    size: int | None = None
    mode: Literal["L", "RGB", "RGBA"] | None = None
    resize: Literal["shorter", "stretch", "pad"] | None = None
    split_seed: int = 0
    val_share: float = 0.1
    max_bad_share: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what does not fit any data set."""
        self.request()

    def request(self) -> DataRequest:
        """Return what to ask of the source. Raises ConfigError."""
        fields = {key: value for key, value in self.to_dict().items() if key != "source" and value is not None}
        return from_mapping(DataRequest, fields, "the recipe's [data]")


class OptimSettings(Settings, frozen=True, kw_only=True):
    """The optimizer; `lr` is the peak of the schedule.

    `muon` takes the filters that are matrices (pointwise, stem); vectors, depthwise filters and
    the classifier then go to SGD with `vector_lr` and `vector_decay`, since Muon's decay is
    decoupled and its steps have another scale. `decay_on` "convs" leaves the classifier out.
    `layer_decay` is for weights that have learned already: each layer's rate is that of the
    layer behind it times this, the classifier's is the full one (ULMFiT, Howard & Ruder 2018, §3.2).
    `freeze`: this share of the layers before the classifier, the stem first, keeps the parent's
    weights, so that no gradient is computed for them.
    """

    name: Literal["sgd", "adamw", "muon"] = "sgd"
    lr: float = 0.4
    vector_lr: float = 0.1
    vector_decay: float = 5e-4
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 5e-4
    decay_on: Literal["weights", "convs"] = "weights"
    layer_decay: float = 1.0
    freeze: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot descend."""
        if self.lr <= 0 or self.vector_lr <= 0 or not 0 <= self.momentum < 1:
            raise ConfigError("optim: lr and vector_lr must be positive, momentum in 0..1")
        if self.weight_decay < 0 or self.vector_decay < 0:
            raise ConfigError("optim: weight_decay and vector_decay must not be negative")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"optim.layer_decay {self.layer_decay} must lie in 0 < x <= 1")
        if not 0 <= self.freeze < 1:
            raise ConfigError(f"optim.freeze {self.freeze} must lie in 0 <= x < 1")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optim.betas {self.betas} must lie in 0 <= beta < 1")


class ScheduleSettings(Settings, frozen=True, kw_only=True):
    """Learning rate over the run, as a share of the peak.

    `warmup`: share of the run spent rising; `final`: where cosine and one-cycle end;
    `step`: times `gamma` at each of `milestones` (shares of the run).
    """

    name: Literal["cosine", "onecycle", "step"] = "onecycle"
    warmup: float = 0.2
    final: float = 0.0
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        """Refuse shares outside the run."""
        if not 0 <= self.warmup < 1 or not 0 <= self.final <= 1 or not 0 < self.gamma <= 1:
            raise ConfigError("schedule: warmup in 0..1, final in 0..1, gamma in 0..1")
        if list(self.milestones) != sorted(self.milestones):
            raise ConfigError(f"schedule.milestones {self.milestones} must rise")


class TrainSettings(Settings, frozen=True, kw_only=True):
    """The loop. `sizes`: progressive image size, (from this share of the run, pixels) pairs.

    `views` shortens `epochs` to what shows about so many augmented images. `head_first`: a
    classifier for new classes starts from a fit to the parent's features instead of random numbers.
    `balance`: a class counts the more in the loss the fewer images it has; `auto` where classes
    differ by 5 to 1. `keep`: which epoch's weights to use, `auto` the last where `val` has
    fewer than 100 images, which cannot tell good epochs apart. `none_class`: at the end learn from
    spoilt training images what shows none of the classes (`training/none_class.py`).
    """

    epochs: int = 30
    views: int | None = None
    head_first: bool = False
    balance: Literal["off", "on", "auto"] = "off"
    keep: Literal["best", "last", "auto"] = "best"
    none_class: bool = False
    batch_size: int = 128
    accumulate: int = 1
    seed: int = 0
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    patience: int | None = None
    evaluate_every: int = 1
    ema_decay: float = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool | None = None
    sizes: tuple[tuple[float, int], ...] = ()
    save_minutes: float = 10.0

    def __post_init__(self) -> None:
        """Refuse loops that do nothing or never end."""
        for name in ("epochs", "batch_size", "accumulate", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} {getattr(self, name)} must be at least 1")
        if self.epochs > _MAX_EPOCHS or self.batch_size > 1 << 20 or not 0 <= self.seed < 1 << 63:
            raise ConfigError("train: at most 1,000,000 epochs, 1,048,576 images a batch, a seed in 0..2^63-1")
        if self.views is not None and self.views < 1:
            raise ConfigError(f"train.views {self.views} must be at least 1")
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"train.patience {self.patience} must be at least 1")
        if not 0 <= self.label_smoothing < 1 or not 0 <= self.ema_decay < 1:
            raise ConfigError("train: label_smoothing and ema_decay must lie in 0 <= x < 1")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ConfigError("train.clip_norm must be positive")
        shares = [share for share, _ in self.sizes]
        if shares != sorted(shares) or (shares and shares[0] != 0):
            raise ConfigError("train.sizes must start at share 0 and rise")

    def work(self, progress: float) -> float:
        """Return the share of the run's time that a share of its steps takes, going by their images' pixels.

        >>> TrainSettings(sizes=((0.0, 24), (0.5, 48))).work(0.5)
        0.2
        """
        sizes = self.sizes or ((0.0, 1),)
        ends = [min(share, 1.0) for share, _ in sizes[1:]] + [1.0]
        parts = [(min(share, 1.0), end, size * size) for (share, size), end in zip(sizes, ends, strict=True)]
        done = sum(cost * max(0.0, min(progress, end) - share) for share, end, cost in parts)
        return done / sum(cost * (end - share) for share, end, cost in parts)


class DistillSettings(Settings, frozen=True, kw_only=True):
    """Learning from a teacher on the same augmented view (Hinton et al. 2015, §2).

    `teacher`: a run folder, an exported file or shipped weights, or a list of them, whose mean of logits counts.
    `mirror`: the teacher answers with the mean of its logits for the view and its mirror image.
    `kept`: the teacher answers for so many epochs' views once, and the later epochs show them again;
    0 asks it in every step.
    `seed`: which views the student sees, those of this seed instead of `train.seed`, so that students of several
    seeds share a teacher's answers; all else that is random stays theirs.
    `on`: `logits` of the same classes, softened by `temperature`; or the `features` of a network that
    has learned anything: the teacher is then an exported file whose outputs are features, and `kept`
    is needed. The loss is (1 - weight) of the labels' and weight of the teacher's.
    """

    teacher: str | tuple[str, ...] | None = None
    on: Literal["logits", "features"] = "logits"
    mirror: bool = False
    kept: int = 0
    seed: int | None = None
    weight: float = 0.9
    temperature: float = 4.0

    def __post_init__(self) -> None:
        """Refuse weights outside 0..1."""
        if not 0 <= self.weight <= 1 or self.temperature <= 0:
            raise ConfigError("distill.weight must lie in 0..1, distill.temperature be positive")
        if not 0 <= self.kept <= _MAX_EPOCHS:
            raise ConfigError(f"distill.kept {self.kept} must lie in 0..{_MAX_EPOCHS:,}")
        if self.seed is not None and not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"distill.seed {self.seed} must lie in 0..2^63-1")
        if self.kept and not self.teachers:
            raise ConfigError(f"distill.kept {self.kept} needs a teacher that answers; name one with --teacher")
        if self.on == "features" and not self.kept:
            raise ConfigError("distill.on=features needs kept answers, which say how each varies; set distill.kept=1")
        if self.on == "features" and len(self.teachers) > 1:
            raise ConfigError("distill.on=features learns from one teacher: features of several mean different things")
        if len(set(self.teachers)) < len(self.teachers):
            raise ConfigError("distill.teacher names a teacher twice; name each once")

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of the teachers, in the recipe's order."""
        if self.teacher is None:
            return ()
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher


class HardestSettings(Settings, frozen=True, kw_only=True):
    """Learning from `share` of each batch alone, the images that another network, `by`, finds hardest.

    `by`: a run folder, an exported file or shipped weights for the same classes, small, since it sees every
    image (`training/hardest.py`). A share of 1 is the whole batch, and needs no network.
    """

    by: str | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        """Refuse shares without images, or without a network that chooses them."""
        if not 0 < self.share <= 1:
            raise ConfigError(f"hardest.share {self.share} must lie in 0 < x <= 1")
        if (self.by is None) != (self.share == 1):
            raise ConfigError("hardest.by and hardest.share (below 1) belong together: set both, or neither")


class PruneSettings(Settings, frozen=True, kw_only=True):
    """Which share of the pointwise weights is kept, and how the rest goes (`training/prune.py`).

    `density` 1 keeps all. From `start` on it falls along a cubic curve until `ramp` of the run is
    done (Zhu & Gupta 2017). `pattern`: what is kept or absent together, four neighbouring input
    channels of one output channel, single weights, or whole output channels, equally many in each
    layer of a stage; `importance` weighs the layers against each other, first to last; every layer
    keeps `least` at least. With `shares` each layer keeps that share in the end, which together are
    `density`, whatever their importance.
    """

    density: float = 1.0
    start: float = 1.0
    ramp: float = 0.6
    pattern: Literal["block", "element", "channel"] = "block"
    importance: tuple[float, ...] = ()
    least: float = 0.02
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse shares outside 0..1, and a density that would rise."""
        if not 0 < self.density <= self.start <= 1:
            raise ConfigError(f"prune: 0 < density {self.density} <= start {self.start} <= 1 must hold")
        if not 0 <= self.ramp <= 1 or not 0 <= self.least <= self.density:
            raise ConfigError("prune.ramp must lie in 0..1, prune.least in 0..density")
        if not all(value > 0 for value in self.importance):
            raise ConfigError("prune.importance must be positive, a number for each pointwise layer")
        if not all(0 < share <= 1 for share in self.shares) or (self.shares and self.pattern == "channel"):
            raise ConfigError("prune.shares must lie in 0 < x <= 1, a number for each pointwise layer, not of channels")


class ShareSettings(Settings, frozen=True, kw_only=True):
    """Weight sharing: every pointwise layer keeps to 2^`bits` values (`training/share.py`); 0 shares nothing."""

    bits: int = 0

    def __post_init__(self) -> None:
        """Refuse codebooks without an end."""
        if not 0 <= self.bits <= 8:
            raise ConfigError(f"share.bits {self.bits} must lie in 0..8")
