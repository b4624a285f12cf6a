"""What a batch is judged by: labels, mixed labels, a teacher's answers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from quicknet.data.augment import Batch
from quicknet.training.ask import teacher_logits
from quicknet.training.run import Run


def loss_of(run: Run, logits: Tensor, batch: Batch, features: Tensor | None = None) -> Tensor:
    """Return the loss of each image (B,): cross-entropy, mixed labels, distillation."""
    logits = logits.float()
    losses = label_losses(run, logits, batch)
    if not run.teachers:
        return losses
    settings = run.recipe.distill
    if run.match is not None and run.kept is not None and features is not None:
        error = run.match.error(features, teacher_logits(run, batch), run.kept)
        return (1 - settings.weight) * losses + settings.weight * error
    with torch.no_grad():
        target = F.log_softmax(teacher_logits(run, batch) / settings.temperature, 1)
    student = F.log_softmax(logits / settings.temperature, 1)
    divergence = F.kl_div(student, target, reduction="none", log_target=True).sum(1) * settings.temperature**2
    return (1 - settings.weight) * losses + settings.weight * divergence


def label_losses(run: Run, logits: Tensor, batch: Batch) -> Tensor:
    """Return the cross-entropy of each image (B,) of float32 logits (B, classes); that of both labels where mixed."""
    losses = _cross_entropy(logits, batch.labels, run)
    if batch.mix_labels is None or batch.mix_weight is None:
        return losses
    other = _cross_entropy(logits, batch.mix_labels, run)
    return batch.mix_weight * losses + (1 - batch.mix_weight) * other


def _cross_entropy(logits: Tensor, labels: Tensor, run: Run) -> Tensor:
    """Return each image's (B,), times what its class counts."""
    smoothing = run.recipe.train.label_smoothing
    losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    return losses if run.class_weights is None else losses * run.class_weights[labels]
