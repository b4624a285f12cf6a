"""Tables for README and docs, from records under `results/`, the networks and the references."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figure import Curve, Point

from quicknet.core.card import Costs
from quicknet.core.errors import ConfigError
from quicknet.inference.shipped import PACKAGED, Shipped, read_index
from quicknet.models.costs import count_costs
from quicknet.models.registry import create_model
from quicknet.study.reached import rank_of
from quicknet.study.records import read_records
from quicknet.study.sources import SOURCES

UNMEASURED = "not measured"
_NETWORKS = ("quicknet_xs", "quicknet_s", "quicknet")


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]], right_from: int = 99) -> str:
    """Return a Markdown table; columns from `right_from` on are aligned to the right."""
    rule = ["---:" if column >= right_from else "---" for column in range(len(heads))]
    lines = [heads, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _today(command: str) -> str:
    """Return a record's command as it is called today: three scripts have become modules since."""
    return re.sub(r"benchmarks/(ablate|record|ship)\.py", r"-m quicknet.study.\1", command)


class Records:
    """What `results/` holds, by kind. `quicknet.study.record` and the benchmarks write it."""

    def __init__(self, results: Path) -> None:
        self.all = read_records(results)
        for record in self.all.values():
            record["command"] = _today(record["command"])

    def best_accuracy(self, network: str) -> dict[str, Any] | None:
        """Return the record of a network by the standard protocol on CIFAR-10 that counts (`study/reached.py`)."""
        found = [
            record
            for record in self.all.values()
            if record.get("kind") == "accuracy"
            and (record["network"], record["data"], record["protocol"]) == (network, "cifar10", "standard")
        ]
        return max(reversed(found), key=rank_of(network), default=None)

    def latency(self, network: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the fastest runtime's row for one image on one thread, and the machine card."""
        found = [
            (row, record["benchmark"]["machine"])
            for record in self.all.values()
            if record.get("kind") == "latency"
            for row in record["benchmark"]["rows"]
            if (row["path"], row["batch"], row["threads"]) == ("network", 1, 1)
            and network in _names(record, row["model"])
        ]
        return min(found, key=lambda pair: pair[0]["median_ms"], default=None)

    def files(self, network: str) -> list[tuple[int, str]]:
        """Return (bytes, suffix) of a network's files in the latency records; weights' as they ship now.

        A `.qnz` of other weights of the same network runs equally fast, so it need not be measured again.
        """
        shipped = read_index(PACKAGED).weights
        found = []
        for record in self.all.values():
            for facts in record["benchmark"]["models"] if record.get("kind") == "latency" else []:
                weights = shipped.get(facts["model"])
                if facts["name"] == network and weights is not None and weights.file is not None:
                    found.append((sum(part.size_bytes for part in weights.file.parts), "qnz"))
                elif facts["name"] == network:
                    found.append((facts["size_bytes"], facts["model"].rpartition(".")[2]))
        return found

    def compressed(self, network: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the record of the most accurate file of a network pruned by blocks, and how it did on test."""
        found = [
            (record, split)
            for record in self.all.values()
            if (record.get("kind"), record.get("network"), record.get("pattern")) == ("compressed", network, "block")
            and record["density"] < 1
            for split in record["compared"]
            if split["split"] == "test"
        ]
        return max(found, key=lambda pair: pair[1]["top1"], default=None)

    def demo(self) -> dict[str, Any] | None:
        """Return the record of `make demo`."""
        return next((record for record in self.all.values() if record.get("kind") == "demo"), None)


def _names(record: dict[str, Any], model: str) -> list[str]:
    return [facts["name"] for facts in record["benchmark"]["models"] if facts["model"] == model]


# --- README -------------------------------------------------------------------------------


def summary(records: Records) -> str:
    """What each network reaches beside what the paper claims, and below it what the figures mean."""
    accuracies, files, latencies = (
        [take(records, name) for name in _NETWORKS] for take in (_accuracy, _bytes, _latency)
    )
    compressed = [_compressed(records, name) for name in _NETWORKS]
    rows = [
        ("parameters", *(f"{counted(name).parameters:,}" for name in _NETWORKS), "3.56 million"),
        ("CIFAR-10 accuracy, %", *(figure for figure, _ in accuracies), "95.7"),
        ("file, bytes", *(figure for figure, _ in files), "14.24 million"),
        ("one image, ms", *(figure for figure, _ in latencies), "67"),
        ("compressed, bytes", *(size for size, _ in compressed), "under 1 million"),
        ("its accuracy, %", *(figure for _, figure in compressed), "–"),
    ]
    heads = ("", *(f"`{name}`" for name in _NETWORKS), "the paper's claim")
    notes = [
        _note("Accuracy", [note for _, note in accuracies]),
        _note("File", [note for _, note in files]),
        _note("Time", [note for _, note in latencies]),
        "Compressed: by `quicknet compress`, the same test images, answers of the file ([more](docs/compress.md))"
        + "".join(_earlier(records, name) for name in _NETWORKS)
        + ".",
        "The paper: accuracy on 6,000 of all 60,000 images pooled, which also decided when to stop; weights of "
        "32 bits; 15 frames/s on a low-power CPU; the compressed size is its estimate, nothing was compressed.",
    ]
    below = "\n".join(f"- {note}" for note in notes if note)
    return f"\n{markdown(heads, rows, right_from=1)}\n{below}\n\n"


def _earlier(records: Records, network: str) -> str:
    """Return what is to be known of a compressed file that was made of other weights than those shown.

    The same weights in fp16 may differ by a picture.
    """
    found, shown = records.compressed(network), records.best_accuracy(network)
    if found is None or shown is None:
        return ""
    record, split = found
    if record.get("dense_sha256") in shown.get("weights_sha256", ()):
        return ""
    parent = split["parent_top1"]
    if abs(parent - statistics.mean(shown["top1"])) < 5e-4:
        return ""
    return f"; that of `{network}` was made of earlier weights, of {100 * parent:.2f}%"


def _note(what: str, notes: Sequence[str]) -> str:
    """Return one line for what qualifies the figures of all networks, naming those that share a qualifier."""
    groups: dict[str, list[str]] = {}
    for name, note in zip(_NETWORKS, notes, strict=True):
        if note:
            groups.setdefault(note, []).append(f"`{name}`")
    if not groups:
        return ""
    if len(groups) == 1 and all(notes):
        return f"{what}: {next(iter(groups))}."
    return f"{what}: " + "; ".join(f"{', '.join(names)} {note}" for note, names in groups.items()) + "."


def _accuracy(records: Records, network: str) -> tuple[str, str]:
    """Return the accuracy in per cent and its protocol."""
    record = records.best_accuracy(network)
    if record is None:
        return UNMEASURED, ""
    seeds = f"{len(record['top1'])} seeds" if len(record["top1"]) > 1 else "1 seed"
    recipe = f"recipe `{record['recipe']}`" + (" with a teacher" if "distill.teacher" in record["command"] else "")
    note = f"{recipe}, {seeds}, test images of the protocol {record['protocol']} (n = {record['n']:,})"
    return spread([100 * value for value in record["top1"]]), note


def _bytes(records: Records, network: str) -> tuple[str, str]:
    """Return the size of the smallest file whose speed was measured, else of the trained weights, and the file."""
    files = records.files(network)
    if files:
        size, suffix = min(files)
        return f"{size:,}", f"the exported `.{suffix}`"
    record = records.best_accuracy(network)
    return (UNMEASURED, "") if record is None else (f"{record['file_bytes']:,}", f"`{record['file']}`")


def _latency(records: Records, network: str) -> tuple[str, str]:
    """Return the milliseconds of one image, and how they were measured."""
    fastest = records.latency(network)
    if fastest is None:
        return UNMEASURED, ""
    row, machine = fastest
    how = f"the network alone, median, runtime {row['runtime']}, 1 thread, {machine['cpu']}"
    return f"{row['median_ms']:.2f}", how


def _compressed(records: Records, network: str) -> tuple[str, str]:
    """Return the bytes of the compressed file and its accuracy in per cent."""
    found = records.compressed(network)
    if found is None:
        return UNMEASURED, UNMEASURED
    record, split = found
    return f"{record['file_bytes']:,}", f"{100 * split['top1']:.2f}"


def predict_example(records: Records) -> str:
    """One `predict` with what it printed."""
    demo = records.demo()
    if demo is None:
        return f"\n{UNMEASURED}\n\n"
    return f"\n```console\n$ {demo['predict']['command']}\n{demo['predict']['output'].rstrip()}\n```\n\n"


def points(records: Records, known: dict[str, Any]) -> list[Point]:
    """Return what the picture shows: ours, others', and the paper's claim, each marked apart."""
    found = [
        Point(other["name"], 4 * other["parameters"], other["accuracy"], "published")
        for other in known["network"]
        if other.get("picture", True)
    ]
    paper = known["paper"]
    found.append(Point("the paper, 32 bits", 4 * paper["parameters"], paper["accuracy"], "claimed"))
    found.append(Point("the paper, an estimate", paper["compressed_bytes"], paper["accuracy"], "claimed"))
    for weights in read_index(PACKAGED).weights.values():
        if weights.data == "cifar10" and weights.file is not None:
            size = sum(part.size_bytes for part in weights.file.parts)
            found.append(Point(weights.network, size, 100 * weights.file.top1, "ours"))
    for network in _NETWORKS:
        compressed = records.compressed(network)
        if compressed is not None:
            record, split = compressed
            found.append(Point(f"{network}, compressed", record["file_bytes"], 100 * split["top1"], "ours"))
    return found


def curves(results: Path) -> list[Curve]:
    """Return the accuracy on val of every recorded training on CIFAR-10, epoch by epoch."""
    found = []
    for log in sorted(results.glob("*/seed*/log.jsonl")):
        record = json.loads((log.parent.parent / "record.json").read_text(encoding="utf-8"))
        if record.get("kind") == "accuracy":
            epochs = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
            accuracies = [100 * epoch["val_accuracy"] for epoch in epochs if epoch["val_accuracy"] is not None]
            found.append(Curve(f"{record['network']}, {record['name']}, {log.parent.name}", accuracies))
    return found


# --- docs ---------------------------------------------------------------------------------


def counted(name: str, **overrides: int) -> Costs:
    """Return what a network of the registry costs."""
    return count_costs(lambda: create_model(name, **overrides))


def network_costs(sizes: Sequence[int]) -> str:
    """Costs of one image for every network and size."""
    rows = []
    for name in (*_NETWORKS, "darknet_32", "darknet"):
        for size in sizes:
            try:
                found = counted(name, image_size=size)
            except ConfigError:
                continue  # of 32 pixels five poolings leave one, and nothing for the sixth
            memory = (f"{count / 1024:,.0f}" for count in (found.activation_bytes, found.peak_activation_bytes))
            rows.append((f"`{name}`", f"{size}", f"{found.parameters:,}", f"{found.macs:,}", *memory))
    heads = ("network", "image, pixels", "parameters", "multiply-adds", "activations, KiB", "largest layer, KiB")
    return f"\n{markdown(heads, rows, right_from=1)}\n"


def throughput(records: Records) -> str:
    """Training speed against a plain loop, from its record."""
    record = records.all.get("training-throughput")
    if record is None:
        return f"\n{UNMEASURED}\n\n"

    def cells(row: dict[str, Any], plain: str, ours: str, ratio: str) -> tuple[str, str, str]:
        if ours not in row:
            return "–", "–", "–"
        spread = f"{row[ratio]['median']:.2f} ({row[ratio]['min']:.2f} to {row[ratio]['max']:.2f})"
        return f"{row[plain]['median']:,.0f}", f"{row[ours]['median']:,.0f}", spread

    rows = [
        (
            f"`{row['model']}`",
            *cells(row, "plain", "ours", "ratio"),
            f"{row['share']['median']:.1%}",
            f"{row['input']['median']:.1%}",
            *cells(row, "plain_bf16", "ours_bf16", "ratio_bf16"),
        )
        for row in record["rows"]
    ]
    heads = ("network", "plain PyTorch, images/s", "QuickNet, images/s", "ratio", "share of peak", "input share")
    more = ("PyTorch's autocast", "QuickNet, bf16", "ratio to the faster plain one")
    machine = f"{record['machine']['cpu']}, {record['threads']} threads"
    under = f"{machine}; batch {record['rows'][0]['batch']}, medians of {record['rows'][0]['rounds']} turns each.\n"
    return f"\n{markdown((*heads, *more), rows, right_from=1)}\n{under}Made by `{record['command']}`.\n\n"


def trained(records: Records) -> str:
    """Every training on CIFAR-10 that was recorded: what it reached, what it cost."""
    rows = []
    for name, record in records.all.items():
        if record.get("kind") != "accuracy":
            continue
        energy = [None if joules is None else joules / 3.6e6 for joules in record["energy_joules"]]
        rows.append(
            (
                f"`{record['network']}`",
                f"`{name}`",
                f"{record['protocol']}, {record['split']}, n = {record['n']:,}",
                spread([100 * value for value in record["top1"]]),
                ", ".join(map(str, record["seeds"])),
                ", ".join(map(str, sorted(set(record["epochs"])))),
                ", ".join(f"{seconds / 60:.0f}" for seconds in record["training_seconds"]),
                ", ".join(f"{speed:,}" for speed in record["images_per_second"]),
                ", ".join("not known" if kwh is None else f"{kwh:.3g}" for kwh in energy),
                f"{record['machine']['cpu']}, {record['machine']['cores']} cores",
            )
        )
    heads: tuple[str, ...] = ("network", "record", "protocol", "accuracy, %", "seeds", "epochs")
    heads += ("minutes", "images/s, median", "energy, kWh", "machine")
    return f"\n{markdown(heads, rows)}\n"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds; of one seed the value."""
    text = f"{statistics.mean(values):.2f}"
    return text + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def shipped() -> str:
    """The weights that have a name, as run folder and as file."""

    def cells(artifact: Shipped | None) -> tuple[str, str]:
        if artifact is None:
            return "–", "–"
        size = sum(part.size_bytes for part in artifact.parts)
        return f"{100 * artifact.top1:.2f}% of {artifact.n:,} ({artifact.split})", f"{size:,}"

    rows = [
        (f"`{name}`", f"`{weights.network}`", weights.protocol, *cells(weights.file), *cells(weights.run))
        for name, weights in read_index(PACKAGED).weights.items()
    ]
    heads = ("name", "network", "protocol", "`.qnz`", "bytes", "run folder", "bytes")
    return f"\n{markdown(heads, rows)}\n"


def engine(records: Records) -> str:
    """Speed of the integer engine beside other runtimes, from its record."""
    record = records.all.get("engine")
    if record is None:
        return f"\n{UNMEASURED}\n\n"
    parts = [_engine_rows(name, model) for name, model in record["models"].items()]
    machine = record["machine"]
    under = (
        f"Images/s of one thread, batch 1, network only, medians (best) of turns in one run; {machine['cpu']}, "
        f"load before {machine['load_1min']:g}. The ceiling is the inner loop of the "
        "same instruction set with all data in registers.\n"
    )
    return "\n" + "\n".join(parts) + f"\n{under}Made by `{record['command']}`.\n\n"


def _engine_rows(name: str, model: dict[str, Any]) -> str:
    rows = []
    for row in model["rows"]:
        share = f"{row['share']:.0%}" if "share" in row else "–"
        speed = f"{row['images_per_second']:,.0f} ({row['best_images_per_second']:,.0f})"
        rows.append((" ".join(filter(None, (row["name"], row["isa"]))), speed, share))
    ready, threads = model["first_answer_ms"], model["threads"]
    single, batch = (threads[key] for key in ("batch_1", "batch_32"))
    more = (
        f"{threads['threads']} threads against one: {single['median']:.2f} times (best {single['best']:.2f}) for "
        f"single images, {batch['median']:.2f} ({batch['best']:.2f}) for batches of 32. From the file to the first "
        f"answer: {ready['median']:.1f} ms.\n"
    )
    return f"{markdown((f'`{name}`', 'images/s', 'of its ceiling'), rows, right_from=1)}\n{more}"


def quantized(records: Records) -> str:
    """What each width class loses against its float parent, from the record."""
    record = records.all.get("quantize")
    if record is None:
        return f"\n{UNMEASURED}\n\n"
    rows = [
        (
            f"`{row['bits']}`" + (f", {row['qat_epochs']:g} epochs of QAT" if row["qat_epochs"] else ""),
            row["split"],
            f"{row['n']:,}",
            f"{100 * row['top1']:.2f}%",
            f"{row['lost_points']:+.2f}",
            f"{row['different']:,}",
            f"{row['file_bytes']:,}",
        )
        for row in record["rows"]
    ]
    heads = ("width class", "split", "n", "top-1", "points lost", "images of another class", "file, bytes")
    parents = {row["split"]: f"{100 * row['parent_top1']:.2f}% of {row['split']}" for row in record["rows"]}
    under = (
        f"`quicknet_s` on CIFAR-10; the float network has {', '.join(parents.values())}. Choices were made on val.\n"
    )
    return f"\n{markdown(heads, rows, right_from=2)}\n{under}Made by `{record['command']}`.\n\n"


def all_records(records: Records) -> str:
    """Every record with the command that re-makes it."""
    rows = [
        (f"`{name}`", f"`{record['command']}`", str(record["commit"])[:10], str(record["machine"]["cpu"]))
        for name, record in records.all.items()
    ]
    table = markdown(("record", "made by", "commit", "machine"), rows) if rows else "no records yet\n"
    return f"\n{table}\n"


def photographs() -> str:
    """The public sources of photographs."""
    rows = [(f"`{s.name}`", s.holds, f"`{s.repository}` at {s.commit[:10]}", s.terms) for s in SOURCES.values()]
    return f"\n{markdown(('name', 'what is read of it', 'repository', 'terms'), rows)}\n"


def published(known: dict[str, Any]) -> str:
    """Figures of other publications with their sources."""
    rows = []
    for other in sorted(known["network"], key=lambda other: other.get("parameters", math.inf)):
        spread = f" ± {other['spread']:.2f}" if "spread" in other else ""
        macs = f"{other['macs'] / 1e6:.1f} M" if "macs" in other else "–"
        size = f"{other['parameters'] / 1e6:.2f} M" if "parameters" in other else "–"
        here = f"`{other['network']}`" if "network" in other else "–"
        figures = (f"{other['accuracy']:.2f}{spread}", size, macs)
        rows.append((other["name"], here, *figures, other.get("note", ""), other["source"]))
    heads = ("network", "here", "accuracy, %", "parameters", "multiply-adds", "note", "source")
    return f"\n{markdown(heads, rows)}\n"
