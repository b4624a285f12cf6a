"""What a model is, read without running it: its card, its layers, its files."""

from __future__ import annotations

from pathlib import Path

from quicknet.core.card import Card, read_card
from quicknet.core.config import Layer, QuickNetConfig, plan
from quicknet.core.errors import CheckpointError
from quicknet.core.files import sha256_file
from quicknet.core.settings import Settings, from_mapping
from quicknet.lite.classifier import load
from quicknet.lite.onnx_file import looks_like_onnx, read_onnx


class LayerFacts(Settings, frozen=True, kw_only=True):
    """One layer: output channels and side (pixels), parameters, multiply-adds an image."""

    name: str
    kind: str
    kernel: int
    in_channels: int
    out_channels: int
    side: int
    parameters: int
    macs: int


def read_model(path: str | Path) -> tuple[Card, bool]:
    """Return the card of a run folder or an exported file, and whether its weights are the card's.

    Neither torch nor a runtime is loaded. Raises what `quicknet.load` raises for what is no model.
    """
    place = Path(path)
    if place.is_dir() and (place / "card.json").is_file():
        card, weights = read_card(place / "card.json"), place / "model.safetensors"
        return card, weights.is_file() and sha256_file(weights) == card.weights_sha256
    if place.exists() and looks_like_onnx(place):
        file = read_onnx(place)
        return file.card, file.intact
    return load(place).card, True


def layer_facts(card: Card) -> tuple[LayerFacts, ...]:
    """Return the layers in the order in which an image passes them; none for other families.

    Raises ConfigError for a config that makes no network.

    >>> from quicknet.core.card import ModelRecord, PreprocessSpec
    >>> record = ModelRecord(family="quicknet", name="quicknet", config={})
    >>> card = Card(model=record, classes=tuple("0123456789"), preprocess=PreprocessSpec())
    >>> layers = layer_facts(card)
    >>> sum(layer.parameters for layer in layers), sum(layer.macs for layer in layers)
    (3557322, 127863040)
    """
    if card.model.family != "quicknet":
        return ()
    config = from_mapping(QuickNetConfig, card.model.config, "the card's model.config")
    layers = [_convolution(config, layer) for layer in plan(config, card.preprocess.size)]
    width = layers[-1].out_channels
    classifier = LayerFacts(
        name="classifier",
        kind="linear",
        kernel=1,
        in_channels=width,
        out_channels=config.num_classes,
        side=1,
        parameters=(width + 1) * config.num_classes,
        macs=width * config.num_classes,
    )
    return (*layers, classifier)


def _convolution(config: QuickNetConfig, layer: Layer) -> LayerFacts:
    """Count one layer: its weights are used once a pixel; batch norm has two parameters a channel."""
    slopes = {"prelu": layer.out_channels, "prelu_shared": 1}.get(config.activation, 0)
    return LayerFacts(
        name=layer.name,
        kind=layer.kind,
        kernel=layer.kernel,
        in_channels=layer.in_channels,
        out_channels=layer.out_channels,
        side=layer.side,
        parameters=layer.weights + 2 * layer.out_channels + slopes,
        macs=layer.weights * layer.side**2,
    )


class ModelFacts(Settings, frozen=True, kw_only=True):
    """A model's counts: parameters and multiply-adds an image, None where its family is not known here.

    `size_bytes` is that of what is kept: the file, or a run folder's weights.
    """

    model: str
    name: str
    input: str
    parameters: int | None
    macs: int | None
    size_bytes: int


def model_facts(model: str, card: Card) -> ModelFacts:
    """Return the counts of the model at path `model`. Raises CheckpointError where it has no weights."""
    layers, spec = layer_facts(card), card.preprocess
    return ModelFacts(
        model=model,
        name=card.model.name,
        input=f"{spec.channels}x{spec.size}x{spec.size}",
        parameters=sum(layer.parameters for layer in layers) or None,
        macs=sum(layer.macs for layer in layers) or None,
        size_bytes=_size_bytes(Path(model)),
    )


def _size_bytes(path: Path) -> int:
    kept = path / "model.safetensors" if path.is_dir() else path
    try:
        return kept.stat().st_size
    except OSError as error:
        raise CheckpointError(f"no weights at {kept} ({error.strerror}); restore them from a copy") from error


def model_files(path: Path) -> dict[str, int]:
    """Return the bytes of a run folder's files by name, or of the one file."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name: file.stat().st_size for file in files if file.is_file() and not file.name.startswith(".")}
