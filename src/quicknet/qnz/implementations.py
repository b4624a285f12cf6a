"""All that can run a `.qnz` on this machine: the engine by each instruction set of the CPU, and the reference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from quicknet.core.choice import Images
from quicknet.core.options import MOST_THREADS
from quicknet.image.preprocess import check_images
from quicknet.qnz import reference
from quicknet.qnz.file import IntegerLogits, QnzFile


def implementations(file: QnzFile, threads: int) -> Mapping[str, Callable[[Images], IntegerLogits]]:
    """Return functions from images (N, size, size, channels) to integer logits (N, classes), by name, fastest first.

    The reference decodes coded numbers in Python: it shares nothing with the engine. Each raises DataError for images
    of another shape or type. The engine takes `MOST_THREADS` threads at most.
    """
    from quicknet import engine

    functions: dict[str, Callable[[Images], IntegerLogits]] = {}
    if engine.available():
        for name in dict.fromkeys((engine.Engine(file.blob, 1).isa, *engine.instruction_sets())):
            functions[f"engine ({name})"] = engine.Engine(file.blob, min(threads, MOST_THREADS), name).run
    functions["reference"] = functools.partial(reference.run, file.plain_network())
    return {name: functools.partial(_checked, run, file) for name, run in functions.items()}


def _checked(run: Callable[[Images], IntegerLogits], file: QnzFile, images: Images) -> IntegerLogits:
    check_images(images, file.card.preprocess)
    return run(images)
