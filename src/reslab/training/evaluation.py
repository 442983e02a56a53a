"""Passes over a split without training: the task's metrics, and batch norm's statistics estimated again."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reslab.training.batches import num_items
from reslab.training.execution import ExecutionMode

if TYPE_CHECKING:
    from reslab.data.loader import Loader
    from reslab.tasks.task import Task


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, loader: Loader, *, mode: ExecutionMode | None = None) -> dict[str, Any]:
    """Run the model over all batches in eval mode, and leave it in the mode that it was in.

    Args:
        model: any that the task can use.
        task: knows what a batch holds, and what to measure.
        loader: of the split.
        mode: how to run it; by default plain fp32 where the model is.

    Returns:
        What the task's metrics compute: ``loss``, the task's score by its name, and more.
    """
    mode, metrics, was_training = mode or ExecutionMode.of(model), task.metrics(), model.training
    model.eval()
    try:
        for batch in loader.batches():
            batch = mode.move(batch)
            with mode.autocast():
                outputs = task.outputs(model, batch)
            metrics.update(outputs, batch)
    finally:
        model.train(was_training)
    return metrics.compute()


@torch.no_grad()
def reestimate_norms(model: nn.Module, task: Task, loader: Loader, *, num_images: int, mode: ExecutionMode) -> int:
    """Replace the running statistics of every batch norm by those over ``num_images`` training images.

    The running ones are an average over the last steps, whose weights were others. Here the weights stand still: the
    mean is that of all batches, the variance that of all their images about it.

    Args:
        model: in place; left in the mode that it was in.
        task: runs the model on a batch.
        loader: of training images; whole batches are taken, at least one.
        num_images: to average over.
        mode: how to run it.

    Returns:
        Images used; 0 if the model has no batch norm that keeps statistics.

    Reference:
        He et al. 2015, the authors' release notes: statistics computed after training on a large batch; Wu and Johnson
        2021, arXiv:2105.07576, sec. 3.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return 0
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    model.eval()  # dropout and drop path stay out; only the norms see the batch
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # the running statistics become those of the last batch
    try:
        batches = islice(loader.batches(), max(1, -(-num_images // loader.batch_size)))
        return _average(norms, model, task, batches, mode=mode)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, was_training in modes:
            module.training = was_training


def _average(
    norms: list[_BatchNorm], model: nn.Module, task: Task, batches: Iterable[Any], *, mode: ExecutionMode
) -> int:
    """Weigh each batch's statistics by its images."""
    used = 0
    sums = [(torch.zeros_like(_statistics(norm)[0]), torch.zeros_like(_statistics(norm)[1])) for norm in norms]
    for batch in batches:
        batch, count = mode.move(batch), num_items(batch)
        with mode.autocast():
            task.outputs(model, batch)
        used += count
        for norm, (mean_sum, square_sum) in zip(norms, sums, strict=True):
            mean, variance = _statistics(norm)
            mean_sum.add_(mean, alpha=count)
            square_sum.add_(variance + mean**2, alpha=count)
    for norm, (mean_sum, square_sum) in zip(norms, sums, strict=True):
        mean, variance = _statistics(norm)
        mean.copy_(mean_sum / used)
        variance.copy_(square_sum / used - mean**2)
    return used


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
