"""Puts trained weights under a name: into the package, or into a folder for the release page.

    python -m quicknet.study.ship RUN NAME [--qnz FILE [--file-only]] [--data DATA] [--release FOLDER]
                                           [--to-start-from] [--licence TEXT] [--notes TEXT]

RUN, a finished run folder, becomes NAME/card.json and NAME/model.safetensors, its matrices in
fp16 (vectors stay: they are 2% of the bytes). That is measured on `val`: where more than one
predicted class in 1,000 would change, the weights ship as they are, in fp32. Weights that nobody
classifies with (--to-start-from) may change one in 200. Licence and notes go into the card.
FILE, exported from RUN with --data, becomes NAME.qnz, with --file-only nothing else. Without
--release both go into src/quicknet/weights/; with it into FOLDER, to be uploaded, and the package
gets their digests only. Either way index.json there lists them.

Figures on `test` stay those of RUN, under its digest: the test set is read once per finished run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from quicknet.core.card import Card, read_card
from quicknet.core.errors import ToolError, program
from quicknet.core.files import sha256_bytes, write_atomically
from quicknet.core.lineage import Fp16Step
from quicknet.data import Dataset
from quicknet.deploy.export import load_run_data
from quicknet.inference import shipped
from quicknet.inference.evaluate import evaluate_logits
from quicknet.inference.receipt import recorded_predictions
from quicknet.inference.shipped import (
    RUN_FILES,
    Part,
    Shipped,
    Weights,
    index_from_dict,
    is_name,
    read_index,
)
from quicknet.inference.verify import verify_file
from quicknet.qnz.file import QnzFile, read_qnz
from quicknet.training.checkpoint import RunFolder, TorchClassifier, read_tensors

_WHEEL_LIMIT_BYTES = 10_000_000
_TOLERATED = 0.001  # quicknet_s.cifar10: 2 of 5,000, and half the bytes
_TO_START_FROM = 0.005  # of 580 classes many are near: rounding changes some answers, and no feature visibly


def smaller_run(run: Path, data: Dataset, out: Path, tolerated: float = _TOLERATED) -> int:
    """Write a run folder's classifier with its matrices in fp16; return how many classes of `val` change.

    Where more than the `tolerated` share do, `out` holds the classifier as it was.
    """
    parent = TorchClassifier(run)
    before, expected = evaluate_logits(parent, data, "val")
    tensors = read_tensors(run / "model.safetensors")
    halved = {name: t.half() if t.is_floating_point() and t.ndim > 1 else t for name, t in tensors.items()}
    folder = RunFolder(out)
    folder.save_model(halved, parent.card)
    after, actual = evaluate_logits(TorchClassifier(out), data, "val")
    changed = int((expected.argmax(1) != actual.argmax(1)).sum())
    card, parent_sha256 = parent.card, before.file_sha256
    too_many = changed > tolerated * after.n
    if too_many:
        folder.save_model(tensors, card)
    else:
        step = Fp16Step(parent_weights_sha256=parent_sha256, split="val", n=after.n, changed=changed)
        card = card.replace(weights_sha256=after.file_sha256, lineage=(*card.lineage, step))
    others = tuple(metric for metric in card.metrics if metric.split != "val")
    measured = before if too_many else after
    folder.update_card(card.replace(metrics=(*others, measured.metrics()[0])))
    return changed


def checked_qnz(path: Path, run: Card) -> QnzFile:
    """Return a verified file of the same task as the run. Raises CheckFailed, ToolError."""
    file = read_qnz(path)
    verify_file(file).require()
    if (file.card.classes, file.card.preprocess, file.card.model) != (run.classes, run.preprocess, run.model):
        raise ToolError(f"{path} has other classes, images or another network than the run; export it from the run")
    return file


def run_artifact(folder: Path, name: str, release: bool) -> tuple[Shipped, dict[str, bytes]]:
    """Return what the index says of a run folder, and its files."""
    top1 = [metric for metric in read_card(folder / "card.json").metrics if metric.name == "top1"]
    metric = next((metric for metric in top1 if metric.split == "test"), top1[0])
    files = {f"{name}/{file}": (folder / file).read_bytes() for file in RUN_FILES}
    parts = tuple(_part(file, blob, release) for file, blob in files.items())
    return Shipped(top1=metric.value, n=metric.n, split=metric.split, parts=parts), files


def qnz_artifact(file: QnzFile, name: str, release: bool) -> tuple[Shipped, dict[str, bytes]]:
    """Return what the index says of a `.qnz`, by its own receipt, and the file."""
    predictions = recorded_predictions(file.card)
    if predictions is None or not predictions.n:
        raise ToolError(f"{file.path} was never measured; export it with --data")
    part = _part(f"{name}.qnz", file.blob, release)
    return Shipped(top1=predictions.correct / predictions.n, n=predictions.n, split=predictions.split, parts=(part,)), {
        part.file: file.blob
    }


def _part(file: str, blob: bytes, release: bool) -> Part:
    url = file.replace("/", ".") if release else None
    return Part(file=file, sha256=sha256_bytes(blob), size_bytes=len(blob), url=url)


@dataclass(frozen=True)
class Said:
    """What the card of shipped weights says of them, and how many classes of `val` may change in fp16."""

    tolerated: float = _TOLERATED
    licence: str = ""
    notes: str = ""


def ship(
    run: Path, name: str, qnz: QnzFile | None, data: Dataset | None, release: Path | None, said: Said | None = None
) -> int | None:
    """Write the files, then the index that lists them; return how many classes of `val` change in fp16.

    Without `data` the `.qnz` goes alone, and there is nothing to return.
    """
    said = said or Said()
    if not is_name(name):
        raise ToolError(f"{name!r} is not a name for weights; write NETWORK.DATA, such as quicknet_s.cifar10")
    card, away = read_card(run / "card.json"), release is not None
    if card.data is None:
        raise ToolError(f"the card of {run} names no data; ship what `quicknet train` wrote")
    changed, artifact, file = None, None, None
    files: dict[str, bytes] = {}
    if data is not None:
        with tempfile.TemporaryDirectory() as workdir:
            changed = smaller_run(run, data, Path(workdir), said.tolerated)
            _add_texts(Path(workdir), said)
            artifact, files = run_artifact(Path(workdir), name, away)
    if qnz is not None:
        file, more = qnz_artifact(qnz, name, away)
        files |= more
    weights = Weights(
        network=card.model.name, data=card.data.name, protocol=card.data.protocol, file=file, run=artifact
    )
    path = shipped.PACKAGED / "index.json"
    fields = read_index(shipped.PACKAGED).to_dict()
    fields["weights"] = dict(sorted({**fields["weights"], name: weights.to_dict()}.items()))
    index_from_dict(fields, path)
    for place, blob in files.items():
        write_atomically(shipped.PACKAGED / place if release is None else release / place.replace("/", "."), blob)
    write_atomically(path, json.dumps(fields, indent=1) + "\n")
    return changed


def _add_texts(folder: Path, said: Said) -> None:
    card = read_card(folder / "card.json")
    texts = {"licence": said.licence or card.licence, "notes": said.notes or card.notes}
    RunFolder(folder).update_card(card.replace(**texts))


@program
def main() -> None:
    """Carry out the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name", help="such as quicknet_s.cifar10")
    parser.add_argument("--qnz", type=Path)
    parser.add_argument("--file-only", action="store_true")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--release", type=Path)
    parser.add_argument("--to-start-from", action="store_true")
    parser.add_argument("--licence", default="")
    parser.add_argument("--notes", default="")
    options = parser.parse_args()
    if options.file_only and options.qnz is None:
        parser.error("--file-only needs --qnz FILE")
    data = None if options.file_only else load_run_data(options.run, options.data, quiet=True)
    qnz = None if options.qnz is None else checked_qnz(options.qnz, read_card(options.run / "card.json"))
    said = Said(_TO_START_FROM if options.to_start_from else _TOLERATED, options.licence, options.notes)
    changed = ship(options.run, options.name, qnz, data, options.release, said)
    if data is not None:
        n = len(data.split("val"))
        stored = "fp32" if (changed or 0) > said.tolerated * n else "fp16"
        print(f"{changed} of {n:,} predicted classes change in fp16: {options.name} is stored in {stored}")
    inside = sum(path.stat().st_size for path in shipped.PACKAGED.rglob("*") if path.is_file())
    print(f"weights in the package: {inside:,} bytes (the wheel stays under {_WHEEL_LIMIT_BYTES:,})")


if __name__ == "__main__":
    sys.exit(main())
