"""Writes records under results/, from which README and docs take their tables.

    python -m quicknet.study.record accuracy NAME RUN...      runs of one recipe, a seed each
    python -m quicknet.study.record latency NAME MODEL...     measured now, in turn
    python -m quicknet.study.record frames NAME MODEL...      the smallest share of a core for 60 frames/s, JPEG 640x480
    python -m quicknet.study.record photos NAME RUN MANIFEST  weights to start from, and the photographs they have seen
    python -m quicknet.study.record compressed NAME FILE [RUN] --command "quicknet compress …"
                                                              a compressed .qnz and its pruned run, both kept too
    python -m quicknet.study.record demo                      what `make demo` left in demo/

Accuracy is not measured here: each finished run's card holds what it reached on `test`, by whom
and on which weights; a card whose weights are others, or that was not measured, is refused.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

from quicknet.core.card import Card, Metric, read_card
from quicknet.core.energy import total_joules
from quicknet.core.errors import ToolError, program
from quicknet.core.files import read_json, write_atomically
from quicknet.core.lineage import CompressStep, ExportStep, Fp16Step
from quicknet.deploy.compress.speed import Speedometer
from quicknet.inference.artifact import open_artifact
from quicknet.measure.benchmark import BenchmarkSettings, benchmark
from quicknet.measure.realtime import FrameSettings, smallest_shares
from quicknet.models.config import QuickNetConfig
from quicknet.models.costs import count_costs
from quicknet.models.registry import base_config, create_model
from quicknet.qnz.file import read_qnz
from quicknet.qnz.format import Bits
from quicknet.study.records import ROOT, one_teacher, teacher_sha256, write_record
from quicknet.training.checkpoint import RunFolder, read_tensors
from quicknet.training.recipe import load_recipe

_DEMO_FILES = [f"demo/scenes/test/{name}/00000.png" for name in ("arrow", "ring", "spiral", "star")]


def read_run(folder: Path) -> tuple[Card, Metric]:
    """Return a run's card and its test accuracy. Raises ToolError where it was not measured."""
    artifact = open_artifact(folder)
    card, digest = artifact.card, artifact.weights_sha256
    for metric in card.metrics:
        if (metric.name, metric.split, metric.file_sha256) == ("top1", "test", digest):
            return card, metric
    raise ToolError(f"{folder} has no accuracy on test of these very weights; finish the run with --resume")


def accuracy(folders: list[Path]) -> dict[str, Any]:
    """Return the fields of an accuracy record. Raises ToolError for runs that are not alike."""
    runs = [read_run(folder) for folder in folders]
    recipes = [load_recipe(str(folder / "recipe.toml")) for folder in folders]
    alike = {recipe.replace(train={**recipe.train.to_dict(), "seed": 0}).sha256() for recipe in recipes}
    data = {card.data.sha256 for card, _ in runs if card.data}
    if len(alike) != 1 or len(data) != 1 or len({recipe.train.seed for recipe in recipes}) != len(recipes):
        raise ToolError("the runs must differ in train.seed and in nothing else; record them apart")
    card, metric = runs[0]
    assert card.data is not None
    logs = [[json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in folders]
    return {
        "kind": "accuracy",
        "network": card.model.name,
        "recipe": recipes[0].name,
        "recipe_sha256": alike.pop(),
        "data": card.data.name,
        "data_sha256": data.pop(),
        "protocol": metric.protocol,
        "split": metric.split,
        "n": metric.n,
        "seeds": [recipe.train.seed for recipe in recipes],
        "top1": [top1.value for _, top1 in runs],
        "training_seconds": [round(sum(epoch["seconds"] for epoch in log), 1) for log in logs],
        "epochs": [len(log) for log in logs],
        "images_per_second": [round(statistics.median(epoch["images_per_second"] for epoch in log)) for log in logs],
        "energy_joules": [total_joules(log) for log in logs],
        "file": "model.safetensors",
        "file_bytes": (folders[0] / "model.safetensors").stat().st_size,
        "weights_sha256": [card.weights_sha256 for card, _ in runs],
        "teacher_sha256": one_teacher([card for card, _ in runs]),
    }


def photos(run: Path, manifest: Path) -> dict[str, Any]:
    """Return the fields of a record of weights for photographs: accuracy on `val`, there is no `test`."""
    card, recipe = read_card(run / "card.json"), load_recipe(str(run / "recipe.toml"))
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    metric = next(metric for metric in card.metrics if (metric.name, metric.split) == ("top1", "val"))
    return {
        "kind": "photos",
        "network": card.model.name,
        "image_size": card.preprocess.size,
        "recipe": recipe.to_dict(),
        "data_sha256": card.data.sha256 if card.data else None,
        "split": metric.split,
        "n": metric.n,
        "top1": metric.value,
        "training_seconds": round(sum(epoch["seconds"] for epoch in log), 1),
        "log": log,
        "weights_sha256": card.weights_sha256,
        "teacher_sha256": teacher_sha256(card),
        "manifest": read_json(manifest, "the manifest"),
    }


def compressed(path: Path) -> dict[str, Any]:
    """Return the fields of a record of a compressed `.qnz`: its receipt, and its speed measured now.

    Raises ToolError for a file that was not compressed.
    """
    file = read_qnz(path)
    steps = {type(step): step for step in file.card.lineage}
    prunings = [step for step in file.card.lineage if isinstance(step, CompressStep)]
    pruned, receipt = steps.get(CompressStep), steps.get(ExportStep)
    if not isinstance(pruned, CompressStep) or not isinstance(receipt, ExportStep) or not receipt.compared:
        raise ToolError(f"{path} is no compressed network that was measured; quicknet compress writes one")
    network = file.network
    shape = {"num_classes": len(network.bias), "image_size": network.side, "in_channels": network.channels}
    config = base_config(file.card.model.name).replace(**shape)
    assert isinstance(config, QuickNetConfig)  # no other is compressed
    return {
        "kind": "compressed",
        "network": file.card.model.name,
        "pattern": pruned.pattern,
        "density": pruned.density,
        "dense_sha256": prunings[0].parent_weights_sha256,
        "epochs": pruned.epochs,
        "seed": pruned.seed,
        "qat": None if receipt.qat is None else receipt.qat.to_dict(),
        "bits": receipt.bits,
        "file_bytes": len(file.blob),
        "sections": {section.kind: len(section.data) for section in file.sections},
        "float_bytes": 4 * count_costs(lambda: create_model(file.card.model.name, **shape)).parameters,
        "speed": Speedometer(config, cast(Bits, file.record.bits)).of_file(file.blob),
        "compared": [compared.to_dict() for compared in receipt.compared],
    }


def keep(kept: Path, run: Path) -> None:
    """Keep a run as a folder that another machine can go on from (`train --from`): log, card, weights in fp16.

    The card's figures stay those of the run, under its digest, which the lineage names.
    """
    kept.mkdir(exist_ok=True)
    if (run / "log.jsonl").exists():  # a pruned network has none
        write_atomically(kept / "log.jsonl", (run / "log.jsonl").read_bytes())
    tensors, card = read_tensors(run / "model.safetensors"), read_card(run / "card.json")
    halved = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    step = Fp16Step(parent_weights_sha256=card.weights_sha256)
    RunFolder(kept).save_model(halved, card.replace(lineage=(*card.lineage, step)))


def training_command(folders: list[Path]) -> str:
    """Return the command that re-makes the runs: the shipped recipe and what was changed of it.

    Raises ToolError where a setting of the recipe was taken away, which `--set` cannot say.
    """
    recipes = [load_recipe(str(folder / "recipe.toml")) for folder in folders]
    ours, base = (_flat(recipe.to_dict()) for recipe in (recipes[0], load_recipe(recipes[0].name)))
    changes = {key: value for key, value in ours.items() if value != base.get(key)}
    for key in [*(base.keys() - ours.keys()), *(key for key, value in changes.items() if value is None)]:
        raise ToolError(f"{folders[0]} takes {key} of recipe {recipes[0].name} away; give it a recipe of its own name")
    words = ["quicknet", "train", recipes[0].data.source, "--recipe", recipes[0].name]
    for key, value in changes.items():
        if key not in ("data.source", "train.seed"):
            words += ["--set", f"{key}={json.dumps(value)}"]
    seeds = " ".join(str(recipe.train.seed) for recipe in recipes)
    return f"for seed in {seeds}; do {shlex.join(words)} --seed $seed; done"


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def demo() -> dict[str, Any]:
    """Return what the demo reached, and one `predict` with what it printed."""
    fields = accuracy([ROOT / "demo" / "run"])
    command = ["quicknet", "predict", "demo/scenes.qnz", *_DEMO_FILES]
    ours = [sys.executable, "-m", *command]
    output = subprocess.run(ours, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {
        **fields,
        "kind": "demo",
        "onnx_bytes": (ROOT / "demo" / "scenes.onnx").stat().st_size,
        "qnz_bytes": (ROOT / "demo" / "scenes.qnz").stat().st_size,
        "predict": {"command": shlex.join(command), "output": output},
    }


def frames(models: list[Path]) -> list[dict[str, Any]]:
    """Return the smallest share of one core that holds 60 frames/s, whole path from 640x480 JPEG."""
    settings = FrameSettings(fps=60, seconds=5, jpeg=(640, 480))
    return [share.to_dict() for share in smallest_shares(models, settings)]


@program
def main() -> None:
    """Carry out the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", choices=["accuracy", "latency", "frames", "photos", "compressed", "demo"])
    parser.add_argument("name", nargs="?", default="demo")
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--command", help="what made the compressed file")
    options = parser.parse_args()
    if options.kind != "demo" and not options.models:
        parser.error(f"{options.kind} needs a NAME and the run folders or files")
    if (options.kind == "compressed") != (options.command is not None):
        parser.error("a compressed file needs the --command that made it, nothing else takes one")
    if options.kind == "demo":
        command, fields = "make demo && python -m quicknet.study.record demo", demo()
    elif options.kind == "accuracy":
        command, fields = training_command(options.models), accuracy(options.models)
    elif options.kind == "photos":
        run, manifest = options.models
        command, fields = training_command([run]), photos(run, manifest)
    elif options.kind == "compressed":
        command, fields = options.command, compressed(options.models[0])
    elif options.kind == "frames":
        names = [str(model) for model in options.models]
        command = shlex.join(["python", "-m", "quicknet.study.record", "frames", options.name, *names])
        fields = {"kind": "frames", "rows": frames(options.models)}
    else:
        names = [str(model) for model in options.models]
        report = benchmark(names, BenchmarkSettings())
        command = shlex.join(["quicknet", "benchmark", *names, "--threads", "1"])
        fields = {"kind": "latency", "benchmark": report.to_dict()}
    record = write_record(ROOT / "results", options.name, command, fields)
    print(record)
    if options.kind == "accuracy":
        for run, seed in zip(options.models, fields["seeds"], strict=True):
            keep(record / f"seed{seed}", run)
    if options.kind == "compressed":
        write_atomically(record / f"{fields['network']}.qnz", options.models[0].read_bytes())
        for pruned in options.models[1:]:
            keep(record / "pruned", pruned)


if __name__ == "__main__":
    sys.exit(main())
