"""Limit another process to a share of one CPU core: by the kernel where that is allowed, else by stopping it.

Kernel: a cgroup v2 of its own with `cpu.max`, where this process may make one. Otherwise a
supervisor reads the CPU time the process has used, stops it (SIGSTOP) once the period's quota is
spent and lets it go on (SIGCONT) with the next period. What it overshoots, because the
supervisor wakes late, is taken off the next periods; what it leaves unused is lost, as with
`cpu.max`. Accuracy of that, two cores with a load of 5: a spinning process used 0.0499 of a core
for 0.05 over 2 s, 0.1008 for 0.1, 0.248 for 0.25 and 0.481 for 0.5, in stretches of 1.9 ms
(median; p95 4.7) where 0.1 asks for 1; the supervisor used 0.02 of a core.

A quota makes a core slower in time only: within a slice, clock and caches are the fast core's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from quicknet.core.errors import ConfigError, ToolError

MIN_SHARE = 0.01
_PERIOD_S = 0.010  # well under a frame at 60/s, so that a slice's length does not decide
_MIN_QUOTA_S = 0.001  # the kernel's own least, and about what a supervisor can time
_POLL_S = 0.0002
_CGROUP_MOUNTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))


class Limit:
    """A quota in force: how it is kept, and after its end the share of a core that was used."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.used_share = 0.0


def period_s(share: float) -> float:
    """Return the quota's period: 10 ms, or longer where its quota would be under 1 ms.

    Raises ConfigError for a share under 0.01.

    >>> period_s(0.5), period_s(0.05)
    (0.01, 0.02)
    """
    if not share >= MIN_SHARE:
        raise ConfigError(f"a CPU share of {share} is under {MIN_SHARE}; name the share of one core, such as 0.1")
    return max(_PERIOD_S, _MIN_QUOTA_S / share)


@contextlib.contextmanager
def cpu_limit(pid: int, share: float) -> Iterator[Limit]:
    """Let process `pid` use `share` of one core at most while the block lasts.

    Raises ConfigError for a share out of range, ToolError where the system tells no process's
    CPU time.
    """
    period = period_s(share)
    cpu_s = cpu_seconds(pid)
    started = time.perf_counter()
    group = _join_group(pid, share, period)
    supervisor = None if group else _Supervisor(pid, Bucket(share * period, period, started, cpu_s))
    length = f"{1000 * period:.0f} ms"
    limit = Limit(f"cgroup v2 cpu.max, period {length}" if group else f"SIGSTOP/SIGCONT, period {length}")
    try:
        if supervisor:
            supervisor.start()
        yield limit
    finally:
        if supervisor:
            supervisor.end()
        if group:
            _leave_group(pid, group)
        with contextlib.suppress(ToolError):
            limit.used_share = (cpu_seconds(pid) - cpu_s) / (time.perf_counter() - started)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process's threads have used, to the nanosecond.

    Source: the kernel's dynamic clocks, as glibc's clock_getcpuclockid makes them. Raises
    ToolError on systems without.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except (OSError, AttributeError, OverflowError) as error:
        raise ToolError(f"cannot read the CPU time of process {pid} here; a CPU share needs Linux") from error


# --- by stopping it ------------------------------------------------------------------------


class Bucket:
    """Whether a process may run, by the CPU time it has used: the supervisor's arithmetic."""

    def __init__(self, quota_s: float, period: float, now: float, used_s: float) -> None:
        self._quota_s, self._period = quota_s, period
        self._left_s, self._used_s = quota_s, used_s
        self._boundary = now + period

    def step(self, now: float, used_s: float) -> tuple[bool, float]:
        """Return whether it may run, and after how many seconds to look again."""
        self._left_s -= used_s - self._used_s
        self._used_s = used_s
        while now >= self._boundary:
            self._left_s = min(self._left_s + self._quota_s, self._quota_s)
            self._boundary += self._period
        until = self._boundary - now
        if self._left_s <= 0:
            return False, until
        return True, min(until, max(self._left_s, _POLL_S))


class _Supervisor(threading.Thread):
    """Stops and continues a process until `end`, which leaves it running."""

    def __init__(self, pid: int, bucket: Bucket) -> None:
        super().__init__(daemon=True)
        self._pid, self._bucket = pid, bucket
        self._ended = threading.Event()

    def run(self) -> None:
        runs = True
        # the process may be gone: then there is nothing to hold back
        with contextlib.suppress(ProcessLookupError, ToolError):
            while True:
                may_run, wait_s = self._bucket.step(time.perf_counter(), cpu_seconds(self._pid))
                if may_run != runs:
                    os.kill(self._pid, signal.SIGCONT if may_run else signal.SIGSTOP)
                    runs = may_run
                if self._ended.wait(wait_s):
                    return

    def end(self) -> None:
        self._ended.set()
        self.join()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGCONT)


# --- by the kernel -------------------------------------------------------------------------


def own_group(mounts: tuple[Path, ...] = _CGROUP_MOUNTS) -> tuple[Path, Path] | None:
    """Return where cgroups v2 are mounted and this process's own group there; None where they are not."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    names = [line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")]
    for mount in mounts:
        if names and (mount / "cgroup.controllers").is_file():
            return mount, mount / names[0]
    return None


def parents_for_quota(mount: Path, group: Path) -> list[Path]:
    """Return the groups, `group` and its ancestors, under which this process may make one with a quota."""
    groups = []
    for folder in [group, *group.parents]:
        with contextlib.suppress(OSError):
            if "cpu" in (folder / "cgroup.subtree_control").read_text().split() and os.access(folder, os.W_OK):
                groups.append(folder)
        if folder == mount:
            break
    return groups


def make_group(parent: Path, pid: int, share: float, period: float) -> Path:
    """Make a cgroup whose processes share the quota, and put `pid` there. Raises OSError."""
    group = parent / f"quicknet-{os.getpid()}-{pid}"
    group.mkdir()
    try:
        (group / "cpu.max").write_text(f"{round(1e6 * share * period)} {round(1e6 * period)}")
        (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise
    return group


def _join_group(pid: int, share: float, period: float) -> Path | None:
    place = own_group()
    for parent in parents_for_quota(*place) if place else []:
        with contextlib.suppress(OSError):
            return make_group(parent, pid, share, period)
    return None


def _leave_group(pid: int, group: Path) -> None:
    """Take the quota away, move the process back to where it was born, remove the group."""
    place = own_group()
    with contextlib.suppress(OSError):
        (group / "cpu.max").write_text("max")
        if place:
            (place[1] / "cgroup.procs").write_text(str(pid))
        group.rmdir()
