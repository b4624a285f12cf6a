import itertools
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colours import Colours, write_image
from quicknet.core.errors import ConfigError, DataError
from quicknet.inference.evaluate import evaluate
from quicknet.inference.predict import (
    Prediction,
    PredictSettings,
    Unreadable,
    find_images,
    predict,
    read_names,
)

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def flat(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((16, 16, 3), colour, np.uint8)


def test_answers_are_calibrated_and_in_order() -> None:
    predictions = list(predict(Colours(temperature=2.0), [flat(RED), flat(BLUE)], PredictSettings(top=2)))
    assert [answer.label for answer in predictions] == ["red", "blue"]
    first = predictions[0]
    assert isinstance(first, Prediction)
    # logits 8, 0, 0 at temperature 2
    assert first.probability == pytest.approx(np.exp(4) / (np.exp(4) + 2))
    assert [guess.label for guess in first.top] == ["red", "green"]
    assert first.calibrated
    plain = next(iter(predict(Colours(temperature=None), flat(RED))))
    assert isinstance(plain, Prediction)
    assert plain.probability > first.probability
    assert not plain.calibrated


def test_a_path_in_place_of_a_model_or_of_data_is_answered_by_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"'photos\.qnz' is not a loaded model; load it first: quicknet\.load"):
        list(predict("photos.qnz", [flat(RED)]))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"'photos' is not loaded data; load it first: quicknet\.load_data"):
        evaluate(Colours(), "photos")  # type: ignore[arg-type]


def test_below_the_confidence_asked_for_the_answer_is_unknown() -> None:
    grey, red = flat((90, 90, 90)), flat(RED)
    predictions = list(predict(Colours(), [grey, red], PredictSettings(min_confidence=0.5)))
    assert [answer.label for answer in predictions] == [None, "red"]
    assert predictions[0].probability == pytest.approx(1 / 3)


def test_a_broken_image_costs_its_own_answer_only(tmp_path: Path) -> None:
    good = [write_image(tmp_path / f"{n}.png", RED) for n in range(3)]
    broken = tmp_path / "broken.png"
    broken.write_bytes(good[0].read_bytes()[:50])
    predictions = list(predict(Colours(), [good[0], broken, good[1], tmp_path / "missing.png", good[2]]))
    assert [type(answer) for answer in predictions] == [Prediction, Unreadable, Prediction, Unreadable, Prediction]
    assert [answer.name for answer in predictions] == [
        str(path) for path in (good[0], broken, good[1], tmp_path / "missing.png", good[2])
    ]
    assert isinstance(predictions[1], Unreadable)
    assert "broken.png" in predictions[1].error


def test_one_image_may_be_given_as_it_is(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", GREEN)
    for source in (str(path), path, path.read_bytes(), flat(GREEN)):
        assert [answer.label for answer in predict(Colours(), source)] == ["green"]
    assert len(list(predict(Colours(), np.stack([flat(RED)] * 5)))) == 5


def test_batches_are_full_and_a_pause_sends_what_there_is() -> None:
    model = Colours()
    sources = [flat(RED), flat(RED), None, *[flat(BLUE)] * 5, None, None]
    predictions = predict(model, sources, PredictSettings(batch=4))
    assert len(list(predictions)) == 7
    assert model.batches == [2, 4, 1]


def test_an_endless_stream_is_answered_in_constant_memory() -> None:
    answers = predict(Colours(), (flat(RED) for _ in itertools.count()), PredictSettings(batch=8))
    for _ in range(100):
        next(answers)
    tracemalloc.start()
    for _ in range(1500):
        next(answers)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 200_000


def test_settings_that_mean_nothing_are_refused() -> None:
    for changes in ({"top": 0}, {"batch": 0}, {"min_confidence": 1.5}):
        with pytest.raises(ConfigError):
            PredictSettings(**changes)


def test_folders_are_walked_by_name_and_only_images_taken(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/1.jpg", "a.png", "c/d/e.webp", ".hidden/x.png", "b/.x.png"):
        write_image(tmp_path / name, RED)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    names = [str(name).removeprefix(f"{tmp_path}/") for name in find_images(str(tmp_path))]
    assert names == ["a.png", "b/1.jpg", "b/2.PNG", "c/d/e.webp"]
    assert list(find_images("notes.txt")) == ["notes.txt"]  # a file is taken by its name, whatever it is


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    (names,) = find_images(str(tmp_path))
    assert isinstance(names, Unreadable)
    assert f"no images in the folder ({tmp_path})" in names.error


NAMES = st.lists(st.binary(min_size=1, max_size=40).filter(lambda name: not set(name) & set(b"\0\r\n")), max_size=30)


@settings(max_examples=50, deadline=None)
@given(names=NAMES, separator=st.sampled_from([b"\n", b"\0"]), ended=st.booleans())
def test_names_come_back_as_they_were_sent(names: list[bytes], separator: bytes, ended: bool) -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, separator.join(names) + (separator if ended else b""))
        os.close(writer)
        actual = list(read_names(reader, separator))
    finally:
        os.close(reader)
    assert [os.fsencode(name) for name in actual if name is not None] == names


@pytest.mark.parametrize(
    ("separator", "sent", "expected"),
    [
        (b"\n", b"\xef\xbb\xbfa.png\n\xef\xbb\xbfb.png\n", ["a.png", "\ufeffb.png"]),  # a mark at the start only
        (b"\n", b"\xef\xbb\xbf\r\na.png\r\n", ["a.png"]),
        (b"\n", b"\xef\xbb\xbf", []),
        (b"\0", b"\xef\xbb\xbfa.png\0", ["\ufeffa.png"]),  # find's names, byte for byte
    ],
)
def test_a_byte_order_mark_is_not_part_of_the_first_name(separator: bytes, sent: bytes, expected: list[str]) -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, sent)
        os.close(writer)
        assert [name for name in read_names(reader, separator) if name is not None] == expected
    finally:
        os.close(reader)


def test_a_byte_order_mark_that_arrives_in_pieces() -> None:
    reader, writer = os.pipe()
    try:
        names = read_names(reader)
        for piece in (b"\xef", b"\xbb", b"\xbfa.pn"):
            os.write(writer, piece)
            assert next(names) is None
        os.write(writer, b"g\n")
        assert next(names) == "a.png"
        os.close(writer)
        assert list(names) == []
    finally:
        os.close(reader)


def test_names_are_answered_while_the_pipe_is_open() -> None:
    reader, writer = os.pipe()
    try:
        names = read_names(reader)
        os.write(writer, b"first\r\nsec")
        assert next(names) == "first"
        assert next(names) is None  # the rest of the second name is not here yet
        os.write(writer, b"ond\n")
        assert next(names) == "second"
        os.close(writer)
        assert [name for name in names if name] == []
    finally:
        os.close(reader)


def test_what_is_no_list_of_names_is_refused_before_memory_fills(tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\1" * 1_000_000)
    with path.open("rb") as file, pytest.raises(DataError, match="not a list of file names"):
        list(read_names(file.fileno()))
