"""A small `.qnz` with a receipt, and the data that the receipt was made on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from networks import Block, Shape, network_card, random_network
from quicknet.core.card import Card
from quicknet.core.errors import DataError
from quicknet.core.lineage import ExportStep
from quicknet.image.vectors import draw_vectors
from quicknet.inference.receipt import predictions_of
from quicknet.qnz import reference
from quicknet.qnz.file import assemble_qnz
from quicknet.qnz.network import IntegerNetwork

SMALL = Shape(side=32, stem=8, blocks=(Block(16), Block(24, pool=True, sums=2, top=127), Block(24, kernel=5, sums=4)))


@dataclass(frozen=True)
class Part:
    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Data:
    """As `quicknet.load_data` gives it, with a test split only."""

    classes: tuple[str, ...]
    test: Part
    name: str = "drawn"
    protocol: str = "standard"
    sha256: str = "d" * 64

    def split(self, name: str) -> Part:
        if name != "test":
            raise DataError(f"no split {name}")
        return self.test


def small_network(seed: int = 0) -> IntegerNetwork:
    """Return a network whose answers differ from image to image: no class is preferred."""
    network = random_network(np.random.default_rng(seed), SMALL)
    mean = reference.run(network, draw_vectors(network.side, network.channels, 60)).mean(0)
    return replace(network, bias=network.bias - mean.astype(np.int32))


def data_for(network: IntegerNetwork, n: int = 60, wrong: int = 15) -> Any:
    """Return drawn images, labelled as the network answers but for the first `wrong`."""
    images = draw_vectors(network.side, network.channels, n)
    labels = reference.run(network, images).argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % len(network.weight)
    return Data(tuple(f"class {index}" for index in range(len(network.weight))), Part(images, labels))


def receipted(network: IntegerNetwork, data: Any, names_classes: bool = False) -> Card:
    """Return the network's card with the receipt of its own classes on `data`'s test images."""
    part = data.split("test")
    predicted = reference.run(network, part.images).argmax(1)
    predictions = predictions_of(predicted, data, "test", data.classes, packed=names_classes)
    step = ExportStep(format="qnz", quicknet="0.1.0", parent_weights_sha256="0" * 64, predictions=predictions)
    return network_card(network, lineage=(step,))


def write_qnz(path: Path, network: IntegerNetwork | None = None, card: Card | None = None) -> Path:
    network = network or small_network()
    path.write_bytes(assemble_qnz(network, card or network_card(network)))
    return path
