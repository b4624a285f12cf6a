"""Trainings that are stopped on the way, as Ctrl-C stops them."""

from typing import Any

import pytest

from quicknet import training


def stop_after(run: Any, steps: int) -> None:
    """Ask the run to stop once this process has done so many steps."""
    show = run.meter.show

    def count(loss: Any, state: Any) -> None:
        show(loss, state)
        run.stop_requested = run.meter.steps_done >= steps

    run.meter.show = count


def interrupt(run: Any, steps: int = 1) -> None:
    """Train for so many steps, then stop and be saved."""
    stop_after(run, steps)
    with pytest.raises(training.Interrupted):
        list(training.fit(run))
