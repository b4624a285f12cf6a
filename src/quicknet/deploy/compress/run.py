"""A run folder as a compressed `.qnz`: measure, prune while it trains, quantize, verify, write; or without training.

State lies in OUT.work beside the file until that is written: whoever is interrupted calls again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from quicknet import engine
from quicknet.core.card import require_run_folder
from quicknet.core.errors import TargetMissed, ToolError
from quicknet.data import Dataset
from quicknet.deploy.compress.integers import CODING, Integers, attempts, kept_card, pruned_integers
from quicknet.deploy.compress.listener import NOBODY, Listener
from quicknet.deploy.compress.paper import paper_sizes
from quicknet.deploy.compress.path import Trained, plan_for, search_loss, share, train_to
from quicknet.deploy.compress.prepare import Prepared, kept_share, plan_of, prepare
from quicknet.deploy.compress.settings import Compressed, CompressSettings, Point
from quicknet.deploy.compress.size import code_sizes, layer_sizes, layer_weights
from quicknet.deploy.compress.speed import Speedometer, time_shares
from quicknet.deploy.compress.steps import Tried, for_loss, for_size
from quicknet.deploy.compress.work import begun, work_folder, working
from quicknet.deploy.fold import fold
from quicknet.deploy.pipeline import Draft, export_file, split_settings_of
from quicknet.deploy.qnz import QnzSettings, measure_against
from quicknet.deploy.quantize import require_expressible
from quicknet.inference.shipped import locate
from quicknet.models.predicates import require_in_format
from quicknet.qnz.file import QnzFile, assemble_qnz, parse_qnz
from quicknet.training.channels import narrowed, quicknet_config
from quicknet.training.checkpoint import RunFolder, TorchClassifier
from quicknet.training.prune import BLOCKS
from quicknet.training.recipe import Recipe, load_recipe
from quicknet.training.seen import require_unseen
from quicknet.training.teacher import TEACHER, Teacher, open_teacher

_TEMPERATURE = 4.0


def compress(
    run: str | Path,
    data: Dataset,
    out: str | Path,
    settings: CompressSettings,
    source: str | Path = "",
    listener: Listener = NOBODY,
) -> Compressed:
    """Write the classifier of a run folder as a compressed `.qnz`.

    `data` is what the run was trained on (`load_run_data`), `source` the name by which it is found
    again (`cifar10` or a folder): training takes its `train`, choices its `val`, the receipt its
    `test`. Called again after an interruption it goes on; what was at `out` stays there until all
    holds. Raises CheckFailed where the target is not reached, ConfigError for a network that cannot be
    pruned or settings that differ from those that were interrupted.
    """
    run, out = Path(run), Path(out)
    require_run_folder(run)
    if out.is_dir():
        raise ToolError(f"{out} is a folder; name a file with --out")
    parent = TorchClassifier(run)
    teacher = _teacher(settings, data, run)
    require_in_format(parent.model.plan)
    require_expressible(fold(parent.model, parent.card.preprocess), parent.card.preprocess.size)
    plan_of(parent.model)
    settings = settings.fitted(len(data.split("train")))
    work = work_folder(out)
    if settings.keep is not None and Path(settings.keep).exists() and begun(work).get("keep") != settings.keep:
        raise ToolError(f"{settings.keep} is there already; name a new folder with --keep")
    with working(work, _asked(parent, data, settings, teacher)):
        prepared = prepare(parent, data, settings, work, listener.show)
        settings = settings.replace(step=settings.step if prepared.step is None else prepared.step)
        job = _Job(parent, data, settings, out, listener)
        some = _pruned(job, prepared, str(source), work) if settings.epochs else iter([_untrained(job, prepared)])
        compressed, trained = _first_to_hold(job, prepared, some, work, teacher)
        if settings.keep is not None:
            RunFolder(Path(settings.keep)).save_model(
                dict(trained.network.state_dict()), kept_card(parent.card, trained, settings, teacher)
            )
    return compressed


def _teacher(settings: CompressSettings, data: Dataset, run: Path) -> Teacher | None:
    """Return what teaches instead of the run. Raises ConfigError where it does not fit the data."""
    if settings.teacher is None:
        return None
    teacher = open_teacher(locate(settings.teacher, "any"), data, torch.device("cpu"))
    require_unseen(teacher.card, locate(settings.teacher, "any"), data, split_settings_of(run), TEACHER)
    return teacher


def _asked(
    parent: TorchClassifier, data: Dataset, settings: CompressSettings, teacher: Teacher | None
) -> dict[str, Any]:
    """Return what the work folder is for: whoever goes on there must ask for the same."""
    asked = {"weights_sha256": parent.card.weights_sha256, "data_sha256": data.sha256, **settings.to_dict()}
    return asked if teacher is None else {**asked, "teacher_sha256": teacher.sha256}


def make_recipe(parent: TorchClassifier, settings: CompressSettings, source: str, work: Path) -> Recipe:
    """Return how the pruned network trains: as the run did, more gently, taught by the run if nobody else is named."""
    run = parent.source
    has_recipe = (run / "recipe.toml").is_file()
    base = RunFolder(run).read_recipe() if has_recipe else load_recipe("fast", ["model.start_from=none"])
    protocol = parent.card.data.protocol if parent.card.data is not None else "standard"
    fast = load_recipe("fast", ["model.start_from=none"])
    return base.replace(
        name="compress",
        model={"name": parent.card.model.name, "overrides": {"dropout": 0.0}, "start_from": str(work / "parent")},
        data={**base.data.to_dict(), **split_settings_of(run), "source": source, "protocol": protocol, **_INHERITED},
        augment={**base.augment.to_dict(), "cutout": 0},  # it holds back a network of which little is left
        optim={**fast.optim.to_dict(), "lr": settings.lr, "vector_lr": 5 * settings.lr},
        schedule={"name": "onecycle", "warmup": 0.1, "final": 0.0},
        train={
            "epochs": settings.epochs,
            "batch_size": settings.batch_size,
            "clip_norm": settings.clip_norm,
            "seed": settings.seed,
            "keep": "last",
            "ema_decay": 0.99,
            "balance": base.train.balance,
        },
        hardest={},
        prune={},
        share={},
        distill={"teacher": settings.teacher or str(run), "weight": 0.9, "temperature": _TEMPERATURE},
    )


_INHERITED = {"size": None, "mode": None, "resize": None}  # the parent's


class _Job(NamedTuple):
    """What `compress` was called with."""

    parent: TorchClassifier
    data: Dataset
    settings: CompressSettings
    out: Path
    listener: Listener


def _first_to_hold(
    job: _Job, prepared: Prepared, some: Iterator[Trained], work: Path, teacher: Teacher | None
) -> tuple[Compressed, Trained]:
    """Write the first network whose integers do what was asked for. Raises the last TargetMissed where none does."""
    failed: TargetMissed | None = None
    for trained in some:
        if failed is not None:
            job.listener.missed(failed)
        place = work if trained.folder is None else trained.folder  # where its fine-tuning goes on from
        try:
            integers = pruned_integers(
                job.parent, trained, job.data, job.settings, prepared, (place, job.listener.show), teacher
            )
            return _written(job, integers, trained, prepared), trained
        except TargetMissed as error:
            failed = error
    assert failed is not None  # there is one at least
    raise failed


def _pruned(job: _Job, prepared: Prepared, source: str, work: Path) -> Iterator[Trained]:
    """Yield the pruned network of the density that is known, or those that lose little enough, the sparsest first."""
    settings, watch, density = job.settings, job.listener.watch, prepared.density
    recipe = make_recipe(job.parent, settings, source, work)
    if density is None:
        some = search_loss(prepared, _usual(job), recipe, settings, work, watch)
    else:
        job.listener.plan(plan_for(prepared, density, len(job.data.classes), settings, work))
        some = iter([train_to(prepared, density, recipe, settings, work, watch)])
    for trained in some:
        if settings.mode == "paper":
            shared = share(trained, recipe, watch)
            trained = trained._replace(network=shared, paper=paper_sizes(shared))
        if settings.pattern == "channel":
            trained = trained._replace(network=narrowed(trained.network))
        yield trained


def _untrained(job: _Job, prepared: Prepared) -> Trained:
    """Return the run's own network, with the integers that a size or a loss asks for."""
    settings, network, points = job.settings, job.parent.model, list[Point]()
    density = kept_share(network)
    make, tried = attempts(job.parent, job.data, settings, prepared, job.listener.show), None

    def attempt(step: float) -> Tried:
        tried = make(step)
        points.append(tried.point(density))
        job.listener.tried(points[-1])
        return tried

    if settings.target_size is not None:
        tried = for_size(attempt, settings.target_size, network)
    elif settings.max_loss is not None:
        images, tuned = len(job.data.split("val")), bool(settings.qat_epochs)
        tried = for_loss(attempt, _usual(job), settings.max_loss, images, tuned)
    return Trained(network, density, tuple(points), tried=tried)


def _usual(job: _Job) -> float:
    """Return the run's top-1 on `val`."""
    val = job.data.split("val")
    return float((job.parent.logits(np.asarray(val.images)).argmax(1) == np.asarray(val.labels)).mean())


def _written(job: _Job, integers: Integers, trained: Trained, prepared: Prepared) -> Compressed:
    """Verify and write the file; return what it is."""
    parent, settings = job.parent, job.settings
    network, size = integers.quantized.network, BLOCKS.get(settings.pattern, BLOCKS["block"])
    # too much lost is refused only where that is what was asked for
    limit = QnzSettings(bits=settings.bits, max_loss=settings.max_loss, qat_epochs=settings.qat_epochs or 0.0)
    measure = functools.partial(measure_against, parent, limit, job.listener.show)
    draft: Draft[QnzFile] = Draft(
        integers.card, functools.partial(assemble_qnz, network, coding=CODING), parse_qnz, measure
    )
    written, verified = export_file(lambda: draft, job.out, job.data)
    blob, speed = verified.file.blob, Speedometer(quicknet_config(parent.model), settings.bits)
    assert settings.epochs is not None  # they are fitted
    weights = sum(parameter.numel() for parameter in parent.model.parameters())
    return Compressed(
        format="qnz",
        bits=settings.bits,
        pattern=settings.pattern,
        density=trained.density,
        epochs=settings.epochs,
        qat_epochs=settings.qat_epochs or 0.0,
        dense_bytes=4 * weights,
        speed=speed.of_file(blob) if engine.available() else None,
        compared=verified.receipt.compared,
        layers=layer_sizes(network, size, layer_weights(parent.model), time_shares(blob), CODING),
        **code_sizes(verified.file)._asdict(),
        sensitivity=prepared.sensitivity,
        points=trained.points,
        paper=trained.paper,
        **written._asdict(),
    )
