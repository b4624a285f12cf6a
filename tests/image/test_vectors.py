import numpy as np
import pytest

from quicknet.core.errors import ConfigError
from quicknet.image.vectors import draw_vectors, splitmix64, vectors_sha256

# Generator version 1. These may change only together with `GENERATOR`: cards hold the logits.
GOLDEN = {
    (32, 3): "916577d94c8865a6c0ada58fb7315c4415464a94eb8f5c12f2f23e7c97da6216",
    (33, 1): "7017489770fc7716f60be4a45de070c15ba6e15f21b3ad2561574d662f67b2b1",
    (64, 4): "ceee2ebf48ee9319151a1adff9202cfc23947c0090e8658b8a8d424d3c660fda",
    (224, 3): "579cfe08aed587be9143ab448de777c838bc191bba5adb0861c0313009a64afa",
}


@pytest.mark.parametrize(("size", "channels"), GOLDEN)
def test_the_vectors_never_change(size: int, channels: int) -> None:
    assert vectors_sha256(draw_vectors(size, channels)) == GOLDEN[size, channels]


def test_splitmix64_is_the_published_generator() -> None:
    # first outputs for seed 1234567 of the reference C implementation (Vigna, splitmix64.c)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert splitmix64(1234567, 4).tolist() == expected


def test_the_vectors_are_of_many_kinds_and_differ() -> None:
    drawn = draw_vectors(48, 3)
    assert drawn.shape == (16, 48, 48, 3)
    assert len({image.tobytes() for image in drawn}) == 16
    levels = [len(np.unique(image)) for image in drawn]
    assert min(levels) <= 32  # flat areas
    assert max(levels) == 256
    assert 100 < drawn.mean() < 156
    assert len(draw_vectors(48, 3, 3)) == 3
    np.testing.assert_array_equal(draw_vectors(48, 3, 3), drawn[:3])


@pytest.mark.parametrize("arguments", [(0, 3), (32, 0), (32, 17), (32, 3, 0), (5000, 3)])
def test_what_cannot_be_drawn_is_refused(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        draw_vectors(*arguments)
