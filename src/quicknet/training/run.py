"""A run: everything the loop works on, built from a recipe or from a saved run.

`Run` holds the data on its device, the networks, the optimizer and the counters; `start` and
`resume` in `setup.py` are its two doors, `saving.py` is what it writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quicknet.core.card import Costs
from quicknet.core.energy import EnergyMeter
from quicknet.core.errors import ConfigError, TrainingError
from quicknet.core.lineage import Step
from quicknet.core.machine import available_memory_bytes
from quicknet.data.augment import Augmenter
from quicknet.data.dataset import Dataset
from quicknet.inference import metrics
from quicknet.models.costs import count_costs
from quicknet.models.network import Network
from quicknet.models.predicates import runs_compiled
from quicknet.models.registry import model_from_record, model_record
from quicknet.training.channels import ChannelPruner
from quicknet.training.checkpoint import RunFolder
from quicknet.training.distributed import World
from quicknet.training.ema import Ema
from quicknet.training.evaluate import predict_logits
from quicknet.training.features import FeatureMatch
from quicknet.training.kept import keep_answers, uses_bf16
from quicknet.training.optim import Optimizer, freeze
from quicknet.training.prune import Pruner
from quicknet.training.recipe import Recipe, lower_rate
from quicknet.training.share import Sharer
from quicknet.training.state import HeadFit, LastSave, Meter, State, Validation
from quicknet.training.teacher import Teacher

_FEW_IMAGES = 100  # of validation: below, a point is one image, and the best of 40 epochs is luck


def resident(images: NDArray[np.uint8], device: torch.device, budget_bytes: int | None = None) -> Tensor:
    """Return the images on the training device, or mapped from disk where they do not fit there.

    They fit within half of what memory is free (or `budget_bytes`). Where they do not, batches
    are read and augmented on the CPU, and the loop moves them.
    """
    if budget_bytes is None:
        cuda = device.type == "cuda"
        free = torch.cuda.mem_get_info(device)[0] if cuda else available_memory_bytes()
        budget_bytes = images.nbytes if free is None else free // 2
    if images.nbytes <= budget_bytes:
        return torch.from_numpy(np.array(images)).to(device)
    with warnings.catch_warnings():  # of memory that torch must not write to, and does not
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(images)


@dataclasses.dataclass(slots=True)
class Parts:
    """What `Run` is put together from (see `setup.py`)."""

    recipe: Recipe
    folder: RunFolder
    data: Dataset
    model: Network
    teachers: tuple[Teacher, ...]
    judge: Teacher | None  # of which images are hard (see `hardest.py`)
    device: torch.device
    world: World
    lineage: tuple[Step, ...] = ()
    fresh_classifier: bool = False  # a random one, for other classes than the parent's


class Run:
    """One training run on one device of one world."""

    def __init__(self, parts: Parts) -> None:
        self.recipe, self.folder, self.data = parts.recipe, parts.folder, parts.data
        self.device, self.world, self.lineage = parts.device, parts.world, parts.lineage
        train = self.data.split("train")
        self.train_size = len(train)
        self.augmenter = Augmenter(
            resident(train.images, self.device),
            torch.from_numpy(np.array(train.labels)),
            self.data.spec,
            self.recipe.augment,
            self.recipe.view_seed,
            len(self.data.classes),
        )
        self.model = parts.model.to(self.device)
        if self.device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        compiled = self.recipe.train.compile
        if compiled and not runs_compiled(self.model.plan):
            raise ConfigError("a network with the option pool_ratio is not compiled; set train.compile=false")
        compiled = (self.device.type == "cuda" and runs_compiled(self.model.plan)) if compiled is None else compiled
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.model) if compiled else self.model
        freeze(self.model, self.recipe.optim.freeze)
        self.optimizer = Optimizer(self.model, self.recipe.optim)
        self.class_weights = self._class_weights()
        # sharing changes the weights: before they are averaged
        sharer = Sharer(self.model, self.recipe.share.bits) if self.recipe.share.bits else None
        self.ema = Ema(self.model, self.recipe.train.ema_decay) if self.recipe.train.ema_decay else None
        self.constraint: Pruner | ChannelPruner | Sharer | None = sharer or self._pruner()
        self.teachers, self.judge = parts.teachers, parts.judge
        self.kept = keep_answers(self.recipe, self.data, self.teachers, self.device)
        self.match: FeatureMatch | None = None
        if self.kept is not None and self.recipe.distill.on == "features":
            self.match = FeatureMatch(self.model.num_features, self.kept.files[0].classes, self.device)
        self.fits_head_first = parts.fresh_classifier and self.recipe.train.head_first
        self.head: HeadFit | None = None
        self.saved_threads: int | None = None  # of the process that `restore` goes on from
        self.state = State(self._zero(torch.int64), self._zero(torch.float32))
        self.meter = Meter()
        self._energy, self._joules_before = EnergyMeter(), 0.0
        self.stop_requested = False
        self.last_save = LastSave(time.monotonic())

    def _pruner(self) -> Pruner | ChannelPruner | None:
        """Return what prunes the network, and its average; None where all weights are kept."""
        settings = self.recipe.prune
        if settings.density == 1:
            return None
        averages = () if self.ema is None else (self.ema.model,)
        kind = ChannelPruner if settings.pattern == "channel" else Pruner
        return kind((self.model, *averages), settings)

    def _class_weights(self) -> Tensor | None:
        """Return how much an image of each class counts in the loss, 1 on average; None where all count alike."""
        balance = self.recipe.train.balance
        if balance == "off" or (balance == "auto" and not self.unbalanced("train")):
            return None
        counts = self.class_counts("train")
        share = np.where(counts > 0, counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)), 0.0)
        return torch.from_numpy(share.astype(np.float32)).to(self.device)

    def _zero(self, dtype: torch.dtype) -> Tensor:
        return torch.zeros((), dtype=dtype, device=self.device)

    # --- how far the run is ----------------------------------------------------------------

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; they differ by one image at most, so that none is tiny."""
        return max(1, round(self.train_size / self.recipe.train.batch_size))

    def steps_done(self) -> int:
        """Steps since the run began."""
        return self.state.epoch * self.steps_per_epoch + self.state.step

    def progress(self, ahead: int = 0) -> float:
        """Share of the run that is done, or will be after so many more steps."""
        return min(1.0, (self.steps_done() + ahead) / (self.recipe.train.epochs * self.steps_per_epoch))

    def image_size(self) -> int | None:
        """Side in pixels of the images to train on now; None for the data's size."""
        sizes = [size for share, size in self.recipe.train.sizes if share <= self.progress()]
        return sizes[-1] if sizes else None

    def view(self) -> int:
        """The epoch whose augmented views this one shows: itself, or an earlier one whose answers are kept."""
        return self.state.epoch if self.kept is None else self.kept.view(self.state.epoch)

    def step_seed(self) -> int:
        """Seed of everything random in this step but augmentation, by (seed, epoch, step)."""
        words = (self.recipe.train.seed, self.state.epoch, self.state.step)
        return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def remaining_batches(self) -> Iterator[NDArray[np.int64]]:
        """Yield what is left of this epoch's batches; the order depends on (seed, epoch) alone."""
        key = np.random.SeedSequence((self.recipe.train.seed, self.state.epoch))
        order = np.random.Generator(np.random.Philox(key)).permutation(self.train_size)
        yield from np.array_split(order, self.steps_per_epoch)[self.state.step :]

    def out_of_patience(self) -> bool:
        """Return whether the best epoch (`is_best`) is `train.patience` epochs ago."""
        patience = self.recipe.train.patience
        return patience is not None and self.state.epoch - self.state.best_epoch >= patience

    def wants_to_stop(self) -> bool:
        """Return whether any process was asked to stop."""
        return self.world.any(self.stop_requested)

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the network's logits (B, classes), and its features (B, F) where they are matched to a teacher's."""
        if self.match is None:
            return self.forward(images), None
        maps = self.model.forward_features(images)
        return self.model.forward_head(maps), self.model.forward_head(maps, pre_logits=True)

    def trained(self) -> Iterator[Tensor]:
        """Yield every parameter that a step changes."""
        yield from self.model.parameters()
        if self.match is not None:
            yield from self.match.layer.parameters()

    def autocast(self, bf16: bool | None = None) -> contextlib.AbstractContextManager[Any]:
        """bfloat16, by default where the recipe or the device asks for it."""
        bf16 = uses_bf16(self.recipe.train, self.device) if bf16 is None else bf16
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()

    # --- validation -----------------------------------------------------------------------

    @property
    def best_model(self) -> Network:
        """The weights to use: the average where there is one."""
        return self.model if self.ema is None else self.ema.model

    def validate(self) -> Validation:
        """Measure the weights to use on the validation split, a share per process."""
        split = self.data.split("val")
        rows = self.world.part(np.arange(len(split)))
        logits = predict_logits(self.best_model, split.images[rows], self.data.spec, self.device)
        if not np.isfinite(logits).all():
            raise self.diverged("the validation logits are not finite", self.state.step)
        labels = split.labels[rows]
        right = np.bincount(labels[logits.argmax(1) == labels], minlength=len(self.data.classes))
        loss_sum = metrics.negative_log_likelihood(logits, labels) * len(rows)
        sums = torch.tensor([loss_sum, *right.tolist()], dtype=torch.float64)
        self.world.sum(sums)
        right = sums[1:].numpy().astype(np.int64)  # (classes,), of all processes
        return Validation(
            loss=sums[0].item() / len(split),
            accuracy=int(right.sum()) / len(split),
            balanced_accuracy=metrics.balanced_accuracy(right, self.class_counts("val")),
            n=len(split),
        )

    def class_counts(self, split: str) -> NDArray[np.int64]:
        """Return the images of each class (classes,) in a split."""
        return np.bincount(self.data.split(split).labels, minlength=len(self.data.classes)).astype(np.int64)

    def unbalanced(self, split: str) -> bool:
        """Return whether a split's classes differ by 5 to 1 or more, so that accuracy alone misleads."""
        return metrics.unbalanced(self.class_counts(split))

    @property
    def keeps_last(self) -> bool:
        """Whether the last epoch's weights are kept, whatever it reached: by `train.keep`, or for want of images."""
        keep = self.recipe.train.keep
        return keep == "last" or (keep == "auto" and len(self.data.split("val")) < _FEW_IMAGES)

    def is_best(self, validation: Validation) -> bool:
        """Return whether this epoch's weights are the ones to use so far.

        With `train.keep` "last" always; else where no epoch before was as good: `score` decides,
        then loss. A small split has few values of accuracy, which many epochs reach. The best loss
        is read from the history, so that run folders of every age resume.
        """
        state = self.state
        if self.keeps_last:
            return True
        if self.score(validation) != state.best_accuracy or not state.best_epoch:
            return self.score(validation) > state.best_accuracy
        best_loss: float = state.history[state.best_epoch - 1]["val_loss"]
        return validation.loss < best_loss

    def score(self, validation: Validation) -> float:
        """Return what epochs are compared by: accuracy, or its mean over classes where each class counts alike."""
        return validation.accuracy if self.class_weights is None else validation.balanced_accuracy

    @functools.cached_property
    def costs(self) -> Costs:
        """What an image costs the network: counted once, kept in every card."""
        record = model_record(self.recipe.model.name, self.model)
        return count_costs(lambda: model_from_record(record))

    # --- measuring, and refusing ------------------------------------------------------------

    def add_energy(self) -> None:
        """Add to the epoch in progress what the processors used since the last call."""
        joules = self._energy.joules()
        if joules is not None:
            self.state.energy_joules = (self.state.energy_joules or 0.0) + joules - self._joules_before
            self._joules_before = joules

    def diverged(self, what: str, step: int) -> TrainingError:
        """Return the error for NaN or infinite numbers; `step` counts from 1 in the epoch in progress."""
        return TrainingError(
            f"{what} at epoch {self.state.epoch + 1}, step {step} ({self.folder.path}); what was saved "
            f"before is whole: start anew with a lower rate (--set {lower_rate(self.recipe)}) or train.clip_norm=1"
        )

    def require_finite_weights(self) -> None:
        """Raise TrainingError where a weight is NaN or infinite: such weights are never saved."""
        for name, tensor in self.model.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise self.diverged(f"{name!r} is no longer finite", self.state.step)
