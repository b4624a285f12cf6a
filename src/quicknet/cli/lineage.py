"""The lineage of a card as lines of text. A card may come from anywhere: any field may be absent or odd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

Step = Mapping[str, Any]
T = TypeVar("T")

_LARGEST = 1 << 63
_LONGEST = 100  # characters of a text of the card that a line shows


def lineage_lines(lineage: Sequence[Step]) -> list[str]:
    """Return one line for each step, the oldest first.

    >>> step = {"step": "export", "format": "qnz", "bits": "w5a8", "parent_weights_sha256": "4b7d73254940"}
    >>> lineage_lines([{"step": "fine-tune", "from": "quicknet_s"}, step])
    ['fine-tuned from quicknet_s', 'exported to qnz from weights with sha256 4b7d73254940… · quantized to w5a8']
    """
    return [" · ".join(_parts(step)) for step in lineage]


def _parts(step: Step) -> Iterator[str]:
    name = _get(step, "step", str) or "unnamed step"
    yield from _KINDS.get(name, _unknown)(step)


def _fine_tuned(step: Step) -> Iterator[str]:
    yield f"fine-tuned from {_parent(step)}"


def _distilled(step: Step) -> Iterator[str]:
    yield f"learned from the answers of {_parent(step)}"


def _rounded(step: Step) -> Iterator[str]:
    yield f"rounded to fp16 from {_weights(step, 'parent_weights_sha256')}"
    changed, n = _get(step, "changed", int), _get(step, "n", int)
    if changed is not None and n is not None:
        yield f"another class for {changed:,} of {n:,} pictures of {_get(step, 'split', str) or 'a split'}"


def _exported(step: Step) -> Iterator[str]:
    kind = " ".join(filter(None, (_get(step, "numbers", str), _get(step, "format", str) or "a file")))
    version = _get(step, "quicknet", str)
    by = f" by QuickNet {version}" if version else ""
    yield f"exported to {kind} from {_weights(step, 'parent_weights_sha256')}{by}"
    bits, calibration = _get(step, "bits", str), _get(step, "calibration", dict) or {}
    if bits is not None:
        n, split = _get(calibration, "n", int), _get(calibration, "split", str)
        yield f"quantized to {bits}" + (f", calibrated on {n:,} pictures of {split}" if n is not None else "")
    tuned = _get(step, "qat", dict)
    if tuned is not None:
        epochs, before, after = (_get(tuned, key, float) for key in ("epochs", "before", "kept"))
        change = (
            "" if before is None or after is None else f", val {100 * before:.2f}% before, {100 * after:.2f}% after"
        )
        yield "fine-tuned" + (f" for {epochs:g} epochs" if epochs is not None else "") + change
    for row in _get(step, "compared", list) or []:
        yield from _compared(row)


def _compared(row: Any) -> Iterator[str]:
    """How the file compares with its run on a split."""
    if not isinstance(row, dict):
        return
    top1, lost, split = _get(row, "top1", float), _get(row, "lost_points", float), _get(row, "split", str)
    if top1 is not None and lost is not None:
        change = "less" if lost > 0 else "more"
        yield f"{split or 'a split'} {100 * top1:.2f}%, {abs(lost):.2f} points {change} than the run"


def _unknown(step: Step) -> Iterator[str]:
    """A step of another version: its texts and numbers."""
    yield _get(step, "step", str) or "unnamed step"
    for key, value in step.items():
        if (key != "step" and isinstance(value, (str, float))) or _get(step, key, int) is not None:
            yield f"{key[:_LONGEST]} {str(value)[:_LONGEST]}"


_KINDS: dict[str, Callable[[Step], Iterator[str]]] = {
    "fine-tune": _fine_tuned,
    "distill": _distilled,
    "fp16": _rounded,
    "export": _exported,
}


def _parent(step: Step) -> str:
    name = _get(step, "from", str) or "another network"
    return name + (f" ({_weights(step, 'weights_sha256')})" if "weights_sha256" in step else "")


def _weights(step: Step, key: str) -> str:
    digest = _get(step, key, str)
    return f"weights with sha256 {digest[:12]}…" if digest else "unnamed weights"


def _get(fields: Step, key: str, kind: type[T]) -> T | None:
    """Return a field if it is of this kind; a whole number is a float too, a text is cut."""
    value = fields.get(key)
    if isinstance(value, int) and abs(value) > _LARGEST:
        return None
    if kind is float and isinstance(value, int):
        value = float(value)
    if isinstance(value, str):
        value = value[:_LONGEST]
    return value if isinstance(value, kind) and not (kind is int and isinstance(value, bool)) else None
