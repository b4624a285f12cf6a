"""The measuring side's handle on a subject's process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from quicknet.core import errors
from quicknet.core.errors import QuickNetError, ToolError
from quicknet.measure.subjects import Subject


def pinned_cores(threads: int) -> list[int] | None:
    """Return the cores that a subject is pinned to, the first that are usable; None where the system cannot pin."""
    return sorted(os.sched_getaffinity(0))[:threads] if hasattr(os, "sched_setaffinity") else None


class Child:
    """A subject's process, started and past its first prediction; `cold_start_s` says how long that took.

    Raises what the model's opening raises, ToolError where the process dies.
    """

    def __init__(self, subject: Subject, jpegs: Path | None) -> None:
        self.subject = subject
        self.cores = pinned_cores(subject.threads)
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the process
        spec = {"subject": subject.to_dict(), "jpegs": str(jpegs or ""), "cores": self.cores}
        # -P: what lies in the working folder is not imported
        command = [sys.executable, "-P", "-m", "quicknet.measure.worker", json.dumps(spec)]
        started = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
            env={**os.environ, **subject.environment()},
        )
        try:
            self._read()
        except BaseException:
            self.close()
            raise
        self.cold_start_s = time.perf_counter() - started

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def describe(self) -> str:
        """Return what the subject runs in, with versions."""
        return str(self.ask("describe")["detail"])

    def ask(self, verb: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_read` says why it died
            self._process.stdin.write(json.dumps({"do": verb, **request}) + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = getattr(errors, answer["kind"], QuickNetError)
            raise kind(answer["error"])
        return answer

    def _died(self) -> ToolError:
        code = self._process.wait()
        self._messages.seek(0)
        said = self._messages.read().decode(errors="replace").strip().splitlines()
        reason = said[-1] if said else f"exit code {code}"
        return ToolError(
            f"the process that measured {self.subject.model} in {self.subject.runtime} died ({reason}); "
            "try fewer models or a smaller --batch"
        )

    def close(self) -> None:
        """End the process and wait for it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._messages.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.close()
