"""A share of a core is kept in the long run, and nothing stays stopped."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicknet.core.errors import ConfigError
from quicknet.measure.quota import (
    Bucket,
    cpu_limit,
    cpu_seconds,
    make_group,
    parents_for_quota,
    period_s,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="another process's CPU time is read on Linux only")

SPIN = "print('up', flush=True)\nwhile True: pass"


@pytest.fixture
def spinning():
    with subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


@given(st.floats(0.02, 0.9), st.lists(st.floats(0, 0.004), min_size=1, max_size=20))
def test_a_process_that_always_runs_gets_its_share_however_late_the_supervisor_wakes(share, delays):
    period = period_s(share)
    bucket, now, used = Bucket(share * period, period, 0.0, 0.0), 0.0, 0.0
    for step in range(3000):
        may_run, wait = bucket.step(now, used)
        lasted = wait + delays[step % len(delays)]
        now += lasted
        used += lasted if may_run else 0.0
        # ahead by the slice in progress at most: a quota, and what the supervisor woke late
        assert used <= share * (now + period) + max(delays) + 0.001
    # and behind by as much: it is stopped until a period's end, and wakes late then too
    late = max(delays)
    assert used >= share * period / (period + late) * (now - period) - share * period - late - 0.001


def test_what_is_left_unused_is_not_saved_up():
    bucket = Bucket(0.001, 0.01, 0.0, 0.0)
    bucket.step(5.0, 0.0)
    assert bucket.step(5.0011, 0.0011)[0] is False


def test_what_was_overdrawn_is_taken_off_the_next_periods():
    bucket = Bucket(0.001, 0.01, 0.0, 0.0)
    assert bucket.step(0.003, 0.003) == (False, pytest.approx(0.007))
    assert bucket.step(0.010, 0.003)[0] is False
    assert bucket.step(0.020, 0.003)[0] is False
    assert bucket.step(0.030, 0.003)[0] is True


@linux
def test_cpu_time_is_that_of_the_process():
    assert cpu_seconds(os.getpid()) == pytest.approx(time.process_time(), abs=0.05)


@linux
def test_a_spinning_process_is_held_back_and_then_let_go(spinning):
    with cpu_limit(spinning.pid, 0.2) as limit:
        time.sleep(0.8)
    # a loaded machine may give less; more only by a slice
    assert 0.02 < limit.used_share < 0.26
    assert re.fullmatch(r"(cgroup v2 cpu\.max|SIGSTOP/SIGCONT), period 10 ms", limit.method)
    before = cpu_seconds(spinning.pid)
    time.sleep(0.3)
    assert cpu_seconds(spinning.pid) - before > 0.02


@linux
def test_a_process_that_ends_under_a_quota_is_no_failure(spinning):
    with cpu_limit(spinning.pid, 0.1):
        spinning.kill()
        spinning.wait()
        time.sleep(0.05)


@pytest.mark.parametrize("share", [0.0, -1.0, 0.001, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ConfigError, match="CPU share"):
        period_s(share)


# --- cgroups, as files ---------------------------------------------------------------------


def write_cgroup(folder: Path, controllers: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.subtree_control").write_text(controllers)
    return folder


def test_a_group_is_made_where_the_cpu_controller_is_handed_down(tmp_path):
    mount = write_cgroup(tmp_path / "fs", "cpuset cpu memory")
    write_cgroup(mount / "user", "memory")
    write_cgroup(mount / "user" / "app", "cpu")
    group = write_cgroup(mount / "user" / "app" / "shell", "")
    write_cgroup(tmp_path, "cpu")  # above the mount: not looked at
    assert parents_for_quota(mount, group) == [mount / "user" / "app", mount]


def test_a_group_holds_the_process_to_the_quota(tmp_path):
    group = make_group(tmp_path, 4321, 0.1, 0.01)
    assert (group / "cpu.max").read_text() == "1000 10000"
    assert (group / "cgroup.procs").read_text() == "4321"


def test_a_group_that_does_not_take_the_process_is_removed(tmp_path, monkeypatch):
    def refuse(self, text):
        raise PermissionError("no")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(OSError, match="no"):
        make_group(tmp_path, 4321, 0.1, 0.01)
    assert not list(tmp_path.iterdir())
