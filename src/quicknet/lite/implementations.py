"""Everything here that runs a `.qnz`: the engine by each instruction set of this CPU, and the reference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from quicknet.lite import reference
from quicknet.lite.choice import Images
from quicknet.lite.preprocess import check_images
from quicknet.lite.qnz import IntegerLogits, QnzFile


def implementations(file: QnzFile, threads: int) -> Mapping[str, Callable[[Images], IntegerLogits]]:
    """Return what gives integer logits (N, classes) for images (N, size, size, channels), by name, the fastest first.

    Each raises DataError for images that the card does not take.
    """
    from quicknet import engine

    found: dict[str, Callable[[Images], IntegerLogits]] = {}
    if engine.available():
        for name in dict.fromkeys((engine.Engine(file.blob, 1).isa, *engine.instruction_sets())):
            found[f"engine ({name})"] = engine.Engine(file.blob, threads, name).run
    found["reference"] = functools.partial(reference.run, file.network)
    return {name: functools.partial(_checked, run, file) for name, run in found.items()}


def _checked(run: Callable[[Images], IntegerLogits], file: QnzFile, images: Images) -> IntegerLogits:
    check_images(images, file.card.preprocess)
    return run(images)
