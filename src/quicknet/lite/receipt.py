"""What an exported file says of its parent's answers, compactly: a class for every test image."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quicknet.core.card import Card
from quicknet.core.errors import ConfigError, FormatError
from quicknet.core.files import sha256_bytes
from quicknet.core.settings import Settings, from_mapping

_LIMIT_IMAGES = 1 << 26
# fields of DataRequest that say how a run's data was read and split, beside its protocol
SPLIT_SETTINGS = ("split_seed", "val_share", "max_bad_share")


class Predictions(Settings, frozen=True, kw_only=True):
    """The predicted class of every image of a split, and how many were right: an ONNX file's parent's, a `.qnz`'s own.

    `class_order_sha256` is of the parent's class names, one a line; `classes` is base64 of zlib
    of N little-endian uint16 (indices into the class names), "" where the digest is enough since
    it must be met; `sha256` is of those bytes.
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

    Raises FormatError where they are damaged; never inflates past 2 n bytes.
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


def recorded_predictions(card: Card) -> Predictions | None:
    """Return what the card's last export recorded; None where it was never measured on data.

    Raises FormatError for a record that does not hold.
    """
    found = _last_export(card).get("predictions")
    if found is None:
        return None
    try:
        return from_mapping(Predictions, found, "the receipt")
    except ConfigError as error:
        raise FormatError(f"{error}; export the model again") from error


def split_settings(card: Card) -> dict[str, Any]:
    """Return SPLIT_SETTINGS of the card's run, as far as its export recorded them; none for what is no export."""
    step = _last_export(card)
    return {key: step[key] for key in SPLIT_SETTINGS if key in step}


def stated_tolerance(card: Card) -> float | None:
    """Return by how much of a logit the card's last export may differ on its test vectors; None where it says nothing.

    Raises FormatError for what is no positive number.
    """
    found = _last_export(card).get("tolerance")
    if found is None:
        return None
    if not isinstance(found, float) or not 0 < found < math.inf:
        raise FormatError(f"the receipt's tolerance {found!r} is no positive number; export the model again")
    return found


def _last_export(card: Card) -> dict[str, Any]:
    return next((step for step in reversed(card.lineage) if step.get("step") == "export"), {})
