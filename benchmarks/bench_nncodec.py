"""Bytes of a coded `.qnz` beside those of NNCodec, Fraunhofer's coder of the standard NNC (ISO/IEC 15938-17).

    pip install nncodec       (in an environment of its own: it wants an older numpy)
    python benchmarks/bench_nncodec.py [--models quicknet_xs quicknet_s] [--density 0.2] [--images 2000]

"trained": the network with batch norm folded, as coarse as keeps our file's accuracy within 0.1 points (the
first of rising QPs that does not ends the search). "pruned": the blocks of largest norm kept, not trained, at
that QP. "integers": our pruned network's integers, which NNC codes without loss. Our file is what `compress`
writes of the integers, their low bits zero. Its bytes are the whole file's; "numbers" is its section CODE,
without the card, which NNC's bitstream does not have.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import io
import tempfile
from pathlib import Path
from typing import Any

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


def accuracy(network: Network, blob: bytes, spec: Any, images: NDArray[np.uint8], labels: NDArray[Any]) -> float:
    """Return the share of images that the decoded network has right; it is left in `network`."""
    with contextlib.redirect_stdout(io.StringIO()):
        load(network, nnc().decompress(bytearray(blob)))
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


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    plain, parent = read_qnz(locate(f"{name}.cifar10", "file")), TorchClassifier(locate(f"{name}.cifar10", "run"))
    request = DataRequest(spec=plain.card.preprocess, classes=plain.card.classes, quiet=True, download=False)
    part = load_data(options.data, request).split("test")
    images, labels = np.array(part.images[: options.images]), np.array(part.labels[: options.images])
    file = ours(plain.network, plain.card, name)
    usual = float((next(iter(implementations(file, 1).values()))(images).argmax(1) == labels).mean())
    network = folded(parent.model.eval())
    values = parameters(network)
    best, reached, qp = coded(values, QPS[0]), float("nan"), QPS[0]
    for candidate in QPS:
        blob = coded(values, candidate)
        top1 = accuracy(network, blob, plain.card.preprocess, images, labels)
        if top1 < usual - 0.001:
            break
        best, reached, qp = blob, top1, candidate
    rows = [row("trained", file, best, qp=qp, qnz_top1=usual, nnc_top1=reached, n=len(images))]
    load(network, values)
    for layer in separable_layers(network):
        mask = choose_masks([scores(layer, 4)], options.density, 0.0)[0]
        layer.pointwise.weight.data.mul_(spread(mask, 4, layer.pointwise.in_channels)[:, :, None, None])
    sparse = ours(prune(plain.network, options.density), plain.card, name)
    return [
        *rows,
        row("pruned", sparse, coded(parameters(network), qp), qp=qp),
        row("integers", sparse, coded(numbers_of(sparse.network))),
    ]


def ours(network: IntegerNetwork, card: Card, name: str) -> QnzFile:
    """Return the file that `quicknet compress` makes of an integer network."""
    return parse_qnz(assemble_qnz(coarsen(Quantized(network, 1.0)).network, card, "contexts"), Path(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["quicknet_xs", "quicknet_s"])
    parser.add_argument("--density", type=float, default=0.2)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--data", default="cifar10")
    options = parser.parse_args()
    nnc()
    for name in options.models:
        for one in measure(name, options):
            more = f"  QP {one['qp']}" if "qp" in one else ""
            more += f", top-1 {one['nnc_top1']:.2%} to {one['qnz_top1']:.2%}, n = {one['n']:,}" if "n" in one else ""
            sizes = f"{one['qnz_bytes']:>9,} ({one['numbers']:,} of numbers)  NNC {one['nnc_bytes']:>9,}"
            print(f"{name:12} {one['what']:9} qnz {sizes}  qnz / NNC {one['ratio']:.3f}{more}")


if __name__ == "__main__":
    main()
