"""Epoch records as TensorBoard scalars, where the `tensorboard` package is installed."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator

from quicknet.training.checkpoint import EpochRecord
from quicknet.training.run import Run

# field of EpochRecord → the name of its curve; TensorBoard groups by what stands before the slash
_CURVES = {
    "train_loss": "loss/train",
    "val_loss": "loss/val",
    "train_accuracy": "accuracy/train",
    "val_accuracy": "accuracy/val",
    "val_balanced_accuracy": "accuracy/val_balanced",
    "learning_rate": "learning_rate",
    "image_size": "image_size",
    "images_per_second": "images_per_second",
}


@contextlib.contextmanager
def scalars(run: Run) -> Iterator[Callable[[EpochRecord], None]]:
    """Yield what to call with each epoch's record; it appends to `RUN/tensorboard/`.

    Without the package, and in all processes but the first, it does nothing. A resumed run's
    curves go on where it was saved. `log.jsonl` has the same figures and is what QuickNet reads.
    """
    if not run.world.main or importlib.util.find_spec("tensorboard") is None:
        yield lambda record: None
        return
    from torch.utils.tensorboard import SummaryWriter

    def add(record: EpochRecord) -> None:
        for field, curve in _CURVES.items():
            value = getattr(record, field)
            if value is not None:
                writer.add_scalar(curve, value, record.epoch)
        writer.flush()

    writer = SummaryWriter(str(run.folder.path / "tensorboard"), purge_step=run.state.epoch + 1)
    try:
        yield add
    finally:
        writer.close()
