"""The lineage of a card as lines of text. A card may come from anywhere: a text may have any length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quicknet.core.lineage import (
    CompressStep,
    DistillStep,
    ExportStep,
    FineTuneStep,
    Fp16Step,
    OtherStep,
    Step,
    WidenStep,
)

_LARGEST = 1 << 63
_LONGEST = 100  # characters of a text of the card that a line shows


def lineage_lines(lineage: Sequence[Step]) -> list[str]:
    """Return one line for each step, the oldest first.

    >>> lineage_lines([FineTuneStep(source="quicknet_s", weights_sha256="4b7d73254940")])
    ['fine-tuned from quicknet_s (weights with sha256 4b7d73254940…)']
    """
    return [" · ".join(_parts(step)) for step in lineage]


def _parts(step: Step) -> Iterator[str]:
    match step:
        case FineTuneStep():
            yield f"fine-tuned from {_cut(step.source)} ({_weights(step.weights_sha256)})"
        case DistillStep():
            yield f"learned from the answers of {_cut(step.source)} ({_weights(step.weights_sha256)})"
        case Fp16Step():
            yield f"rounded to fp16 from {_weights(step.parent_weights_sha256)}"
            if step.changed is not None and step.n is not None:
                yield f"another class for {step.changed:,} of {step.n:,} pictures of {_cut(step.split or 'a split')}"
        case WidenStep():
            yield f"channels doubled from {_weights(step.parent_weights_sha256)}"
        case CompressStep():
            how = f"pruned in {step.epochs:,} epochs" if step.epochs else "integers made coarser without training"
            yield f"{how}, from {_weights(step.parent_weights_sha256)}"
            yield f"{100 * step.density:.3g}% of the pointwise weights kept by {_cut(step.pattern)}"
            if step.grid is not None:
                yield f"steps of the integers: {step.grid:.3g} root mean squares of the weights"
        case ExportStep():
            yield from _exported(step)
        case OtherStep():
            yield from _other(step)


def _exported(step: ExportStep) -> Iterator[str]:
    kind = " ".join(_cut(part) for part in (step.numbers, step.format) if part)
    yield f"exported to {kind} from {_weights(step.parent_weights_sha256)} by QuickNet {_cut(step.quicknet)}"
    if step.bits is not None:
        calibration = step.calibration
        images = "" if calibration is None else f"{calibration.n:,} pictures of {_cut(calibration.split)}"
        yield f"quantized to {_cut(step.bits)}" + (f", calibrated on {images}" if images else "")
    if step.qat is not None:
        before, after = (f"{100 * share:.2f}%" for share in (step.qat.before, step.qat.kept))
        yield f"fine-tuned for {step.qat.epochs:g} epochs, val {before} before, {after} after"
    for row in step.compared or ():
        change = "less" if row.lost_points > 0 else "more"
        yield f"{_cut(row.split)} {100 * row.top1:.2f}%, {abs(row.lost_points):.2f} points {change} than the run"


def _other(step: OtherStep) -> Iterator[str]:
    """A step of another version: its texts and numbers."""
    yield _cut(step.name) or "unnamed step"
    for key, value in step.extra.items():
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST
        if key != "step" and (whole or isinstance(value, (str, float))):
            yield f"{_cut(key)} {_cut(str(value))}"


def _weights(digest: str) -> str:
    return f"weights with sha256 {digest[:12]}…" if digest else "unnamed weights"


def _cut(text: str) -> str:
    return text[:_LONGEST]
