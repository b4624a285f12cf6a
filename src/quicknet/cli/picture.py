"""The picture that `quicknet inspect --svg` draws of a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quicknet.core.errors import ConfigError, ToolError

if TYPE_CHECKING:
    from quicknet.core.card import Card, LayerCosts, ModelRecord
    from quicknet.core.flow import Flow
    from quicknet.inference.artifact import Artifact
    from quicknet.report.network import Drawing


def draw_untrained(path: Path, record: ModelRecord) -> None:
    """Draw a network that is not trained. Raises ToolError where the file cannot be written."""
    from quicknet.models.costs import trace_flow
    from quicknet.models.registry import model_from_record
    from quicknet.report.network import Drawing

    flow = trace_flow(lambda: model_from_record(record))
    _write(path, Drawing(record.name, record.config["in_channels"], record.config["image_size"], flow))


def draw_artifact(
    path: Path, artifact: Artifact, kept: Sequence[Path], layers: Sequence[LayerCosts], timed: bool
) -> None:
    """Draw a trained network; `kept` are the model's own files, `layers` what is known of it without building it.

    Raises ToolError where the file cannot be written, ConfigError for what cannot be drawn.
    """
    from quicknet.report.network import Drawing

    overwritten = path.exists() and any(file.exists() and path.samefile(file) for file in kept)
    if overwritten and path.suffix.lower() != ".svg":
        raise ConfigError(f"--svg {path} is a file of the model itself; name another file")
    card = artifact.card
    times = _time_shares(artifact) if timed else ()
    spec = card.preprocess
    _write(path, Drawing(card.model.name, spec.channels, spec.size, _flow(artifact, layers), times))


def _write(path: Path, drawing: Drawing) -> None:
    from quicknet.core.files import write_atomically
    from quicknet.report.network import draw_network

    if path.is_dir():
        raise ToolError(f"{path} is a folder; name a file with --svg")
    write_atomically(path, draw_network(drawing))


def _flow(artifact: Artifact, layers: Sequence[LayerCosts]) -> Flow:
    """Return what each layer takes: in a chain the layer before it, else what the network itself tells.

    A card tells the layers alone: where the network cannot be built, without torch or from a newer card, they have no
    arrows. Raises ToolError or ConfigError where the card does not tell the layers either.
    """
    from quicknet.core.errors import missing_extra
    from quicknet.core.flow import chain, unconnected
    from quicknet.inference.artifact import QnzArtifact

    card = artifact.card
    try:
        if layers and (isinstance(artifact, QnzArtifact) or _is_plain(card)):
            return chain(layers)
        from quicknet.models.costs import trace_flow
        from quicknet.models.registry import model_from_record

        return trace_flow(lambda: model_from_record(card.model))
    except ModuleNotFoundError as error:
        missing = missing_extra(error, "a card without layers")
        if missing is None or not layers:
            raise missing or error from error
    except ConfigError:
        if not layers:
            raise
    return unconnected(layers)


def _is_plain(card: Card) -> bool:
    """Return whether a card's network is a QuickNet without options. Raises ConfigError for a config of no network."""
    from quicknet.core.settings import from_mapping
    from quicknet.models.config import QuickNetConfig, plan
    from quicknet.models.predicates import options_of

    if card.model.family != "quicknet":
        return False
    config = from_mapping(QuickNetConfig, card.model.config, "the card's model.config")
    return not options_of(plan(config, card.preprocess.size))


def _time_shares(artifact: Artifact) -> Sequence[float]:
    """Measure the share of the time of each layer of a `.qnz`: of a separable one, of both its parts."""
    from quicknet.deploy.compress.speed import time_shares
    from quicknet.inference.artifact import QnzArtifact

    if not isinstance(artifact, QnzArtifact):
        raise ConfigError(f"--time measures a .qnz, and {artifact.path} is not one; leave it out")
    stem, *parts, classifier = time_shares(artifact.file.blob) or (0.0, 0.0)
    if not stem:
        from quicknet.engine import status

        raise ToolError(f"--time needs the engine, which cannot run here ({status()}); leave it out")
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return (stem, *(depthwise + pointwise for depthwise, pointwise in pairs), classifier)
