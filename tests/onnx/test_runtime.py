import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quicknet
from exported import make_run, torch_logits, write_pictures
from quicknet.core.choice import Runner, faster, question, remembered
from quicknet.core.errors import ConfigError, DataError, FormatError, ToolError
from quicknet.data import DataRequest
from quicknet.deploy.export import export
from quicknet.image.vectors import draw_vectors
from quicknet.inference.artifact import load
from quicknet.inference.classifier import Classifier
from quicknet.measure.subjects import find_subjects
from quicknet.onnx import runtime
from quicknet.onnx.runtime import OnnxClassifier, import_onnxruntime, present

IMAGES = draw_vectors(32, 3, 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder and what was exported from it, in both formats."""
    root = tmp_path_factory.mktemp("runtime")
    run = make_run(root / "run", write_pictures(root / "pictures"), request=DataRequest(size=32, quiet=True))
    export(run, root / "fused.onnx")
    if "openvino" in present():
        export(run, root / "plain.onnx", format="openvino")
    return root


@pytest.fixture(params=["onnxruntime", "openvino"])
def name(request: pytest.FixtureRequest) -> str:
    if request.param not in present():
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


def test_every_runtime_answers_as_the_run(name: str, folder: Path) -> None:
    expected = torch_logits(folder / "run", IMAGES)
    model = OnnxClassifier(folder / "fused.onnx", name, threads=1)
    _: Classifier = model  # by mypy
    assert (model.runtime, model.threads, model.source) == (name, 1, folder / "fused.onnx")
    for count in (0, 1, 3, 8, 9, 40):
        actual = model.logits(IMAGES[:count])
        assert (actual.shape, actual.dtype) == ((count, 3), np.float32)
        assert np.abs(actual - expected[:count]).max(initial=0) <= 1e-4
    every_second = IMAGES[::2, :, ::-1]  # not contiguous
    assert np.abs(model.logits(every_second) - torch_logits(folder / "run", every_second.copy())).max() <= 1e-4


def test_the_openvino_file_runs_everywhere(name: str, folder: Path) -> None:
    if not (folder / "plain.onnx").exists():
        pytest.skip("OpenVINO is not installed")
    actual = OnnxClassifier(folder / "plain.onnx", name, threads=1).logits(IMAGES)
    assert np.abs(actual - torch_logits(folder / "run", IMAGES)).max() <= 1e-4


def test_answers_are_the_callers_own(name: str, folder: Path) -> None:
    """A runtime may reuse its output's memory for the next call."""
    model = OnnxClassifier(folder / "fused.onnx", name, threads=1)
    first = model.logits(IMAGES[:1])
    kept = first.copy()
    model.logits(IMAGES[1:2])
    assert np.array_equal(first, kept)


def test_threads_share_one_classifier(name: str, folder: Path) -> None:
    model = OnnxClassifier(folder / "fused.onnx", name, threads=1)
    alone = [model.logits(IMAGES[i : i + 1 + i % 3]) for i in range(30)]
    start = threading.Barrier(4)

    def work(offset: int) -> bool:
        start.wait()
        order = [(i + offset) % 30 for i in range(30)]
        return all(np.allclose(model.logits(IMAGES[i : i + 1 + i % 3]), alone[i], atol=1e-5) for i in order)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, (0, 7, 15, 22)))


def test_images_of_another_shape_are_refused(folder: Path) -> None:
    model = load(folder / "fused.onnx", "onnxruntime")
    images: Any
    for images in (IMAGES.astype(np.float32), IMAGES[:, :31], IMAGES[0], IMAGES[..., :1]):
        with pytest.raises(DataError, match=r"takes uint8 images \(N, 32, 32, 3\)"):
            model.logits(images)


# --- the choice ---------------------------------------------------------------------------


def test_the_choice_can_be_made_by_argument_and_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "faster", lambda *_: pytest.fail("measured in spite of a choice"))
    monkeypatch.setenv("QUICKNET_RUNTIME", "onnxruntime")
    assert OnnxClassifier(folder / "fused.onnx").runtime == "onnxruntime"
    monkeypatch.setenv("QUICKNET_RUNTIME", "nonsense")
    assert OnnxClassifier(folder / "fused.onnx", "onnxruntime").runtime == "onnxruntime"
    with pytest.raises(ConfigError, match=r"no runtime is called 'nonsense'; use auto, onnxruntime, openvino"):
        OnnxClassifier(folder / "fused.onnx")


def test_the_environment_may_name_what_runs_qnz_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKNET_RUNTIME", "engine-portable")
    monkeypatch.setattr(runtime, "present", lambda: ("onnxruntime",))
    assert OnnxClassifier(folder / "fused.onnx").runtime == "onnxruntime"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a user who has not measured yet."""
    monkeypatch.delenv("QUICKNET_RUNTIME", raising=False)
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_auto_measures_once_and_keeps_the_faster(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[list[str]] = []

    def fake(runners: dict[str, Runner], image: np.ndarray, clock: object) -> str:
        measured.append(sorted(runners))
        assert image.shape == (1, 32, 32, 3)
        return "second"

    monkeypatch.setattr(runtime, "present", lambda: ("first", "second"))
    opened = runtime._RUNNERS["onnxruntime"]
    monkeypatch.setattr(runtime, "_RUNNERS", {"first": opened, "second": opened})
    monkeypatch.setattr(runtime, "faster", fake)
    assert [OnnxClassifier(folder / "fused.onnx", threads=1).runtime for _ in range(2)] == ["second"] * 2
    assert measured == [["first", "second"]]
    OnnxClassifier(folder / "fused.onnx", threads=2)  # another question
    assert len(measured) == 2
    (cache / "runtimes.json").write_text("[damaged")
    assert OnnxClassifier(folder / "fused.onnx", threads=1).runtime == "second"
    assert len(measured) == 3
    assert len(json.loads((cache / "runtimes.json").read_text())) == 1


def test_a_remembered_runtime_that_is_gone_is_not_used(folder: Path, cache: Path) -> None:
    key = question("digest", 1, ("onnxruntime",))
    assert key == question("digest", 1, ("onnxruntime",))
    assert len({key, question("other", 1, ("onnxruntime",)), question("digest", 2, ("onnxruntime",))}) == 3
    assert remembered(key, ("a", "b"), lambda: "a") == "a"
    assert remembered(key, ("a", "b"), lambda: "b") == "a"
    assert remembered(key, ("b", "c"), lambda: "b") == "b"


def test_a_cache_that_cannot_be_written_is_no_failure(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "file"))
    assert remembered("key", ("a", "b"), lambda: "a") == "a"


def test_auto_with_what_is_really_installed(folder: Path, cache: Path) -> None:
    model = OnnxClassifier(folder / "fused.onnx", threads=1)
    assert model.runtime in present()
    assert np.abs(model.logits(IMAGES) - torch_logits(folder / "run", IMAGES)).max() <= 1e-4


def test_the_faster_one_is_that_of_the_lower_median() -> None:
    now = [0.0]
    calls = {"slow first": [9.0] * 3 + [1.0] * 50, "steady": [2.0] * 50, "outlier": [2.0] * 6 + [0.1] + [2.0] * 50}
    left = {name: iter(values) for name, values in calls.items()}

    def runner(name: str) -> Runner:
        def run(images: np.ndarray) -> np.ndarray:
            now[0] += next(left[name])
            return images

        return run

    assert faster({name: runner(name) for name in calls}, IMAGES[:1], lambda: now[0]) == "slow first"


def test_a_runtime_that_is_not_installed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "present", lambda: ("onnxruntime",))
    with pytest.raises(ToolError, match=r"openvino is not installed.*quicknet-vision\[openvino\]"):
        OnnxClassifier(folder / "fused.onnx", "openvino")
    monkeypatch.delenv("QUICKNET_RUNTIME", raising=False)


def test_without_any_runtime_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By all that runs an ONNX file: a receipt that nothing replayed must not hold."""
    monkeypatch.delenv("QUICKNET_RUNTIME", raising=False)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in ("onnxruntime", "openvino") else real(name)
    )
    path = folder / "fused.onnx"
    for use in (
        lambda: quicknet.load(path),
        lambda: quicknet.load(path, "onnxruntime"),
        lambda: quicknet.verify(path),
        lambda: find_subjects([path], [], [1]),
        import_onnxruntime,
    ):
        with pytest.raises(
            ToolError, match=r"onnxruntime.* is not installed; run `pip install 'quicknet-vision\[onnx\]'`"
        ):
            use()


def test_onnx_runtime_is_imported_in_one_place() -> None:
    """Where its telemetry is switched off and its absence is named."""
    root = Path(__file__).resolve().parents[2]
    files = [file for part in ("src", "benchmarks", "tests") for file in (root / part).rglob("*.py")]
    imports = re.compile(r"^\s*(import|from) onnxruntime|import_module\(.onnxruntime.\)", re.MULTILINE)
    assert [file.name for file in files if imports.search(file.read_text())] == ["runtime.py"]


@pytest.mark.parametrize("home", ["empty", "unwritable"])
def test_opening_a_file_leaves_nothing_at_home_and_says_nothing(home: str, folder: Path, tmp_path: Path) -> None:
    """ONNX Runtime's telemetry keeps a device id under ~/.cache, and warns in colour where it cannot."""
    place = tmp_path / "home"
    place.mkdir() if home == "empty" else place.touch()
    dropped = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "QUICKNET_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in dropped} | {"HOME": str(place)}
    program = (
        f"import quicknet\nprint(len(quicknet.load({str(folder / 'fused.onnx')!r}, 'onnxruntime').card.classes))\n"
    )
    completed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120
    )
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "3\n", "")
    assert list(place.rglob("*")) == []


@pytest.mark.parametrize("threads", [0, -1, 5000])
def test_threads_have_a_range(threads: int, folder: Path) -> None:
    with pytest.raises(ConfigError, match="threads"):
        load(folder / "fused.onnx", threads=threads)


def test_run_folders_take_neither_runtime_nor_threads(folder: Path) -> None:
    with pytest.raises(ConfigError, match="runtime and threads can be chosen for exported files only"):
        load(folder / "run", "onnxruntime", 1)


def test_what_the_runtime_refuses_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk knows what may be in a graph, not whether it fits together."""
    from quicknet.deploy.onnx import assemble
    from quicknet.onnx.file import read_onnx

    file = read_onnx(folder / "fused.onnx")
    import onnx

    model = onnx.load_from_string(file.blob)
    del model.graph.node[3]
    path = folder / "hole.onnx"
    path.write_bytes(assemble(model.graph.SerializeToString(deterministic=True), file.card))
    with pytest.raises(FormatError, match=r"does not take the graph .*hole\.onnx") as actual:
        load(path)
    assert "\n" not in str(actual.value)


def test_an_exported_file_needs_neither_torch_nor_onnx(folder: Path) -> None:
    code = (
        "import sys, quicknet\n"
        f"model = quicknet.load({str(folder / 'fused.onnx')!r}, 'onnxruntime')\n"
        f"names = [{str(next((folder / 'pictures').rglob('*.png')))!r}]\n"
        "print(next(quicknet.predict(model, names)).label)\n"
        "bad = {'torch', 'onnx', 'matplotlib', 'openvino'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() in ("left", "middle", "right")
    assert quicknet.load(folder / "fused.onnx", "onnxruntime").card.classes == ("left", "middle", "right")
