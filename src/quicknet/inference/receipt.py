"""What an exported file records of its parent's answers, compactly: a class for every test image."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import Card
from quicknet.core.errors import FormatError
from quicknet.core.files import sha256_bytes
from quicknet.core.lineage import ExportStep, OtherStep, Predictions

if TYPE_CHECKING:
    from quicknet.data.dataset import Dataset

_LIMIT_IMAGES = 1 << 26
# fields of DataRequest that say how a run's data was read and split, beside its protocol
SPLIT_SETTINGS = ("split_seed", "val_share", "max_bad_share")


def class_order_sha256(names: tuple[str, ...]) -> str:
    """Return the digest of class names in order."""
    return sha256_bytes("".join(f"{name}\n" for name in names).encode())


def pack_classes(predicted: NDArray[Any]) -> tuple[str, str]:
    """Return (text, sha256) of predicted classes (N,), each below 65,536.

    >>> import numpy as np
    >>> unpack_classes(*pack_classes(np.array([3, 1, 65535])), 3).tolist()
    [3, 1, 65535]
    """
    if len(predicted) and not 0 <= int(predicted.min()) <= int(predicted.max()) < 1 << 16:
        raise FormatError("predicted classes must lie in 0..65535 to be recorded; export without --data")
    raw = np.ascontiguousarray(predicted, "<u2").tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode(), sha256_bytes(raw)


def unpack_classes(text: str, sha256: str, n: int) -> NDArray[np.int64]:
    """Return the n predicted classes of `pack_classes`.

    Raises FormatError if they are damaged; never decompresses more than 2 n + 1 bytes.
    """
    if not 0 <= n <= _LIMIT_IMAGES:
        raise FormatError(f"the receipt says {n} images; export the model again")
    try:
        packed = base64.b64decode(text, validate=True)
        raw = zlib.decompressobj().decompress(packed, 2 * n + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise FormatError(f"the receipt's predicted classes are damaged ({error}); export the model again") from error
    if len(raw) != 2 * n or sha256_bytes(raw) != sha256:
        raise FormatError("the receipt's predicted classes are damaged (sha256 differs); export the model again")
    return np.frombuffer(raw, "<u2").astype(np.int64)


def predictions_of(
    predicted: NDArray[Any], data: Dataset, split: str, classes: tuple[str, ...], packed: bool
) -> Predictions:
    """Return the record of the classes (N,) predicted for the images of a split; not `packed`, only their digest.

    `classes` are the model's class names in order.
    """
    text, sha256 = pack_classes(predicted)
    return Predictions(
        data=data.name,
        data_sha256=data.sha256,
        split=split,
        protocol=data.protocol,
        n=len(predicted),
        correct=int((predicted == np.asarray(data.split(split).labels)).sum()),
        class_order_sha256=class_order_sha256(classes),
        sha256=sha256,
        classes=text if packed else "",
    )


def recorded_predictions(card: Card) -> Predictions | None:
    """Return what the card's last export recorded; None if it was never measured on data.

    Raises FormatError for a damaged record, and for one of a newer version, whose fields may change its meaning.
    """
    step = _last_export(card)
    if step is None:
        return None
    for field in step.extra.get("predictions") or ():
        raise FormatError(f"unknown setting {field!r} (the receipt); export the model again")
    return step.predictions


def split_settings(card: Card) -> dict[str, Any]:
    """Return SPLIT_SETTINGS of the card's run, as far as its export recorded them; {} for a card without export."""
    step = _last_export(card)
    recorded = {key: getattr(step, key, None) for key in SPLIT_SETTINGS}
    return {key: value for key, value in recorded.items() if value is not None}


def stated_tolerance(card: Card) -> float | None:
    """Return by how much the logits of the last export may differ on its test vectors; None if it does not say.

    Raises FormatError for a tolerance that is not a positive number.
    """
    step = _last_export(card)
    tolerance = None if step is None else step.tolerance
    if tolerance is not None and not 0 < tolerance < math.inf:
        raise FormatError(f"the receipt's tolerance {tolerance!r} is not a positive number; export the model again")
    return tolerance


def _last_export(card: Card) -> ExportStep | None:
    """Return the receipt, None for a model that is not exported. Raises FormatError for one that cannot be read."""
    for step in reversed(card.lineage):
        if isinstance(step, ExportStep):
            return step
        if isinstance(step, OtherStep) and step.name == "export":
            raise FormatError(f"the receipt is damaged: {step.problem}; export the model again")
    return None
