"""What a model is, without running it: its counts, its files and their sections."""

from __future__ import annotations

from pathlib import Path

from quicknet.core.card import LayerCosts
from quicknet.core.errors import CheckpointError
from quicknet.core.settings import Settings
from quicknet.inference.artifact import Artifact, QnzArtifact
from quicknet.measure.layers import integer_layers, layer_facts
from quicknet.qnz.format import CODE


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


def model_layers(artifact: Artifact) -> tuple[LayerCosts, ...]:
    """Return the layers of a model: a `.qnz`'s own, else those of the card."""
    return artifact.layers(layer_facts, integer_layers)


def model_facts(model: str, artifact: Artifact) -> ModelFacts:
    """Return the counts of what was opened as `model`. Raises CheckpointError where it has no weights."""
    layers, card = model_layers(artifact), artifact.card
    spec = card.preprocess
    # an older card has no costs: then its layers tell, as an integer network's do in any case
    kept = None if layers else card.costs
    return ModelFacts(
        model=model,
        name=card.model.name,
        input=f"{spec.channels}x{spec.size}x{spec.size}",
        parameters=kept.parameters if kept else sum(layer.parameters for layer in layers) or None,
        macs=kept.macs if kept else sum(layer.macs for layer in layers) or None,
        size_bytes=_size_bytes(artifact.weights),
    )


def _size_bytes(kept: Path) -> int:
    try:
        return kept.stat().st_size
    except OSError as error:
        raise CheckpointError(f"no weights at {kept} ({error.strerror}); restore them from a copy") from error


def model_files(path: Path) -> dict[str, int]:
    """Return the bytes of a run folder's files by name, or of the one file."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name: file.stat().st_size for file in files if file.is_file() and not file.name.startswith(".")}


class SectionFacts(Settings, frozen=True, kw_only=True):
    """One section of the file."""

    kind: str
    offset: int
    size_bytes: int
    sha256: str


class CodingFacts(Settings, frozen=True, kw_only=True):
    """How the numbers of a coded `.qnz` are coded, and what the bytes of its section CODE are for."""

    name: str
    tables_bytes: int
    places_bytes: int
    values_bytes: int
    others_bytes: int


def model_coding(artifact: Artifact) -> CodingFacts | None:
    """Return the coding of a coded `.qnz`; None for other models."""
    if not isinstance(artifact, QnzArtifact) or artifact.file.coding == "none":
        return None
    tables, places, values, _ = (bits // 8 for bits in artifact.file.coding_bits)
    size = next(part.size_bytes for part in artifact.sections if part.kind == CODE)
    return CodingFacts(
        name=artifact.file.coding,
        tables_bytes=tables,
        places_bytes=places,
        values_bytes=values,
        others_bytes=size - tables - places - values,
    )


def model_sections(artifact: Artifact) -> tuple[SectionFacts, ...]:
    """Return the sections of a `.qnz` in order; another model has none."""
    return tuple(
        SectionFacts(kind=part.kind, offset=part.offset, size_bytes=part.size_bytes, sha256=part.sha256)
        for part in artifact.sections
    )
