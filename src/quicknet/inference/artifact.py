"""What lies at a path: a run folder, a `.qnz` or an exported ONNX file, read when it is asked for, and once."""

from __future__ import annotations

import abc
import difflib
import importlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, cast

from quicknet.core.card import Card, read_card, require_run_folder
from quicknet.core.errors import CheckpointError, ConfigError, FormatError, missing_extra
from quicknet.core.files import read_head, sha256_file
from quicknet.inference.classifier import Classifier
from quicknet.inference.shipped import locate, near_weights
from quicknet.qnz.container import Section
from quicknet.qnz.file import QnzClassifier, QnzFile, looks_like_qnz, read_qnz
from quicknet.qnz.network import IntegerNetwork

if TYPE_CHECKING:
    from quicknet.onnx.file import OnnxFile

T = TypeVar("T")


class Artifact(abc.ABC):
    """A model at `path`, recognized but not read yet; `weights` is the file that holds its weights.

    `card` and the properties that follow raise FormatError for what is damaged or foreign, and
    load neither torch nor a runtime.
    """

    kind: Literal["run folder", "qnz", "onnx"]

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def weights(self) -> Path:
        """The file that is kept: its size is the model's."""
        return self.path

    @property
    @abc.abstractmethod
    def card(self) -> Card:
        """What the model is."""

    @property
    @abc.abstractmethod
    def weights_sha256(self) -> str:
        """The digest of the weights as they are, which the card's should equal; "" without weights."""

    @property
    def intact(self) -> bool:
        """Whether the weights are the card's."""
        return self.weights_sha256 == self.card.weights_sha256

    @property
    def sections(self) -> tuple[Section, ...]:
        """The sections of a `.qnz` in its order; another model has none."""
        return ()

    def layers(self, of_card: Callable[[Card], T], of_network: Callable[[IntegerNetwork], T]) -> T:
        """Return what a layer table makes of the model: of a `.qnz`'s integer network, else of the card."""
        return of_card(self.card)

    @abc.abstractmethod
    def classifier(self, **options: Any) -> Classifier:
        """Return the model ready to run; `options` are `runtime` and `threads`, as far as they are given."""


class RunFolderArtifact(Artifact):
    """What `quicknet train` wrote."""

    kind = "run folder"

    @property
    def weights(self) -> Path:
        """The weights beside the card."""
        return self.path / "model.safetensors"

    @cached_property
    def card(self) -> Card:
        """The card in the folder."""
        return read_card(self.path / "card.json")

    @cached_property
    def weights_sha256(self) -> str:
        """The digest of the file."""
        return sha256_file(self.weights) if self.weights.is_file() else ""

    @property
    def intact(self) -> bool:
        """Whether there are weights, and they are the card's."""
        return self.weights.is_file() and super().intact

    def classifier(self, **options: Any) -> Classifier:
        """Return the network in torch. Raises ConfigError for any options, ToolError where torch is not installed."""
        if options:
            raise ConfigError(
                f"{' and '.join(options)} can be chosen for exported files only; {self.path} is a run folder"
            )
        try:  # named, not imported: the light part must work without torch
            opener = importlib.import_module("quicknet.training.checkpoint").TorchClassifier
        except ModuleNotFoundError as error:
            missing = missing_extra(error, "a run folder")
            if missing is None:
                raise
            raise missing from error
        return cast(Classifier, opener(self.path))


class _ExportedFile(Protocol):
    """What `read_qnz` and `read_onnx` return."""

    @property
    def card(self) -> Card: ...

    @property
    def weights_sha256(self) -> str: ...


F = TypeVar("F", bound=_ExportedFile)


class ExportedArtifact(Artifact, Generic[F]):
    """A file that `quicknet export` wrote: its card and its weights in one, read and checked together."""

    @cached_property
    def file(self) -> F:
        """The file, read and checked."""
        return self._read()

    @abc.abstractmethod
    def _read(self) -> F:
        """Read and check the file."""

    @property
    def card(self) -> Card:
        """The card in the file."""
        return self.file.card

    @cached_property
    def weights_sha256(self) -> str:
        """The digest of the network or graph, without its card."""
        return self.file.weights_sha256


class QnzArtifact(ExportedArtifact[QnzFile]):
    """A `.qnz`."""

    kind = "qnz"

    def _read(self) -> QnzFile:
        return read_qnz(self.path)

    @property
    def sections(self) -> tuple[Section, ...]:
        """The sections in the file's order."""
        return self.file.sections

    def layers(self, of_card: Callable[[Card], T], of_network: Callable[[IntegerNetwork], T]) -> T:
        """Return what a layer table makes of the integer network."""
        return of_network(self.file.network)

    def classifier(self, **options: Any) -> Classifier:
        """Return the file in the engine, or as `QnzClassifier` says."""
        return QnzClassifier(self.__dict__.get("file", self.path), **options)


class OnnxArtifact(ExportedArtifact["OnnxFile"]):
    """A file that `quicknet export --format onnx` or `openvino` wrote."""

    kind = "onnx"

    def _read(self) -> OnnxFile:
        from quicknet.onnx.file import read_onnx

        return read_onnx(self.path)

    @property
    def intact(self) -> bool:
        """Whether this graph and this card were written together."""
        return self.file.intact

    def classifier(self, **options: Any) -> Classifier:
        """Return the file in ONNX Runtime or OpenVINO, as `OnnxClassifier` says."""
        from quicknet.onnx.runtime import OnnxClassifier

        return OnnxClassifier(self.file, **options)


def open_artifact(model: str | Path, quiet: bool = False) -> Artifact:
    """Return the model in a run folder or an exported file, recognized by content, or of shipped weights.

    A name such as "quicknet_s.cifar10" is that of the `.qnz` that ships under it, as
    `quicknet.inference.shipped.locate` finds it, `quiet` without progress; a path that exists goes first. Raises
    CheckpointError if nothing is there or a folder is not a run folder, FormatError for any other file.
    """
    path = locate(model, "file", quiet)
    if not path.exists():
        raise CheckpointError(
            f"no model at {path}{_near(path)}; name a run folder, an exported file or shipped weights"
        )
    if path.is_dir():
        require_run_folder(path)
        return RunFolderArtifact(path)
    head = read_head(path, "the model")
    if looks_like_qnz(head):
        return QnzArtifact(path)
    from quicknet.onnx.file import looks_like_onnx  # a .qnz does without it: 9 ms of start-up

    if looks_like_onnx(head):
        return OnnxArtifact(path)
    raise FormatError(
        f"{path} is not a model that QuickNet reads; give a run folder (card.json and model.safetensors) "
        "or a .qnz file or an exported ONNX file"
    )


def load(path: str | Path, runtime: str = "auto", threads: int | None = None, quiet: bool = False) -> Classifier:
    """Return the classifier in what `open_artifact` opens.

    `runtime` and `threads` are for exported files, as `OnnxClassifier` (`auto`, `onnxruntime`,
    `openvino`) and `QnzClassifier` (`auto`, `engine`, `engine-portable`, `reference`) say. `quiet` shows no
    progress where shipped weights are downloaded.
    Raises as `open_artifact` does, FormatError for a damaged file, ToolError if the package that opens
    it is not installed, ConfigError if a run folder is given `runtime` or `threads`.
    """
    options: dict[str, Any] = {"runtime": runtime} if runtime != "auto" else {}
    options |= {} if threads is None else {"threads": threads}
    return open_artifact(path, quiet).classifier(**options)


def _near(path: Path) -> str:
    """Return `` (did you mean …?)`` with a similar name beside the missing one and similar shipped weights, if any."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        names = []
    beside = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    near = [str(path.parent / name) for name in beside] + near_weights(path)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
