"""A classifier whose answers are known, for tests of everything around a network.

As a program it is the `quicknet` command with that classifier for every MODEL.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quicknet.core.card import Card, ModelRecord, PreprocessSpec

CLASSES = ("red", "green", "blue")


class Colours:
    """Says which of red, green and blue an image has most of; `sharpness` is the logits' scale."""

    def __init__(self, source: Path = Path("colours"), temperature: float | None = 2.0, sharpness: float = 8.0) -> None:
        self.source, self.file_sha256 = source, "ab" * 32
        self.sharpness = sharpness
        self.batches: list[int] = []
        self.card = Card(
            model=ModelRecord(family="none", name="colours", config={}),
            classes=CLASSES,
            preprocess=PreprocessSpec(size=16),
            temperature=temperature,
        )

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(images))
        return np.asarray(images.mean((1, 2)) / 255 * self.sharpness, np.float32)


def write_image(path: Path, colour: tuple[int, int, int] | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), colour).save(path)
    return path


if __name__ == "__main__":
    from quicknet.cli.main import main
    from quicknet.inference import artifact

    vars(artifact)["load"] = lambda path, *_: Colours(Path(path))
    main()
