"""Whatever holds one picture is one picture, for `predict` and for `load_image`."""

import array
import gc
import io
import mmap
import os
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from colours import Colours, write_image
from quicknet.core.card import PreprocessSpec
from quicknet.core.errors import DataError
from quicknet.image import sources
from quicknet.image.preprocess import check_images, load_image
from quicknet.inference.predict import Prediction, Unreadable, predict

GREEN = (0, 255, 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_image(tmp_path / "a.png", GREEN)


class Starlette:
    """FastAPI's upload: its own `read` is a coroutine, its `file` is not."""

    def __init__(self, path: Path) -> None:
        self.file, self.filename = io.BytesIO(path.read_bytes()), "upload.png"

    async def read(self, size: int = -1) -> bytes:
        return self.file.read(size)


class Werkzeug:
    """Flask's upload: everything that its stream has."""

    def __init__(self, path: Path) -> None:
        self.stream, self.filename = io.BytesIO(path.read_bytes()), "upload.png"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __iter__(self) -> Any:
        return iter(self.stream)


class Connection:
    """Bytes that come in pieces and only once."""

    def __init__(self, path: Path) -> None:
        self._left = path.read_bytes()

    def read(self, size: int = -1) -> bytes:
        piece, self._left = self._left[:7], self._left[7:]
        return piece


def temporary(path: Path) -> Any:
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    file.write(path.read_bytes())  # and left at its end
    return file


def mapped(path: Path) -> Any:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


KINDS: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "name": str,
    "folder entry": lambda path: next(os.scandir(path.parent)),
    "open file": lambda path: path.open("rb"),
    "unbuffered file": lambda path: path.open("rb", buffering=0),
    "io.BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "temporary file": temporary,
    "connection": Connection,
    "FastAPI's upload": Starlette,
    "Flask's upload": Werkzeug,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "array of bytes": lambda path: array.array("B", path.read_bytes()),
    "mapped file": mapped,
    "image": Image.open,
    "array": pixels,
    "tensor": lambda path: torch.from_numpy(pixels(path).copy()),
    "tensor with a gradient": lambda path: torch.tensor(pixels(path)[..., 1] / 255.0, requires_grad=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_one_picture_whatever_holds_it(kind: str, path: Path) -> None:
    spec = PreprocessSpec(size=16)
    expected = load_image(path, spec)
    assert np.array_equal(load_image(KINDS[kind](path), spec), expected) or "gradient" in kind
    assert [type(answer) for answer in predict(Colours(), KINDS[kind](path))] == [Prediction]
    answers = list(predict(Colours(), [KINDS[kind](path), path, KINDS[kind](path)]))
    assert [answer.label for answer in answers if isinstance(answer, Prediction)][1:2] == ["green"]
    assert len(answers) == 3
    gc.collect()


def test_the_name_that_a_picture_brings(path: Path) -> None:
    with path.open("rb") as file, tempfile.TemporaryFile() as nameless:
        nameless.write(path.read_bytes())
        given: Any = [str(path), path, file, Starlette(path), path.read_bytes(), nameless, pixels(path)]
        names = [answer.name for answer in predict(Colours(), given)]
    assert names == [*[str(path)] * 3, "upload.png", "image 4", "image 5", "image 6"]


def test_an_open_file_is_read_from_its_beginning_each_time(path: Path) -> None:
    with path.open("rb") as file:
        for _ in range(2):
            assert [answer.label for answer in predict(Colours(), file)] == ["green"]


def test_many_in_one_array_or_tensor_and_names_in_one_array(path: Path) -> None:
    for many in (np.zeros((5, 8, 8, 3), np.uint8), torch.zeros(5, 8, 8, 3, dtype=torch.uint8)):
        assert len(list(predict(Colours(), many))) == 5
    assert [answer.label for answer in predict(Colours(), np.array([str(path)] * 2))] == ["green"] * 2
    data = types.SimpleNamespace()
    assert isinstance(next(iter(predict(Colours(), data))), Unreadable)


class Old:
    """What Python can iterate though it has no __iter__, as torch's data sets."""

    def __getitem__(self, index: int) -> np.ndarray:
        if index == 3:
            raise IndexError
        return np.full((8, 8, 3), GREEN, np.uint8)


def test_a_sequence_without_iter_is_many() -> None:
    old: Any = Old()
    assert len(list(predict(Colours(), old))) == 3


class Async:
    async def read(self, size: int = -1) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (torch.zeros(3, 20, 20), ("Tensor of shape (3, 20, 20), float32", "(H, W, 1 to 4) uint8", "channels last")),
        (torch.zeros(20, 20, 3), ("Tensor of shape (20, 20, 3), float32", "0..255")),
        (np.zeros((3, 20, 20), np.uint8), ("array of shape (3, 20, 20), uint8", "channels last")),
        (torch.zeros(20, 20, dtype=torch.bfloat16), ("cannot make an array of the picture (Tensor", "uint8")),
        (torch.zeros(4, dtype=torch.uint8), ("Tensor of shape (4,)", "(H, W)")),
        (io.StringIO("text"), ("opened as text", '"rb"')),
        (Async(), ("asynchronous", "await")),
        (io.BytesIO(), ("empty",)),
        (io.BytesIO(b"x"), ("not a whole image", "an object of type BytesIO")),
        (7, ("not a picture (an object of type int)", "give a path")),
        ([["a"]], ("not a picture (an object of type list)",)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_a_picture_says_what_is(source: Any, words: tuple[str, ...]) -> None:
    (answer,) = predict(Colours(), source)
    assert isinstance(answer, Unreadable)
    for word in words:
        assert word in answer.error


@pytest.mark.parametrize(
    ("images", "given"),
    [
        (torch.zeros(2, 16, 16, 3, dtype=torch.uint8), r"Tensor of shape \(2, 16, 16, 3\)"),
        (torch.zeros(2, 3, 16, 16), r"Tensor of shape \(2, 3, 16, 16\)"),
        (np.zeros((2, 16, 16, 3)), r"float64 \(2, 16, 16, 3\)"),
        ([np.zeros((16, 16, 3), np.uint8)], "an object of type list"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_models_logits_take_is_said(images: Any, given: str) -> None:
    expected = rf"takes uint8 images \(N, 16, 16, 3\) as a numpy array, not {given}; .*quicknet\.predict"
    with pytest.raises(DataError, match=expected):
        check_images(images, PreprocessSpec(size=16))
    check_images(np.zeros((0, 16, 16, 3), np.uint8), PreprocessSpec(size=16))


def test_a_closed_file_a_failing_one_and_one_too_large(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = PreprocessSpec(size=16)
    with path.open("rb") as file:
        pass
    with pytest.raises(DataError, match=r"cannot read the picture \(.*a\.png: .*closed file"):
        load_image(file, spec)

    class Failing(Connection):
        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(DataError, match=r"cannot read the picture .*Input/output error"):
        load_image(Failing(path), spec)
    monkeypatch.setattr(sources, "MAX_ENCODED_BYTES", 50)
    with pytest.raises(DataError, match="over the limit of 50 bytes"):
        load_image(Connection(path), spec)
