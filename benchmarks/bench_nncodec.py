"""Bytes of a coded `.qnz` beside those of NNCodec, Fraunhofer's coder of the standard NNC (ISO/IEC 15938-17).

    pip install nncodec       (in an environment of its own: it wants an older numpy)
    python benchmarks/bench_nncodec.py [--models quicknet_xs quicknet_s] [--density 0.2] [--images 2000]
    python benchmarks/bench_nncodec.py --compressed FILE.qnz --pruned RUN   (or the dense run that it was made of)

"trained": the network with batch norm folded, as coarse as stays within 0.1 points of our file's accuracy, or of
its own in float32 if that is lower (the first of rising QPs that does not ends the search). "pruned": the blocks
of largest norm kept, not trained, at that QP. "integers": our pruned network's integers, which NNC codes without
loss. Our file is what `compress` writes of the integers, their low bits zero. Its bytes are the whole file's;
"numbers" is its section CODE, without the card, which NNC's bitstream does not have.

--compressed: a file that `compress` wrote, beside NNC's bitstream of the run that it kept (`--keep RUN`), the pruned
network in float32, found in the same way.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import io
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bench_sparse import prune
from quicknet.core.card import Card
from quicknet.data import DataRequest, load_data
from quicknet.data.augment import normalize
from quicknet.deploy.quantize import Quantized
from quicknet.deploy.quantize.coarse import coarsen
from quicknet.inference.shipped import locate
from quicknet.models.network import Network
from quicknet.qnz.file import QnzFile, assemble_qnz, parse_qnz, read_qnz
from quicknet.qnz.implementations import implementations
from quicknet.qnz.network import IntegerNetwork
from quicknet.training.checkpoint import TorchClassifier
from quicknet.training.prune import choose_masks, scores, separable_layers, spread

QPS = range(-46, -6, 2)  # NNC's own default is -38; 4 more double the step
Parameters = dict[str, NDArray[Any]]


def nnc() -> Any:
    """Return NNCodec's interface, or end with what to do."""
    try:
        return importlib.import_module("nncodec.nnc")
    except ImportError as error:
        raise SystemExit(f"NNCodec cannot be imported ({error}); pip install nncodec, on PYTHONPATH here") from error


def folded(network: Network) -> Network:
    """Fold each batch norm's scale into the weights before it: only its bias is left to code."""
    with torch.no_grad():
        stem: Any = network.stem
        for conv, bn in ((stem.conv, stem.bn), *((x.pointwise, x.bn) for x in separable_layers(network))):
            assert bn.running_var is not None
            assert bn.running_mean is not None
            factor = bn.weight / (bn.running_var + bn.eps).sqrt()
            conv.weight.mul_(factor[:, None, None, None])
            bn.bias.sub_(bn.running_mean * factor)
            bn.running_mean.zero_()
            bn.running_var.fill_(1 - bn.eps)
            bn.weight.fill_(1.0)
    return network


def parameters(network: Network) -> Parameters:
    """Return what NNC codes: everything but batch norms' constants."""
    constant = ("bn.weight", "running_mean", "running_var", "num_batches_tracked")
    kept = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(constant)}
    return {name: np.ascontiguousarray(tensor.numpy(), np.float32) for name, tensor in kept.items()}


def coded(values: Parameters, qp: int = -38) -> bytes:
    """Return NNC's bitstream."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = f"{folder}/m.nnc"
        return bytes(nnc().compress(values, bitstream_path=path, qp=qp, return_bitstream=True))


def decode(network: Network, blob: bytes) -> None:
    """Put the weights of NNC's bitstream into the network."""
    with contextlib.redirect_stdout(io.StringIO()):
        load(network, nnc().decompress(bytearray(blob)))


def accuracy(network: Network, spec: Any, images: NDArray[np.uint8], labels: NDArray[Any]) -> float:
    """Return the share of images that the network has right."""
    with torch.no_grad():
        chunks = torch.from_numpy(images).split(250)
        logits = torch.cat([network(normalize(chunk, spec.mean, spec.std)) for chunk in chunks])
    return float((logits.argmax(1).numpy() == labels).mean())


def load(network: Network, values: Parameters) -> None:
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in values.items()}, strict=False)


def numbers_of(part: Any, name: str = "network") -> Parameters:
    """Return all numbers of an integer network, or of a part of it, as NNC takes them."""
    if isinstance(part, np.ndarray):
        return {name: np.ascontiguousarray(part, np.int32)}
    fields: Any = enumerate(part) if isinstance(part, tuple) else ()
    if dataclasses.is_dataclass(part):
        fields = [(field.name, getattr(part, field.name)) for field in dataclasses.fields(part)]
    return {key: value for at, inner in fields for key, value in numbers_of(inner, f"{name}.{at}").items()}


def row(what: str, mine: QnzFile, theirs: bytes, **more: Any) -> dict[str, Any]:
    numbers = next(len(section.data) for section in mine.sections if section.kind == "CODE")
    ratio = len(mine.blob) / len(theirs)
    return {
        "what": what,
        "qnz_bytes": len(mine.blob),
        "numbers": numbers,
        "nnc_bytes": len(theirs),
        "ratio": ratio,
        **more,
    }


def test_images(card: Card, options: argparse.Namespace) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    request = DataRequest(spec=card.preprocess, classes=card.classes, quiet=True, download=False)
    part = load_data(options.data, request).split("test")
    return np.array(part.images[: options.images]), np.array(part.labels[: options.images])


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    plain, parent = read_qnz(locate(f"{name}.cifar10", "file")), TorchClassifier(locate(f"{name}.cifar10", "run"))
    images, labels = test_images(plain.card, options)
    file = ours(plain.network, plain.card, name)
    usual = float((next(iter(implementations(file, 1).values()))(images).argmax(1) == labels).mean())
    network = folded(parent.model.eval())
    values = parameters(network)
    best = coarsest(network, usual, plain.card.preprocess, images, labels)
    rows = [row("trained", file, best.blob, qp=best.qp, qnz_top1=usual, nnc_top1=best.top1, n=len(images))]
    load(network, values)
    for layer in separable_layers(network):
        mask = choose_masks([scores(layer, 4)], options.density, 0.0)[0]
        layer.pointwise.weight.data.mul_(spread(mask, 4, layer.pointwise.in_channels)[:, :, None, None])
    sparse = ours(prune(plain.network, options.density), plain.card, name)
    return [
        *rows,
        row("pruned", sparse, coded(parameters(network), best.qp), qp=best.qp),
        row("integers", sparse, coded(numbers_of(sparse.network))),
    ]


class Best(NamedTuple):
    """The coarsest bitstream that is as good."""

    blob: bytes
    qp: int
    top1: float


def coarsest(network: Network, usual: float, spec: Any, images: NDArray[np.uint8], labels: NDArray[Any]) -> Best:
    """Return NNC's bitstream of a folded network for the last QP that keeps the accuracy; `network` is changed."""
    values = parameters(network)
    least = min(usual, accuracy(network, spec, images, labels)) - 0.001
    best = None
    for qp in QPS:
        blob = coded(values, qp)
        decode(network, blob)
        top1 = accuracy(network, spec, images, labels)
        if top1 < least:
            break
        best = Best(blob, qp, top1)
    if best is None:
        raise SystemExit(f"NNC loses more than 0.1 points at its finest QP, {QPS[0]}")
    return best


def compare_compressed(path: Path, run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compare a compressed file with NNC's bitstream of the pruned network that it was made of."""
    file = read_qnz(path)
    images, labels = test_images(file.card, options)
    usual = float((next(iter(implementations(file, 1).values()))(images).argmax(1) == labels).mean())
    network = folded(TorchClassifier(run).model.eval())
    best = coarsest(network, usual, file.card.preprocess, images, labels)
    return row("compressed", file, best.blob, qp=best.qp, qnz_top1=usual, nnc_top1=best.top1, n=len(images))


def ours(network: IntegerNetwork, card: Card, name: str) -> QnzFile:
    """Return the file that `quicknet compress` makes of an integer network."""
    return parse_qnz(assemble_qnz(coarsen(Quantized(network, 1.0)).network, card, "contexts"), Path(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["quicknet_xs", "quicknet_s"])
    parser.add_argument("--density", type=float, default=0.2)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--compressed", type=Path, help="a file that compress wrote")
    parser.add_argument("--pruned", type=Path, help="the run folder of the pruned network that it was made of")
    options = parser.parse_args()
    if (options.compressed is None) != (options.pruned is None):
        parser.error("--compressed and --pruned belong together")
    nnc()
    if options.compressed is not None:
        print_rows(options.compressed.stem, [compare_compressed(options.compressed, options.pruned, options)])
        return
    for name in options.models:
        print_rows(name, measure(name, options))


def print_rows(name: str, rows: list[dict[str, Any]]) -> None:
    for one in rows:
        more = f"  QP {one['qp']}" if "qp" in one else ""
        more += f", top-1 {one['nnc_top1']:.2%} to {one['qnz_top1']:.2%}, n = {one['n']:,}" if "n" in one else ""
        sizes = f"{one['qnz_bytes']:>9,} ({one['numbers']:,} of numbers)  NNC {one['nnc_bytes']:>9,}"
        print(f"{name:12} {one['what']:9} qnz {sizes}  qnz / NNC {one['ratio']:.3f}{more}")


if __name__ == "__main__":
    main()
