"""Speeds are measured in turn, by processes of their own, and say what they are."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicknet.core.card import Card, ModelRecord, PreprocessSpec
from quicknet.core.errors import CheckpointError, ConfigError, FormatError, ToolError
from quicknet.core.machine import usable_cores
from quicknet.image.vectors import draw_vectors
from quicknet.inference.artifact import load, open_artifact
from quicknet.inference.predict import predict
from quicknet.measure.benchmark import BenchmarkSettings, benchmark, count_steps
from quicknet.measure.child import Child
from quicknet.measure.layers import layer_facts
from quicknet.measure.subjects import Subject, draw_jpegs, find_subjects, open_subject, thread_counts
from quicknet.measure.timing import BURST_CALLS, BURST_S, burst, percentile, summarize
from quicknet.measure.worker import ModelSession, Session, serve
from quicknet.models.config import QuickNetConfig
from quicknet.models.costs import count_costs
from quicknet.models.registry import model_from_record
from quicknet.onnx.runtime import present

floats = st.floats(1e-6, 1e3)


def onnx_subject(path: Path, threads: int = 1) -> Subject:
    return Subject(model=str(path), runtime="onnxruntime", threads=threads)


@pytest.fixture
def jpegs(tmp_path: Path) -> Path:
    folder = tmp_path / "jpegs"
    folder.mkdir()
    for index, blob in enumerate(draw_jpegs(48, 40, 4)):
        (folder / f"{index}.jpg").write_bytes(blob)
    return folder


# --- figures from seconds ------------------------------------------------------------------


@given(st.lists(floats, min_size=1, max_size=60), st.floats(0.01, 1))
def test_percentiles_are_those_of_the_nearest_rank(values, share):
    actual = percentile(values, share)
    assert actual in values
    assert sum(value <= actual for value in values) >= share * len(values) - 1e-6
    assert sum(value < actual for value in values) < share * len(values) + 1e-6


def test_a_timing_is_by_the_median():
    timing = summarize([0.01] * 90 + [1.0] * 10, batch=4)
    assert (timing.n, timing.median_ms, timing.p95_ms) == (100, 10.0, 1000.0)
    assert timing.images_per_second == pytest.approx(400)
    with pytest.raises(ConfigError, match="nothing was measured"):
        summarize([], 1)


class Work:
    """Calls that take given seconds of a clock of their own."""

    def __init__(self, seconds):
        self.now, self.calls, self._seconds = 0.0, 0, itertools.chain(seconds, itertools.repeat(seconds[-1]))

    def __call__(self):
        self.calls += 1
        self.now += next(self._seconds)


@given(st.floats(1e-4, 2), st.floats(0.01, 0.5))
def test_a_burst_lasts_as_asked_or_until_it_has_enough_calls(call_s, seconds):
    work = Work([call_s])
    taken = burst(work, seconds, lambda: work.now)
    total = sum(taken)
    assert total >= seconds - 1e-9
    assert len(taken) >= BURST_CALLS or total >= BURST_S - 1e-9
    assert total <= max(seconds, BURST_S) + call_s + 1e-9


def test_the_first_call_after_others_had_the_caches_is_not_counted_unless_it_fills_the_burst():
    work = Work([0.02, 0.001])
    assert max(burst(work, 0.05, lambda: work.now)) == pytest.approx(0.001)
    slow = Work([0.3])
    assert burst(slow, 0.05, lambda: slow.now) == [pytest.approx(0.3)]
    assert slow.calls == 1


@pytest.mark.parametrize("size", [16, 32, 64, 224])
@pytest.mark.parametrize("activation", ["prelu", "prelu_shared", "leaky_relu", "relu"])
def test_layer_counts_add_up_to_the_networks_costs(size, activation):
    config = QuickNetConfig(stem_width=16, widths=(24, 32), depths=(2, 1), kernel_sizes=(5, 3), activation=activation)
    config = config.replace(image_size=size)
    record = ModelRecord(family="quicknet", name="x", config=config.to_dict())
    card = Card(model=record, classes=("a", "b"), preprocess=PreprocessSpec(size=size))
    layers, whole = layer_facts(card), count_costs(lambda: model_from_record(record))
    assert sum(layer.parameters for layer in layers) == whole.parameters
    assert sum(layer.macs for layer in layers) == whole.macs


# --- subjects ------------------------------------------------------------------------------


def test_a_model_is_measured_in_every_runtime_it_has_or_in_those_asked_for(tiny_run, tiny_onnx):
    subjects = find_subjects([tiny_run, tiny_onnx], (), (1,))
    assert [s.runtime for s in subjects if s.model == str(tiny_run)] == ["torch", "torch-eager", "torch-channels-last"]
    assert {s.runtime for s in subjects if s.model == str(tiny_onnx)} == set(present())
    (one,) = find_subjects([tiny_run], ["torch-eager"], (1,))
    assert one.environment()["QUICKNET_FUSED"] == "0"
    assert one.environment()["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("model", "runtimes", "kind", "text"),
    [
        ("run", ["onnxrutime"], ConfigError, "did you mean 'onnxruntime'"),
        ("run", ["onnxruntime"], ConfigError, "does not run in onnxruntime"),
        ("rnu", [], CheckpointError, "no model at"),
        (".", [], CheckpointError, "no card.json"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(tiny_run, model, runtimes, kind, text):
    with pytest.raises(kind, match=text):
        find_subjects([tiny_run.parent / model], runtimes, (1,))


def test_numbers_of_threads():
    cores = usable_cores()
    assert thread_counts(["1", "all"]) == ((1,) if cores == 1 else (1, cores))
    for wrong in ("0", str(cores + 1), "-1", "many", ""):
        with pytest.raises(ConfigError, match="threads"):
            thread_counts([wrong])


@pytest.mark.parametrize(
    "fields",
    [{"batches": ()}, {"batches": (0,)}, {"threads": (0,)}, {"seconds": 0.0}, {"starts": 0}, {"jpeg": (0, 9)}],
)
def test_settings_that_mean_nothing_are_refused(fields):
    with pytest.raises(ConfigError):
        BenchmarkSettings(**fields)


def test_every_runtime_of_a_run_folder_gives_the_same_logits(tiny_run):
    import torch

    before = torch.get_num_threads()
    images = draw_vectors(32, 3, 5)
    expected = load(tiny_run).logits(images)
    try:
        for subject in find_subjects([tiny_run], (), (1,)):
            assert np.abs(open_subject(subject).logits(images) - expected).max() < 1e-4
    finally:
        torch.set_num_threads(before)


def test_jpegs_are_of_the_size_asked_for_and_always_the_same():
    from PIL import Image

    first = draw_jpegs(48, 40, 3)
    assert first == draw_jpegs(48, 40, 3)
    for blob in first:
        image = Image.open(io.BytesIO(blob))
        assert (image.format, image.size) == ("JPEG", (48, 40))


# --- a subject's process -------------------------------------------------------------------


class Counting(Session):
    """Counts its calls by case."""

    def __init__(self):
        self.calls = {}

    def work(self, path, batch):
        def call():
            self.calls[path, batch] = self.calls.get((path, batch), 0) + 1

        return call

    def describe(self):
        return {"runtime": "counting"}


def test_a_process_warms_up_takes_turns_and_paces_frames_until_its_input_ends():
    session, answers = Counting(), io.StringIO()
    requests = [
        {"do": "warm", "path": "network", "batch": 2},
        {"do": "burst", "path": "network", "batch": 2, "seconds": 0.01},
        {"do": "pace", "fps": 500, "frames": 10},
    ]
    serve(session, io.StringIO("".join(json.dumps(r) + "\n" for r in requests)), answers)
    warm, taken, paced = map(json.loads, answers.getvalue().splitlines())
    assert warm["memory_bytes"] > 1_000_000
    # three to warm up, one at the burst's start whose time does not count
    assert session.calls["network", 2] == 3 + taken["calls"] == 3 + 1 + len(taken["seconds"])
    assert 0 < taken["cpu_s"] <= taken["wall_s"] + 0.05
    assert paced["frames"] == 10 == len(paced["latencies_s"]) + paced["dropped"]


def test_the_whole_path_finds_the_labels_that_predict_finds(tiny_onnx, jpegs):
    session = ModelSession(onnx_subject(tiny_onnx).to_dict(), jpegs)
    files = [path.read_bytes() for path in sorted(jpegs.iterdir())]
    expected = [answer.label for answer in predict(load(tiny_onnx), files)]
    assert session.work("whole", 4)() == expected
    assert session.first() == expected[0]
    logits: Any = session.work("network", 20)()
    assert np.allclose(logits, load(tiny_onnx).logits(draw_vectors(32, 3)[np.arange(20) % 16]), atol=1e-4)


def test_a_process_is_pinned_loads_no_torch_and_answers(tiny_onnx, jpegs):
    with Child(onnx_subject(tiny_onnx), jpegs) as child:
        assert child.cold_start_s > 0
        assert "onnxruntime" in child.describe()
        answer = child.ask("burst", path="whole", batch=2, seconds=0.01)
        assert len(answer["seconds"]) >= BURST_CALLS
        if sys.platform == "linux":
            assert sorted(os.sched_getaffinity(child.pid)) == child.cores == sorted(os.sched_getaffinity(0))[:1]
            assert "libtorch" not in Path(f"/proc/{child.pid}/maps").read_text()


def test_a_model_that_does_not_open_says_why_through_its_process(tmp_path, jpegs):
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07 nothing more")
    with pytest.raises(FormatError, match=r"broken\.onnx"):
        Child(onnx_subject(tmp_path / "broken.onnx"), jpegs)


def test_a_process_that_dies_is_named(tiny_onnx, jpegs):
    with Child(onnx_subject(tiny_onnx), jpegs) as child:
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ToolError, match=r"tiny\.onnx in onnxruntime died"):
            child.ask("burst", path="whole", batch=1, seconds=0.01)


def test_peak_memory_is_the_processs_own_not_its_parents():
    """`ru_maxrss` would give what the parent had when it forked."""
    held = np.ones(300_000_000, np.uint8)
    code = "from quicknet.measure.worker import peak_memory_bytes; print(peak_memory_bytes())"
    completed = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert 5_000_000 < completed < 100_000_000 < held.nbytes


# --- all of it -----------------------------------------------------------------------------


def test_a_benchmark_has_every_case_with_ratios_and_shares_of_the_same_run(tiny_onnx):
    settings = BenchmarkSettings(batches=(4, 1), threads=thread_counts(["all"]), seconds=0.02, starts=1)
    steps: list[int] = []
    report = benchmark([tiny_onnx], settings, steps.append)
    assert sum(steps) == count_steps([tiny_onnx], settings)
    cases = {(r.runtime, r.threads, r.path, r.batch) for r in report.rows}
    assert cases == set(itertools.product(present(), settings.threads, ("network", "whole"), (1, 4)))
    assert len(cases) == len(report.rows)
    macs = count_costs(lambda: model_from_record(open_artifact(tiny_onnx).card.model)).macs
    (core,) = [peak.gmacs_per_core_second for peak in report.peaks if peak.threads == 1]
    for row in report.rows:
        first = next(r for r in report.rows if (r.threads, r.path, r.batch) == (row.threads, row.path, row.batch))
        assert row.ratio == pytest.approx(row.images_per_second / first.images_per_second)
        assert row.images_per_second == pytest.approx(1000 * row.batch / row.median_ms)
        assert row.n >= 10 and row.median_ms <= row.p95_ms
        if row.path == "network":
            gmacs = macs * row.batch / (row.cpu_ms / 1000) / 1e9
            assert row.gmacs_per_core_second == pytest.approx(gmacs)
            assert row.peak_share == pytest.approx(gmacs / core)
            assert row.peak_share is not None and 0 < row.peak_share < 1
        else:
            assert row.peak_share is None
    assert {(s.runtime, s.n) for s in report.starts} == {(name, 1) for name in present()}
    assert report.jpegs == {str(tiny_onnx): "32x32"}
    assert "numpy" in report.peaks[0].library
    json.dumps(report.to_dict())


def test_measuring_an_exported_file_imports_no_torch(tiny_onnx):
    code = (
        "import sys; from quicknet.measure.benchmark import BenchmarkSettings, benchmark;"
        "s = BenchmarkSettings(batches=(1,), seconds=0.01, starts=1, runtimes=('onnxruntime',), jpeg=(64, 48));"
        "found = benchmark([sys.argv[1]], s);"
        "assert 'torch' not in sys.modules; print(*found.jpegs.values())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny_onnx)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "64x48\n"), done.stderr
