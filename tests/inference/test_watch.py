"""What appears in a watched folder is classified once, and only when it is whole."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from colours import Colours, write_image
from quicknet.core.clock import Clock
from quicknet.core.errors import DataError
from quicknet.inference.predict import Prediction, Unreadable
from quicknet.inference.watch import GIVE_UP_S, watch

Action = Callable[[], object]


class Script:
    """A clock whose waits take no time and in which things happen: the n-th wait does the n-th action."""

    def __init__(self, *actions: Action | None) -> None:
        self.now, self._actions = 100.0, list(actions)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        action = self._actions.pop(0) if self._actions else None
        if action is not None:
            action()

    def watch(self, folder: Path, seconds: float = 10) -> list[Prediction | Unreadable]:
        return list(watch(Colours(), folder, None, seconds, Clock(lambda: self.now, self.sleep)))


def labels(predictions: list[Prediction | Unreadable]) -> list[tuple[str, str | None]]:
    return [(Path(answer.name).name, getattr(answer, "label", "unreadable")) for answer in predictions]


def test_new_and_changed_pictures_are_answered_once_and_old_ones_not(tmp_path: Path) -> None:
    old = write_image(tmp_path / "old.png", "red")
    script = Script(
        lambda: write_image(tmp_path / "new.png", "lime"),
        lambda: write_image(tmp_path / "deep" / "er.png", "blue"),
        None,
        None,
        lambda: write_image(old, (0, 0, 250)),
        lambda: (tmp_path / "notes.txt").write_text("no picture"),
        lambda: write_image(tmp_path / ".hidden.png", "red"),
    )
    assert labels(script.watch(tmp_path)) == [("new.png", "green"), ("er.png", "blue"), ("old.png", "blue")]


def test_a_picture_that_arrives_by_rename_replaces_the_one_that_was_there(tmp_path: Path) -> None:
    target = write_image(tmp_path / "now.png", "red")
    status = target.stat()
    other = write_image(tmp_path / "next.tmp.d" / "x.png", "red")

    def replace() -> None:
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(other, target)

    assert labels(Script(replace).watch(tmp_path)) == [("now.png", "red")]


def test_a_picture_still_being_written_waits_until_it_is_whole(tmp_path: Path) -> None:
    blob = write_image(tmp_path / "elsewhere" / "a.png", "lime").read_bytes()
    (tmp_path / "in").mkdir()
    target = tmp_path / "in" / "slow.png"
    half = len(blob) // 2
    script = Script(
        lambda: target.write_bytes(b""),
        None,  # stands still, and cannot be decoded: is looked at again
        None,
        None,
        lambda: target.write_bytes(blob[:half]),
        None,
        None,
        lambda: target.write_bytes(blob),
    )
    assert labels(script.watch(tmp_path / "in")) == [("slow.png", "green")]


def test_one_that_never_becomes_whole_is_named_once(tmp_path: Path) -> None:
    script = Script(lambda: (tmp_path / "broken.png").write_bytes(b"no image"))
    actual = script.watch(tmp_path, GIVE_UP_S * 4)
    assert labels(actual) == [("broken.png", "unreadable")]


def test_a_picture_that_goes_again_is_forgotten_and_may_come_back(tmp_path: Path) -> None:
    new = tmp_path / "new.png"
    script = Script(
        lambda: write_image(new, "red"),
        lambda: new.unlink(),  # before it had settled
        None,
        lambda: write_image(new, "blue"),
        None,
        None,
        lambda: new.unlink(),
        None,
        lambda: write_image(new, "blue"),
    )
    assert labels(script.watch(tmp_path)) == [("new.png", "blue"), ("new.png", "blue")]


def test_a_folder_that_vanishes_or_never_was_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    with pytest.raises(DataError, match=r"cannot watch .*in: No such"):
        Script().watch(folder)
    folder.mkdir()
    with pytest.raises(DataError, match=r"cannot watch .*in: No such"):
        Script(None, folder.rmdir).watch(folder)
    with pytest.raises(DataError, match="Not a directory"):
        Script().watch(write_image(tmp_path / "a.png", "red"))
    with pytest.raises(DataError, match="cannot watch"):
        Script().watch(Path("nul\0"))
