"""Who is told how a compression goes on; by default nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

from quicknet.core.errors import TargetMissed
from quicknet.deploy.compress.settings import Plan, Point
from quicknet.deploy.qnz import silent
from quicknet.deploy.quantize.qat import Show
from quicknet.training.checkpoint import EpochRecord
from quicknet.training.run import Run

# A run that trains → what is called with each epoch's record
Watch = Callable[[Run], AbstractContextManager[Callable[[EpochRecord], None]]]


@contextlib.contextmanager
def unwatched(run: Run) -> Iterator[Callable[[EpochRecord], None]]:
    """Show nothing of a training run."""
    yield lambda record: None


class Listener(NamedTuple):
    """`show` is told how far each step is, `watch` each training's epochs, `plan` what training is to come to,
    `tried` each point that was tried without training, `missed` why the integers of a denser network are tried.
    """

    show: Show = silent
    watch: Watch = unwatched
    plan: Callable[[Plan], None] = lambda plan: None
    tried: Callable[[Point], None] = lambda point: None
    missed: Callable[[TargetMissed], None] = lambda error: None


NOBODY = Listener()
