"""What lies at a path is recognized, read once, and the same for every command."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from exported import make_run, write_pictures
from integers import write_qnz
from quicknet.cli.main import run
from quicknet.core.errors import ConfigError, FormatError
from quicknet.core.files import sha256_file
from quicknet.deploy.export import export
from quicknet.image.vectors import draw_vectors
from quicknet.inference.artifact import Artifact, ExportedArtifact, RunFolderArtifact, open_artifact
from quicknet.inference.shipped import RUN_FILES, locate
from quicknet.onnx import file as onnx_file
from quicknet.qnz import file as qnz_file


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of every kind, by its kind."""
    folder = tmp_path_factory.mktemp("models")
    trained = make_run(folder / "run", write_pictures(folder / "pictures"))
    export(trained, folder / "m.onnx")
    return {"run folder": trained, "qnz": write_qnz(folder / "m.qnz"), "onnx": folder / "m.onnx"}


@pytest.fixture(scope="module")
def pictures(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of pictures of each model's classes, by its kind."""
    root = tmp_path_factory.mktemp("data")
    for kind, path in models.items():
        for name in open_artifact(path).card.classes:
            (root / kind / name).mkdir(parents=True)
            for index, drawn in enumerate(draw_vectors(40, 3, 3)):
                Image.fromarray(drawn).save(root / kind / name / f"{index}.png")
    return {kind: root / kind for kind in models}


def test_there_is_a_model_of_every_kind(models: dict[str, Path]) -> None:
    classes: list[type[Artifact]] = [RunFolderArtifact, *ExportedArtifact.__subclasses__()]
    assert set(models) == {cls.kind for cls in classes}
    assert set(Artifact.__subclasses__()) == {RunFolderArtifact, ExportedArtifact}


@pytest.mark.parametrize("kind", ["run folder", "qnz", "onnx"])
def test_a_model_is_opened_by_its_content(kind: str, models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "named.jpg"
    path.symlink_to(models[kind])
    artifact = open_artifact(path)
    assert (artifact.kind, artifact.path, artifact.intact) == (kind, path, True)
    assert artifact.weights_sha256 == artifact.card.weights_sha256 != ""
    assert artifact.weights.stat().st_size > 1000
    classifier = artifact.classifier()
    assert classifier.card == artifact.card
    spec = artifact.card.preprocess
    logits = classifier.logits(draw_vectors(spec.size, spec.channels, 2))
    assert logits.shape == (2, len(artifact.card.classes)) and np.isfinite(logits).all()


def test_only_a_qnz_has_sections_and_layers_of_its_integer_network(models: dict[str, Path]) -> None:
    for kind, path in models.items():
        artifact = open_artifact(path)
        names = [section.kind for section in artifact.sections]
        assert names == (["CARD", "NETW", "TENS"] if kind == "qnz" else [])
        counted = artifact.layers(lambda card: card.classes, lambda network: (network.side,))
        assert counted == ((artifact.card.preprocess.size,) if kind == "qnz" else artifact.card.classes)


def test_weights_of_another_model_or_none_are_not_intact(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "card.json").write_bytes((models["run folder"] / "card.json").read_bytes())
    assert not open_artifact(tmp_path).intact
    (tmp_path / "model.safetensors").write_bytes(b"other")
    artifact = open_artifact(tmp_path)
    assert not artifact.intact and artifact.weights_sha256 == sha256_file(tmp_path / "model.safetensors")


def test_a_run_folder_takes_no_runtime(models: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="runtime can be chosen for exported files only"):
        open_artifact(models["run folder"]).classifier(runtime="engine")


def test_a_name_of_shipped_weights_is_its_file() -> None:
    artifact = open_artifact("quicknet_xs.cifar10")
    assert (artifact.kind, artifact.path) == ("qnz", locate("quicknet_xs.cifar10", "file"))


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.qnz").write_bytes(b"nothing")
    with pytest.raises(FormatError, match=r"not a model that QuickNet reads; give a run folder \(card.json"):
        open_artifact(tmp_path / "m.qnz")


class Opens:
    """How often each file was opened in this process while `counts` was set."""

    def __init__(self) -> None:
        self.counts: Counter[str] | None = None
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and self.counts is not None and isinstance(arguments[0], str | Path):
            self.counts[str(arguments[0])] += 1


OPENS = Opens()  # an audit hook cannot be taken back


@pytest.fixture
def opens() -> Iterator[Counter[str]]:
    """How often a file was opened during the test."""
    OPENS.counts = Counter()
    yield OPENS.counts
    OPENS.counts = None


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often an exported file was read whole, and how often checked."""
    counts: Counter[str] = Counter()

    def counted(module: Any, name: str, what: str) -> None:
        original = getattr(module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            counts[what] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    for module, parse in ((qnz_file, "parse_qnz"), (onnx_file, "parse_onnx")):
        counted(module, "read_bounded", "read")
        counted(module, parse, "checked")
    return counts


@pytest.mark.parametrize(
    ("verb", "kind"),
    [(verb, kind) for verb in ("inspect", "predict", "evaluate") for kind in ("run folder", "qnz", "onnx")]
    + [("verify", "qnz"), ("verify", "onnx")],
)
def test_a_command_reads_and_checks_a_file_once(
    verb: str,
    kind: str,
    models: dict[str, Path],
    pictures: dict[str, Path],
    checks: Counter[str],
    opens: Counter[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    Image.fromarray(draw_vectors(40, 3, 1)[0]).save(tmp_path / "picture.png")
    more = {"predict": [str(tmp_path / "picture.png")], "evaluate": [str(pictures[kind])]}.get(verb, [])
    assert run([verb, str(models[kind]), *more, "--json"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[0])
    if kind == "run folder":
        assert {name: opens[str(models[kind] / name)] for name in RUN_FILES} == dict.fromkeys(RUN_FILES, 1)
    else:
        assert checks == {"read": 1, "checked": 1}
        assert opens[str(models[kind])] == 2  # its first bytes tell its kind, then it is read
