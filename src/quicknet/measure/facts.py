"""What a model is, read without running it: its card, its counts, its files and their sections.

A model is a path or a name of shipped weights.
"""

from __future__ import annotations

from pathlib import Path

from quicknet.core.card import Card, read_card
from quicknet.core.errors import CheckpointError
from quicknet.core.files import sha256_file
from quicknet.core.settings import Settings
from quicknet.inference.classifier import load
from quicknet.inference.shipped import locate
from quicknet.measure.layers import LayerFacts, integer_layers, layer_facts
from quicknet.onnx.file import looks_like_onnx, read_onnx
from quicknet.qnz.file import looks_like_qnz, read_qnz


def read_model(path: str | Path) -> tuple[Card, bool]:
    """Return the card of a model and whether its weights are the card's.

    Neither torch nor a runtime is loaded. Raises what `quicknet.load` raises where there is no model.
    """
    place = locate(path, "file")
    if place.is_dir() and (place / "card.json").is_file():
        card, weights = read_card(place / "card.json"), place / "model.safetensors"
        return card, weights.is_file() and sha256_file(weights) == card.weights_sha256
    if place.exists() and looks_like_qnz(place):
        qnz = read_qnz(place)
        return qnz.card, qnz.weights_sha256 == qnz.card.weights_sha256
    if place.exists() and looks_like_onnx(place):
        file = read_onnx(place)
        return file.card, file.intact
    return load(place).card, True


class ModelFacts(Settings, frozen=True, kw_only=True):
    """A model's counts: parameters and multiply-adds an image, None where its card does not tell them.

    `size_bytes` is that of what is kept: the file, or a run folder's weights.
    """

    model: str
    name: str
    input: str
    parameters: int | None
    macs: int | None
    size_bytes: int


def model_layers(model: str, card: Card) -> tuple[LayerFacts, ...]:
    """Return the layers of a model: a `.qnz`'s own, else those of the card."""
    path = locate(model, "file")
    if path.is_file() and looks_like_qnz(path):
        return integer_layers(read_qnz(path).network)
    return layer_facts(card)


def model_facts(model: str, card: Card) -> ModelFacts:
    """Return the counts of a model. Raises CheckpointError where it has no weights."""
    layers, spec = model_layers(model, card), card.preprocess
    # an older card has no costs: then its layers tell, as an integer network's do in any case
    kept = None if layers else card.costs
    return ModelFacts(
        model=model,
        name=card.model.name,
        input=f"{spec.channels}x{spec.size}x{spec.size}",
        parameters=kept.parameters if kept else sum(layer.parameters for layer in layers) or None,
        macs=kept.macs if kept else sum(layer.macs for layer in layers) or None,
        size_bytes=_size_bytes(locate(model, "file")),
    )


def _size_bytes(path: Path) -> int:
    kept = path / "model.safetensors" if path.is_dir() else path
    try:
        return kept.stat().st_size
    except OSError as error:
        raise CheckpointError(f"no weights at {kept} ({error.strerror}); restore them from a copy") from error


def model_files(model: str) -> dict[str, int]:
    """Return the bytes of a run folder's files by name, or of the one file."""
    path = locate(model, "file")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name: file.stat().st_size for file in files if file.is_file() and not file.name.startswith(".")}


class SectionFacts(Settings, frozen=True, kw_only=True):
    """One section of the file."""

    kind: str
    offset: int
    size_bytes: int
    sha256: str


def model_sections(model: str) -> tuple[SectionFacts, ...]:
    """Return the sections of a `.qnz` in order; another model has none."""
    path = locate(model, "file")
    if not path.is_file() or not looks_like_qnz(path):
        return ()
    return tuple(
        SectionFacts(kind=part.kind, offset=part.offset, size_bytes=part.size_bytes, sha256=part.sha256)
        for part in read_qnz(path).sections
    )
