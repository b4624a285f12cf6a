"""The card: what a model is, in one JSON schema for run folders and exported files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from quicknet.core.errors import CheckpointError, FormatError
from quicknet.core.files import parse_json, read_json
from quicknet.core.lineage import ExportStep, Step, step_from_dict
from quicknet.core.settings import Settings

FORMAT = 1
# FORMAT.md's limit. Parsing takes at most 54 MiB: 4 bytes a character, and the values (see `core/files.py`).
LIMIT_BYTES = 4 << 20

Mode = Literal["L", "RGB", "RGBA"]
CHANNELS: dict[Mode, int] = {"L": 1, "RGB": 3, "RGBA": 4}


class PreprocessSpec(Settings, frozen=True, kw_only=True):
    """How an image file becomes the uint8 array that the network takes.

    `size` pixels square; `mode` by channel count; `exif` turns the image upright first;
    `resize` brings the shorter side to `size` and crops the middle (`shorter`), distorts
    (`stretch`) or leaves a border of `fill` (`pad`). `mean` and `std` are per channel on the
    0..1 scale, and are part of the network, not of the array.
    """

    size: int = 32
    mode: Mode = "RGB"
    exif: bool = True
    resize: Literal["shorter", "stretch", "pad"] = "shorter"
    filter: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    antialias: bool = True
    fill: int = 0
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        """Refuse what would divide by zero or mismatch the channels."""
        channels = self.channels
        if len(self.mean) != channels or len(self.std) != channels:
            raise FormatError(f"mean and std need {channels} values each for mode {self.mode}")
        if not all(abs(value) < 1e6 for value in (*self.mean, *self.std)):
            raise FormatError("mean and std must be numbers, on the scale on which white is 1")
        if not all(s > 1e-6 for s in self.std) or not 1 <= self.size <= 4096 or not 0 <= self.fill <= 255:
            raise FormatError("std must be positive, size within 1..4096, fill within 0..255")

    @property
    def channels(self) -> int:
        """Channels of the array: 1, 3 or 4."""
        return CHANNELS[self.mode]


class ModelRecord(Settings, frozen=True, kw_only=True):
    """Which network: a family of the registry and the config it is rebuilt from."""

    family: str
    name: str
    config: dict[str, Any]


class LayerCosts(Settings, frozen=True, kw_only=True):
    """What one layer is, and what one image costs it: parameters, multiply-adds, bytes of the map that it leaves.

    `side` is its output's, in pixels. A norm or an activation belongs to the layer whose output it
    takes, a pointwise convolution to the depthwise one before it. A classifier leaves no map.
    """

    name: str
    kind: str
    kernel: int
    in_channels: int
    out_channels: int
    side: int
    parameters: int
    macs: int
    activation_bytes: int

    def __post_init__(self) -> None:
        """Refuse what cannot have been counted."""
        counts = (self.kernel, self.in_channels, self.out_channels, self.side, self.parameters, self.macs)
        if min(*counts, self.activation_bytes) < 0:
            raise FormatError("a layer's costs must not be negative")


class Costs(Settings, frozen=True, kw_only=True):
    """What one image costs a float32 network at the card's size: parameters, multiply-adds, memory, layer by layer.

    `activation_bytes`: the feature maps that leave the layers, all together: what the fused
    kernels keep of an image while training. `peak_activation_bytes`: the largest input and
    output of one layer together: what inference needs at least.
    """

    parameters: int
    macs: int
    activation_bytes: int
    peak_activation_bytes: int
    layers: tuple[LayerCosts, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot have been counted."""
        if min(self.parameters, self.macs, self.activation_bytes, self.peak_activation_bytes) < 0:
            raise FormatError("costs must not be negative")


class DataRecord(Settings, frozen=True, kw_only=True):
    """The data that it was trained on: name, images per split, sha256 over content."""

    name: str
    protocol: str
    counts: dict[str, int]
    sha256: str


class Metric(Settings, frozen=True, kw_only=True):
    """One measured figure, never without its protocol, its n and the file it was measured on."""

    name: str
    value: float
    split: str
    protocol: str
    n: int
    file_sha256: str
    low: float | None = None
    high: float | None = None


class TrainingRecord(Settings, frozen=True, kw_only=True):
    """How it was trained."""

    recipe_sha256: str
    recipe_name: str
    seed: int
    epochs: int
    seconds: float
    best_epoch: int


class Vectors(Settings, frozen=True, kw_only=True):
    """Test vectors: images drawn by `image/vectors.py` (by version), and their float logits.

    `integers` are the logits of an integer network; every implementation gives exactly these. A coded
    `.qnz` has these only, and `logits` is empty.
    """

    generator: int
    sha256: str
    logits: tuple[tuple[float, ...], ...]
    integers: tuple[tuple[int, ...], ...] | None = None


class UnknownRecord(Settings, frozen=True, kw_only=True):
    """From which confidence on an answer is believed; below it the picture is "unknown".

    At `min_confidence` (at the card's temperature) `kept` of the n images of `split` are answered.
    With `none_class` "none of the classes" counts as one more class, whose logit is 0.
    Of `others_n` pictures of none of the classes, from the folder `others`, `refused` are unknown;
    None where that was not measured. Shares are 0..1.
    """

    min_confidence: float
    none_class: bool = False
    split: str
    n: int
    kept: float
    others: str | None = None
    others_n: int | None = None
    refused: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is not a probability."""
        if not all(0 <= share <= 1 for share in (self.min_confidence, self.kept, self.refused or 0.0)):
            raise FormatError("unknown: min_confidence, kept and refused must lie in 0..1")


class IntegerRecord(Settings, frozen=True, kw_only=True):
    """What a `.qnz` says about its integer network: the width class, and the real value of a logit of 1."""

    bits: str
    logit_scale: float


class Card(msgspec.Struct, kw_only=True, frozen=True):
    """What a model is and what was measured of it: one schema in run folders and exported files.

    `costs` are the float network's, layer by layer, counted when it was trained; older cards have none.
    `extra` holds fields that a newer minor version added; they are kept and written again.
    """

    format: int = FORMAT
    minor: int = 0
    model: ModelRecord
    costs: Costs | None = None
    classes: tuple[str, ...]
    preprocess: PreprocessSpec
    data: DataRecord | None = None
    training: TrainingRecord | None = None
    metrics: tuple[Metric, ...] = ()
    temperature: float | None = None
    unknown: UnknownRecord | None = None
    lineage: tuple[Step, ...] = ()
    vectors: Vectors | None = None
    integer: IntegerRecord | None = None
    versions: dict[str, str] = {}
    licence: str = ""
    notes: str = ""
    weights_sha256: str = ""
    extra: dict[str, Any] = {}

    def replace(self, **changes: Any) -> Card:
        """Return a copy with `changes`."""
        return msgspec.structs.replace(self, **changes)

    def with_receipt(self, **changes: Any) -> Card:
        """Return a copy whose last step of lineage, an export, has `changes`."""
        step = self.lineage[-1]
        assert isinstance(step, ExportStep)
        return self.replace(lineage=(*self.lineage[:-1], step.replace(**changes)))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object, with the unknown fields where they came from."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        for newer in ("costs", "unknown"):  # an older card is written again as it was
            if fields[newer] is None:
                del fields[newer]
        if self.unknown is not None and not self.unknown.none_class:
            del fields["unknown"]["none_class"]
        if self.costs is not None and not self.costs.layers:
            del fields["costs"]["layers"]
        fields["lineage"] = [step.to_dict() for step in self.lineage]
        return {**fields.pop("extra"), **fields}

    def to_json(self, indent: int | None = 1) -> str:
        """Return the JSON text; the same card gives the same bytes. Raises FormatError past LIMIT_BYTES.

        `indent` None leaves out all spaces and line breaks.
        """
        separators = (",", ":") if indent is None else None
        text = json.dumps(self.to_dict(), indent=indent, separators=separators, ensure_ascii=False)
        text += "" if indent is None else "\n"
        size_bytes = len(text.encode())
        if size_bytes > LIMIT_BYTES:
            raise FormatError(
                f"the card would be {size_bytes:,} bytes, over the limit of {LIMIT_BYTES:,}; use fewer classes "
                f"(there are {len(self.classes):,}) or shorter notes"
            )
        return text


class _Lineage(msgspec.Struct):
    """The lineage before its steps are read."""

    lineage: tuple[dict[str, Any], ...] = ()


def card_from_dict(fields: Any, where: str) -> Card:
    """Return a checked card from parsed JSON.

    Raises FormatError for a newer major format, a missing or wrongly typed field, or classes
    that are repeated.
    """
    if not isinstance(fields, Mapping):
        raise FormatError(f"the card is not a JSON object ({where}); restore it from a copy")
    version = fields.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise FormatError(f"card format {version} is newer than this QuickNet reads, {FORMAT} ({where}); update")
    if isinstance(version, int) and version != FORMAT:
        raise FormatError(f"card format {version!r} does not exist ({where}); restore the card from a copy")
    known = set(Card.__struct_fields__) - {"extra"}
    extra = {key: value for key, value in fields.items() if key not in known}
    try:
        card = msgspec.convert({k: v for k, v in fields.items() if k in known - {"lineage"}}, Card)
        lineage = msgspec.convert(dict(fields), _Lineage).lineage
    except (msgspec.ValidationError, FormatError) as error:  # FormatError: from the checks of a part
        raise FormatError(f"the card is not valid: {error} ({where}); restore it from a copy") from error
    _check_values(card, where)
    return card.replace(lineage=tuple(step_from_dict(step) for step in lineage), extra=extra)


def _check_values(card: Card, where: str) -> None:
    """Refuse values that training never writes and that would break the code that uses the card."""
    if len(set(card.classes)) != len(card.classes) or not all(card.classes) or not card.classes:
        raise FormatError(f"the card's class names are missing or repeated ({where}); restore it from a copy")
    if any(0xD800 <= ord(letter) < 0xE000 for name in card.classes for letter in name):
        raise FormatError(f"the card's class names are not all Unicode text ({where}); restore it from a copy")
    temperature = card.temperature
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise FormatError(
            f"the card's temperature {temperature} is not a positive number ({where}); restore it from a copy"
        )
    scale = card.integer.logit_scale if card.integer else 1.0
    if not (math.isfinite(scale) and scale > 0):
        raise FormatError(f"the card's logit scale {scale} is not a positive number ({where}); restore it from a copy")
    integers = (card.vectors.integers or ()) if card.vectors else ()
    if any(not -(1 << 31) <= value < 1 << 31 for row in integers for value in row):
        raise FormatError(f"the card's integer logits do not fit 32 bits ({where}); restore it from a copy")


def parse_card(text: memoryview, where: str) -> Card:
    """Return the card in JSON text that lies at `where`. Raises FormatError; past LIMIT_BYTES before it is copied."""
    if len(text) > LIMIT_BYTES:
        raise FormatError(
            f"the card is {len(text):,} bytes, over the limit of {LIMIT_BYTES:,} ({where}); export the model again"
        )
    return card_from_dict(parse_json(bytes(text), "the card", Path(where)), where)


def require_run_folder(path: Path) -> None:
    """Raise CheckpointError where `path` is not a folder with a card in it."""
    if not (path / "card.json").is_file():
        raise CheckpointError(f"{path} is not a run folder (it has no card.json); name one that `quicknet train` wrote")


def read_card(path: Path) -> Card:
    """Read and check a card file. Raises FormatError."""
    return card_from_dict(read_json(path, "the card", LIMIT_BYTES), str(path))
