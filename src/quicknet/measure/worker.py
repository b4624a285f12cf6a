"""A subject's own process: loads the model, then answers JSON lines until its input ends.

Kept free of imports that a first prediction does not need: its start is the cold start.
"""

from __future__ import annotations

import abc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from quicknet.core.errors import QuickNetError
from quicknet.measure.timing import burst

WARM_UP_CALLS = 3
Work = Callable[[], object]


def main(argument: str) -> None:
    """Serve the subject that `argument` describes, over standard input and output."""
    # Libraries may print; only answers go where the answers are read.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spec = json.loads(argument)
    if spec["cores"] is not None:
        os.sched_setaffinity(0, spec["cores"])
    try:
        session = make_session(spec)
        send(answers, {"ready": session.first()})
        serve(session, sys.stdin, answers)
    except QuickNetError as error:
        send(answers, {"error": str(error), "kind": type(error).__name__})


def serve(session: Session, requests: TextIO, answers: TextIO) -> None:
    """Answer every line of `requests` until the end."""
    for line in requests:
        request = json.loads(line)
        send(answers, session.answer(request.pop("do"), request))


def send(answers: TextIO, answer: dict[str, Any]) -> None:
    """Write one answer."""
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


class Session(abc.ABC):
    """What every subject answers; `work` makes the call that is measured."""

    def first(self) -> str:
        """Do what ends the cold start."""
        return ""

    @abc.abstractmethod
    def work(self, path: str, batch: int) -> Work:
        """Return the call of a case: `path` is "network", "whole" or "peak"."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what the subject is."""

    def answer(self, verb: str, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one request."""
        if verb == "describe":
            return self.describe()
        if verb == "pace":
            return self._pace(**request)
        call = self.work(request["path"], request["batch"])
        if verb == "warm":
            for _ in range(WARM_UP_CALLS):
                call()
            return {"memory_bytes": peak_memory_bytes()}
        return _burst(call, request["seconds"])

    def _pace(self, fps: float, frames: int) -> dict[str, Any]:
        from quicknet.core.clock import SYSTEM_CLOCK
        from quicknet.measure.frames import pace

        call = self.work("whole", 1)
        for _ in range(WARM_UP_CALLS):
            call()
        die_with_parent()
        return pace(lambda frame: call(), fps, frames, SYSTEM_CLOCK).to_dict()


def _burst(call: Work, seconds: float) -> dict[str, Any]:
    """Return a burst's seconds, and calls, time and CPU time of all of it."""
    calls = 0

    def counted() -> None:
        nonlocal calls
        call()
        calls += 1

    wall_s, cpu_s = time.perf_counter(), time.process_time()
    taken = burst(counted, seconds, time.perf_counter)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return {"seconds": taken, "calls": calls, "wall_s": wall_s, "cpu_s": cpu_s}


def make_session(spec: dict[str, Any]) -> Session:
    """Return the session of a subject as `Child` describes it."""
    if spec["subject"]["runtime"] == "peak":
        return PeakSession()
    return ModelSession(spec["subject"], Path(spec["jpegs"]))


class PeakSession(Session):
    """The matrix product."""

    def __init__(self) -> None:
        from quicknet.measure.peak import matrix_product

        self._product = matrix_product()

    def work(self, path: str, batch: int) -> Work:
        """Return the product, whatever the case."""
        return self._product

    def describe(self) -> dict[str, Any]:
        """Return which library it is."""
        from quicknet.measure.peak import library

        return {"runtime": "peak", "detail": library()}


class ModelSession(Session):
    """A model in a runtime."""

    def __init__(self, subject: dict[str, Any], jpegs: Path) -> None:
        from quicknet.core.settings import from_mapping
        from quicknet.measure.subjects import Subject, open_subject

        self._subject = from_mapping(Subject, subject, "worker")
        self._classifier = open_subject(self._subject)
        self._jpegs = [path.read_bytes() for path in sorted(jpegs.iterdir())]
        self._next = 0
        self._works: dict[tuple[str, int], Work] = {}

    def first(self) -> str:
        """Return the first image's label."""
        return self._labels(1)[0]

    def work(self, path: str, batch: int) -> Work:
        """Return the case's call: JPEG bytes to labels, or uint8 images to logits."""
        if (path, batch) not in self._works:
            self._works[path, batch] = self._network(batch) if path == "network" else self._whole(batch)
        return self._works[path, batch]

    def _whole(self, batch: int) -> Work:
        return lambda: self._labels(batch)

    def _network(self, batch: int) -> Work:
        from quicknet.image.vectors import draw_vectors

        spec = self._classifier.card.preprocess
        drawn = draw_vectors(spec.size, spec.channels)
        images = drawn[[i % len(drawn) for i in range(batch)]]
        return lambda: self._classifier.logits(images)

    def _labels(self, batch: int) -> list[str]:
        """Return the labels of the next `batch` JPEG files, as `quicknet predict` finds them."""
        from quicknet.inference.predict import PredictSettings, predict

        files = [self._jpegs[(self._next + i) % len(self._jpegs)] for i in range(batch)]
        self._next += batch
        answers = list(predict(self._classifier, files, PredictSettings(batch=batch, top=1)))
        return [str(getattr(answer, "label", None)) for answer in answers]

    def describe(self) -> dict[str, Any]:
        """Return what the runtime is."""
        from quicknet.measure.subjects import describe

        return describe(self._subject, self._classifier)


def peak_memory_bytes() -> int:
    """Return the most memory that this process had resident.

    `ru_maxrss` outlives exec on Linux and starts at what the parent had; VmHWM does not.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def die_with_parent() -> None:
    """Have Linux kill this process when its parent dies, since a stopped one cannot notice it."""
    if sys.platform == "linux":
        import ctypes
        import signal

        set_parent_death_signal = 1  # PR_SET_PDEATHSIG, linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGKILL), 0, 0, 0)


if __name__ == "__main__":
    main(sys.argv[1])
