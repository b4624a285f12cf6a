"""Where a model comes from: the steps of a card's `lineage`, one class for each, told apart by their field `step`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

import msgspec

from quicknet.core.settings import Settings

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Predictions(Settings, frozen=True, kw_only=True):
    """The predicted class of every image of a split, and how many are correct.

    In an ONNX file the predictions are the parent's, in a `.qnz` its own. `class_order_sha256` is
    the digest of the parent's class names, one per line. `classes` is base64 of zlib of N
    little-endian uint16 (indices into the class names), "" if the digest is enough because it must
    be equal; `sha256` is the digest of the uint16 bytes.
    """

    data: str
    data_sha256: str
    split: str
    protocol: str
    n: int
    correct: int
    class_order_sha256: str
    sha256: str
    classes: str = ""


class Compared(Settings, frozen=True, kw_only=True):
    """The integer network and its float parent on a split: accuracies, and images of another class than by the run.

    `lost_points` of top-1; negative where the integer network is the better one.
    """

    split: str
    protocol: str
    n: _Count
    top1: float
    parent_top1: float
    lost_points: float
    different: int


class CalibrationRecord(Settings, frozen=True, kw_only=True):
    """The training images on which the ranges of an integer network were chosen; `sha256` over their pixels."""

    split: str
    n: _Count
    seed: int
    sha256: str


class QatRecord(Settings, frozen=True, kw_only=True, omit_defaults=True):
    """How an integer network was fine-tuned, and `val` top-1 before, at each of the `checks`, and of what was kept.

    `rate` is what a bit of a weight cost, where values were chosen to code small.
    """

    epochs: float
    lr: float
    batch_size: int
    temperature: float
    checks: tuple[float, ...]
    seed: int
    steps: int
    before: float
    kept: float
    rate: float = 0.0


class _Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="step", omit_defaults=True):
    """A step; `extra` holds what a newer minor version added to it, at any depth, to be written again."""

    extra: dict[str, Any] = {}

    def replace(self, **changes: Any) -> Self:
        """Return a copy with `changes`."""
        return msgspec.structs.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        merged: dict[str, Any] = _merged(fields, fields.pop("extra", {}))
        return merged


class FineTuneStep(_Step, frozen=True, kw_only=True, tag="fine-tune"):
    """Training went on from the weights of another network."""

    source: str = msgspec.field(name="from")
    weights_sha256: str


class DistillStep(_Step, frozen=True, kw_only=True, tag="distill"):
    """It was trained on the answers of another network."""

    source: str = msgspec.field(name="from")
    weights_sha256: str


class Fp16Step(_Step, frozen=True, kw_only=True, tag="fp16"):
    """Its weights were rounded to fp16, after which `changed` of the n images of `split` had another class."""

    parent_weights_sha256: str
    split: str | None = None
    n: _Count | None = None
    changed: _Count | None = None


class WidenStep(_Step, frozen=True, kw_only=True, tag="widen"):
    """Its channels were doubled, so that it answered as before; the shares of each two were drawn by `seed`."""

    parent_weights_sha256: str
    seed: int


class CompressStep(_Step, frozen=True, kw_only=True, tag="compress"):
    """Weights of it were pruned by `pattern` until a share of `density` was left, in so many epochs of training.

    With 0 epochs nothing was pruned now. `grid` is the step of the integers, in root mean squares of the weights;
    files of older versions do not say it.
    """

    parent_weights_sha256: str
    pattern: str
    density: float
    epochs: int
    seed: int
    grid: float | None = None


class ExportStep(_Step, frozen=True, kw_only=True, tag="export"):
    """It was exported to a file: this is the receipt.

    `numbers` and `tolerance` (of a logit on the test vectors) are an int8 ONNX file's; `bits`,
    `calibration`, `qat` and `compared` a `.qnz`'s. `split_seed`, `val_share` and `max_bad_share` say
    how the run's data was read and split. Without `predictions` it was never measured on data.
    """

    format: str
    numbers: str | None = None
    quicknet: str
    parent_weights_sha256: str
    bits: str | None = None
    calibration: CalibrationRecord | None = None
    tolerance: float | None = None
    split_seed: int | None = None
    val_share: float | None = None
    max_bad_share: float | None = None
    qat: QatRecord | None = None
    compared: tuple[Compared, ...] | None = None
    predictions: Predictions | None = None


class OtherStep(_Step, frozen=True, kw_only=True):
    """A step that this version does not know, or cannot read because of `problem`: kept in `extra` as it is."""

    problem: str = ""

    @property
    def name(self) -> str:
        """Which step it calls itself; "" where that is not a text."""
        name = self.extra.get("step")
        return name if isinstance(name, str) else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object as it was read."""
        return self.extra


Step = FineTuneStep | DistillStep | Fp16Step | WidenStep | CompressStep | ExportStep | OtherStep

_KNOWN: dict[Any, type[FineTuneStep | DistillStep | Fp16Step | WidenStep | CompressStep | ExportStep]] = {
    "fine-tune": FineTuneStep,
    "distill": DistillStep,
    "fp16": Fp16Step,
    "widen": WidenStep,
    "compress": CompressStep,
    "export": ExportStep,
}


def step_from_dict(fields: Mapping[str, Any]) -> Step:
    """Return the step in a JSON object, whatever it holds.

    >>> step_from_dict({"step": "fp16", "parent_weights_sha256": "4b7d", "newer": 1}).to_dict()
    {'step': 'fp16', 'parent_weights_sha256': '4b7d', 'newer': 1}
    """
    name = fields.get("step")
    cls = _KNOWN.get(name) if isinstance(name, str) else None
    if cls is None:
        return OtherStep(extra=dict(fields))
    known = set(cls.__struct_encode_fields__) - {"extra"} | {"step"}
    try:
        step = msgspec.convert({key: value for key, value in fields.items() if key in known}, cls)
    except msgspec.ValidationError as error:
        return OtherStep(extra=dict(fields), problem=str(error))
    return step.replace(extra=_beyond(fields, step.to_dict()))


def _beyond(read: Any, known: Any) -> dict[Any, Any]:
    """Return what was read beyond the known fields; in a list by index."""
    if isinstance(read, Mapping) and isinstance(known, Mapping):
        inner = {key: _beyond(read[key], known[key]) for key in read if key in known}
        return {key: inner.get(key, value) for key, value in read.items() if key not in known or inner[key]}
    if isinstance(read, (list, tuple)) and isinstance(known, (list, tuple)):
        rows = (_beyond(*pair) for pair in zip(read, known, strict=True))
        return {index: row for index, row in enumerate(rows) if row}
    return {}


def _merged(known: Any, extra: dict[Any, Any]) -> Any:
    """Return the known fields and those beyond them."""
    if isinstance(known, (list, tuple)):
        return [_merged(row, extra[index]) if index in extra else row for index, row in enumerate(known)]
    return known | {key: _merged(known[key], value) if key in known else value for key, value in extra.items()}
